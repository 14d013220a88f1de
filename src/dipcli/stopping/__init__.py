"""When to stop, and which picture to keep: the rules.

A rule is a frozen value with two methods. `start(problem)` hands each run a fresh state, with the problem
that is to be fitted; a rule that holds pixels back returns a problem in which they do not count.
`judge(step, state)` looks at one iteration and answers with a verdict and the next state. The state is the
run's, never the rule's: it can be saved, restored and wound back like the weights. None of them is shown the true
picture.

A class of this package with a class attribute `name` can be chosen by that name: `--stop name:key=value`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from dipcli import text as specs
from dipcli.stopping.automatic import Auto
from dipcli.stopping.discrepancy import Sigma
from dipcli.stopping.holdout import HoldOut
from dipcli.stopping.rule import Ending, Never, Rule, Verdict, at_most, exactly, unless
from dipcli.stopping.variance import EMV, WMV

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
    "exactly",
    "parse_rule",
    "unless",
]


def parse_rule(text: str) -> Rule:
    """Return the rule that `--stop` names: every class of this package's modules that has a name.

    Raises:
        UsageError: when the rule does not exist or does not take a parameter.
    """
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return specs.parse(text, list(_named(Rule)), "stopping rule")  # type: ignore[type-abstract]


def _named(cls: type[Rule]) -> Iterator[type[Rule]]:
    """All subclasses that can be chosen by name."""
    for subclass in cls.__subclasses__():
        if subclass.name:
            yield subclass
        yield from _named(subclass)
