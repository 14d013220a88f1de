"""The companion of a fit: another estimate of the image; to independent noise the non-local ridge estimate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from torch import Tensor

from dipcli.problem.independent.level import STRONG_LEVEL
from dipcli.problem.independent.noise_model import NoiseModel
from dipcli.problem.independent.ridge import RidgeStep, Stage, estimate_by_ridge
from dipcli.problem.prefilter import fill_unknown, mark_known
from dipcli.problem.windows import surround

# Patches of several sizes, and a last stage with small ones, on nine images of 256x256: 0.12, 0.12 and 0.4 dB more than
# the published two stages at levels of 10, 25 and 50 (docs/notes/fusion.md). Strong noise needs larger patches, and a
# blurred image to find the first.
MARGIN = 40  # pixels around a window that its estimate sees
BLOCK_BYTES, BYTES_PER_VALUE = 140 * 2**20, 170  # of memory while it is computed: measured at 256x256 and 512x512
MIN_SIDE = 24  # pixels, of an image with enough similar patches


def choose_stages(level: float) -> tuple[Stage, ...]:
    """Return the stages for a noise level, 0..1."""
    if level < STRONG_LEVEL:
        return (
            (RidgeStep(6, 18, 5), RidgeStep(11, 18, 7)),
            (RidgeStep(7, 50, 5), RidgeStep(11, 64, 7)),
            (RidgeStep(6, 50, 4),),
        )
    return (RidgeStep(11, 20, 5, 51, blur=1.0),), (RidgeStep(10, 90, 5, 51),), (RidgeStep(8, 64, 5, 51),)


def is_predictable(missing: NDArray[np.bool_] | None) -> bool:
    """Return whether each missing pixel, of (H, W), has a neighbour from which patches can fill it; None for none."""
    return missing is None or not binary_erosion(missing).any()


@dataclass(frozen=True, kw_only=True)
class Companion(ABC):
    """An estimate of an image from patches in the neighbourhood of each.

    Attributes:
        pixels: the measured image, shape (C, H, W), values 0..1.
        known: its pixels that were measured, shape (H, W); None for all.
        inside: rows and columns to return, None for all; the estimate also sees the pixels around them.
        device: where it is computed and returned; the CPU when None. For MPS it is computed on the CPU: PyTorch lacked
            the inverse of a Cholesky factor there until 2026.
    """

    pixels: NDArray[np.float32]
    known: NDArray[np.bool_] | None = None
    inside: tuple[slice, slice] | None = None
    device: torch.device | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes to compute."""
        return BLOCK_BYTES + BYTES_PER_VALUE * self.pixels.size

    def window(self, rows: slice, columns: slice) -> Self:
        """Return the companion of a window of the image."""
        outer, inside = surround(rows, columns, MARGIN)
        known = None if self.known is None else self.known[outer]
        return replace(self, pixels=self.pixels[:, *outer], known=known, inside=inside)

    def to(self, device: torch.device) -> Self:
        """Return the companion that is computed on a device."""
        return replace(self, device=device)

    def __call__(self, weight: Tensor | None = None) -> Tensor:
        """Return the estimate of the expected value of y, shape (C, h, w).

        Args:
            weight: pixels of weight 0 are not used; broadcastable to the part that is returned, None for ones.
        """
        inside = self.inside or (slice(None), slice(None))
        known = mark_known(self.pixels, inside, weight)
        if self.known is not None:
            known &= self.known
        device = None if self.device and self.device.type == "mps" else self.device
        return self.estimate(known, device)[:, *inside].to(self.device)

    @abstractmethod
    def estimate(self, known: NDArray[np.bool_], device: torch.device | None) -> Tensor:
        """Return the estimate of the whole from the known pixels, (H, W)."""


@dataclass(frozen=True, kw_only=True)
class NonLocalCompanion(Companion):
    """The non-local ridge estimate of a noisy image.

    Attributes:
        noise: its noise.
    """

    noise: NoiseModel

    def estimate(self, known: NDArray[np.bool_], device: torch.device | None) -> Tensor:
        """Return the estimate; unknown pixels are first filled from their neighbours."""
        noisy, mask = (torch.from_numpy(part).to(device) for part in (fill_unknown(self.pixels, known), known))
        return estimate_by_ridge(noisy, self.noise.variance, choose_stages(self.noise.typical_level), mask)
