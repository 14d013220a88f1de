"""The rule that looks at the picture and chooses another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.problem import identity
from dipcli.problem.noise import FULL_SCALE
from dipcli.stopping.discrepancy import Sigma, examine_noise
from dipcli.stopping.holdout import HoldOut
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from dipcli.problem import Problem
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Auto(Rule):
    """Look at the noise and choose a rule: `holdout` where pixels are independent, `sigma` where neighbours share it.

    A pixel that was left out tells nothing once its neighbours carry its noise. Leaving out squares and looking at
    their middles was tried too; the level of the noise was the better guide (docs/stopping.md). Where the measurement
    is not the whole picture itself it is always `holdout`: what is known of a picture with holes, or of a small one,
    may well have no noise.

    Attributes:
        level: of the noise, for `sigma`; 0 estimates it.
        patience: of `holdout`, iterations.
    """

    name: ClassVar[str] = "auto"
    level: float = 0.0
    patience: int = HoldOut.patience

    def __post_init__(self) -> None:
        Sigma(self.level)
        HoldOut(patience=self.patience)

    def start(self, problem: Problem) -> tuple[tuple[Rule, str, Any], Problem]:
        """The chosen rule, why it was chosen, and what it starts with."""
        rule, why = choose_rule(problem, self.level, self.patience)
        state, problem = rule.start(problem)
        return (rule, why, state), problem

    def judge(self, step: Step, state: tuple[Rule, str, Any]) -> tuple[Verdict, tuple[Rule, str, Any]]:
        """What the chosen rule says, and at the end which it was."""
        rule, why, inner = state
        verdict, inner = rule.judge(step, inner)
        if verdict.stop:
            verdict = replace(verdict, stop=f"{verdict.stop} ({why})")
        return verdict, (rule, why, inner)

    def with_noise_level(self, level: float) -> Auto:
        """Use this level unless the rule has its own."""
        return self if self.level else replace(self, level=level)

    def resolve(self, problem: Problem) -> Rule:
        """The chosen rule."""
        return choose_rule(problem, self.level, self.patience)[0]

    def describe(self, problem: Problem) -> str:
        """The chosen rule, and why it was chosen."""
        return choose_rule(problem, self.level, self.patience)[1]


def choose_rule(problem: Problem, level: float = 0.0, patience: int = HoldOut.patience) -> tuple[Rule, str]:
    """The rule for a problem, and why, in a few words.

    Args:
        problem: the measurement is looked at.
        level: of the noise, on the scale of 0 to 255; 0 estimates it.
        patience: of `holdout`.
    """
    holdout = HoldOut(patience=patience)
    if problem.operator is not identity or problem.weight is not None:
        return holdout, "rule holdout"
    noise = examine_noise(problem)
    if noise is None:
        return holdout, "rule holdout: too little to judge the noise by"
    if not noise.dependent or not noise.level:
        return holdout, "rule holdout: the noise is independent from pixel to pixel"
    level = level or FULL_SCALE * noise.level
    return Sigma(level), f"rule sigma: neighbouring pixels share their noise, of some {level:.0f} of 255"
