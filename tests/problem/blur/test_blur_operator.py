"""The blur: linear, its adjoint, SciPy's convolution, and the same in a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve
from torch import Tensor

from dipcli.problem import Problem
from dipcli.problem.blur.operator import Blur, Crop

odd = st.integers(0, 4).map(lambda half: 2 * half + 1)
quick = settings(max_examples=40, deadline=None)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(odd, odd, st.integers(9, 40), st.integers(9, 40))
@quick
def test_it_equals_the_valid_convolution_of_scipy(h: int, w: int, height: int, width: int) -> None:
    kernel, image = random(h, w, seed=1) / (h * w), random(2, height, width)
    ours = Blur(kernel)(image)
    theirs = [convolve(channel, kernel.numpy(), mode="valid") for channel in image.numpy()]
    assert np.allclose(ours.numpy(), theirs, atol=1e-5)


@given(odd, odd, st.integers(9, 40), st.integers(9, 40))
@quick
def test_it_is_linear_and_has_its_adjoint(h: int, w: int, height: int, width: int) -> None:
    blur, x, z = Blur(random(h, w, seed=1) / (h * w)), random(1, height, width), random(1, height, width, seed=2)
    assert torch.allclose(blur(2 * x - 3 * z), 2 * blur(x) - 3 * blur(z), atol=1e-5)
    y = random(*blur(x).shape, seed=3)
    assert torch.isclose((blur(x) * y).sum(), (x * blur.adjoint(y)).sum(), rtol=1e-4)
    (gradient,) = torch.autograd.grad(blur(x.requires_grad_()), x, y)
    assert torch.allclose(gradient, blur.adjoint(y), atol=1e-5)


@pytest.mark.parametrize("rows", [slice(0, 20), slice(7, 30), slice(0, 38)])
def test_a_window_makes_its_part_of_the_measurement(rows: slice) -> None:
    blur, image, columns = Blur(random(5, 7) / 35), random(1, 38, 42), slice(4, 30)
    problem = Problem(measured=blur(image), shape=(1, 38, 42), operator=blur, finish=Crop(slice(2, 36), slice(3, 39)))
    assert problem.tileable
    assert problem.reach == 7
    part = problem.window(rows, columns)
    assert part.measured.shape == (1, rows.stop - rows.start - 4, 20)
    assert torch.allclose(part.operator(image[:, rows, columns]), part.measured, atol=1e-5)
    assert part.finish(image[:, rows, columns]).shape == part.shape
    assert problem.finish(image).shape == problem.measured.shape


def test_it_moves_between_devices() -> None:
    assert Blur(torch.ones(3, 3)).to("meta").kernel.is_meta
