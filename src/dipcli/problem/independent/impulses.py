"""Impulse noise: isolated pixels that are black or white whatever the image has there."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, gaussian_filter, median_filter

OUTLIER_DISTANCE = 0.3  # of a value at an end of the range from its neighbours: it is no texture
MIN_DISTANCE = 0.1  # likewise, once the image is known to have impulses
BLUR = 1.5  # pixels
MIN_WEIGHT = 0.02  # of the neighbours within the range: with less, the image itself is black or white there
MIN_CHANCE = 1e-6  # of as many impulses of one value in a line
STRIP_ROWS = 256  # a whole copy of a large image would need much memory


def measure_outlier_fraction(pixels: NDArray[np.float32]) -> float:
    """Return the fraction of values, of (C, H, W) in 0..1, at an end of the range and far from their neighbours."""
    outliers, rows = 0, pixels.shape[1]
    for start in range(0, rows, STRIP_ROWS):
        above, stop = max(0, start - 1), min(start + STRIP_ROWS, rows)
        medians = median_filter(pixels[:, above : stop + 1], size=(1, 3, 3))[:, start - above : stop - above]
        strip = pixels[:, start:stop]
        outliers += int((((strip <= 0) | (strip >= 1)) & (abs(strip - medians) > OUTLIER_DISTANCE)).sum())
    return outliers / pixels.size


def find_impulses(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the pixels, shape (H, W), with a value at an end of the range that differs from its neighbours.

    Neighbours at an end of the range do not count: most may be impulses themselves. Lines of one such value that are
    too long for chance are of the image.

    Args:
        pixels: shape (C, H, W), values 0..1, with impulse noise.
    """
    impulses = np.zeros(pixels.shape[1:], bool)
    for channel in pixels:
        ends = [channel <= 0, channel >= 1]
        inside = ~(ends[0] | ends[1])
        weight = gaussian_filter(inside.astype(np.float32), BLUR)
        mean = gaussian_filter(np.where(inside, channel, 0), BLUR) / np.maximum(weight, MIN_WEIGHT)
        differs = (weight > MIN_WEIGHT) & (abs(channel - mean) > MIN_DISTANCE)
        for end in ends:
            fraction = min(max(float(end.mean()), MIN_CHANCE), 0.5)
            length = 1 + math.ceil(math.log(MIN_CHANCE) / math.log(fraction))
            lines = binary_opening(end, np.ones((1, length))) | binary_opening(end, np.ones((length, 1)))
            impulses |= end & differs & ~lines
    return impulses
