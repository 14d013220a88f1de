"""What a JPEG file says: read right, encoded as its encoder did, and restored pictures brought into agreement."""

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
from dipcli.problem import jpeg as coding
from dipcli.problem.jpeg import ORIENTATION, PULL, Encoder, cosine_transform

NATURAL = np.asarray(skimage.data.chelsea()[60:156, 150:262])  # 96 x 112: whole blocks for every sampling
ODD = NATURAL[:37, :53]
SAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def jpeg(array: np.ndarray, quality: int = 20, sampling: str = "4:2:0", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "JPEG", quality=quality, subsampling=SAMPLINGS[sampling], **options)
    return file.getvalue()


def turned(array: np.ndarray, orientation: int) -> bytes:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    return jpeg(array, exif=exif)


def tensor(array: np.ndarray) -> Tensor:
    planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(planes / 255).float()


def understood(data: bytes) -> Encoder:
    return coding.encoder(images.decode(data))


def agreeing(encoder: Encoder, array: np.ndarray) -> float:
    """The share of the file's numbers that the picture it was made from rounds to."""
    found, file = (torch.round(each / (2 * encoder.reach)) for each in (encoder(tensor(array)), encoder.measured))
    return float((found == file).double().mean())


def test_the_cosine_transform_is_orthonormal_and_that_of_scipy() -> None:
    cosines = cosine_transform()
    assert torch.allclose(cosines @ cosines.T, torch.eye(8), atol=1e-6)
    block = torch.rand(8, 8)
    expected = scipy.fft.dctn(block.numpy(), norm="ortho")
    assert torch.allclose(cosines @ block @ cosines.T, torch.from_numpy(expected), atol=1e-5)


# What is missing is the encoder's own rounding of Y, Cb and Cr, which matters the more the finer the steps are.
@pytest.mark.parametrize(("quality", "share"), [(10, 0.999), (40, 0.997), (75, 0.99), (95, 0.94)])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_picture_encodes_to_the_numbers_in_its_file(quality: int, share: float, sampling: str) -> None:
    assert share < agreeing(understood(jpeg(NATURAL, quality, sampling)), NATURAL) <= 1


@pytest.mark.parametrize("array", [NATURAL[..., 0], ODD[..., 0]], ids=["whole blocks", "odd"])
def test_a_grey_picture_too(array: np.ndarray) -> None:
    encoder = understood(jpeg(array))
    assert encoder.shape[0] == 1
    assert agreeing(encoder, array) > 0.999


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_odd_size_too(sampling: str) -> None:
    encoder = understood(jpeg(ODD, sampling=sampling))
    assert encoder.shape == {"4:4:4": (3, 40, 56), "4:2:2": (3, 40, 64), "4:2:0": (3, 48, 64)}[sampling]
    assert agreeing(encoder, ODD) > 0.997


def test_a_progressive_file_says_the_same() -> None:
    plain, progressive = (understood(jpeg(ODD, progressive=each)) for each in (False, True))
    assert torch.equal(plain.measured, progressive.measured)
    assert torch.equal(plain.reach, progressive.reach)


def test_chroma_may_be_halved_down_the_columns_alone() -> None:
    across = understood(jpeg(np.ascontiguousarray(NATURAL.transpose(1, 0, 2)), sampling="4:2:2")).coding
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
    assert [plane.sampling for plane in encoder.coding.planes] == [(1, 1), (2, 1), (2, 1)]
    assert agreeing(encoder, NATURAL) > 0.999


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_restored_upright(orientation: int) -> None:
    data = turned(ODD, orientation)
    shown = images.decode(data).pixels
    assert shown.shape == ((3, 53, 37) if orientation > 4 else (3, 37, 53))
    encoder = understood(data)
    assert encoder.coding.orientation == orientation
    assert np.abs(encoder.decoded().numpy() - shown).mean() < 2 / 255
    assert encoder.agreement(encoder.decoded()) > 0.99
    x = torch.rand(shown.shape)
    assert encoder.extend(x).shape == encoder.shape
    assert torch.equal(encoder.crop(encoder.extend(x)), x)
    assert torch.equal(encoder(encoder.extend(x)), encoder(x))
    assert encoder.finish(encoder.extend(x)).shape == shown.shape


