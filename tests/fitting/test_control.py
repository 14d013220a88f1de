"""What runs beside a fit, and the start of a stopping rule."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from dipcli.fitting.control import Control, Deadline
from dipcli.fitting.started_rule import start_rule
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import HoldOut, Never, Rule


def test_a_deadline_expires_and_has_room_until_then() -> None:
    assert Deadline(1000).expired() is None
    assert Deadline(1000).has_room(900)
    assert not Deadline(1000).has_room(1100)
    assert Deadline(0).expired()
    assert Deadline(None).expired() is None
    assert not Deadline(None).has_room(0)


def test_the_time_spent_before_counts() -> None:
    assert Deadline(1000, spent=1001).expired()
    assert Deadline(1000, spent=1001).left() == 0
    assert Deadline(None).left() is None


def test_an_interrupt_comes_before_the_deadline() -> None:
    assert Control().reason_to_end() is None
    assert "--time" in str(Control(deadline=Deadline(0)).reason_to_end())
    assert Control(deadline=Deadline(0), interrupted=lambda: "enough").reason_to_end() == "enough"


def test_a_started_rule_has_the_state_and_the_problem_of_its_rule() -> None:
    problem = Problem(measured=torch.rand(3, 24, 20), shape=(3, 24, 20))
    rule = HoldOut(fraction=0.2)
    started = start_rule(rule, problem)
    _, fitted = rule.start(problem)
    assert started.rule is rule
    assert torch.equal(started.problem.weight, fitted.weight)
    assert start_rule(started, problem) is started


def test_a_companion_is_made_when_a_rule_starts_only_if_the_input_or_the_fusion_needs_it() -> None:
    made: list[Any] = []
    problem = Problem(measured=torch.rand(3, 8, 8), shape=(3, 8, 8), companion=lambda weight: made.append(weight) or 0)
    noise, guide = Settings(input="noise"), Settings(input="guide")
    for posed, settings, count in ((problem, None, 0), (problem, noise, 0), (problem, guide, 1)):
        start_rule(Never(), posed, settings)
        assert len(made) == count
    start_rule(Never(), replace(problem, share=0.5), noise)
    assert len(made) == 2


def test_a_state_that_no_checkpoint_can_hold_is_refused() -> None:
    class Unsaved:
        def start(self, problem: Problem) -> tuple[Any, Problem]:
            return ctypes.c_int(0), problem

    with pytest.raises(TypeError, match="c_int"):
        start_rule(cast("Rule", Unsaved()), Problem(measured=torch.rand(3, 8, 8), shape=(3, 8, 8)))
