"""Warm-up: steps on windows before the first iteration."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import AvgPool2d

from dipcli.fitting.engine import fit
from dipcli.fitting.warmup import Window, warm_up
from dipcli.networks.build import WINDOW_SIDE, build
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings

WINDOW = 32
NETWORK = "skip:channels=8,16:skips=2,2"


class Recorder:
    """In place of an optimiser: records the windows."""

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def record(self, window: Window) -> Tensor:
        self.windows.append(window)
        return torch.zeros(())

    def step(self, closure: object) -> None:
        closure()  # type: ignore[operator]


def draw_windows(problem: Problem, code: Tensor, window: int | None = WINDOW, **settings: object) -> list[Window]:
    recorder = Recorder()
    chosen = Settings(**{"warmup": 25, **settings})
    warm_up(recorder.record, recorder, problem, code, window, chosen)
    return recorder.windows


def make_distinct_pixels(height: int = 70, width: int = 101) -> tuple[Problem, Tensor]:
    """An image whose pixels are all different, and a z with the same image in its middle."""
    image = torch.arange(float(height * width)).reshape(1, height, width) / 1e4
    code = torch.full((1, 1, 96, 128), -1.0)
    top, left = (96 - height) // 2, (128 - width) // 2
    code[0, :, top : top + height, left : left + width] = image
    return Problem(measured=image, shape=(1, height, width), weight=torch.ones(1, height, width)), code


def test_a_window_of_the_image_and_of_z_show_the_same() -> None:
    problem, code = make_distinct_pixels()
    seen = draw_windows(problem, code)
    assert len(seen) == 25
    for window in seen:
        assert window.problem.shape == window.problem.measured.shape == (1, WINDOW, WINDOW)
        assert torch.equal(code[0, :, window.rows, window.columns], window.problem.measured)
    assert len({float(window.problem.measured[0, 0, 0]) for window in seen}) > 20


def test_every_pixel_can_be_in_a_window() -> None:
    problem, code = make_distinct_pixels()
    counts = torch.zeros(96, 128)
    for window in draw_windows(problem, code, warmup=3000):
        counts[window.rows, window.columns] += 1
    assert (counts > 0).sum() == 70 * 101


def test_windows_without_weight_are_skipped() -> None:
    problem, code = make_distinct_pixels()
    assert problem.weight is not None
    problem.weight[:, :, :80] = 0
    seen = draw_windows(problem, code)
    assert 0 < len(seen) < 25
    assert all(window.problem.weight.any() for window in seen)


@pytest.mark.parametrize("case", ["off", "operator", "small", "lbfgs", "whole"])
def test_there_is_no_warmup_if_a_window_does_not_stand_alone(case: str) -> None:
    problem, code = make_distinct_pixels()
    if case == "operator":
        problem = replace(problem, operator=AvgPool2d(2))
    elif case == "small":
        problem, code = make_distinct_pixels(2 * WINDOW - 1)
    settings = {"off": {"warmup": 0}, "lbfgs": {"optimizer": "lbfgs"}}.get(case, {})
    assert draw_windows(problem, code, None if case == "whole" else WINDOW, **settings) == []


def make_guided(iterations: int, steps: int, **rest: object) -> tuple[Problem, Prior, Settings]:
    """A fit whose guide is the measurement itself."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 9, 9, generator=generator)
    image = nn.functional.interpolate(image[None], (72, 80), mode="bilinear")[0]
    problem = Problem(measured=image, shape=(3, 72, 80), guide=image)
    settings = Settings(network=NETWORK, input="guide", iterations=iterations, stop="none", warmup=steps, **rest)
    return problem, replace(build(settings, problem.shape, image), window=WINDOW), settings


def measure_error(iterations: int, steps: int) -> float:
    problem, prior, settings = make_guided(iterations, steps, ema=0)
    return float(((fit(problem, prior, settings).image - problem.measured) ** 2).mean())


def test_what_is_learned_on_windows_helps_on_the_image() -> None:
    assert measure_error(1, 60) < measure_error(1, 0) / 3


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (fit(*make_guided(3, 10)).image for _ in range(2))
    assert torch.equal(first, second)


def test_iterations_and_averages_start_after_the_warmup() -> None:
    steps = []
    problem, prior, settings = make_guided(3, 10)
    result = fit(problem, prior, settings, observers=[lambda step, _verdict: steps.append(step)])
    assert [step.number for step in steps] == [1, 2, 3]
    assert result.steps == 3
    assert torch.allclose(steps[0].average, steps[0].image)


def test_the_window_suits_the_network() -> None:
    """A multiple of its stride; none if the image itself is the variable."""
    assert build(Settings(network=NETWORK), (3, 20, 20)).window == WINDOW_SIDE
    six = "skip:channels=8x6:skips=0x6"
    window = build(Settings(network=six), (3, 200, 200)).window
    assert window is not None
    assert window >= WINDOW_SIDE
    assert window % 64 == 0
    assert build(Settings(network="pixels"), (3, 20, 20)).window is None
