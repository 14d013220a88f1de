"""Resampling: Pillow's weights to the last tap, and the properties of linear operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dipcli.errors import UsageError
from dipcli.problem.operators import Resample, parse_kernel, resample, weights

PILLOW = {
    "lanczos3": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}
KERNEL_NAMES = (*PILLOW, "lanczos2", "gaussian:1.2")

sides = st.integers(1, 70)
names = st.sampled_from(KERNEL_NAMES)
quick = settings(max_examples=60, deadline=None)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def by_pillow(image: np.ndarray, height: int, width: int, filter_: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), filter_))


@given(st.sampled_from(list(PILLOW)), sides, sides, sides, sides)
@settings(max_examples=200, deadline=None)
def test_resampling_equals_pillow_s(name: str, tall: int, wide: int, height: int, width: int) -> None:
    """Enlarged and shrunk, odd sizes, any fraction, one side up and the other down."""
    image = random(1, tall, wide, seed=tall * 97 + wide).numpy()
    ours = resample(image, (height, width), parse_kernel(name))
    assert ours.shape == (1, height, width)
    assert ours.dtype == np.float32
    assert np.allclose(ours[0], by_pillow(image[0], height, width, PILLOW[name]), rtol=0, atol=1e-4)


@given(names, sides, sides, sides, sides)
@quick
def test_resampling_is_linear(name: str, tall: int, wide: int, height: int, width: int) -> None:
    operator = Resample((tall, wide), (height, width), parse_kernel(name))
    x, y = random(2, 3, tall, wide)
    assert torch.allclose(operator(2 * x - 3 * y), 2 * operator(x) - 3 * operator(y), atol=1e-4)


@given(names, sides, sides, sides, sides)
@quick
def test_the_gradient_is_the_adjoint(name: str, tall: int, wide: int, height: int, width: int) -> None:
    """<A x, y> = <x, A^T y>, where A^T y is what autograd returns."""
    operator = Resample((tall, wide), (height, width), parse_kernel(name))
    x, y = random(3, tall, wide).requires_grad_(), random(3, height, width, seed=1)
    (back,) = torch.autograd.grad(operator(x), x, y)
    assert torch.allclose(back, operator.rows.T @ y @ operator.columns, atol=1e-5)
    x = x.detach()
    assert torch.isclose((operator(x) * y).sum(), (x * back).sum(), rtol=1e-4)


@given(st.one_of(names, st.floats(1e-300, 1e300).map("gaussian:{}".format)), sides, sides)
@quick
def test_a_constant_image_stays_constant(name: str, before: int, after: int) -> None:
    rows = weights(before, after, parse_kernel(name))
    assert rows.shape == (after, before)
    assert torch.allclose(rows.sum(dim=1), torch.ones(after), atol=1e-5)


@given(st.sampled_from(["lanczos3", "lanczos2", "bicubic", "gaussian:1.2"]), sides, sides)
@example("gaussian:1.2", 14, 70)  # a pixel lies exactly at the edge of the kernel
@quick
def test_left_and_right_are_symmetric(name: str, before: int, after: int) -> None:
    rows = weights(before, after, parse_kernel(name))
    assert torch.allclose(rows.flip(0, 1), rows, atol=1e-5)


def test_a_box_takes_the_mean_of_each_square() -> None:
    image = random(3, 12, 20)
    shrunk = Resample((12, 20), (3, 5), parse_kernel("box"))(image)
    assert torch.allclose(shrunk, image.reshape(3, 3, 4, 5, 4).mean(dim=(2, 4)), atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_enlarging_by_a_box_repeats_the_nearest_pixel(factor: int) -> None:
    image = random(1, 7, 9).numpy()
    large = resample(image, (7 * factor, 9 * factor), parse_kernel("box"))
    assert np.allclose(large, image.repeat(factor, 1).repeat(factor, 2))
    assert np.allclose(large[0], by_pillow(image[0], 7 * factor, 9 * factor, Image.Resampling.NEAREST))


@pytest.mark.parametrize(("name", "lobes"), [("lanczos3", 3), ("lanczos2", 2)])
def test_lanczos_is_a_windowed_sinc(name: str, lobes: int) -> None:
    """Shrunk by two, far from the border: taps at odd quarters of a small pixel."""
    row = weights(40, 20, parse_kernel(name))[10]
    distance = (torch.arange(40) + 0.5 - 21) / 2
    expected = torch.where(distance.abs() < lobes, torch.sinc(distance) * torch.sinc(distance / lobes), 0)
    assert int((row != 0).sum()) == 4 * lobes
    assert torch.allclose(row, expected / expected.sum(), atol=1e-6)


@pytest.mark.parametrize("before", [40, 41, 50, 160])
def test_the_width_of_a_gaussian_is_in_pixels_of_the_large_image(before: int) -> None:
    """For any factor."""
    sigma = 2.5
    row = weights(before, 20, parse_kernel(f"gaussian:{sigma}"))[10]
    centre = 10.5 * before / 20
    distance = torch.arange(before) + 0.5 - centre
    expected = torch.where(distance.abs() <= 4 * sigma, torch.exp(-(distance**2) / (2 * sigma**2)), 0)
    assert torch.allclose(row, expected / expected.sum(), atol=1e-6)
    assert float((row * distance**2).sum().sqrt()) == pytest.approx(sigma, rel=0.01)


def test_a_gaussian_narrower_than_a_pixel_takes_the_nearest_ones() -> None:
    thin, flat = (parse_kernel(f"gaussian:{sigma}") for sigma in ("1e-300", "1e300"))
    assert torch.equal(weights(9, 3, thin), torch.eye(9)[1::3])
    assert torch.equal(weights(4, 2, thin), torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]))
    assert torch.allclose(weights(4, 2, flat), torch.full((2, 4), 0.25))


def test_the_gradient_is_the_same_in_any_memory_layout() -> None:
    """The engine passes a slice of a channels-last batch."""
    operator = Resample((20, 28), (5, 7), parse_kernel("lanczos3"))
    plain = random(1, 3, 20, 28).requires_grad_()
    last = plain.detach().clone(memory_format=torch.channels_last).requires_grad_()
    assert not last[0].is_contiguous()
    gradients = []
    for batch in (plain, last):
        (operator(batch[0]) ** 2).sum().backward()
        assert batch.grad is not None
        gradients.append(batch.grad)
    assert torch.allclose(operator(last[0]), operator(plain[0]), atol=1e-6)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert float(gradients[0].abs().min()) > 0


def test_the_weights_move_with_the_module() -> None:
    operator = Resample((20, 28), (5, 7), parse_kernel("box")).to("meta")
    assert operator.rows.is_meta
    assert operator.columns.is_meta
    assert not list(operator.parameters())


@pytest.mark.parametrize("text", ["lanczos", "", "Box", "bicubic "])
def test_an_unknown_kernel_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"--kernel .* choose from lanczos3, lanczos2, bicubic, box, gaussian:1\.2\."):
        parse_kernel(text)


@pytest.mark.parametrize("text", ["box:2", "lanczos3:", "bicubic:-0.5"])
def test_an_unexpected_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--kernel {text} takes no number: write it as "):
        parse_kernel(text)


@given(st.one_of(st.sampled_from(["gaussian", "gaussian:"]), st.text().map("gaussian:{}".format)))
@quick
def test_the_width_of_a_gaussian_must_be_a_positive_number(text: str) -> None:
    try:
        width = float(text.partition(":")[2])
    except ValueError:
        width = math.nan
    if 0 < width < math.inf:
        assert parse_kernel(text).reach >= max(4 * width, 1)
    else:
        with pytest.raises(UsageError, match=r"width of the blur in pixels .* write it as gaussian:1\.2"):
            parse_kernel(text)


@pytest.mark.parametrize("width", ["0", "-1", "nan", "inf", "1,2", "wide"])
def test_an_invalid_width_is_refused(width: str) -> None:
    with pytest.raises(UsageError, match=r"write it as gaussian:1\.2"):
        parse_kernel(f"gaussian:{width}")
