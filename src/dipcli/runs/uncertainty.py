"""The uncertainty of a result: an observer that computes the map of `--uncertainty`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dipcli.fitting.results import Runs
from dipcli.fitting.rollback import CHECK_INTERVAL
from dipcli.fitting.tiles import tiling
from dipcli.runs.observers import NO_TILE
from dipcli.stopping import Verdict
from dipcli.stopping.step import Place, Step

VARIANCE_DECAY = 0.99  # of the exponential variance of the outputs


class Uncertainty:
    """How much the outputs vary about the image that is kept.

    Within a run it is the exponential variance of the outputs up to the kept iteration, caused by the noise on the
    network's input; with several runs the variance between their images is added:

        uncertainty = sqrt(mean over channels of (mean of v_run + variance of x_run))

    It shows where not to trust the image. It is not the standard deviation of its error: an error that all outputs
    share does not show in it.
    """

    images_held = 7  # tensors of the image's size that it keeps in memory

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.places: dict[int, Place] = {}
        self.older: Tensor | None = None
        self.newer: Tensor | None = None
        self.mean = self.variance = torch.zeros(())
        self.current, self.count = (NO_TILE, 0), 0

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Add one output; after a collapse go back as the fit does."""
        current = (step.tile.number if step.tile else NO_TILE, step.run)
        if current != self.current:
            if current[0] != self.current[0]:  # finished tiles
                self.kept = {key: variance.mean(dim=0, keepdim=True) for key, variance in self.kept.items()}
            self.current, self.count, self.older, self.newer = current, 0, None, None
        if step.tile:
            self.places[step.tile.number] = step.tile.place
        if step.event:
            self.count = 0
            if self.older is not None:
                self.kept[current] = self.older
            return
        self.count += 1
        if self.count == 1:
            self.mean, self.variance = step.image, torch.zeros_like(step.image)
        weight = max(1 / self.count, 1 - VARIANCE_DECAY)
        change = step.image - self.mean
        self.mean = self.mean + weight * change
        self.variance = (1 - weight) * (self.variance + weight * change**2)
        if verdict.keep or current not in self.kept:
            self.kept[current] = self.variance
        if step.number % CHECK_INTERVAL == 0:
            self.older, self.newer = self.newer, self.kept[current]

    def remember(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {**vars(self), "kept": dict(self.kept), "places": dict(self.places)}

    def recall(self, seen: dict[str, Any]) -> None:
        """Restore the state from a checkpoint."""
        for name in vars(self):
            setattr(self, name, seen[name])

    def map(
        self, runs: Runs, known: NDArray[np.bool_] | None = None, origin: tuple[int, int] = (0, 0)
    ) -> NDArray[np.float32]:
        """Return the uncertainty of each pixel of the result, shape (H, W), in units of the image's range.

        The variances of tiles are blended as the tiles are; that of a tile that needed no fit is 0, and so is that of
        known pixels, (H, W), which are returned unchanged. The fitted image may be larger, as a JPEG's whole blocks
        are; the result starts at its row and column `origin`.
        """
        (top, left), (height, width) = origin, runs.image.shape[-2:]
        if self.places:
            parts = ((place, self._variance(runs, number)) for number, place in self.places.items())
            total = tiling.blend((1, *runs.average.shape[-2:]), parts)
        else:
            total = self._variance(runs, NO_TILE)
        values: NDArray[np.float32] = total[0].sqrt()[top : top + height, left : left + width].cpu().numpy()
        return values if known is None or known.shape != values.shape else np.where(known, np.float32(0), values)

    def _variance(self, runs: Runs, tile: int) -> Tensor:
        """Within the runs of a tile or of the whole image, and between them: mean over the channels, (1, H, W)."""
        agreeing = [run for run in runs.runs if (run.tile or NO_TILE) == tile and not run.outlier]
        total = torch.stack([self.kept[tile, run.number] for run in agreeing]).mean(dim=0)
        if len(agreeing) > 1:
            total = total + torch.stack([run.fit.average for run in agreeing]).var(dim=0)
        return total.mean(dim=0, keepdim=True).cpu()
