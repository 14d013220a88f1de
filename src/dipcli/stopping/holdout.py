"""The rule that holds pixels out of the fit and measures how well they are predicted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from dipcli.errors import UsageError
from dipcli.problem.fusion import find_share, fuse
from dipcli.problem.losses import squared_error
from dipcli.stopping.rule import Rule, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.problem import Problem
    from dipcli.stopping.step import Step

MIN_COUNT = 4  # values, or squares, from which some can be held out
DEFAULT_FRACTION, MAX_DEFAULT_COUNT = 0.04, 2600  # of the values; the error at 2600 pixels is known well enough
CHECK_INTERVAL = 5  # iterations: the averages change slowly, and reading a value makes a GPU wait
NEGLIGIBLE_ERROR = (0.25 / 255) ** 2  # mean squared error that no 8-bit file can show
MAX_BLOCK = 64  # pixels


@dataclass(frozen=True)
class HoldOut(Rule):
    """Stop when pixels that were held out of the loss are no longer predicted better.

    Noise that is independent from pixel to pixel cannot be predicted from the neighbours: the error of an average at
    the held-out pixels falls as long as the network learns structure, and rises when it learns the noise. No noise
    level is needed. The same error chooses among the averages.

    If the problem has a companion, made without the held-out pixels too, it is the fusion of an average with it that
    has to predict them: the fit goes on as long as it adds something.

    If neighbouring pixels share their noise, hold out squares of `block` pixels; only the centre of each is measured.

    Attributes:
        fraction: fraction of the pixels held out, up to 0.5; 0 means 0.04, but at most 2600 pixels.
        patience: iterations without a new minimum until the rule stops.
        block: side of the held-out squares, in pixels.
        seed: chooses the pixels.
    """

    name: ClassVar[str] = "holdout"
    summary: ClassVar[str] = "error at held-out pixels"
    criterion_label: ClassVar[str] = "error at held-out pixels"
    fraction: float = 0.0
    patience: int = 200
    block: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction <= 0.5 or self.patience < 1 or not 0 <= self.seed < 2**63:  # noqa: PLR2004
            raise UsageError("--stop holdout: use a fraction up to 0.5, patience of 1 or more, seed of 0 or more.")
        if not 1 <= self.block <= MAX_BLOCK:
            raise UsageError(f"--stop holdout: use a block of 1 to {MAX_BLOCK} pixels.")

    def start(self, problem: Problem) -> tuple[_HoldOutState, Problem]:
        """Choose pixels among those with weight, the same in every channel, and set their weight to 0.

        A measurement that is not an image but a vector or a matrix is held out value by value.

        Raises:
            UsageError: if too few values have weight.
        """
        import torch

        measured = problem.measured
        is_image = _is_image(measured)
        size = measured.shape[-2:] if is_image else measured.shape
        weight = torch.ones_like(measured) if problem.weight is None else problem.weight.expand_as(measured)
        usable = weight.reshape(-1, *size).amax(dim=0).cpu() > 0
        if is_image and self.block > 1:
            held_out, checked = self._choose_blocks(usable)
        else:
            held_out = checked = self._choose(usable)
        held_out, checked = (mask.reshape(size).to(measured) for mask in (held_out, checked))
        fitted = replace(problem, weight=weight * (1 - held_out))
        companion = fitted.visible_companion()
        return _HoldOutState(problem, weight * checked, companion), replace(fitted, companion=companion)

    def judge(self, step: Step, state: _HoldOutState) -> tuple[Verdict, _HoldOutState]:
        """Compare the errors at the held-out pixels with the smallest so far."""
        waited = step.number - state.best_iteration
        patience_left = max(self.patience - waited, 0)
        if step.number % CHECK_INTERVAL:
            unknown = state.least == math.inf
            verdict = Verdict(unknown, criterion=state.criterion, patience_left=None if unknown else patience_left)
            return verdict, state
        problem = state.problem
        predictions = [problem.operator(self._fuse(average, state)) for average in step.averages]
        errors = [float(problem.loss(prediction, problem.measured, state.weight)) for prediction in predictions]
        error, index = min((error, index) for index, error in enumerate(errors))
        criterion = ("holdout", error)
        if error < state.least:
            reason = None
            if _is_image(problem.measured) and (
                float(squared_error(predictions[index], problem.measured, state.weight)) < NEGLIGIBLE_ERROR
            ):
                reason = "the held-out pixels are predicted to a fraction of a grey level"
            verdict = Verdict(True, reason, criterion, index, patience_left=self.patience)
            return verdict, replace(state, least=error, best_iteration=step.number, criterion=criterion)
        reason = None if patience_left else f"the held-out pixels were not predicted better for {waited} iterations"
        # Equal errors are those of the companion alone: the latest fit has learned most.
        verdict = Verdict(error == state.least, reason, criterion, index, patience_left=patience_left)
        return verdict, replace(state, criterion=criterion)

    def _fuse(self, average: Tensor, state: _HoldOutState) -> Tensor:
        """Return the average, fused with the companion if there is one."""
        if state.companion is None:
            return average
        problem = state.problem
        predicted, by_companion = problem.operator(average), problem.operator(state.companion)
        share = find_share(predicted, by_companion, problem.measured, state.weight)
        return fuse(average, state.companion, share)

    def _choose(self, usable: Tensor) -> Tensor:
        """Mark a random fraction of the usable values, at least one, with 1."""
        import torch

        places = usable.flatten().nonzero()[:, 0]
        if len(places) < MIN_COUNT:
            raise UsageError(f"Only {len(places)} values have weight, too few to hold some out: use --stop none.")
        default = min(round(DEFAULT_FRACTION * len(places)), MAX_DEFAULT_COUNT)
        count = round(self.fraction * len(places)) if self.fraction else default
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(self.seed))
        chosen = torch.zeros(usable.shape)
        chosen.view(-1)[places[order[: max(1, count)]]] = 1
        return chosen

    def _choose_blocks(self, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Mark random squares of a grid, among those usable throughout, and the centre of each."""
        import torch

        side = self.block
        rows, columns = (length // side for length in usable.shape)
        whole = usable[: rows * side, : columns * side].reshape(rows, side, columns, side).all(dim=3).all(dim=1)
        centre = torch.zeros(side, side)
        inner = slice((side - 1) // 2, side // 2 + 1)
        centre[inner, inner] = 1
        if whole.sum() < MIN_COUNT:
            raise UsageError(
                f"--stop holdout: only {int(whole.sum())} whole squares of {side} pixels: use a smaller block."
            )
        chosen = self._choose(whole)
        held_out, checked = torch.zeros(usable.shape), torch.zeros(usable.shape)
        held_out[: rows * side, : columns * side] = torch.kron(chosen, torch.ones(side, side))
        checked[: rows * side, : columns * side] = torch.kron(chosen, centre)
        return held_out, checked


def _is_image(measured: Tensor) -> bool:
    return measured.ndim > 2  # noqa: PLR2004 - (C, H, W)


@dataclass(frozen=True)
class _HoldOutState:
    """The state of a fit.

    The whole problem, the weight of the checked pixels, the companion that was made without them, the least error, its
    iteration, the latest criterion.
    """

    problem: Any
    weight: Any
    companion: Any = None
    least: float = math.inf
    best_iteration: int = 0
    criterion: tuple[str, float] | None = None
