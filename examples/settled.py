"""A stopping rule of one's own in one class: `python examples/settled.py [picture [iterations at most]]`.

In a file of `src/dipcli/stopping/`, with `name: ClassVar[str] = "settled"`, the same class would be
`--stop settled:gap=50`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dipcli import Problem, Step, Verdict, denoise

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settled:
    """Stop when the average has hardly changed since a while ago.

    Attributes:
        gap: how long ago, in iterations.
        levels: root mean square change that counts as hardly any, in grey levels of 255.
    """

    gap: int = 50
    levels: float = 1.5

    def start(self, problem: Problem) -> tuple[Tensor | None, Problem]:
        """There is nothing to compare with yet; the problem is fitted as it is."""
        return None, problem

    def judge(self, step: Step, earlier: Tensor | None) -> tuple[Verdict, Tensor | None]:
        """Compare every `gap` iterations; the newest average is always the best."""
        if step.number % self.gap:
            return Verdict(keep=True), earlier
        if earlier is None:
            return Verdict(keep=True), step.average
        change = 255 * float(((step.average - earlier) ** 2).mean()) ** 0.5
        reason = f"the average moved by {change:.2f} grey levels in {self.gap} iterations"
        return Verdict(
            keep=True, stop=reason if change < self.levels else None, signal=("change", change)
        ), step.average


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("cat_noisy.png")
    restored = denoise(path, stop=Settled(), max_iterations=int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    print(f"stopped after {restored.steps} iterations: {restored.reason}")
