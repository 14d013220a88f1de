"""The range of values that is mapped to 0..1 for the fit.

If the values fill a quarter or more of the range of their sample type, it is that whole range: 0 to 255, 0 to 65535, or
0 to 1 for floats. Otherwise it is the first range of a bit depth, 0 to 2^n - 1 with n = 8, 9, ..., of which they fill a
quarter, so that 8 or 12 bits in a file of 16, or in floats, are worked on like 8 or 12 bits. If there is none, it is
from the smallest to the largest value. Outliers, such as hot pixels, small highlights and values that stand for missing
data, do not count, except in integers of 8 bits, which have no room for them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Span: TypeAlias = tuple[float, float]

MIN_FILLED = 1 / 4  # of a range
BIT_DEPTHS = range(8, 33)
EIGHT_BITS = 0.0, 255.0
# Outliers: at most this fraction of the values at each end, which lie further below or above the others than so many
# times these are apart. One percent can be a lamp or the sun, which is left out only if little of the range would be
# left for the rest. As much on the dark side is ink on paper.
OUTLIERS = ((0.01, np.inf, 8.0), (0.001, 1.0, 1.0))
MIN_OUTLIERS = 2  # values that may be outliers in a small image
SAMPLE_SIZE = 2**20  # values in which they are looked for


def sample_range(dtype: np.dtype[Any]) -> Span:
    """Return the values of a sample type that are mapped to 0 and 1 in an ordinary image."""
    return (0.0, 1.0) if dtype.kind == "f" else (0.0, float(np.iinfo(dtype).max))


def find_span(values: NDArray[Any]) -> Span | None:
    """Return the values that are to be mapped to 0 and 1; None for the range of the sample type.

    Args:
        values: those of the pixels to fit, any shape, finite.
    """
    low, high = float(values.min()), float(values.max())
    if not (_fills(EIGHT_BITS, low, high) and (values.dtype.kind != "f" or (values == np.rint(values)).all())):
        low, high = _leave_outliers_out(values, low, high)
    whole = sample_range(values.dtype)
    for span in (whole, *((0.0, 2.0**bits - 1) for bits in BIT_DEPTHS)):
        if _fills(span, low, high):
            return None if span == whole else span
    return low, high


def _fills(span: Span, low: float, high: float) -> bool:
    """Return whether values from low to high fill a good part of a range, and all lie inside."""
    return span[0] <= low and high <= span[1] and 0 < (span[1] - span[0]) * MIN_FILLED <= high - low


def _leave_outliers_out(values: NDArray[Any], low: float, high: float) -> Span:
    """Return the smallest and the largest value that is not an outlier; low and high are those of all values."""
    sample = values.ravel()[:: values.size // SAMPLE_SIZE | 1].astype(np.float64)
    inner = sample[(sample > low) & (sample < high)]  # without a border of zeros, or highlights that are cut off
    if len(inner) < len(sample) / 4:
        inner = sample
    lowest, highest = low, high
    for fraction, below, above in OUTLIERS:
        tail = min(max(fraction, MIN_OUTLIERS / len(inner)), 1 / 2)
        bottom, top = np.quantile(inner, (tail, 1 - tail), method="nearest")
        if width := top - bottom:  # zero for an image of one colour
            lowest, highest = max(lowest, bottom - below * width), min(highest, top + above * width)
            inner = inner[(inner >= lowest) & (inner <= highest)]
    if (lowest, highest) == (low, high):
        return low, high
    usual = values[(values >= lowest) & (values <= highest)]
    return float(usual.min()), float(usual.max())
