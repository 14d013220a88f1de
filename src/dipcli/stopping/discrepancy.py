"""The rule that knows how strong the noise is."""

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
    """Stop when the picture differs from the measurement by as much as the noise does: the discrepancy principle.

        mean (A(x) - y)^2 <= sigma^2

    From there on the fit can only come nearer by learning noise. The first average is gone by.

    Attributes:
        level: standard deviation of the noise on the scale of 0 to 255; 0 estimates it from the measurement, if that
            is a picture.

    Source:
        Morozov, "On the solution of functional equations by the method of regularization", 1966.
    """

    name: ClassVar[str] = "sigma"
    level: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.level < math.inf:
            raise UsageError("The rule sigma takes a level of 0 (estimate it) or more, on the scale of 0 to 255.")

    def start(self, problem: Problem) -> tuple[_Sought, Problem]:
        """Estimate the noise level where it was not given.

        Raises:
            UsageError: when it cannot be estimated.
        """
        level = self.level / FULL_SCALE or estimate_noise_level(problem)
        return _Sought(problem, level), problem

    def judge(self, step: Step, state: _Sought) -> tuple[Verdict, _Sought]:
        """Compare the difference with the noise."""
        problem = state.problem
        difference = math.sqrt(squared_error(problem.operator(step.average), problem.measured, problem.weight))
        reached = difference <= state.level
        reason = (
            f"the picture differs from the input by as much as the noise does, {FULL_SCALE * state.level:.3g} of 255"
        )
        # Beyond that the fit can only learn noise: with `--iters` what is kept stays what was kept here.
        verdict = Verdict(
            not state.reached,
            reason if reached else None,
            ("difference", FULL_SCALE * difference),
            threshold=FULL_SCALE * state.level,
        )
        return verdict, replace(state, reached=state.reached or reached)

    def with_noise_level(self, level: float) -> Sigma:
        """Use this level unless the rule has its own."""
        return self if self.level else replace(self, level=level)

    def resolve(self, problem: Problem) -> Sigma:
        """Estimate the noise level from the whole image where it was not given."""
        return self if self.level else replace(self, level=FULL_SCALE * estimate_noise_level(problem))


def estimate_noise_level(problem: Problem) -> float:
    """The standard deviation of the noise, 0..1, from a look at the measurement.

    Raises:
        UsageError: when it is no picture, too small a one, or one without noise.
    """
    noise = examine_noise(problem)
    if noise is None or not noise.level:
        raise UsageError("There is nothing to estimate the noise level from: give it as --sigma 25.")
    return noise.level


def examine_noise(problem: Problem) -> Noise | None:
    """What a look at the measurement tells of its noise; None where it is no picture or too small a one."""
    measured, weight = problem.measured, problem.weight
    if measured.ndim != 3:  # noqa: PLR2004 - (C, H, W)
        return None
    known = None if weight is None else (weight.expand_as(measured).amin(dim=0) > 0).cpu().numpy()
    return measure_noise(measured.float().cpu().numpy(), known)


@dataclass(frozen=True)
class _Sought:
    """What `Sigma` remembers: the problem, the noise level, 0..1, and whether the difference has come down to it."""

    problem: Any
    level: float
    reached: bool = False
