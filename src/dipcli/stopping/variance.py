"""Rules that watch how much the pictures still change."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.errors import UsageError
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.problem import Problem
    from dipcli.stopping.step import Step

STARTS = 10  # windows under way at a time in `WMV`: its variance is known every tenth of a window


@dataclass(frozen=True)
class EMV(Rule):
    """Stop when the pictures stop settling: the minimum of their exponential moving variance.

    While the network learns structure its outputs change less and less; once it takes up noise they
    begin to differ again. With d = x_t - m, the running mean and variance are

        v <- (1 - alpha) (v + alpha mean(d^2)),   m <- m + alpha d

    and the average at the smallest v is kept.

    Attributes:
        patience: iterations without a new minimum after which to stop.
        alpha: weight of the newest picture, in (0, 1).
        guard: iterations at the start in which the variance means nothing yet.

    Source:
        Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, section 2 (ES-EMV).
    """

    name: ClassVar[str] = "emv"
    patience: int = 500
    alpha: float = 0.1
    guard: int = 100

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 < self.alpha < 1 or self.guard < 0:
            raise UsageError("The rule emv takes patience of 1 or more, alpha between 0 and 1, guard of 0 or more.")

    def start(self, problem: Problem) -> tuple[_Spread, Problem]:
        """No picture has been seen."""
        return _Spread(), problem

    def judge(self, step: Step, state: _Spread) -> tuple[Verdict, _Spread]:
        """Compare the variance with the smallest so far."""
        if state.mean is None:
            return Verdict(keep=True), _Spread(mean=step.image)
        change = step.image - state.mean
        variance = (1 - self.alpha) * (state.variance + self.alpha * float((change**2).mean()))
        verdict, lowest = _compared(variance, step.number, state.lowest, self.guard, self.patience)
        return verdict, _Spread(state.mean + self.alpha * change, variance, lowest)


@dataclass(frozen=True)
class WMV(Rule):
    """Stop when the pictures stop settling: the minimum of their variance within a window.

    With the mean m of the last W pictures, the variance is

        v = mean_t |x_t - m|^2 = mean_t |x_t|^2 - |m|^2,

    per pixel and channel, and the average at the smallest v is kept. A window is not kept as pictures but as their sum
    and the sum of their squares; ten windows are under way at a time, so that v is known every W / 10 iterations.

    Attributes:
        window: W, pictures in a window, a multiple of 10.
        patience: iterations without a new minimum after which to stop.
        guard: iterations at the start in which the variance means nothing yet.

    Source:
        Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, section 2 (ES-WMV).
    """

    name: ClassVar[str] = "wmv"
    window: int = 100
    patience: int = 500
    guard: int = 100

    def __post_init__(self) -> None:
        if self.patience < 1 or self.window < STARTS or self.window % STARTS or self.guard < 0:
            raise UsageError(
                f"The rule wmv takes window of {STARTS}, {2 * STARTS}, {3 * STARTS} and so on, patience of 1 or more, "
                "guard of 0 or more."
            )

    def start(self, problem: Problem) -> tuple[_Windows, Problem]:
        """No window has been begun."""
        return _Windows(), problem

    def judge(self, step: Step, state: _Windows) -> tuple[Verdict, _Windows]:
        """Add the picture to the windows under way; compare the variance of one that is full."""
        sums = state.sums
        if (step.number - 1) % (self.window // STARTS) == 0:
            sums = (*sums, (0, 0.0, 0.0))
        # Squares of differences from a fixed picture: of the pictures themselves they would drown the variance.
        origin = step.image if state.origin is None else state.origin
        offset = step.image - origin
        square = (offset**2).mean()
        sums = tuple((count + 1, total + offset, squares + square) for count, total, squares in sums)
        count, total, squares = sums[0]
        if count < self.window:
            return Verdict(keep=state.lowest.value == math.inf), replace(state, origin=origin, sums=sums)
        variance = max(float(squares / count - ((total / count) ** 2).mean()), 0.0)
        verdict, lowest = _compared(variance, step.number, state.lowest, self.guard, self.patience)
        return verdict, _Windows(origin, sums[1:], lowest)


@dataclass(frozen=True)
class _Lowest:
    """The smallest variance so far and its iteration."""

    value: float = math.inf
    at: int = 0


@dataclass(frozen=True)
class _Spread:
    """What `EMV` remembers: m, v, the smallest v."""

    mean: Any = None
    variance: float = 0.0
    lowest: _Lowest = _Lowest()


@dataclass(frozen=True)
class _Windows:
    """What `WMV` remembers: a picture to measure from; of each window how many pictures, their sum, their squares'."""

    origin: Tensor | None = None
    sums: tuple[tuple[int, Any, Any], ...] = ()
    lowest: _Lowest = _Lowest()


def _compared(variance: float, number: int, lowest: _Lowest, guard: int, patience: int) -> tuple[Verdict, _Lowest]:
    """The verdict on a variance, and the smallest so far."""
    signal = ("variance", variance)
    if number <= guard:
        return Verdict(keep=True, criterion=signal), lowest
    if variance < lowest.value:
        return Verdict(keep=True, criterion=signal, patience_left=patience), _Lowest(variance, number)
    waited = number - lowest.at
    reason = f"the variance has not fallen for {waited} iterations" if waited >= patience else None
    return Verdict(stop=reason, criterion=signal, patience_left=max(patience - waited, 0)), lowest