def test_an_orientation_that_means_nothing_is_none() -> None:
    assert understood(turned(ODD, 77)).coding.orientation == 1


@given(st.integers(16, 50), st.integers(16, 50), st.sampled_from(sorted(SAMPLINGS)), st.integers(1, 95))
@hypothesis_settings(max_examples=20, deadline=None)
def test_any_size_and_quality_is_understood(height: int, width: int, sampling: str, quality: int) -> None:
    encoder = understood(jpeg(scene(height, width), quality, sampling))
    x = torch.rand(encoder.shape)
    assert encoder(x).shape == encoder.measured.shape == encoder.reach.shape
    assert encoder.finish(x).shape == (3, height, width)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_operator_is_affine_and_its_slope_has_an_adjoint(sampling: str) -> None:
    encoder = understood(jpeg(ODD, sampling=sampling))
    x, y = torch.rand(2, *encoder.shape)
    nothing = encoder(torch.zeros(encoder.shape))
    assert torch.allclose(encoder(2 * x - y), 2 * encoder(x) - encoder(y), atol=1e-5)
    c = torch.randn_like(encoder.measured)
    back = vjp(encoder, x)[1](c)[0]
    assert float((back * x).sum()) == pytest.approx(float((c * (encoder(x) - nothing)).sum()), abs=1e-2)


