"""The rule that examines the noise and chooses another rule."""

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
    """Choose `holdout` if the noise is independent from pixel to pixel, `sigma` if neighbouring pixels share it.

    A held-out pixel is predicted, noise included, from neighbours that share its noise. Holding out squares and
    measuring at their centres was tried too; the noise level was the better criterion (docs/stopping.md). If the
    measurement is not the whole image itself, the rule is always `holdout`: the known part of an image with holes, or
    a low-resolution one, may have no noise.

    Attributes:
        level: noise level for `sigma`, on the 0-255 scale; 0 estimates it.
        patience: of `holdout`, iterations.
    """

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "holdout, or sigma if neighbouring pixels share their noise"
    level: float = 0.0
    patience: int = HoldOut.patience

    def __post_init__(self) -> None:
        Sigma(self.level)
        HoldOut(patience=self.patience)

    def start(self, problem: Problem) -> tuple[tuple[Rule, str, Any], Problem]:
        """Return the chosen rule, the reason and its state, with the problem to fit."""
        rule, reason = choose_rule(problem, self.level, self.patience)
        state, problem = rule.start(problem)
        return (rule, reason, state), problem

    def judge(self, step: Step, state: tuple[Rule, str, Any]) -> tuple[Verdict, tuple[Rule, str, Any]]:
        """Return the verdict of the chosen rule; the reason to stop names that rule."""
        rule, reason, inner = state
        verdict, inner = rule.judge(step, inner)
        if verdict.stop:
            verdict = replace(verdict, stop=f"{verdict.stop} ({reason})")
        return verdict, (rule, reason, inner)

    def with_noise_level(self, level: float) -> Auto:
        """Use this level unless the rule has its own."""
        return self if self.level else replace(self, level=level)

    def resolve(self, problem: Problem) -> Rule:
        """Return the chosen rule."""
        return choose_rule(problem, self.level, self.patience)[0]

    def describe(self, problem: Problem) -> str:
        """Return the name of the chosen rule and the reason."""
        return choose_rule(problem, self.level, self.patience)[1]


def choose_rule(problem: Problem, level: float = 0.0, patience: int = HoldOut.patience) -> tuple[Rule, str]:
    """Choose the rule for a problem.

    Args:
        problem: its measurement is examined.
        level: noise level on the 0-255 scale; 0 estimates it.
        patience: of `holdout`.

    Returns:
        The rule, and its name with the reason.
    """
    holdout = HoldOut(patience=patience)
    if problem.operator is not identity or problem.weight is not None:
        return holdout, "rule holdout"
    noise = examine_noise(problem)
    if noise is None:
        return holdout, "rule holdout: too little of the image shows its noise"
    if not noise.correlated or not noise.level:
        return holdout, "rule holdout: the noise is independent from pixel to pixel"
    level = level or FULL_SCALE * noise.level
    return Sigma(level), f"rule sigma: neighbouring pixels share their noise, sigma {level:.0f} of 255"
