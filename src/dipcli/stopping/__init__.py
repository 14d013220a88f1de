"""Stopping rules: when to stop, and which average of the outputs to keep.

A rule is a frozen dataclass with two methods. `start(problem)` returns a fresh state and the problem to fit; a rule
that holds pixels out returns a problem in which they have no weight. `judge(step, state)` returns the verdict on one
iteration and the next state. The state belongs to the run, so that it can be saved and rolled back with the weights.
No rule sees the clean image.

Every subclass of `Rule` with a class attribute `name` can be chosen by it: `--stop name:key=value`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from dipcli import text
from dipcli.stopping.automatic import Auto
from dipcli.stopping.discrepancy import Sigma
from dipcli.stopping.holdout import HoldOut
from dipcli.stopping.plateau import Plateau
from dipcli.stopping.rule import Ending, Never, Rule, Verdict, at_most, check_state, exactly, unless
from dipcli.stopping.variance import EMV, WMV

__all__ = [
    "EMV",
    "WMV",
    "Auto",
    "Ending",
    "HoldOut",
    "Never",
    "Plateau",
    "Rule",
    "Sigma",
    "Verdict",
    "at_most",
    "check_state",
    "describe_rules",
    "exactly",
    "parse_rule",
    "rule_classes",
    "rules",
    "unless",
]


def rules() -> dict[str, type[Rule]]:
    """Return every rule that has a name: those in this package, and those imported from elsewhere."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    found = {rule.name: rule for rule in rule_classes() if rule.name}
    return dict(sorted(found.items()))


def parse_rule(specification: str) -> Rule:
    """Return the rule that `--stop` names.

    Raises:
        UsageError: if there is no such rule, or it does not take a parameter.
    """
    return text.parse(specification, list(rules().values()), "stopping rule")


def describe_rules() -> str:
    """Return the help text of `--stop`, from the summaries of the rules."""
    listed = ", ".join(f"{name} ({rule.summary})" if rule.summary else name for name, rule in rules().items())
    return f"When to stop and which image to keep: {listed}. Parameters follow, as in holdout:patience=100."


def rule_classes(rule: type[Rule] = Rule) -> Iterator[type[Rule]]:
    """All subclasses of a rule that have been imported, with a name or without."""
    for subclass in rule.__subclasses__():
        yield subclass
        yield from rule_classes(subclass)
