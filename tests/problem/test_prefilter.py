"""The prefiltered copies that are the input of the network of `dip denoise`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from dipcli.fitting.solve import prepare
from dipcli.images.image import from_array
from dipcli.problem import Problem
from dipcli.problem.prefilter import PrefilteredGuide
from dipcli.settings import Settings
from dipcli.stopping import HoldOut
from dipcli.tasks.registry import tasks

SIGMA = 25 / 255


def scenery(channels: int = 3, side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([0.3 + 0.4 * x, 0.7 - 0.4 * y, 0.4 + 0.2 * x * y])[:channels]
    image[:, side // 3 : side // 2, side // 4 : side // 2] += 0.2
    return image.astype(np.float32)


def noisy(channels: int = 3, side: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, SIGMA, (channels, side, side))
    return (scenery(channels, side) + noise).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_copy_is_nearer_to_the_truth(channels: int) -> None:
    pixels = noisy(channels)
    copies = PrefilteredGuide(pixels, SIGMA)().numpy()
    assert copies.shape == (3 * channels, 64, 64)
    assert copies.min() >= 0
    assert copies.max() <= 1
    for copy in copies.reshape(3, channels, 64, 64):
        assert ((copy - scenery(channels)) ** 2).mean() < ((pixels - scenery(channels)) ** 2).mean() / 3


@pytest.mark.parametrize("broadcast", [False, True])
def test_pixels_of_weight_zero_do_not_show(broadcast: bool) -> None:
    pixels = noisy()
    weight = (torch.rand(1 if broadcast else 3, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.1).float()
    known = (weight.expand(3, 64, 64) > 0).all(dim=0).numpy()
    other = np.where(known, pixels, np.float32(0.9))
    assert torch.equal(PrefilteredGuide(pixels, SIGMA)(weight), PrefilteredGuide(other, SIGMA)(weight))
    assert not torch.equal(PrefilteredGuide(pixels, SIGMA)(), PrefilteredGuide(other, SIGMA)())


def test_a_large_hole_is_filled() -> None:
    weight = torch.ones(1, 64, 64)
    weight[:, 10:40, 10:40] = 0
    assert PrefilteredGuide(noisy(), SIGMA)(weight).isfinite().all()


def test_held_out_pixels_are_not_in_the_input() -> None:
    """Nor in that of a second run; without held-out pixels, all of the image is."""
    pixels = noisy()
    rule = HoldOut(fraction=0.1)
    settings = Settings(network="skip:channels=4,4:skips=0,0", input="guide", stop="holdout:fraction=0.1")
    problem = Problem(measured=torch.from_numpy(pixels), shape=pixels.shape, guide=PrefilteredGuide(pixels, SIGMA))
    _, reduced = rule.start(problem)
    other = np.where(reduced.weight.numpy() > 0, pixels, np.float32(0.1))
    changed = replace(problem, measured=torch.from_numpy(other), guide=PrefilteredGuide(other, SIGMA))
    for one, two in ((settings, settings), (replace(settings, stop="none"),) * 2):
        codes = [prepare(posed, own).prior.code for posed, own in ((problem, one), (changed, two))]
        assert torch.equal(*codes) == (one.stop != "none")
    given = [prepare(posed, replace(settings, stop="none"), stop=rule).prior.code for posed in (problem, changed)]
    assert torch.equal(*given), "a rule that is passed overrides that of the settings"


def test_the_companion_comes_before_the_filtered_copies() -> None:
    """Once a rule has made it without the pixels that it holds out."""
    pixels = noisy()
    companion = torch.rand(*pixels.shape, generator=torch.Generator().manual_seed(0))
    guide, channels = PrefilteredGuide(pixels, SIGMA), len(pixels)
    problem = Problem(measured=torch.from_numpy(pixels), shape=pixels.shape, guide=guide)
    alone, given = problem.visible_guide(), replace(problem, companion=companion).visible_guide()
    assert torch.equal(given[:channels], companion)
    assert torch.equal(given[channels:], alone)
    assert torch.equal(replace(problem, companion=lambda _weight: companion).visible_guide(), alone)
    assert torch.equal(replace(problem, guide=None, companion=companion).visible_guide(), companion)
    _, fitted = HoldOut(fraction=0.1).start(replace(problem, companion=lambda weight: companion * (weight > 0)))
    hidden = fitted.weight.expand_as(companion) == 0
    assert not fitted.visible_guide()[:channels][hidden].any()


def case(pixels: np.ndarray, preset: str = "balanced", **options: object) -> tuple[Problem, Settings]:
    image = from_array(np.rint(255 * pixels.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0))
    given = {name: options.pop(name) for name in ("sigma", "input") if name in options}
    posed, settings = tasks()["denoise"].case(image, preset, options, given)
    return posed.problem, settings


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_denoising_uses_the_guide_for_white_noise(preset: str) -> None:
    problem, settings = case(noisy(side=160), preset)
    assert settings.input == "guide"
    assert isinstance(problem.guide, PrefilteredGuide)
    assert 255 * problem.guide.level == pytest.approx(25, rel=0.1)
    _, given = case(noisy(side=160), preset, sigma="40")
    assert given.input == "guide"


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_denoising_uses_a_noise_input_where_prefiltering_does_not_help(preset: str) -> None:
    correlated = gaussian_filter(np.random.default_rng(0).normal(0, 1, (3, 160, 160)), (0, 1, 1))
    smooth = scenery(side=160) + SIGMA * correlated / correlated.std()
    for pixels, options in (
        (smooth, {"input": "noise"}),
        (smooth, {"loss": "l1"}),
        (noisy(side=160), {"loss": "l1"}),
        (noisy(side=160), {"input": "noise"}),
        (noisy(side=20), {}),
    ):
        _, settings = case(pixels, preset, **options)
        assert settings.input == "noise", options
        assert "skips=0,4,4,4,4" in settings.network


@pytest.mark.parametrize(("level", "expected"), [(3, 0.02), (10, 0.028), (25, 0.07), (50, 0.14), (120, 0.2)])
def test_input_noise_grows_with_the_noise_level(level: float, expected: float) -> None:
    _, settings = case(scenery(side=160) + np.random.default_rng(0).normal(0, 5 / 255, (3, 160, 160)), sigma=str(level))
    assert settings.reg_noise == pytest.approx(expected)


def test_the_paper_preset_uses_no_guide() -> None:
    assert case(noisy(side=160), "paper")[1].input == "noise"
