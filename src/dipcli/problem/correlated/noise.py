"""Measure noise that neighbouring pixels share: its covariance in the flattest parts of the image.

A surface is subtracted from each small block. In the blocks that vary least, the rest is nearly all noise: in 20 of 22
pairs of camera images its level there was within 15 % of that of the true noise, except on canvas and on a rough wall,
whose texture was taken for noise. Elsewhere in an image the noise can be stronger: it grows with the brightness, and
JPEG removes more of it where the image is flat. There the finest diagonal details of the luma say how strong it is: on
these pairs their local level was that of the noise alone in all but the most textured quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dipcli.problem.independent.blocks import FULL_SCALE, make_surfaces
from dipcli.problem.opponent import make_opponent, to_opponent

PATCH_SIDE = 7  # pixels: the covariance is that of such patches
MAX_LAG = PATCH_SIDE - 1
FLATTEST_FRACTION, MIN_BLOCKS = 0.1, 8  # of the blocks, those that vary least; fewest usable blocks
MAX_BLOCKS = 2**14  # of large images only so many blocks are measured
MAX_CLIPPED_FRACTION = 0.1  # of the values of a block, at an end of the range
# Noise of camera images had autocorrelations of -0.2 and more at any distance.
MIN_AUTOCORRELATION = -0.4
CORRELATED = 0.2  # autocorrelation that still counts for the correlation length
DETAIL_WINDOW = 16  # pixels: side of the window in which the local level is measured
MEAN_TO_DEVIATION = (torch.pi / 2) ** 0.5  # of a normal distribution: from the mean absolute value
MIN_DETAIL = 0.2 / FULL_SCALE  # rounding to 8 bits
# Local noise variance, relative to that in the flattest parts: at most the first where JPEG has removed the details of
# these parts, below the first level, and at most the second where it has not, above the second level. There, strong
# details are structure: on a sharp image with made noise a factor of up to 4 lost 3 dB.
MAX_FACTORS, REMOVED_DETAIL, KEPT_DETAIL = (4.0, 1.3), 1 / FULL_SCALE, 2 / FULL_SCALE
# Where details of this level have survived JPEG even in the flattest parts, the luma noise of the camera images was 1.4
# to 2.3 times as strong as its finest details, and 1.1 to 2 times as strong as those of the image. More is texture.
SURVIVING_DETAIL, MAX_DETAIL_RATIO = 1.5 / FULL_SCALE, 1.6
# Between these levels the low frequencies of the luma come to count as noise: in mild noise they resemble texture.
MILD_LEVEL, STRONG_LEVEL = 6 / FULL_SCALE, 10 / FULL_SCALE
BRIGHTNESS_GROUPS = 3


class BlockShape(NamedTuple):
    """Side of the blocks in pixels, distance between them, and degree of the surface that is subtracted."""

    side: int
    step: int
    degree: int


class FlatBlocks(NamedTuple):
    """The residuals of the flattest blocks in the opponent channels, (B, C, side, side), and their mean luma, (B)."""

    residuals: Tensor
    brightness: Tensor


WIDE, NARROW = BlockShape(16, 8, 1), BlockShape(10, 5, 2)


@dataclass(frozen=True)
class CorrelatedNoise:
    """The noise in the flattest parts of an image.

    Attributes:
        covariance: of patches of 7x7 pixels in each opponent channel, shape (C, 49, 49), in squared units of 0..1.
        detail: level of the finest diagonal details of the luma there, 0..1.
        channel_correlation: mean correlation between the colour channels, -1..1; 1 for a single one.
        levels: levels in the dark, medium and bright third of the flattest parts, 0..1.
    """

    covariance: Tensor
    detail: float
    channel_correlation: float
    levels: tuple[float, ...]

    @cached_property
    def level(self) -> float:
        """The marginal standard deviation, a mean over the colour channels, 0..1."""
        return math.sqrt(self.covariance.diagonal(dim1=1, dim2=2).mean())

    @property
    def strength(self) -> float:
        """How strong the noise is: 0 up to a level of 6 of 255, 1 from 10 on."""
        return min(max((self.level - MILD_LEVEL) / (STRONG_LEVEL - MILD_LEVEL), 0.0), 1.0)

    @property
    def kept_detail(self) -> float:
        """Whether the finest details survived JPEG in the flattest parts: 0 up to a level of 1 of 255, 1 from 2 on."""
        return min(max((self.detail - REMOVED_DETAIL) / (KEPT_DETAIL - REMOVED_DETAIL), 0.0), 1.0)

    @property
    def regular(self) -> bool:
        """Whether it is a regular pattern, such as a halftone: its autocorrelation is far below 0 at some distance."""
        variance = float(self.covariance[0].diagonal().mean())
        return float(self.covariance[0].amin()) < MIN_AUTOCORRELATION * variance

    @cached_property
    def correlation_length(self) -> int:
        """The smallest distance, in pixels, at which the luma's autocorrelation is below 0.2; at most 7."""
        profile = measure_autocorrelation(self.covariance[0])
        return next((lag for lag, value in enumerate(profile) if value < CORRELATED), PATCH_SIDE)

    def measure_factors(self, luma: Tensor) -> Tensor:
        """Return the local variance of the noise relative to that in the flattest parts, 1..4, shape (H, W).

        Args:
            luma: the first opponent channel, shape (H, W).
        """
        largest = (1 - self.kept_detail) * MAX_FACTORS[0] + self.kept_detail * MAX_FACTORS[1]
        return ((measure_local_detail(luma) / self.detail) ** 2).clamp(1, largest)


