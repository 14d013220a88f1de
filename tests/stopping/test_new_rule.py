"""A stopping rule from outside the package needs nothing but `from dipcli import ...`."""

from __future__ import annotations

import csv
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from samples import noisy, scene

from dipcli import Problem, Rule, Settings, Step, Verdict, build, denoise, fit
from dipcli.stopping import HoldOut, check_state, describe_rules, rules

QUICK: dict[str, Any] = {"network": TINY, "input": "noise", "input_depth": 4, "progress": False}
IMAGE = noisy(scene(20, 24))


@dataclass(frozen=True)
class Smallest:
    """The state of `SmallChange`."""

    previous: torch.Tensor | None = None


@dataclass(frozen=True)
class SmallChange(Rule):
    """Stop when the output changes little from one iteration to the next, or at an iteration."""

    name: ClassVar[str] = "smallchange"
    summary: ClassVar[str] = "change of the output"
    criterion_label: ClassVar[str] = "squared change of the output"
    until: int = 4

    def start(self, problem: Problem) -> tuple[Smallest, Problem]:
        return Smallest(), problem

    def judge(self, step: Step, state: Smallest) -> tuple[Verdict, Smallest]:
        criterion = None
        if state.previous is not None:
            criterion = ("change", float((step.image - state.previous).square().mean()))
        stop = "the output has changed enough" if step.number >= self.until else None
        return Verdict(keep=True, stop=stop, criterion=criterion), Smallest(step.image)


@dataclass(frozen=True)
class Queue(Rule):
    """A rule whose state cannot be written to a checkpoint."""

    def start(self, problem: Problem) -> tuple[Any, Problem]:
        return {"last": deque([1.0])}, problem

    def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:  # noqa: ARG002
        return Verdict(keep=True), state


def test_it_can_be_chosen_on_the_command_line(dip: Dip, noisy_png: Path) -> None:
    arguments = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--log-every", 1)
    result = dip("denoise", noisy_png, *arguments, "--stop", "smallchange:until=6")
    assert result.exit_code == 0, result.output
    folder = noisy_png.with_name("noisy.denoised.dip")
    with (folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert [bool(row["signal"]) for row in rows] == [False] + [True] * 5
    assert "squared change of the output" in (folder / "report.html").read_text()
    result = dip("denoise", noisy_png, "--stop", "smallchange:till=6")
    assert result.exit_code == 2
    assert "until=4" in result.stderr


def test_it_can_be_given_from_python() -> None:
    restored = denoise(IMAGE, stop=SmallChange(until=3), **QUICK)
    assert (restored.steps, restored.reason) == (3, "the output has changed enough")
    named = denoise(IMAGE, stop="smallchange:until=3", **QUICK)
    assert np.array_equal(named.image, restored.image)


def test_the_help_of_stop_describes_it(dip: Dip) -> None:
    assert "smallchange (change of the output)" in describe_rules()
    assert "smallchange" in dip("denoise", "--help").output


def test_every_rule_of_the_package_is_described() -> None:
    for name, rule in rules().items():
        assert rule.summary, name
        assert rule.name == name


def test_a_state_that_no_checkpoint_can_hold_is_refused_at_the_start() -> None:
    with pytest.raises(TypeError, match="deque"):
        denoise(IMAGE, stop=Queue(), iterations=2, **QUICK)
    problem = Problem(measured=torch.zeros(3, 16, 16), shape=(3, 16, 16))
    settings = Settings(network=TINY, input_depth=4, iterations=1)
    with pytest.raises(TypeError, match="deque"):
        fit(problem, build(settings, problem.shape), settings, stop=Queue())


class Pair(NamedTuple):
    """A tuple of a class of its own, which a checkpoint would lose."""

    one: int
    two: int


@dataclass
class Mutable:
    """Not frozen."""

    value: int = 0


@pytest.mark.parametrize(
    "part",
    [np.float64(1), np.zeros(2), Pair(1, 2), OrderedDict(), Mutable(), {1, 2}, b"bytes", 1j, Mutable, len],
    ids=lambda part: type(part).__name__,
)
def test_other_types_are_refused_by_name(part: Any) -> None:
    for state in (part, [part], (1, part), {"key": part}, Smallest(part)):
        with pytest.raises(TypeError, match=type(part).__name__):
            check_state(state)


def test_the_documented_types_are_accepted() -> None:
    problem = Problem(measured=torch.zeros(3, 16, 16), shape=(3, 16, 16))
    parts = [
        None,
        True,
        1,
        1.5,
        "word",
        torch.zeros(2),
        problem,
        Smallest(torch.zeros(1)),
        HoldOut(),
        [1, (2, {"a": None})],
    ]
    check_state(parts)
    for rule in rules().values():
        if rule.name != "sigma":  # an image this small has no measurable noise
            check_state(rule().start(problem)[0])
