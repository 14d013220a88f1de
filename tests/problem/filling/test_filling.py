"""Missing pixels from similar patches, the finish without seams, and the companion made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import scene

import dipcli
from dipcli.images.image import from_array
from dipcli.problem.filling import gaussian
from dipcli.problem.filling.gaussian import FillingCompanion, condition, fill_by_gaussians
from dipcli.problem.filling.interpolation import BlendKnown, interpolate
from dipcli.problem.independent.companion import MIN_SIDE
from dipcli.problem.independent.ridge import RidgeStep
from dipcli.tasks.registry import tasks

STEPS = (RidgeStep(5, 40, 3, 21),) * 2


def stripes(channels: int, side: int = 48) -> torch.Tensor:
    """Stripes of period 8 with another phase in each channel: every patch has many equals."""
    x = torch.arange(side) % 8 / 8
    return torch.stack([0.3 + 0.4 * ((x + channel / 8) % 1) for channel in range(channels)])[:, None].repeat(1, side, 1)


def scattered(side: int = 48, missing: float = 0.5) -> torch.Tensor:
    """A random part of the pixels is known, shape (side, side)."""
    return torch.rand(side, side, generator=torch.Generator().manual_seed(0)) >= missing


def error(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((image - truth) ** 2).mean())


def test_missing_pixels_get_the_conditional_mean() -> None:
    """The formula, with the inverse of the known block written out."""
    generator = torch.Generator().manual_seed(1)
    group = torch.rand(2, 30, 6, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 3, 6, generator=generator) < 0.5).double()
    estimate = condition(group, mask)
    for number, patch in np.ndindex(2, 3):
        mean = group[number].mean(0)
        centred = group[number] - mean
        covariance, known = centred.T @ centred / 30, mask[number, patch] > 0
        block = covariance[known][:, known] + gaussian.NOISE**2 * torch.eye(int(known.sum()))
        expected = mean + covariance[:, known] @ torch.linalg.solve(block, centred[patch, known])
        assert torch.allclose(estimate[number, patch], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_repeating_image_is_filled_far_better_than_by_interpolation(channels: int) -> None:
    truth, known = stripes(channels), scattered()
    filled = fill_by_gaussians(truth * known, known, STEPS)
    assert torch.allclose(filled[:, known], truth[:, known], atol=1e-5)
    assert error(filled, truth) < error(interpolate(truth * known, known[None]), truth) / 10


def test_a_large_image_is_filled_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, known = stripes(1), scattered()
    known[:20, :20] = True  # nothing is missing in a whole block
    whole = fill_by_gaussians(truth * known, known, STEPS)
    monkeypatch.setattr("dipcli.problem.independent.ridge.BLOCK_SIDE", 9)
    assert torch.allclose(fill_by_gaussians(truth * known, known, STEPS), whole, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (7, 40), (33, 32)])
def test_interpolation_keeps_constants_and_known_pixels_and_stays_between_them(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    image, known = torch.rand(2, *size, generator=generator), torch.rand(1, *size, generator=generator) < 0.3
    known[0, 0, 0] = True
    filled = interpolate(image * known, known.float())
    assert torch.equal(filled.masked_select(known), image.masked_select(known))
    low, high = (image.masked_fill(~known, fill).flatten() for fill in (2.0, -1.0))
    assert low.min() - 1e-5 <= filled.min()
    assert filled.max() <= high.max() + 1e-5
    assert torch.allclose(interpolate(0.4 * known.expand_as(image), known.float()), torch.tensor(0.4))


def test_a_fit_that_misses_the_level_leaves_no_seam() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 0.5, 40), torch.linspace(0, 0.4, 40), indexing="ij")
    truth, known = (y + x)[None], torch.ones(1, 40, 40, dtype=torch.bool)
    known[:, 10:30, 12:28] = False
    joined = BlendKnown(truth, known)(truth + 0.05)
    assert torch.equal(joined[known], truth[known])
    assert float((joined - truth).abs().max()) < 1e-3
    part = BlendKnown(truth, known).window(slice(0, 20), slice(0, 40))(truth[:, :20] + 0.05)
    assert float((part - truth[:, :20]).abs().max()) < 1e-3


def test_the_companion_uses_no_pixel_of_weight_0_and_no_unknown_one() -> None:
    pixels = from_array(scene(40, 44)).pixels
    known, weight = scattered(44)[:40].numpy(), torch.ones(1, 40, 44)
    weight[0, 5, 5:9] = 0
    changed = np.where(known & (weight[0].numpy() > 0), pixels, 1 - pixels)
    first, second = (FillingCompanion(pixels=values, known=known)(weight) for values in (pixels, changed))
    assert torch.equal(first, second)


@pytest.mark.slow
def test_a_window_of_the_companion_sees_the_pixels_around_it() -> None:
    pixels, known = stripes(1, 160).numpy(), scattered(160).numpy()
    companion = FillingCompanion(pixels=pixels, known=known)
    rows, columns = slice(60, 100), slice(0, 40)
    assert error(companion.window(rows, columns)(), companion()[:, rows, columns]) < 1e-4


def test_inpaint_has_a_companion_where_held_out_pixels_say_something() -> None:
    task, image = tasks()["inpaint"], from_array(scene(48, 48))
    hole = np.zeros((48, 48), bool)
    hole[10:30, 10:30] = True

    def companion(mask: np.ndarray, preset: str = "balanced", **given: str) -> object:
        return task.case(image, preset, {"mask": mask}, given)[0].problem.companion

    dots = ~scattered().numpy()
    assert isinstance(companion(dots), FillingCompanion)
    assert companion(hole) is None
    assert companion(dots, "paper") is None
    assert companion(dots, fusion="none") is None


def test_few_known_pixels_give_more_of_them_to_the_rule() -> None:
    task = tasks()["inpaint"]

    def rule(side: int, missing: float) -> str:
        mask = ~scattered(side, missing).numpy()
        image = from_array(np.zeros((side, side), np.uint8))
        return task.case(image, "balanced", {"mask": mask}, {})[1].stop

    assert "fraction=0.200" in rule(48, 0.5)
    assert "fraction=0.000" in rule(256, 0.5)


def test_scattered_pixels_are_predicted_by_the_companion_and_the_run_ends_by_itself() -> None:
    """An untrained network adds nothing to the companion, which has seen the known pixels."""
    truth, known = stripes(1), scattered()
    broken = (255 * truth[0] * known).round().byte().numpy()
    result = dipcli.inpaint(
        broken, mask=~known.numpy(), preset="fast", network="skip:channels=4,4:skips=0,4", input_depth=4, progress=False
    )
    companion = FillingCompanion(pixels=from_array(broken).pixels, known=known.numpy())()
    assert result.fusion is not None
    assert result.fusion < 0.2
    assert "held-out pixels were not predicted better" in result.reason
    assert result.kept > 20 or result.fusion > 0, "not the untrained network of the first check"
    assert error(torch.from_numpy(result.image / 255.0), truth[0]) < 2 * error(companion[0], truth[0]) + 1e-5


def test_the_smallest_image_has_enough_similar_patches() -> None:
    known = scattered(MIN_SIDE).numpy()
    filled = FillingCompanion(pixels=stripes(1, MIN_SIDE).numpy() * known, known=known)()
    assert error(filled, stripes(1, MIN_SIDE)) < 0.01
