"""A curve in a few letters of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
FEWEST = 4  # values that make a curve
BEGIN = 1 / 4  # of the curve, that may lie beyond its scale: what comes after the first climb is what one looks for
HUGE = 1e300
MOST = 1024  # values that are remembered


class Curve:
    """Values as they come, thinned out as they become many."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.pending: list[float] = []
        self.stride = 1

    def add(self, value: float) -> None:
        """Remember a value; of one that is no number, or beyond all others, there is nothing to draw."""
        if not abs(value) < HUGE:
            return
        self.pending.append(value)
        if len(self.pending) < self.stride:
            return
        self.values.append(_mean(self.pending))
        self.pending.clear()
        if len(self.values) == MOST:
            self.values = [_mean(self.values[at : at + 2]) for at in range(0, MOST, 2)]
            self.stride *= 2


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """A curve of at most so many letters; nothing where there are too few values.

    Args:
        values: from the first to the last, finite.
        width: letters.
        blocks: the letters, from low to high.
    """
    count = min(width, len(values))
    if count < FEWEST or not blocks:
        return ""
    ends = [round(number * len(values) / count) for number in range(count + 1)]
    means = [_mean(values[start:stop]) for start, stop in pairwise(ends)]
    later = means[int(BEGIN * count) :]
    low, high = min(later), max(later)
    span = high - low

    def letter(value: float) -> str:
        place = (min(max(value, low), high) - low) / span if span else 0.5
        return blocks[min(int(place * len(blocks)), len(blocks) - 1)]

    return "".join(map(letter, means))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
