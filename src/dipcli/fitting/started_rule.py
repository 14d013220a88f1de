"""A stopping rule at the start of a fit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dipcli.problem import Problem
from dipcli.stopping import Rule, check_state


@dataclass(frozen=True)
class StartedRule:
    """A stopping rule with its first state. It is a value: the restarts of a fit share it.

    Attributes:
        rule: the rule.
        state: its state before the first iteration.
        problem: the problem to fit, without the pixels that the rule holds out; its companion has been made.
    """

    rule: Rule
    state: Any
    problem: Problem


def start_rule(rule: Rule | StartedRule, problem: Problem) -> StartedRule:
    """Start a rule on a problem; return a started one as it is.

    Raises:
        DipError: if the rule does not apply to the problem.
        TypeError: if its state cannot be written to a checkpoint.
    """
    if isinstance(rule, StartedRule):
        return rule
    state, problem = rule.start(problem)
    check_state(state)
    return StartedRule(rule, state, replace(problem, companion=problem.visible_companion()))
