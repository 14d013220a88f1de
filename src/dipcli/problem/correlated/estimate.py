"""The estimate by non-local Bayes in parts of a large image, and its two uses: the network's input, and the result."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from dipcli.problem.correlated.noise import CorrelatedNoise
from dipcli.problem.correlated.nonlocal_bayes import STRIDE, estimate_nonlocal_bayes
from dipcli.problem.correlated.restraint import combine
from dipcli.problem.prefilter import fill_unknown, mark_known
from dipcli.problem.windows import shift, surround

BLOCK_SIDE = 256  # pixels, roughly: the image is estimated in such blocks, which need some 300 MB
BLOCK_BYTES = 300 * 2**20  # of memory while a block is computed
MARGIN = 32  # pixels around a block that are estimated with it
BLUR_SIGMAS = (2.0, 4.0)  # pixels
BLUR_REACH = 16


@dataclass(frozen=True)
class CorrelatedEstimate:
    """The estimate of a noisy image by `nonlocal_bayes`, computed where it is first needed and then kept.

    The image is cut into blocks on a fixed grid, so that a window of the image has the same estimate as the whole.

    Attributes:
        pixels: the noisy image, shape (C, H, W), values 0..1.
        noise: its noise.
        device: on which it is computed.
        blocks: those computed so far, by position.
    """

    pixels: NDArray[np.float32]
    noise: CorrelatedNoise
    device: str = "cpu"
    blocks: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        """Return the estimate of a window, shape (C, h, w), values 0..1, on the CPU."""
        result = torch.empty(len(self.pixels), rows.stop - rows.start, columns.stop - columns.start)
        for block_rows in _cut(self.pixels.shape[1], rows):
            for block_columns in _cut(self.pixels.shape[2], columns):
                block = self._compute(block_rows, block_columns)
                top, left = max(rows.start, block_rows.start), max(columns.start, block_columns.start)
                bottom, right = min(rows.stop, block_rows.stop), min(columns.stop, block_columns.stop)
                result[:, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = block[
                    :,
                    top - block_rows.start : bottom - block_rows.start,
                    left - block_columns.start : right - block_columns.start,
                ]
        return result

    def _compute(self, rows: slice, columns: slice) -> Tensor:
        """Return the estimate of a block."""
        key = (rows.start, columns.start)
        if key not in self.blocks:
            outer, inside = surround(rows, columns, MARGIN)
            part = torch.from_numpy(self.pixels[:, *outer]).to(self.device)
            self.blocks[key] = estimate_nonlocal_bayes(part, self.noise)[:, *inside].clamp(0, 1).cpu().contiguous()
        return self.blocks[key]


@dataclass(frozen=True)
class EstimateWindow:
    """A window of the estimate.

    Attributes:
        estimate: of the whole image.
        rows: of the window.
        columns: of the window.
    """

    estimate: CorrelatedEstimate
    rows: slice
    columns: slice
    bytes: ClassVar[int] = BLOCK_BYTES

    def window(self, rows: slice, columns: slice) -> Self:
        """Return the same for a window of the window."""
        return replace(self, rows=shift(rows, self.rows.start), columns=shift(columns, self.columns.start))

    def to(self, device: torch.device) -> Self:
        """Return the same with the estimate computed on another device."""
        return replace(self, estimate=replace(self.estimate, device=str(device)))


class CorrelatedGuide(EstimateWindow):
    """The network's input for noise that neighbouring pixels share: the estimate, and two blurred copies of the image.

    Pixels that a stopping rule holds out are first filled from their neighbours, and the window is estimated again.
    """

    def __call__(self, weight: Tensor | None = None) -> Tensor:
        """Return the guide, shape (3 C, h, w), values 0..1, on the CPU.

        Args:
            weight: pixels of weight 0 are filled first; broadcastable to the window, None for ones.
        """
        estimate, (rows, columns) = self.estimate, (self.rows, self.columns)
        if weight is not None and not (weight > 0).all():
            pixels = estimate.pixels.copy()
            known = mark_known(pixels, (rows, columns), weight)
            outer, _ = surround(rows, columns, MARGIN)
            pixels[:, *outer] = fill_unknown(pixels[:, *outer], known[outer])
            estimate = replace(estimate, pixels=pixels, blocks={})
        outer, inside = surround(rows, columns, BLUR_REACH)
        blurred = [
            gaussian_filter(estimate.pixels[:, *outer], (0, sigma, sigma), truncate=BLUR_REACH / sigma)[:, *inside]
            for sigma in BLUR_SIGMAS
        ]
        return torch.cat([estimate(rows, columns), *map(torch.from_numpy, blurred)])


@dataclass(frozen=True)
class CorrelatedFinish(EstimateWindow):
    """The last step for noise that neighbouring pixels share: `restraint.combine`.

    Attributes:
        fit_weight: weight of the fitted image, 0..1.
        strength: 1 for the restored image, 0 for the noisy one.
    """

    fit_weight: float
    strength: float = 1.0
    keeps_shape: ClassVar[bool] = True

    @property
    def uses_fit(self) -> bool:
        """Whether the result depends on the fitted image."""
        return self.fit_weight > 0

    def __call__(self, fitted: Tensor) -> Tensor:
        """Return the restored image, from the fitted one (C, h, w), on the same device."""
        noisy = torch.from_numpy(self.estimate.pixels[:, self.rows, self.columns]).to(fitted.device)
        estimate = self.estimate(self.rows, self.columns).to(fitted.device)
        return combine(noisy, estimate, fitted, self.estimate.noise, self.fit_weight, self.strength)


def _cut(length: int, part: slice) -> Iterator[slice]:
    """Yield the blocks of a line of this length that overlap a part of it."""
    count = max(1, round(length / BLOCK_SIDE))
    side = STRIDE * math.ceil(length / count / STRIDE)
    for start in range(0, length, side):
        if start < part.stop and start + side > part.start:
            yield slice(start, min(start + side, length))
