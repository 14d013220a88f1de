"""A stopping rule at the start of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule, check_state


@dataclass(frozen=True)
class StartedRule:
    """A stopping rule with its first state. It is a value: the restarts of a fit share it.

    Attributes:
        rule: the rule.
        state: its state before the first iteration.
        problem: the problem to fit, without the pixels that the rule holds out.
    """

    rule: Rule
    state: Any
    problem: Problem


def start_rule(rule: Rule | StartedRule, problem: Problem, settings: Settings | None = None) -> StartedRule:
    """Start a rule on a problem; return a started one as it is.

    Args:
        rule: the rule.
        problem: the problem to fit.
        settings: of the runs to come, which share a companion: it is made here, once, if their input or the fusion
            needs it. None if there are none, as for a check.

    Raises:
        DipError: if the rule does not apply to the problem.
        TypeError: if its state cannot be written to a checkpoint.
    """
    if isinstance(rule, StartedRule):
        return rule
    state, problem = rule.start(problem)
    check_state(state)
    if settings and (settings.input == "guide" or problem.share < 1):
        problem = replace(problem, companion=problem.visible_companion())
    return StartedRule(rule, state, problem)
