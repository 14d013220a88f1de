"""The rule that stops when the running average hardly changes any more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.errors import UsageError
from dipcli.problem.noise import FULL_SCALE
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from dipcli.problem import Problem
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Plateau(Rule):
    """Stop when the first running average changes little from one check to the next, and keep the last one.

    For a measurement without noise, each value of which is needed: nothing can be held out, and there is nothing that
    must not be fitted.

    Attributes:
        change: root mean square of the change at which the rule stops, on the 0-255 scale.
        interval: iterations between two checks.
    """

    name: ClassVar[str] = "plateau"
    summary: ClassVar[str] = "change of the average, for images without noise"
    criterion_label: ClassVar[str] = "change of the average, of 255"
    change: float = 1.0
    interval: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.change < math.inf or self.interval < 1:
            raise UsageError("--stop plateau: use a change above 0, of 255, and interval of 1 or more.")

    def start(self, problem: Problem) -> tuple[_PlateauState, Problem]:
        """Return an empty state and the whole problem."""
        return _PlateauState(), problem

    def judge(self, step: Step, state: _PlateauState) -> tuple[Verdict, _PlateauState]:
        """Compare the average with that of the last check."""
        verdict = Verdict(keep=True, criterion=state.criterion, threshold=self.change if state.criterion else None)
        if step.number % self.interval:
            return verdict, state
        if state.average is None:
            return verdict, _PlateauState(step.average)
        change = FULL_SCALE * float((step.average - state.average).square().mean()) ** 0.5
        criterion = ("change", change)
        reason = f"the average changed by only {change:.2g} of {FULL_SCALE} in {self.interval} iterations"
        stop = reason if change <= self.change else None
        return Verdict(True, stop, criterion, threshold=self.change), _PlateauState(step.average, criterion)


@dataclass(frozen=True)
class _PlateauState:
    """The average at the last check, and the latest criterion."""

    average: Any = None
    criterion: tuple[str, float] | None = None