def measure_correlated_noise(
    image: NDArray[np.float32], known: NDArray[np.bool_] | None = None
) -> CorrelatedNoise | None:
    """Measure the noise of an image in its flattest parts.

    Args:
        image: shape (C, H, W), values 0..1.
        known: the pixels to use, shape (H, W); all when None.

    Returns:
        None if it is not known: too few blocks are known, vary at all and are not clipped.
    """
    pixels = torch.from_numpy(image)
    usable = ((pixels > 0) & (pixels < 1)).float().mean(dim=0)
    if known is not None:
        usable = usable * torch.from_numpy(known)
    opponent = to_opponent(pixels)
    wide, narrow = (_find_flattest(opponent, usable, shape) for shape in (WIDE, NARROW))
    if wide is None or narrow is None:
        return None
    covariance, narrow_covariance = _measure_covariance(wide.residuals), _measure_covariance(narrow.residuals[:, :1])
    level = math.sqrt(covariance.diagonal(dim1=1, dim2=2).mean())
    details = measure_local_detail(opponent[0])
    detail = max(_find_quantile(details if known is None else details[torch.from_numpy(known)]), MIN_DETAIL)
    mildness = min(max((STRONG_LEVEL - level) / (STRONG_LEVEL - MILD_LEVEL), 0.0), 1.0)
    if mildness:
        luma, largest = narrow_covariance[0], (MAX_DETAIL_RATIO * detail) ** 2
        if detail > SURVIVING_DETAIL:
            luma = luma * min(1.0, largest / float(luma.diagonal().mean()))
        covariance[0] = mildness * luma + (1 - mildness) * covariance[0]
    return CorrelatedNoise(covariance, detail, _correlate_channels(wide.residuals), _measure_levels(wide))


def measure_autocorrelation(covariance: Tensor) -> list[float]:
    """Return the autocorrelation at distances of 0 to 6 pixels along rows and columns, from a covariance (49, 49)."""
    lags = covariance.reshape((PATCH_SIDE,) * 4)
    variance = float(covariance.diagonal().mean())
    if not variance:
        return [1.0] + [0.0] * MAX_LAG
    along_rows = [lags.diagonal(dim1=0, dim2=2).diagonal(lag, 0, 1).mean() for lag in range(PATCH_SIDE)]
    along_columns = [lags.diagonal(dim1=1, dim2=3).diagonal(lag, 0, 1).mean() for lag in range(PATCH_SIDE)]
    return [float(x + y) / (2 * variance) for x, y in zip(along_rows, along_columns, strict=True)]


