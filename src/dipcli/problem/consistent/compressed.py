"""The companion of a fit to a JPEG file: a smooth image within the intervals of its coefficients."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dipcli.problem.consistent.iteration import iterate_ridge
from dipcli.problem.independent.companion import BLOCK_BYTES, BYTES_PER_VALUE
from dipcli.problem.independent.ridge import RidgeStep
from dipcli.problem.jpeg import WHITE, Encoder, Plane

STEP = RidgeStep(patch=7, count=50, stride=5, window=37)
LEVELS = 6.0, 5.0, 4.0, 3.0  # of smoothing, times the rounding error of the coefficients that are not zero
WIDTH = 0.6  # of the intervals: the middle of an interval is likelier than its ends


@dataclass(frozen=True)
class CompressedCompanion:
    """A smooth image that agrees with a JPEG file.

    Attributes:
        encoder: of the file.
        start: its decoded image, extended to complete blocks, shape (C, H', W').
    """

    encoder: Encoder
    start: Tensor

    @property
    def bytes(self) -> int:
        """Memory that it takes to compute."""
        return BLOCK_BYTES + BYTES_PER_VALUE * self.start.numel()

    def to(self, device: torch.device) -> CompressedCompanion:
        """Return the companion on a device."""
        return replace(self, encoder=self.encoder.to(device), start=self.start.to(device))

    def __call__(self, weight: Tensor | None = None) -> Tensor:  # noqa: ARG002 - no coefficients are held out
        """Return the image, shape (C, H', W')."""
        encoder = self.encoder
        errors = torch.tensor([measure_rounding(plane) for plane in encoder.coefficients.planes])
        levels = [level * errors for level in LEVELS]
        return iterate_ridge(self.start, encoder.to_ycc, levels, lambda x: encoder.project(x, WIDTH), STEP)


def measure_rounding(plane: Plane) -> float:
    """Return the rounding error per sample, in pixel values, of the coefficients that are not zero.

        sqrt( sum over k != 0 of q^2 / 12, per coefficient )

    It grows with the steps and with the detail of the image; the whole error of a decoded photograph is about twice as
    large.
    """
    variances = (plane.levels != 0) * (plane.steps / WHITE) ** 2 / 12
    return math.sqrt(variances.mean())
