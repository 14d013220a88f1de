"""The noise of an image as a function of its brightness, and values that were cut off at the ends of the range.

Independent noise has the variance

    v(x) = offset + gain x         (photon noise, and noise that does not depend on brightness)

In a file, values below 0 and above 1 are cut off, so that any estimate from neighbouring pixels is too bright in the
dark and too dark in the bright parts. The inverse of the mean of what is left (`clipped_moments`) corrects it.

Source:
    Foi, "Clipped noisy images: heteroskedastic modeling and practical denoising", Signal Processing 2009.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr
from torch import Tensor

from dipcli.problem.independent.blocks import (
    FLATTEST_FRACTION,
    MIN_BLOCKS,
    find_usable_blocks,
    measure_variances,
    split_blocks,
)
from dipcli.problem.independent.level import MIN_LEVEL_RATIO, clipped_moments

GROUPS = 6  # of blocks, by brightness
BLOCK_SIDE = 8  # pixels
MIN_EXPLAINED = 0.8  # fraction of the variance among the groups that v(x) must explain
TABLE_MARGIN, TABLE_SIZE = 4.0, 4001  # noise levels beyond the range; entries
# The values at an end of the range count as cut off if there are this many of those expected, ...
MIN_CUT_OFF = 0.5
MIN_EXPECTED = 1e-4  # ... and if the expected fraction of the image is at least this.
BLUR = 2.0  # pixels, of the estimate of brightness for that
# More is not undone: where half of the values and more are cut off, the inverse amplifies errors by two and more.
MAX_AMPLIFICATION = 2.5


@dataclass(frozen=True)
class NoiseModel:
    """Independent noise.

    Attributes:
        offset: variance at x = 0, values 0..1.
        gain: growth of the variance with x.
        dark: whether values below 0 were cut off.
        bright: whether values above 1 were.
    """

    offset: float
    gain: float = 0.0
    dark: bool = False
    bright: bool = False

    @property
    def typical_level(self) -> float:
        """Standard deviation at medium brightness, 0..1."""
        return float(self.unclipped_variance(0.5) ** 0.5)

    def variance(self, expected: Tensor) -> Tensor:
        """Return the variance of y where its expected value is this."""
        return self._look_up(expected, 2)

    def undo_clipping(self, expected: Tensor) -> Tensor:
        """Return x from the expected value of y: the identity unless values were cut off."""
        return self._look_up(expected, 1) if self.dark or self.bright else expected

    def _look_up(self, expected: Tensor, column: int) -> Tensor:
        table = self._table
        values = np.interp(expected.detach().float().cpu().numpy(), table[0], table[column])
        return torch.as_tensor(values, dtype=torch.float32, device=expected.device)

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        """E[y], x and the variance of y, at growing x, shape (3, entries)."""
        largest = max(self.unclipped_variance(0.0), self.unclipped_variance(1.0)) ** 0.5
        x = np.linspace(-TABLE_MARGIN * largest, 1 + TABLE_MARGIN * largest, TABLE_SIZE)
        level = np.sqrt(self.unclipped_variance(np.clip(x, 0, 1)))
        mean, variance, inside = clipped_moments(x, level, dark=self.dark, bright=self.bright)
        usable = inside >= 1 / MAX_AMPLIFICATION
        return np.stack([mean, x, np.maximum(variance, 1e-9)])[:, usable]

    def unclipped_variance(self, x: Any) -> Any:
        """Return v(x), of a number or an array."""
        return np.maximum(self.offset + self.gain * x, 1e-8)


@dataclass(frozen=True)
class UndoClipping:
    """`NoiseModel.undo_clipping` as the last step on a restored image, or on a window of it."""

    noise: NoiseModel

    def __call__(self, image: Tensor) -> Tensor:
        """Return the corrected image."""
        return self.noise.undo_clipping(image)

    def window(self, rows: slice, columns: slice) -> UndoClipping:  # noqa: ARG002 - each pixel by itself
        """Return the same step."""
        return self


def fit_noise_model(noisy: NDArray[np.float32], level: float, known: NDArray[np.bool_] | None = None) -> NoiseModel:
    """Fit the model to an image.

    Args:
        noisy: shape (C, H, W), values 0..1, with independent noise.
        level: standard deviation of the noise over the whole image, 0..1.
        known: the pixels to use, shape (H, W); all when None.
    """
    offset, gain = _fit_variance(noisy, level, known)
    model = NoiseModel(offset, gain)
    dark = _is_cut_off(noisy, model, known)
    return replace(model, dark=dark, bright=_is_cut_off(1 - noisy, NoiseModel(offset + gain, -gain), known))


def _fit_variance(noisy: NDArray[np.float32], level: float, known: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Return offset and gain of the variance: level^2 and 0 unless it clearly depends on brightness."""
    constant = level**2, 0.0
    fine, coarse = measure_variances(noisy, BLOCK_SIDE)
    usable = find_usable_blocks(noisy, known, BLOCK_SIDE) & (fine > 0)
    blocks = split_blocks(noisy, BLOCK_SIDE)
    means, fine, coarse = blocks.mean(axis=1)[usable], fine[usable], coarse[usable]
    groups = [group for group in np.array_split(np.argsort(means, kind="stable"), GROUPS) if len(group) >= MIN_BLOCKS]
    if len(groups) < GROUPS:
        return constant
    points = []
    for group in groups:
        count = max(MIN_BLOCKS, int(FLATTEST_FRACTION * len(group)))
        flattest = group[np.argsort(coarse[group], kind="stable")][:count]
        points.append((means[flattest].mean(), fine[flattest].mean()))
    brightness, variances = np.array(points).T
    gain, offset = np.polyfit(brightness, variances, 1)
    fitted = offset + gain * brightness
    explained = 1 - ((variances - fitted) ** 2).sum() / max(((variances - variances.mean()) ** 2).sum(), 1e-20)
    lowest, highest = fitted.min(), fitted.max()
    if lowest <= 0 or highest < MIN_LEVEL_RATIO**2 * lowest or explained < MIN_EXPLAINED:
        return constant
    return float(max(offset, 0.0)), float(gain)


def _is_cut_off(noisy: NDArray[np.float32], model: NoiseModel, known: NDArray[np.bool_] | None) -> bool:
    """Return whether there are about as many zeros as noise that was cut off there would leave."""
    smooth = np.stack([gaussian_filter(channel, BLUR) for channel in noisy])
    x = replace(model, dark=True).undo_clipping(torch.from_numpy(smooth)).numpy()
    level = np.sqrt(model.unclipped_variance(np.clip(x, 0, 1)))
    counted = (slice(None), ... if known is None else known)
    expected = float(ndtr(-x / level)[counted].mean())
    return expected > MIN_EXPECTED and float((noisy <= 0)[counted].mean()) > MIN_CUT_OFF * expected
