"""The estimate by non-local Bayes, and its uses as the network's input and in the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import shaded, smooth_noise

from dipcli.problem.correlated import estimate as estimate_module
from dipcli.problem.correlated.estimate import CorrelatedEstimate, CorrelatedFinish, CorrelatedGuide
from dipcli.problem.correlated.noise import CorrelatedNoise, measure_correlated_noise
from dipcli.problem.correlated.nonlocal_bayes import estimate_nonlocal_bayes
from dipcli.problem.metrics import psnr


def scene(side: int) -> np.ndarray:
    image = shaded(side)
    image[:, side // 3 : side // 2, side // 4 : side // 2] += 0.2
    return image


def measured(level: float, side: int = 72) -> tuple[np.ndarray, np.ndarray, CorrelatedNoise]:
    """A clean image, a noisy one, and the noise of its kind."""
    clean = scene(side)
    noise = measure_correlated_noise(shaded(192) + smooth_noise(0.7, level))
    assert noise is not None
    return clean, (clean + smooth_noise(0.7, level, side=side, seed=3)).clip(0, 1), noise


@pytest.mark.parametrize("level", [8, 25])
def test_it_removes_most_of_the_noise(level: float) -> None:
    clean, noisy, noise = measured(level)
    estimate = estimate_nonlocal_bayes(torch.from_numpy(noisy), noise).numpy()
    assert psnr(estimate, clean) > psnr(noisy, clean) + 5


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 9, 40), (2, 16, 16)])
def test_small_images_and_other_channels(shape: tuple[int, int, int]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    noise = CorrelatedNoise(1e-4 * torch.eye(49).expand(shape[0], 49, 49), 0.01, 1.0, (0.01,))
    estimate = estimate_nonlocal_bayes(image, noise)
    assert estimate.shape == shape
    assert estimate.isfinite().all()


def test_a_constant_image_stays() -> None:
    image = torch.full((3, 24, 24), 0.4)
    noise = CorrelatedNoise(1e-4 * torch.eye(49).expand(3, 49, 49), 0.01, 0.0, (0.01,))
    torch.testing.assert_close(estimate_nonlocal_bayes(image, noise), image)


def make_parts(monkeypatch: pytest.MonkeyPatch) -> tuple[CorrelatedEstimate, tuple[slice, slice]]:
    """An estimate in several blocks."""
    monkeypatch.setattr(estimate_module, "BLOCK_SIDE", 40)
    monkeypatch.setattr(estimate_module, "MARGIN", 12)
    _, noisy, noise = measured(25, side=80)
    return CorrelatedEstimate(noisy, noise), (slice(0, 80), slice(0, 80))


@pytest.mark.slow
def test_guide_and_finish_of_a_window_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate, whole = make_parts(monkeypatch)
    window = (slice(12, 70), slice(20, 64))
    inside = (..., *window)
    guide = CorrelatedGuide(estimate, *whole)
    assert guide().shape == (9, 80, 80)
    assert torch.equal(guide.window(*window)(), guide()[inside])
    nested = guide.window(slice(10, 75), slice(10, 75)).window(slice(2, 60), slice(10, 54))
    assert torch.equal(nested(), guide()[inside])
    fresh = CorrelatedGuide(replace(estimate, blocks={}), *whole).window(*window)
    assert torch.equal(fresh(), guide()[inside])
    finish = CorrelatedFinish(estimate, *whole, fit_weight=0.0)
    middle = (slice(30, 50), slice(30, 50))  # farther from the window's border than the local means reach
    part = finish.window(*window)(torch.zeros(3, 58, 44))
    torch.testing.assert_close(
        part[..., middle[0].start - 12 : middle[0].stop - 12, 18:22],
        finish(torch.zeros(3, 80, 80))[..., middle[0], 38:42],
        atol=2e-3,
        rtol=0,
    )


@pytest.mark.slow
def test_blocks_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    _, noisy, noise = measured(25, side=80)
    whole = estimate_nonlocal_bayes(torch.from_numpy(noisy), noise).clamp(0, 1)
    monkeypatch.setattr(estimate_module, "BLOCK_SIDE", 40)
    parts = CorrelatedEstimate(noisy, noise)(slice(0, 80), slice(0, 80))
    assert float(((parts - whole) ** 2).mean()) ** 0.5 < 0.1 * 25 / 255


@pytest.mark.slow
def test_held_out_pixels_do_not_show() -> None:
    _, noisy, noise = measured(25)
    rows = columns = slice(0, 72)
    weight = (torch.rand(1, 72, 72, generator=torch.Generator().manual_seed(1)) > 0.1).float()
    other = np.where(weight.numpy() > 0, noisy, np.float32(0.9))
    one, two = (CorrelatedGuide(CorrelatedEstimate(pixels, noise), rows, columns) for pixels in (noisy, other))
    assert torch.equal(one(weight), two(weight))
    assert not torch.equal(one(), two())
    assert torch.equal(one(torch.ones(1, 72, 72)), one())


@pytest.mark.parametrize(("level", "fit_weight"), [(4, 0.0), (25, 0.5)])
def test_the_result_is_never_worse_than_the_input(level: float, fit_weight: float) -> None:
    """Not even with a fitted image that has lost everything."""
    clean, noisy, noise = measured(level)
    finish = CorrelatedFinish(CorrelatedEstimate(noisy, noise), slice(0, 72), slice(0, 72), fit_weight)
    for fitted in (torch.from_numpy(clean), torch.full((3, 72, 72), 0.5)):
        assert psnr(finish(fitted).numpy(), clean) > psnr(noisy, clean) + 1


def test_strength_zero_is_the_input() -> None:
    _, noisy, noise = measured(25)
    finish = CorrelatedFinish(CorrelatedEstimate(noisy, noise), slice(0, 72), slice(0, 72), 0.5, strength=0.0)
    assert torch.equal(finish(torch.zeros(3, 72, 72)), torch.from_numpy(noisy))
