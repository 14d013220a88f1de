"""Rules that measure how much the outputs still change."""

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

OPEN_WINDOWS = 10  # overlapping windows of `WMV`: the variance is known every tenth of a window


@dataclass(frozen=True)
class EMV(Rule):
    """Stop at the minimum of the exponential moving variance of the outputs.

    While the network learns structure its outputs change less and less; when it learns the noise they change more
    again. With d = x_t - m, the running mean and variance are

        v <- (1 - alpha) (v + alpha mean(d^2)),   m <- m + alpha d

    and the average at the smallest v is kept.

    Attributes:
        patience: iterations without a new minimum until the rule stops.
        alpha: weight of the newest output, in (0, 1).
        guard: iterations at the start in which the variance is not yet meaningful.

    Source:
        Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, section 2 (ES-EMV).
    """

    name: ClassVar[str] = "emv"
    summary: ClassVar[str] = "moving variance of the outputs"
    criterion_label: ClassVar[str] = "variance of the outputs"
    patience: int = 500
    alpha: float = 0.1
    guard: int = 100

    def __post_init__(self) -> None:
        if self.patience < 1 or not 0 < self.alpha < 1 or self.guard < 0:
            raise UsageError("--stop emv: use patience of 1 or more, alpha between 0 and 1, guard of 0 or more.")

    def start(self, problem: Problem) -> tuple[_EMVState, Problem]:
        """Return an empty state and the whole problem."""
        return _EMVState(), problem

    def judge(self, step: Step, state: _EMVState) -> tuple[Verdict, _EMVState]:
        """Compare the variance with the smallest so far."""
        if state.mean is None:
            return Verdict(keep=True), _EMVState(mean=step.image)
        change = step.image - state.mean
        variance = (1 - self.alpha) * (state.variance + self.alpha * float((change**2).mean()))
        verdict, minimum = _compare(variance, step.number, state.minimum, self.guard, self.patience)
        return verdict, _EMVState(state.mean + self.alpha * change, variance, minimum)


@dataclass(frozen=True)
class WMV(Rule):
    """Stop at the minimum of the variance of the outputs within a window.

    With the mean m of the last W outputs, the variance is

        v = mean_t |x_t - m|^2 = mean_t |x_t|^2 - |m|^2,

    per pixel and channel, and the average at the smallest v is kept. A window is stored as the sum of its outputs and
    the sum of their squares; ten overlapping windows are open at a time, so that v is known every W / 10 iterations.

    Attributes:
        window: W, outputs in a window, a multiple of 10.
        patience: iterations without a new minimum until the rule stops.
        guard: iterations at the start in which the variance is not yet meaningful.

    Source:
        Wang et al., "Early Stopping for Deep Image Prior", TMLR 2023, section 2 (ES-WMV).
    """

    name: ClassVar[str] = "wmv"
    summary: ClassVar[str] = "windowed variance of the outputs"
    criterion_label: ClassVar[str] = "variance of the outputs"
    window: int = 100
    patience: int = 500
    guard: int = 100

    def __post_init__(self) -> None:
        if self.patience < 1 or self.window < OPEN_WINDOWS or self.window % OPEN_WINDOWS or self.guard < 0:
            raise UsageError(
                "--stop wmv: use window of 10, 20, 30 and so on, patience of 1 or more, guard of 0 or more."
            )

    def start(self, problem: Problem) -> tuple[_WMVState, Problem]:
        """Return an empty state and the whole problem."""
        return _WMVState(), problem

    def judge(self, step: Step, state: _WMVState) -> tuple[Verdict, _WMVState]:
        """Add the output to the open windows; compare the variance of a full window with the smallest so far."""
        sums = state.sums
        if (step.number - 1) % (self.window // OPEN_WINDOWS) == 0:
            sums = (*sums, (0, 0.0, 0.0))
        # Offsets from a fixed output: the variance would be lost in the rounding of the outputs' own squares.
        origin = step.image if state.origin is None else state.origin
        offset = step.image - origin
        square = (offset**2).mean()
        sums = tuple((count + 1, total + offset, squares + square) for count, total, squares in sums)
        count, total, squares = sums[0]
        if count < self.window:
            return Verdict(keep=state.minimum.value == math.inf), replace(state, origin=origin, sums=sums)
        variance = max(float(squares / count - ((total / count) ** 2).mean()), 0.0)
        verdict, minimum = _compare(variance, step.number, state.minimum, self.guard, self.patience)
        return verdict, _WMVState(origin, sums[1:], minimum)


@dataclass(frozen=True)
class _Minimum:
    """The smallest variance so far and its iteration."""

    value: float = math.inf
    iteration: int = 0


@dataclass(frozen=True)
class _EMVState:
    """The running mean m and variance v, and the smallest v."""

    mean: Any = None
    variance: float = 0.0
    minimum: _Minimum = _Minimum()


@dataclass(frozen=True)
class _WMVState:
    """The first output; for each open window the count, the sum and the mean squares of its offsets; the minimum."""

    origin: Tensor | None = None
    sums: tuple[tuple[int, Any, Any], ...] = ()
    minimum: _Minimum = _Minimum()


def _compare(variance: float, number: int, minimum: _Minimum, guard: int, patience: int) -> tuple[Verdict, _Minimum]:
    """Return the verdict on a variance, and the smallest so far."""
    criterion = ("variance", variance)
    if number <= guard:
        return Verdict(keep=True, criterion=criterion), minimum
    if variance < minimum.value:
        return Verdict(keep=True, criterion=criterion, patience_left=patience), _Minimum(variance, number)
    waited = number - minimum.iteration
    reason = f"the variance has not fallen for {waited} iterations" if waited >= patience else None
    return Verdict(stop=reason, criterion=criterion, patience_left=max(patience - waited, 0)), minimum
