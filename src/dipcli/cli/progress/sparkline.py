"""Sparklines: a curve drawn in one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

BLOCKS = "▁▂▃▄▅▆▇█"
MIN_VALUES = 4  # fewer do not make a curve
UNSCALED_FRACTION = 1 / 4  # the start of the curve, ignored by the scale: the steep first rise would flatten the rest
MAX_MAGNITUDE = 1e300  # larger values are dropped: differences between them overflow
MAX_STORED_VALUES = 1024


class Curve:
    """The values of a curve, one in every `stride` once there are many."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.stride = 1
        self.count = 0

    def add(self, value: float) -> None:
        """Add a value; drop it if it is not finite."""
        if not abs(value) < MAX_MAGNITUDE:
            return
        if self.count % self.stride == 0:
            self.values.append(value)
        self.count += 1
        if len(self.values) == MAX_STORED_VALUES:
            self.values = self.values[::2]
            self.stride *= 2


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw a curve of finite values in at most `width` characters; an empty string for fewer than `MIN_VALUES`."""
    columns = min(width, len(values))
    if columns < MIN_VALUES:
        return ""
    edges = [round(column * len(values) / columns) for column in range(columns + 1)]
    means = [fmean(values[start:stop]) for start, stop in pairwise(edges)]
    scaled = means[int(UNSCALED_FRACTION * columns) :]
    low, span = min(scaled), max(scaled) - min(scaled)
    levels = [(mean - low) / span if span else 0.5 for mean in means]
    return "".join(BLOCKS[max(0, min(int(level * len(BLOCKS)), len(BLOCKS) - 1))] for level in levels)
