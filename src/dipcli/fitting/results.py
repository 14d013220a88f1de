"""The results of a fit and of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Fit:
    """The result of one fit.

    Attributes:
        image: the running average that the rule kept, finished by the problem, shape (C, H, W).
        average: the same average as the network made it.
        kept: the iteration it is from.
        decay: the decay of that average, in [0, 1).
        steps: the number of iterations.
        reason: why the fit ended.
        seconds: time spent in the fit, without the observers.
        events: one sentence for each rollback.
    """

    image: Tensor
    average: Tensor
    kept: int
    decay: float
    steps: int
    reason: str
    seconds: float
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One of several fits to the same measurement.

    Attributes:
        number: counted from 1, as in `Step.run`.
        seed: its seed.
        fit: its result.
        outlier: whether it was left out of the mean.
        tile: the number of the tile that was fitted, counted from 1; None for the whole image.
    """

    number: int
    seed: int
    fit: Fit
    outlier: bool = False
    tile: int | None = None


@dataclass(frozen=True)
class Runs:
    """The result of one or several fits.

    Attributes:
        image: the mean of the runs without the outliers, finished by the problem, shape (C, H, W).
        runs: the runs that did not fail, in order.
        reason: why the first run in the mean ended, with remarks on the others.
        seconds: time spent in the fits, without the observers.
        average: the same image before the problem finished it.
        share: of the fit in the fusion with the problem's companion, 0..1; of tiles the mean; None if not fused.
        places: the positions of the tiles; empty if the whole image was fitted.
    """

    image: Tensor
    runs: tuple[Run, ...]
    reason: str
    seconds: float
    average: Tensor
    share: float | None = None
    places: tuple[tuple[Any, ...], ...] = ()

    @property
    def first(self) -> Fit:
        """The first fit in the mean."""
        return next(run.fit for run in self.runs if not run.outlier)

    @property
    def agreeing(self) -> list[int]:
        """The numbers of the runs in the mean."""
        return [run.number for run in self.runs if not run.outlier]