def test_errors_of_coefficients_are_errors_of_pixels() -> None:
    encoder = understood(jpeg(NATURAL[..., 0]))
    x, y = torch.rand(2, *encoder.shape)
    assert torch.allclose(((encoder(x) - encoder(y)) ** 2).sum(), ((x - y) ** 2).sum(), rtol=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_what_is_spread_over_the_pixels_is_found_again_and_is_the_least_that_does_it(sampling: str) -> None:
    encoder = understood(jpeg(ODD, sampling=sampling))
    x, c = torch.rand(encoder.shape), torch.randn_like(encoder.measured)
    assert torch.allclose(encoder(x + encoder.spread(c)), encoder(x) + c, atol=1e-4)
    # The least change lies in the range of the adjoint. In Y, Cb and Cr it is the adjoint, once for each pixel that
    # shares a sample.
    into = torch.linalg.inv(encoder.colours)
    adjoint = vjp(lambda ycc: encoder(torch.einsum("cd,dhw->chw", into, ycc)), x)[1](c)[0]
    shared = torch.tensor([plane.sampling[0] * plane.sampling[1] for plane in encoder.coding.planes])
    spread = torch.einsum("dc,chw->dhw", encoder.colours, encoder.spread(c))
    assert torch.allclose(spread, shared[:, None, None] * adjoint, atol=1e-4)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_projection_makes_every_coefficient_agree_and_is_done_after_one(sampling: str) -> None:
    encoder = understood(jpeg(ODD, sampling=sampling))
    x = torch.rand(encoder.shape)
    once = encoder.project(x)
    assert ((encoder(once) - encoder.measured).abs() - encoder.reach).max() < 1e-5
    assert encoder.agreement(x) < 0.9
    assert encoder.agreement(once) == 1
    assert torch.allclose(encoder.project(once), once, atol=1e-5)


def test_the_finished_picture_is_within_range_and_all_but_agrees() -> None:
    encoder = understood(jpeg(NATURAL))
    x = (tensor(NATURAL) + 0.1 * torch.randn(encoder.shape)) * 1.2
    finished = encoder.finish(x)
    assert float(finished.min()) >= 0
    assert float(finished.max()) <= 1
    assert encoder.agreement(x) < 0.99
    assert encoder.agreement(finished) > 0.999
    assert encoder.agreement(torch.round(finished * 255) / 255) > 0.998


def test_blocks_beyond_the_border_do_not_count_as_disagreeing() -> None:
    encoder = understood(jpeg(ODD, sampling="4:4:4"))
    assert int(encoder.whole.sum()) == 3 * 4 * 6 * 64
    inner = encoder.project(torch.rand(encoder.shape))
    assert encoder.agreement(encoder.crop(inner)) == 1


def test_the_misfit_pulls_a_little_inside_the_interval_and_grows_with_the_square_outside() -> None:
    encoder = understood(jpeg(ODD))
    y, reach = encoder.measured, encoder.reach
    assert encoder.misfit(y, y) == 0
    inside = PULL * float((reach**2).mean())
    assert encoder.misfit(y + 0.5 * reach, y) == pytest.approx(inside / 4, rel=1e-4)
    assert encoder.misfit(y - reach, y) == pytest.approx(inside, rel=1e-4)
    beyond = 0.01 + PULL * float(((reach + 0.1) ** 2).mean())
    assert encoder.misfit(y - reach - 0.1, y) == pytest.approx(beyond, rel=1e-4)


def test_the_misfit_counts_by_weight() -> None:
    encoder = understood(jpeg(ODD))
    p = encoder(torch.rand(encoder.shape))
    y, n = encoder.measured, len(encoder.measured)
    first, second = (torch.zeros(n).index_fill(0, torch.arange(5 * i, 5 * i + 5), 1.0) for i in range(2))
    one, other = encoder.misfit(p, y, first), encoder.misfit(p, y, second)
    assert one != other
    assert torch.allclose(encoder.misfit(p, y, first + 3 * second), (one + 3 * other) / 4)
    assert torch.allclose(encoder.misfit(p, y), encoder.misfit(p, y, torch.full((n,), 7.0)))


def test_the_weight_makes_errors_of_coefficients_errors_of_colour() -> None:
    """Exactly for a change of one of Y, Cb and Cr alone that is the same for all pixels of a sample."""
    encoder = understood(jpeg(NATURAL))
    x = torch.rand(encoder.shape)
    sizes = [plane.levels.size for plane in encoder.coding.planes]
    for number in range(3):
        parts = [torch.randn(size) * (each == number) for each, size in enumerate(sizes)]
        change = torch.cat(parts)
        moved = encoder.spread(change)
        found = encoder(x + moved) - encoder(x)
        assert torch.allclose((encoder.weight * found**2).sum(), (moved**2).mean(dim=0).sum(), rtol=1e-3)


def test_tables_move_with_the_module() -> None:
    encoder = understood(jpeg(ODD)).to("meta")
    assert {each.device.type for each in encoder.buffers()} == {"meta"}


def saved(array: np.ndarray, form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(array).convert(mode).save(file, form, **options)
    return file.getvalue()


def arithmetic(data: bytes) -> bytes:
    """Says that it is coded arithmetically, which few programs read."""
    at = data.index(b"\xff\xc0")
    return data[:at] + b"\xff\xc9" + data[at + 2 :]


def two_thirds(data: bytes) -> bytes:
    """Says that it has three luma samples to two of chroma."""
    at = data.index(b"\xff\xc0") + 11
    return data[:at] + b"\x31" + data[at + 1 : at + 3] + b"\x21" + data[at + 4 : at + 6] + b"\x21" + data[at + 7 :]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (saved(ODD, "PNG"), "not from a JPEG"),
        (b"", "not from a JPEG"),
        (saved(ODD, "JPEG", "CMYK"), "is in CMYK"),
        (saved(ODD, "JPEG", keep_rgb=True), "is in RGB"),
        (arithmetic(jpeg(ODD)), "cannot be read"),
        (two_thirds(jpeg(ODD)), "cannot be read"),
        (jpeg(ODD)[:200], "cannot be read"),
    ],
    ids=["PNG", "nothing", "CMYK", "RGB", "arithmetic coding", "fractions", "a file cut off"],
)
def test_what_is_not_understood_is_said(data: bytes, why: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DipError, match=why):
        coding.read(data)
    assert capfd.readouterr().out == ""


def test_a_picture_from_no_file_has_no_coding() -> None:
    with pytest.raises(DipError, match="not from a JPEG file"):
        coding.encoder(replace(images.decode(jpeg(ODD)), file=None))


def test_coefficients_of_another_picture_are_noticed() -> None:
    picture = images.decode(jpeg(ODD))
    for other in (picture.pixels[:, ::-1].copy(), picture.pixels[:, :20]):
        with pytest.raises(DipError, match="not those of the picture"):
            coding.encoder(picture.with_pixels(other))
