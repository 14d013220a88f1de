"""Steps on windows before the first iteration."""

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


class Pen:
    """In place of an optimiser: writes down what it is asked to look at."""

    def __init__(self) -> None:
        self.parts: list[Window] = []

    def look(self, part: Window) -> Tensor:
        self.parts.append(part)
        return torch.zeros(())

    def step(self, closure: object) -> None:
        closure()  # type: ignore[operator]


def windows(problem: Problem, code: Tensor, window: int | None = WINDOW, **settings: object) -> list[Window]:
    pen = Pen()
    chosen = Settings(**{"warmup": 25, **settings})
    warm_up(pen.look, pen, problem, code, window, chosen)
    return pen.parts


def marked(height: int = 70, width: int = 101) -> tuple[Problem, Tensor]:
    """A picture whose pixels are all different, and the same in the middle of z."""
    picture = torch.arange(float(height * width)).reshape(1, height, width) / 1e4
    code = torch.full((1, 1, 96, 128), -1.0)
    top, left = (96 - height) // 2, (128 - width) // 2
    code[0, :, top : top + height, left : left + width] = picture
    return Problem(measured=picture, shape=(1, height, width), weight=torch.ones(1, height, width)), code


def test_a_window_of_the_picture_and_of_z_show_the_same() -> None:
    problem, code = marked()
    seen = windows(problem, code)
    assert len(seen) == 25
    for part in seen:
        assert part.problem.shape == part.problem.measured.shape == (1, WINDOW, WINDOW)
        assert torch.equal(code[0, :, part.rows, part.columns], part.problem.measured)
    assert len({float(part.problem.measured[0, 0, 0]) for part in seen}) > 20


def test_every_pixel_can_come() -> None:
    problem, code = marked()
    counts = torch.zeros(96, 128)
    for part in windows(problem, code, warmup=3000):
        counts[part.rows, part.columns] += 1
    assert (counts > 0).sum() == 70 * 101


def test_windows_in_which_nothing_counts_are_passed_over() -> None:
    problem, code = marked()
    assert problem.weight is not None
    problem.weight[:, :, :80] = 0
    seen = windows(problem, code)
    assert 0 < len(seen) < 25
    assert all(part.problem.weight.any() for part in seen)


@pytest.mark.parametrize("case", ["none asked for", "operator", "small", "lbfgs", "whole"])
def test_there_are_none_where_a_window_says_nothing(case: str) -> None:
    problem, code = marked()
    if case == "operator":
        problem = replace(problem, operator=AvgPool2d(2))
    elif case == "small":
        problem, code = marked(2 * WINDOW - 1)
    settings = {"none asked for": {"warmup": 0}, "lbfgs": {"optimizer": "lbfgs"}}.get(case, {})
    assert windows(problem, code, None if case == "whole" else WINDOW, **settings) == []


def guided(iterations: int, steps: int, **rest: object) -> tuple[Problem, Prior, Settings]:
    """A picture that the network is shown, noise and all."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 9, 9, generator=generator)
    picture = nn.functional.interpolate(picture[None], (72, 80), mode="bilinear")[0]
    problem = Problem(measured=picture, shape=(3, 72, 80), guide=picture)
    settings = Settings(network=NETWORK, input="guide", iterations=iterations, stop="none", warmup=steps, **rest)
    return problem, replace(build(settings, problem.shape, picture), window=WINDOW), settings


def error(iterations: int, steps: int) -> float:
    problem, prior, settings = guided(iterations, steps, ema=0)
    return float(((fit(problem, prior, settings).image - problem.measured) ** 2).mean())


def test_what_is_learned_of_windows_holds_for_the_picture() -> None:
    assert error(1, 60) < error(1, 0) / 3


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (fit(*guided(3, 10)).image for _ in range(2))
    assert torch.equal(first, second)


def test_iterations_and_averages_begin_after_it() -> None:
    steps = []
    problem, prior, settings = guided(3, 10)
    result = fit(problem, prior, settings, observers=[lambda step, _verdict: steps.append(step)])
    assert [step.number for step in steps] == [1, 2, 3]
    assert result.steps == 3
    assert torch.allclose(steps[0].average, steps[0].image)


def test_a_network_says_how_much_it_wants_to_see() -> None:
    """A multiple of what its levels divide by; all of it where the picture itself is the variable."""
    assert build(Settings(network=NETWORK), (3, 20, 20)).window == WINDOW_SIDE
    six = "skip:channels=8x6:skips=0x6"
    window = build(Settings(network=six), (3, 200, 200)).window
    assert window is not None
    assert window >= WINDOW_SIDE
    assert window % 64 == 0
    assert build(Settings(network="pixels"), (3, 20, 20)).window is None
