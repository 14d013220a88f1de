"""A new stopping rule in one class: `python examples/settled.py [image [max_iterations]]`.

In a file of `src/dipcli/stopping/`, with `name: ClassVar[str] = "settled"`, the same class is `--stop settled:gap=50`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dipcli import Problem, Rule, Step, Verdict, denoise

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Settled(Rule):
    """Stop when the average hardly changes, and keep the last one.

    Attributes:
        gap: iterations between two compared averages.
        levels: root mean square change below which the run stops, in grey levels of 255.
    """

    gap: int = 50
    levels: float = 1.5

    def start(self, problem: Problem) -> tuple[Tensor | None, Problem]:
        """Return no earlier average, and the problem unchanged."""
        return None, problem

    def judge(self, step: Step, earlier: Tensor | None) -> tuple[Verdict, Tensor | None]:
        """Compare the average every `gap` iterations with the earlier one."""
        if step.number % self.gap:
            return Verdict(keep=True), earlier
        if earlier is None:
            return Verdict(keep=True), step.average
        change = 255 * float(((step.average - earlier) ** 2).mean()) ** 0.5
        reason = f"the average moved by {change:.2f} grey levels in {self.gap} iterations"
        stop = reason if change < self.levels else None
        return Verdict(keep=True, stop=stop, criterion=("change", change)), step.average


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("cat_noisy.png")
    restored = denoise(path, stop=Settled(), max_iterations=int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    print(f"stopped after {restored.steps} iterations: {restored.reason}")
