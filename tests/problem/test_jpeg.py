"""JPEG coefficients: read from a file, computed by the encoder, and images projected to agree with them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.fft
import skimage.data
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import scene
from torch import Tensor
from torch.func import vjp

from dipcli import images
from dipcli.errors import DipError
from dipcli.images.exif import ORIENTATION
from dipcli.problem.jpeg import CENTRE_WEIGHT, Encoder, cosine_transform, make_encoder, read_coefficients

NATURAL = np.asarray(skimage.data.chelsea()[60:156, 150:262])  # 96 x 112: whole blocks for every sampling
ODD = NATURAL[:37, :53]
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def jpeg(array: np.ndarray, quality: int = 20, sampling: str = "4:2:0", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=SAMPLINGS[sampling], **options)
    return file.getvalue()


def jpeg_with_orientation(array: np.ndarray, orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return jpeg(array, exif=exif)


def tensor(array: np.ndarray) -> Tensor:
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(planes / 255).float()


def encoder_of(data: bytes) -> Encoder:
    return make_encoder(images.decode(data))


def measure_agreement(encoder: Encoder, array: np.ndarray) -> float:
    """The fraction of coefficients that round to those of the file."""
    found, file = (
        torch.round(values / (2 * encoder.half_steps)) for values in (encoder(tensor(array)), encoder.measured)
    )
    return float((found == file).double().mean())


def test_the_cosine_transform_is_orthonormal_and_equals_scipy_s() -> None:
    cosines = cosine_transform()
    assert torch.allclose(cosines @ cosines.T, torch.eye(8), atol=1e-6)
    block = torch.rand(8, 8)
    expected = scipy.fft.dctn(block.numpy(), norm="ortho")
    assert torch.allclose(cosines @ block @ cosines.T, torch.from_numpy(expected), atol=1e-5)


# The rest is the rounding of Y, Cb and Cr by the encoder, which matters more with finer steps.
@pytest.mark.parametrize(("quality", "share"), [(10, 0.999), (40, 0.997), (75, 0.99), (95, 0.94)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_image_encodes_to_the_coefficients_in_its_file(quality: int, share: float, sampling: str) -> None:
    assert share < measure_agreement(encoder_of(jpeg(NATURAL, quality, sampling)), NATURAL) <= 1


@pytest.mark.parametrize("array", [NATURAL[..., 0], ODD[..., 0]], ids=["whole blocks", "odd"])
def test_a_grey_image_encodes_to_its_coefficients(array: np.ndarray) -> None:
    encoder = encoder_of(jpeg(array))
    assert encoder.shape[0] == 1
    assert measure_agreement(encoder, array) > 0.999


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_image_of_odd_size_encodes_to_its_coefficients(sampling: str) -> None:
    encoder = encoder_of(jpeg(ODD, sampling=sampling))
    assert encoder.shape == {"4:4:4": (3, 40, 56), "4:2:2": (3, 40, 64), "4:2:0": (3, 48, 64)}[sampling]
    assert measure_agreement(encoder, ODD) > 0.997


def test_a_progressive_file_has_the_same_coefficients() -> None:
    plain, progressive = (encoder_of(jpeg(ODD, progressive=progressive)) for progressive in (False, True))
    assert torch.equal(plain.measured, progressive.measured)
    assert torch.equal(plain.half_steps, progressive.half_steps)


def test_chroma_may_be_halved_vertically_only() -> None:
    across = encoder_of(jpeg(np.ascontiguousarray(NATURAL.transpose(1, 0, 2)), sampling="4:2:2")).coefficients
    planes = tuple(
        replace(
            plane,
            levels=plane.levels.transpose(1, 0, 3, 2),
            steps=plane.steps.T,
            sampling=plane.sampling[::-1],
        )
        for plane in across.planes
    )
    encoder = Encoder(replace(across, height=across.width, width=across.height, planes=planes))
    assert [plane.sampling for plane in encoder.coefficients.planes] == [(1, 1), (2, 1), (2, 1)]
    assert measure_agreement(encoder, NATURAL) > 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_with_orientation_is_restored_upright(orientation: int) -> None:
    data = jpeg_with_orientation(ODD, orientation)
    shown = images.decode(data).pixels
    assert shown.shape == ((3, 53, 37) if orientation > 4 else (3, 37, 53))
    encoder = encoder_of(data)
    assert encoder.coefficients.orientation == orientation
    assert np.abs(encoder.decode().numpy() - shown).mean() < 2 / 255
    assert encoder.agreement(encoder.decode()) > 0.99
    x = torch.rand(shown.shape)
    assert encoder.extend(x).shape == encoder.shape
    assert torch.equal(encoder.crop(encoder.extend(x)), x)
    assert torch.equal(encoder(encoder.extend(x)), encoder(x))
    assert encoder.finish(encoder.extend(x)).shape == shown.shape


def test_an_invalid_orientation_is_ignored() -> None:
    assert encoder_of(jpeg_with_orientation(ODD, 77)).coefficients.orientation == 1


@given(st.integers(16, 50), st.integers(16, 50), st.sampled_from(sorted(SAMPLINGS)), st.integers(1, 95))
@hypothesis_settings(max_examples=20, deadline=None)
def test_any_size_and_quality_can_be_encoded(height: int, width: int, sampling: str, quality: int) -> None:
    encoder = encoder_of(jpeg(scene(height, width), quality, sampling))
    x = torch.rand(encoder.shape)
    assert encoder(x).shape == encoder.measured.shape == encoder.half_steps.shape
    assert encoder.finish(x).shape == (3, height, width)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_operator_is_affine_and_its_gradient_is_the_adjoint(sampling: str) -> None:
    encoder = encoder_of(jpeg(ODD, sampling=sampling))
    x, y = torch.rand(2, *encoder.shape)
    nothing = encoder(torch.zeros(encoder.shape))
    assert torch.allclose(encoder(2 * x - y), 2 * encoder(x) - encoder(y), atol=1e-5)
    c = torch.randn_like(encoder.measured)
    back = vjp(encoder, x)[1](c)[0]
    assert float((back * x).sum()) == pytest.approx(float((c * (encoder(x) - nothing)).sum()), abs=1e-2)


def test_errors_of_coefficients_are_errors_of_pixels() -> None:
    encoder = encoder_of(jpeg(NATURAL[..., 0]))
    x, y = torch.rand(2, *encoder.shape)
    assert torch.allclose(((encoder(x) - encoder(y)) ** 2).sum(), ((x - y) ** 2).sum(), rtol=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_spreading_to_pixels_is_the_pseudoinverse(sampling: str) -> None:
    encoder = encoder_of(jpeg(ODD, sampling=sampling))
    x, c = torch.rand(encoder.shape), torch.randn_like(encoder.measured)
    assert torch.allclose(encoder(x + encoder.spread_to_pixels(c)), encoder(x) + c, atol=1e-4)
    # The smallest change lies in the range of the adjoint: in Y, Cb and Cr it is the adjoint times the number of
    # pixels per sample.
    into = torch.linalg.inv(encoder.to_ycc)
    adjoint = vjp(lambda ycc: encoder(torch.einsum("cd,dhw->chw", into, ycc)), x)[1](c)[0]
    shared = torch.tensor([plane.sampling[0] * plane.sampling[1] for plane in encoder.coefficients.planes])
    spread = torch.einsum("dc,chw->dhw", encoder.to_ycc, encoder.spread_to_pixels(c))
    assert torch.allclose(spread, shared[:, None, None] * adjoint, atol=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_projection_makes_every_coefficient_agree_and_is_idempotent(sampling: str) -> None:
    encoder = encoder_of(jpeg(ODD, sampling=sampling))
    x = torch.rand(encoder.shape)
    once = encoder.project(x)
    assert ((encoder(once) - encoder.measured).abs() - encoder.half_steps).max() < 1e-5
    assert encoder.agreement(x) < 0.9
    assert encoder.agreement(once) == 1
    assert torch.allclose(encoder.project(once), once, atol=1e-5)


def test_the_finished_image_is_within_range_and_nearly_agrees() -> None:
    encoder = encoder_of(jpeg(NATURAL))
    x = (tensor(NATURAL) + 0.1 * torch.randn(encoder.shape)) * 1.2
    finished = encoder.finish(x)
    assert float(finished.min()) >= 0
    assert float(finished.max()) <= 1
    assert encoder.agreement(x) < 0.99
    assert encoder.agreement(finished) > 0.999
    assert encoder.agreement(torch.round(finished * 255) / 255) > 0.998


def test_blocks_across_the_border_are_not_counted() -> None:
    encoder = encoder_of(jpeg(ODD, sampling="4:4:4"))
    assert int(encoder.inside.sum()) == 3 * 4 * 6 * 64
    inner = encoder.project(torch.rand(encoder.shape))
    assert encoder.agreement(encoder.crop(inner)) == 1


def test_the_misfit_is_small_inside_the_interval_and_quadratic_outside() -> None:
    encoder = encoder_of(jpeg(ODD))
    y, half = encoder.measured, encoder.half_steps
    assert encoder.misfit(y, y) == 0
    inside = CENTRE_WEIGHT * float((half**2).mean())
    assert encoder.misfit(y + 0.5 * half, y) == pytest.approx(inside / 4, rel=1e-4)
    assert encoder.misfit(y - half, y) == pytest.approx(inside, rel=1e-4)
    beyond = 0.01 + CENTRE_WEIGHT * float(((half + 0.1) ** 2).mean())
    assert encoder.misfit(y - half - 0.1, y) == pytest.approx(beyond, rel=1e-4)


def test_the_misfit_is_a_weighted_mean() -> None:
    encoder = encoder_of(jpeg(ODD))
    p = encoder(torch.rand(encoder.shape))
    y, n = encoder.measured, len(encoder.measured)
    first, second = (torch.zeros(n).index_fill(0, torch.arange(5 * i, 5 * i + 5), 1.0) for i in range(2))
    one, other = encoder.misfit(p, y, first), encoder.misfit(p, y, second)
    assert one != other
    assert torch.allclose(encoder.misfit(p, y, first + 3 * second), (one + 3 * other) / 4)
    assert torch.allclose(encoder.misfit(p, y), encoder.misfit(p, y, torch.full((n,), 7.0)))


def test_weighted_errors_of_coefficients_are_errors_of_colour() -> None:
    """Exact for a change of one of Y, Cb and Cr that is constant over the pixels of a sample."""
    encoder = encoder_of(jpeg(NATURAL))
    x = torch.rand(encoder.shape)
    sizes = [plane.levels.size for plane in encoder.coefficients.planes]
    for number in range(3):
        parts = [torch.randn(size) * (plane == number) for plane, size in enumerate(sizes)]
        change = torch.cat(parts)
        moved = encoder.spread_to_pixels(change)
        found = encoder(x + moved) - encoder(x)
        assert torch.allclose((encoder.weight * found**2).sum(), (moved**2).mean(dim=0).sum(), rtol=1e-3)


def test_tables_move_with_the_module() -> None:
    encoder = encoder_of(jpeg(ODD)).to("meta")
    assert {buffer.device.type for buffer in encoder.buffers()} == {"meta"}


def saved_image(array: np.ndarray, form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).convert(mode).save(file, form, **options)
    return file.getvalue()


def arithmetic(data: bytes) -> bytes:
    """A file that claims arithmetic coding, which few programs read."""
    at = data.index(b"\xff\xc0")
    return data[:at] + b"\xff\xc9" + data[at + 2 :]


def two_thirds(data: bytes) -> bytes:
    """A file that claims three luma samples to two of chroma."""
    at = data.index(b"\xff\xc0") + 11
    return data[:at] + b"\x31" + data[at + 1 : at + 3] + b"\x21" + data[at + 4 : at + 6] + b"\x21" + data[at + 7 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved_image(ODD, "PNG"), "not from a JPEG"),
        (b"", "not from a JPEG"),
        (saved_image(ODD, "JPEG", "CMYK"), "is in CMYK"),
        (saved_image(ODD, "JPEG", keep_rgb=True), "is in RGB"),
        (arithmetic(jpeg(ODD)), "cannot be read"),
        (two_thirds(jpeg(ODD)), "cannot be read"),
        (jpeg(ODD)[:200], "cannot be read"),
    ],
    ids=["PNG", "nothing", "CMYK", "RGB", "arithmetic coding", "fractions", "a file cut off"],
)
def test_an_unsupported_file_is_refused(data: bytes, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DipError, match=message):
        read_coefficients(data)
    assert capfd.readouterr().out == ""


def test_an_image_without_a_file_is_refused() -> None:
    with pytest.raises(DipError, match="not from a JPEG file"):
        make_encoder(replace(images.decode(jpeg(ODD)), file=None))


def test_coefficients_of_another_image_are_refused() -> None:
    image = images.decode(jpeg(ODD))
    for other in (image.pixels[:, ::-1].copy(), image.pixels[:, :20]):
        with pytest.raises(DipError, match="not those of the image"):
            make_encoder(image.with_pixels(other))
