"""The rule that leaves something out of the fit and looks how well it is predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.errors import UsageError
from dipcli.problem.losses import squared_error
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.problem import Problem
    from dipcli.stopping.step import Step

FLAT = 2  # dimensions that a list, or a table, has; a picture has (C, H, W)
FEWEST = 4  # values that count, of which some can be held back
USUAL, ENOUGH = 0.04, 2600  # share of the values to hold back, and how many tell enough
EVERY = 5  # iterations between looks: the averages change slowly, and reading a value makes a GPU wait
PERFECT = (0.25 / 255) ** 2  # an error that no 8-bit file can show
LARGEST_BLOCK = 64


@dataclass(frozen=True)
class HoldOut(Rule):
    """Stop when pixels that were left out of the loss are no longer predicted better.

    Noise that is independent from pixel to pixel cannot be predicted from the neighbours: the error of an average
    at the pixels left out falls as long as structure is learned and rises with the noise. No noise level is needed.
    The same error chooses among the averages.

    Where neighbours share their noise, squares of `block` pixels are left out and only the middle of each is looked at.

    Attributes:
        fraction: share of the pixels left out, up to 0.5; 0 is 0.04, but at most 2600 pixels: their error is known well
            enough then, and the others are better used.
        patience: iterations without a new minimum after which to stop.
        block: side of the squares left out, in pixels.
        seed: chooses the pixels.
    """

    name: ClassVar[str] = "holdout"
    fraction: float = 0.0
    patience: int = 200
    block: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 0.5 or self.patience < 1 or not 0 <= self.seed < 2**63:  # noqa: PLR2004
            raise UsageError(
                "The rule holdout takes a fraction of 0 (chosen) up to 0.5, patience of 1 or more, seed of 0 or more."
            )
        if not 1 <= self.block <= LARGEST_BLOCK:
            raise UsageError(f"The rule holdout takes a block of 1 to {LARGEST_BLOCK} pixels.")

    def start(self, problem: Problem) -> tuple[_Unseen, Problem]:
        """Choose among the pixels that count, the same in every channel, and take them out of the weight.

        A measurement that is no picture, a list of numbers, is held back number by number.

        Raises:
            UsageError: when there is next to nothing that counts.
        """
        import torch

        measured = problem.measured
        picture = measured.ndim > FLAT
        place = measured.shape[-2:] if picture else measured.shape
        weight = torch.ones_like(measured) if problem.weight is None else problem.weight.expand_as(measured)
        counting = weight.reshape(-1, *place).amax(dim=0).cpu() > 0
        if picture and self.block > 1:
            out, looked_at = self._blocks(counting)
        else:
            out = looked_at = self._chosen(counting)
        out, looked_at = (each.reshape(place).to(measured) for each in (out, looked_at))
        return _Unseen(problem, weight * looked_at), replace(problem, weight=weight * (1 - out))

    def judge(self, step: Step, state: _Unseen) -> tuple[Verdict, _Unseen]:
        """Compare the errors at the pixels left out with the smallest so far."""
        waited = step.number - state.at
        left = max(self.patience - waited, 0)
        if step.number % EVERY:
            nothing = state.least == math.inf
            return Verdict(keep=nothing, criterion=state.signal, patience_left=None if nothing else left), state
        problem = state.problem
        errors = [
            float(problem.loss(problem.operator(average), problem.measured, state.weight)) for average in step.averages
        ]
        error, which = min((error, which) for which, error in enumerate(errors))
        signal = ("holdout", error)
        if error < state.least:
            best = problem.operator(step.averages[which])
            perfect = None
            if problem.measured.ndim > FLAT and float(squared_error(best, problem.measured, state.weight)) < PERFECT:
                perfect = "the held-out pixels are predicted to a fraction of a grey level"
            verdict = Verdict(True, perfect, signal, which, patience_left=self.patience)
            return verdict, replace(state, least=error, at=step.number, signal=signal)
        reason = f"the held-out pixels were not predicted better for {waited} iterations" if not left else None
        return Verdict(stop=reason, criterion=signal, patience_left=left), replace(state, signal=signal)

    def _chosen(self, counting: Tensor) -> Tensor:
        """A random share of what counts, at least one."""
        import torch

        places = counting.flatten().nonzero()[:, 0]
        if len(places) < FEWEST:
            raise UsageError(
                f"There are only {len(places)} values to go by, too few to hold some back: choose --stop none."
            )
        count = round(self.fraction * len(places)) if self.fraction else min(round(USUAL * len(places)), ENOUGH)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed))
        chosen = torch.zeros(counting.shape)
        chosen.view(-1)[places[order[: max(1, count)]]] = 1
        return chosen

    def _blocks(self, counting: Tensor) -> tuple[Tensor, Tensor]:
        """Whole squares, of those that lie side by side and count throughout; and the middle of each."""
        import torch

        side = self.block
        rows, columns = (length // side for length in counting.shape)
        whole = counting[: rows * side, : columns * side].reshape(rows, side, columns, side).all(dim=3).all(dim=1)
        middle = torch.zeros(side, side)
        inner = slice((side - 1) // 2, side // 2 + 1)
        middle[inner, inner] = 1
        if whole.sum() < FEWEST:
            raise UsageError(
                f"There are only {int(whole.sum())} whole squares of {side} pixels to go by: choose a smaller block."
            )
        chosen = self._chosen(whole)
        out, looked_at = torch.zeros(counting.shape), torch.zeros(counting.shape)
        out[: rows * side, : columns * side] = torch.kron(chosen, torch.ones(side, side))
        looked_at[: rows * side, : columns * side] = torch.kron(chosen, middle)
        return out, looked_at


@dataclass(frozen=True)
class _Unseen:
    """What `HoldOut` remembers: the whole problem, what it looks at, the smallest error, its iteration, the latest."""

    problem: Any
    weight: Any
    least: float = math.inf
    at: int = 0
    signal: tuple[str, float] | None = None
