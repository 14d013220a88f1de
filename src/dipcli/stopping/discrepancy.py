"""The rule that stops when the residual reaches the noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.errors import UsageError
from dipcli.problem.losses import squared_error
from dipcli.problem.noise import FULL_SCALE, Noise, measure_noise
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from dipcli.problem import Problem
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Sigma(Rule):
    """Stop when the residual has come down to the noise level: the discrepancy principle.

        mean (A(x) - y)^2 <= sigma^2

    Past this point the residual can only shrink by fitting noise. It is computed from the first running average.

    Attributes:
        level: standard deviation of the noise on the 0-255 scale; 0 estimates it from the measurement, which must be
            an image.

    Source:
        Morozov, "On the solution of functional equations by the method of regularization", 1966.
    """

    name: ClassVar[str] = "sigma"
    summary: ClassVar[str] = "residual, down to the noise level"
    criterion_label: ClassVar[str] = "difference from the input, of 255"
    level: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.level < math.inf:
            raise UsageError("--stop sigma: use a level of 0 (estimate it) or more, on the scale of 0 to 255.")

    def start(self, problem: Problem) -> tuple[_SigmaState, Problem]:
        """Estimate the noise level if it was not given.

        Raises:
            UsageError: if it cannot be estimated.
        """
        level = self.level / FULL_SCALE or estimate_noise_level(problem)
        return _SigmaState(problem, level), problem

    def judge(self, step: Step, state: _SigmaState) -> tuple[Verdict, _SigmaState]:
        """Compare the residual with the noise level."""
        problem = state.problem
        residual = math.sqrt(squared_error(problem.operator(step.average), problem.measured, problem.weight))
        reached = residual <= state.level
        reason = f"the image differs from the input by as much as the noise does, {FULL_SCALE * state.level:.3g} of 255"
        # With --iters the run goes on past this point, but only by fitting noise: keep the average from here.
        verdict = Verdict(
            not state.reached,
            reason if reached else None,
            ("difference", FULL_SCALE * residual),
            threshold=FULL_SCALE * state.level,
        )
        return verdict, replace(state, reached=state.reached or reached)

    def with_noise_level(self, level: float) -> Sigma:
        """Use this level unless the rule has its own."""
        return self if self.level else replace(self, level=level)

    def resolve(self, problem: Problem) -> Sigma:
        """Estimate the noise level from the whole image if it was not given."""
        return self if self.level else replace(self, level=FULL_SCALE * estimate_noise_level(problem))


def estimate_noise_level(problem: Problem) -> float:
    """Estimate the standard deviation of the noise, 0..1, from the measurement.

    Raises:
        UsageError: if the measurement is not an image, is too small, or has no noise.
    """
    noise = examine_noise(problem)
    if noise is not None and not noise.level:
        raise UsageError("No noise was found in this input: leave --stop sigma out.")
    if noise is None:
        raise UsageError("The noise level cannot be estimated from this input: give it as --sigma 25.")
    return noise.level


def examine_noise(problem: Problem) -> Noise | None:
    """Measure the noise of the measurement; None if it is not an image or too small."""
    measured, weight = problem.measured, problem.weight
    if measured.ndim != 3:  # noqa: PLR2004 - (C, H, W)
        return None
    known = None if weight is None else (weight.expand_as(measured).amin(dim=0) > 0).cpu().numpy()
    return measure_noise(measured.float().cpu().numpy(), known)


@dataclass(frozen=True)
class _SigmaState:
    """The problem, the noise level, 0..1, and whether the residual has reached it."""

    problem: Any
    level: float
    reached: bool = False
