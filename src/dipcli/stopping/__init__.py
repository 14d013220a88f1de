"""When to stop, and which picture to keep: the rules.

A rule is a frozen value with two methods. `start(problem)` hands each run a fresh state, with the problem
that is to be fitted; a rule that holds pixels back returns a problem in which they do not count.
`judge(step, state)` looks at one iteration and answers with a verdict and the next state. The state is the
run's, never the rule's: it can be saved, restored and wound back like the weights. None of them is shown the true
picture.

A class of this package with a class attribute `name` can be chosen by that name: `--stop name:key=value`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from dipcli import specs
from dipcli.noise import GREYS
from dipcli.stopping import automatic
from dipcli.stopping.automatic import Auto
from dipcli.stopping.discrepancy import Sigma, estimated
from dipcli.stopping.holdout import HoldOut
from dipcli.stopping.rule import Ending, Never, Rule, Verdict, at_most, exactly, unless
from dipcli.stopping.variance import EMV, WMV

if TYPE_CHECKING:
    from dipcli.problem import Problem
    from dipcli.settings import Settings

__all__ = [
    "EMV",
    "WMV",
    "Auto",
    "Ending",
    "HoldOut",
    "Never",
    "Rule",
    "Sigma",
    "Verdict",
    "at_most",
    "chosen",
    "exactly",
    "named",
    "settled",
    "told",
    "unless",
]


def named(text: str) -> Rule:
    """The rule that `--stop` names.

    Raises:
        UsageError: when there is no such rule or it does not take that parameter.
    """
    rooms = [sys.modules[__name__], *(import_module(f"{__name__}.{room.name}") for room in iter_modules(__path__))]
    classes = [each for room in rooms for each in vars(room).values() if isinstance(each, type)]
    rules: list[type[Any]] = [each for each in dict.fromkeys(classes) if isinstance(getattr(each, "name", None), str)]
    rule: Rule = specs.parse(text, rules, "stopping rule")
    return rule


def told(rule: Rule, problem: Problem) -> str:
    """Which rule it comes to for a problem, and why where `auto` chose it."""
    while isinstance(rule, Ending):
        rule = rule.rule
    return automatic.chosen(problem, rule.level)[1] if isinstance(rule, Auto) else f"rule {getattr(rule, 'name', rule)}"


def settled(rule: Rule, problem: Problem) -> Rule:
    """The same rule with all decided that it decides by a look at the picture: so that each part of it is judged alike.

    Args:
        rule: any.
        problem: of the whole picture.
    """
    if isinstance(rule, Ending):
        return replace(rule, rule=settled(rule.rule, problem))
    if isinstance(rule, Auto):
        return automatic.chosen(problem, rule.level, rule.patience)[0]
    if isinstance(rule, Sigma) and not rule.level:
        return replace(rule, level=GREYS * estimated(problem))
    return rule


def chosen(settings: Settings, rule: Rule | None = None) -> Rule:
    """The rule that the settings ask for, within the iterations that they ask for.

    Args:
        settings: with `iterations` the run has exactly so many, without them at most `max_iterations`.
        rule: takes the place of the one that `settings.stop` names.
    """
    rule = rule or named(settings.stop)
    if isinstance(rule, Sigma | Auto) and not rule.level:
        rule = replace(rule, level=settings.noise_level() or 0.0)
    if settings.iterations is not None:
        return exactly(rule, settings.iterations)
    return at_most(rule, settings.max_iterations)