def measure_local_detail(luma: Tensor) -> Tensor:
    """Return the local level of the finest diagonal details d = (p - q - r + s) / 2, shape (H, W), in units of luma.

    It is the mean of |d| in a window of 16x16 pixels, scaled to the standard deviation of a normal distribution.
    """
    padded = functional.pad(luma[None, None], (0, 1, 0, 1), mode="replicate")[0, 0]
    details = ((padded[:-1, :-1] - padded[:-1, 1:] - padded[1:, :-1] + padded[1:, 1:]) / 2).abs()
    level: Tensor = MEAN_TO_DEVIATION * average_locally(details, DETAIL_WINDOW)
    return level


def average_locally(values: Tensor, side: int) -> Tensor:
    """Return the mean in a square window around each pixel, cut off at the borders; shape (H, W).

    Args:
        values: shape (H, W).
        side: of the window, in pixels, even; the window has a pixel more.
    """
    mean = values[None, None]
    for kernel, padding in (((side + 1, 1), (side // 2, 0)), ((1, side + 1), (0, side // 2))):
        mean = functional.avg_pool2d(mean, kernel, 1, padding, count_include_pad=False)
    averaged: Tensor = mean[0, 0]
    return averaged


def _find_quantile(values: Tensor) -> float:
    """Return the value below which a tenth of them lie, from about 2^16 of them."""
    step = max(1, values.numel() >> 16)
    return float(values.flatten()[::step].quantile(FLATTEST_FRACTION))


def _find_flattest(opponent: Tensor, usable: Tensor, shape: BlockShape) -> FlatBlocks | None:
    """Return the blocks that vary least about a surface; None if there are too few usable ones.

    Args:
        opponent: shape (C, H, W).
        usable: fraction of the values that are known and not clipped, shape (H, W).
        shape: of the blocks.
    """
    side, step, degree = shape
    channels, height, width = opponent.shape
    if min(height, width) < side:
        return None
    step = max(step, math.isqrt(height * width // MAX_BLOCKS))
    blocks = functional.unfold(opponent[None], side, stride=step)[0].T.reshape(-1, channels, side**2)
    fraction = functional.unfold(usable[None, None], side, stride=step)[0].mean(dim=0)
    varies = (blocks.amax(dim=2) > blocks.amin(dim=2)).any(dim=1)
    blocks = blocks[(fraction > 1 - MAX_CLIPPED_FRACTION) & varies]
    if len(blocks) < MIN_BLOCKS:
        return None
    basis = torch.from_numpy(make_surfaces(side, degree)).float()
    # The surfaces also take a share of the noise.
    residuals = (blocks - blocks @ basis @ basis.T) / (1 - basis.shape[1] / side**2) ** 0.5
    count = max(MIN_BLOCKS, int(FLATTEST_FRACTION * len(blocks)))
    flattest = (residuals**2).sum(dim=(1, 2)).argsort(stable=True)[:count]
    return FlatBlocks(residuals[flattest].reshape(count, channels, side, side), blocks[flattest, 0].mean(dim=1))


def _measure_covariance(residuals: Tensor) -> Tensor:
    """Return the mean of r r^T over all patches r in the blocks (B, C, side, side), shape (C, 49, 49)."""
    blocks, channels, side, _ = residuals.shape
    patches = functional.unfold(residuals.reshape(blocks * channels, 1, side, side), PATCH_SIDE)
    patches = patches.reshape(blocks, channels, *patches.shape[1:])
    covariance: Tensor = torch.einsum("bcin,bcjn->cij", patches, patches) / (blocks * patches.shape[3])
    return covariance


def _correlate_channels(residuals: Tensor) -> float:
    """Return the mean correlation between the colour channels, from opponent residuals (B, C, side, side)."""
    channels = residuals.shape[1]
    if channels == 1:
        return 1.0
    colours = torch.einsum("oc,bohw->cbhw", make_opponent(channels), residuals).flatten(1)
    covariance = colours @ colours.T
    deviations = covariance.diagonal().clamp(min=1e-12).sqrt()
    correlations = covariance / deviations[:, None] / deviations
    return float((correlations.sum() - channels) / (channels * (channels - 1)))


def _measure_levels(flat: FlatBlocks) -> tuple[float, ...]:
    """Return the noise levels in the dark, medium and bright third of the blocks, 0..1."""
    order = flat.brightness.argsort(stable=True)
    return tuple(float((flat.residuals[part] ** 2).mean()) ** 0.5 for part in order.chunk(BRIGHTNESS_GROUPS))
