"""How far the outputs of a fit stray: a spectator that makes the map of `--uncertainty`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dipcli.fitting import tiling as tiles
from dipcli.fitting.rollback import CHECK_INTERVAL
from dipcli.runs.observers import NO_TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli.fitting.results import Runs
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Place, Step

MEMORY = 0.99  # of the variance of the outputs


class Uncertainty:
    """How far the outputs stray about the picture that is kept: what the fit is not sure of.

    Within a run it is the exponential variance of the outputs up to the kept iteration, in which the noise on the
    network's input is what varies; between runs the variance of their pictures comes on top:

        spread = sqrt(mean over channels of (mean of v_run + variance of x_run))

    It is a guide to where not to trust the picture, not the standard deviation of its error: what all outputs get
    wrong alike does not show in it.

    Attributes:
        pictures: as large as what is fitted, that it keeps meanwhile.
    """

    pictures = 7

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], Tensor] = {}
        self.places: dict[int, Place] = {}
        self.older: Tensor | None = None
        self.newer: Tensor | None = None
        self.mean = self.variance = torch.zeros(())
        self.which, self.count = (NO_TILE, 0), 0

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Take in one output; after a collapse go back as the fit does, and begin anew."""
        which = (step.tile.number if step.tile else NO_TILE, step.run)
        if which != self.which:
            if which[0] != self.which[0]:  # the tiles that are done
                self.kept = {each: variance.mean(dim=0, keepdim=True) for each, variance in self.kept.items()}
            self.which, self.count, self.older, self.newer = which, 0, None, None
        if step.tile:
            self.places[step.tile.number] = step.tile.place
        if step.event:
            self.count = 0
            if self.older is not None:
                self.kept[which] = self.older
            return
        self.count += 1
        if self.count == 1:
            self.mean, self.variance = step.image, torch.zeros_like(step.image)
        share = max(1 / self.count, 1 - MEMORY)
        change = step.image - self.mean
        self.mean = self.mean + share * change
        self.variance = (1 - share) * (self.variance + share * change**2)
        if verdict.keep or which not in self.kept:
            self.kept[which] = self.variance
        if step.number % CHECK_INTERVAL == 0:
            self.older, self.newer = self.newer, self.kept[which]

    def remember(self) -> dict[str, Any]:
        """What it has seen."""
        return {**vars(self), "kept": dict(self.kept), "places": dict(self.places)}

    def recall(self, seen: dict[str, Any]) -> None:
        """Go on from what it had seen."""
        for name in vars(self):
            setattr(self, name, seen[name])

    def map(self, runs: Runs, known: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """The spread of each pixel of the result, shape (H, W), in units of the picture's range.

        The variances of tiles are blended as the tiles are; one that was not fitted strays nowhere.

        Args:
            runs: those that were watched.
            known: pixels that come back as they were, shape (H, W): they do not stray.
        """
        height, width = runs.image.shape[-2:]  # what was fitted may be larger, as a JPEG's whole blocks are
        if self.places:
            parts = ((place, self._variance(runs, number)) for number, place in self.places.items())
            total = tiles.blend((1, height, width), parts)
        else:
            total = self._variance(runs, NO_TILE)
        spread: NDArray[np.float32] = total[0].sqrt()[:height, :width].cpu().numpy()
        return spread if known is None or known.shape != spread.shape else np.where(known, np.float32(0), spread)

    def _variance(self, runs: Runs, tile: int) -> Tensor:
        """Within the runs of a tile, or of the whole, and between them: mean over the channels, shape (1, H, W)."""
        agreeing = [each for each in runs.runs if (each.tile or NO_TILE) == tile and not each.outlier]
        total = torch.stack([self.kept[tile, each.number] for each in agreeing]).mean(dim=0)
        if len(agreeing) > 1:
            total = total + torch.stack([each.fit.average for each in agreeing]).var(dim=0)
        return total.mean(dim=0, keepdim=True).cpu()
