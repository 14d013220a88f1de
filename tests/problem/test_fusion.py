"""The fusion of a fit with its companion, from the formula to the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Dip
from samples import noisy, scene

import dipcli
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem import Problem
from dipcli.problem.fusion import find_share, fuse
from dipcli.problem.independent.companion import NonLocalCompanion
from dipcli.problem.independent.noise_model import NoiseModel
from dipcli.settings import Settings
from dipcli.stopping import HoldOut, Never, exactly
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

TINY = "skip:channels=8,8:skips=4,4"
OPTIONS = ("--network", TINY, "--iters", "5", "--warmup", "0", "--no-report")


def test_the_share_minimises_the_error_at_the_weighted_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 20, 20, generator=generator)
    fit, companion, measured = (truth + s * torch.randn(truth.shape, generator=generator) for s in (0.1, 0.2, 0.3))
    weight = (torch.rand(20, 20, generator=generator) < 0.5).float()

    def error(share: float) -> float:
        return float((weight * (fuse(fit, companion, share) - measured) ** 2).sum())

    best = find_share(fit, companion, measured, weight)
    assert 0 < best < 1
    assert error(best) <= min(error(best - 0.01), error(best + 0.01))


def test_the_share_of_the_better_estimate_is_larger_and_stays_within_its_bounds() -> None:
    truth, ones = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(1)), torch.ones(32, 32)
    assert find_share(truth, truth + 0.1, truth, ones) == 1
    assert find_share(truth + 0.1, truth, truth, ones) == 0
    assert find_share(truth + 0.1, truth, truth + 0.2, ones) == 1
    assert find_share(truth + 0.1, truth, truth - 0.2, ones) == 0
    assert find_share(truth, truth, truth, ones) == 1


def test_a_companion_that_sees_the_pixel_gets_more_where_the_pixel_counts() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(1, 64, 64, generator=generator)
    noise, blind_error, fit_error = (s * torch.randn(truth.shape, generator=generator) for s in (0.1, 0.3, 0.3))
    measured, blind, fit = truth + noise, truth + blind_error, truth + fit_error
    ones = torch.ones(64, 64)
    assert find_share(fit, blind, measured, ones) == pytest.approx(0.5, abs=0.05)
    assert find_share(fit, blind, measured, ones, blind) == pytest.approx(0.5, abs=0.05)
    part = 0.3**2 / (0.3**2 + 0.1**2)  # of the pixel in the conditional mean of x, given h and y
    seeing = blind + part * (measured - blind)
    best = find_share(fit, seeing, truth, ones)  # with the clean image
    assert find_share(fit, blind, measured, ones, seeing) == pytest.approx(best, abs=0.1)


def test_a_window_of_the_companion_sees_the_pixels_around_it() -> None:
    pixels = np.random.default_rng(0).random((1, 120, 120), dtype=np.float32)
    companion = NonLocalCompanion(pixels=pixels, noise=NoiseModel(0.01))
    part = companion.window(slice(50, 90), slice(0, 40))
    assert part().shape == (1, 40, 40)
    assert part.pixels.shape == (1, 110, 80)


def test_held_out_pixels_are_not_in_the_companion() -> None:
    pixels = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
    weight = torch.ones(32, 32)
    weight[10, 10] = 0
    changed = pixels.copy()
    changed[:, 10, 10] = 0.99
    first, second = (NonLocalCompanion(pixels=values, noise=NoiseModel(0.01))(weight) for values in (pixels, changed))
    assert torch.equal(first, second)


def make_problem(companion_error: float) -> Problem:
    clean = torch.from_numpy(scene(32, 32)).permute(2, 0, 1) / 255
    measured = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return Problem(measured=measured, shape=(3, 32, 32), companion=clean + companion_error)


@pytest.mark.parametrize("tile", ["none", 128])
def test_a_perfect_companion_is_taken_and_a_wrong_one_is_not(tile: str | int) -> None:
    settings = Settings(network=TINY, input_depth=4, tile=tile)

    def restore(companion_error: float) -> tuple[torch.Tensor, float | None, torch.Tensor]:
        rule = exactly(HoldOut(fraction=0.2), 5)
        problem = make_problem(companion_error)
        result = solve(prepare(problem, settings, stop=rule))
        return result.image, result.share, problem.companion

    image, share, companion = restore(0.0)
    assert share is not None
    assert share < 0.2
    assert float((image - companion).abs().max()) < 0.2
    _, share, _ = restore(3.0)
    assert share is not None
    assert share > 0.8


def test_without_held_out_pixels_the_fit_is_alone() -> None:
    settings = Settings(network=TINY, input_depth=4)
    result = solve(prepare(make_problem(0.0), settings, stop=exactly(Never(), 3)))
    assert result.share is None
    assert torch.equal(result.image, result.first.average)


def test_without_held_out_pixels_the_share_is_that_of_the_problem() -> None:
    settings, problem = Settings(network=TINY, input_depth=4), make_problem(0.0)
    result = solve(prepare(replace(problem, share=0.25), settings, stop=exactly(Never(), 3)))
    assert result.share == 0.25
    assert torch.allclose(result.image, fuse(result.first.average, problem.companion, 0.25))


def test_the_rule_judges_the_fusion() -> None:
    rule = HoldOut(fraction=0.2)
    problem = make_problem(0.0)
    state, fitted = rule.start(problem)
    assert fitted.companion is state.companion
    bad = torch.zeros(problem.shape)
    step = Step(5, torch.tensor(1.0), bad, (bad,), 0.01, 1.0)
    fused, alone = rule.judge(step, state)[0], rule.judge(step, replace(state, companion=None))[0]
    assert fused.criterion is not None
    assert alone.criterion is not None
    assert fused.criterion[1] < 0.2 * alone.criterion[1]


def test_denoise_has_a_companion_for_independent_noise_alone() -> None:
    image = from_array(noisy(scene(96, 96)))
    task = tasks()["denoise"]
    assert task.case(image, "balanced", {}, {})[0].problem.companion is not None
    assert task.case(image, "balanced", {}, {"fusion": "none"})[0].problem.companion is None
    assert task.case(image, "paper", {}, {})[0].problem.companion is None
    assert task.case(image, "balanced", {"loss": "l1"}, {})[0].problem.companion is None


@pytest.mark.slow
def test_the_command_line_says_how_much_is_of_the_fit(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "noisy.png"
    dipcli.images.write(dipcli.images.encode(from_array(noisy(scene(64, 64))), ".png"), source)
    result = dip("denoise", source, *OPTIONS, "-v")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "noisy.denoised.dip" / "run.json").read_text())
    assert 0 <= record["fusion"] <= 1
    assert f"fit {record['fusion']:.0%}" in record["reason"]
    assert dip("denoise", source, *OPTIONS, "--fusion", "none", "--overwrite").exit_code == 0
    assert "fusion" not in json.loads((tmp_path / "noisy.denoised.dip" / "run.json").read_text())


@pytest.mark.slow
def test_the_fusion_is_better_than_the_noisy_image_after_few_iterations() -> None:
    clean = scene(96, 96)
    damaged = noisy(clean)
    restored = dipcli.denoise(damaged, iterations=5, network=TINY, warmup=0).image

    def error(image: np.ndarray) -> float:
        return float(((image.astype(float) - clean) ** 2).mean())

    assert error(restored) < error(damaged) / 8
