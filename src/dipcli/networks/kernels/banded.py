"""What upsampling by two and the shifts of a convolution do along one axis, as banded matrices.

`spread` is the closed form; `down` and `across` cut it into what is quickly multiplied, along the rows and the columns
of a picture, where the channels come last in memory.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ROWS, COLUMNS = 16, 32  # of the enlarged picture that are computed at a time: the fastest of 8 to 64


class Band(NamedTuple):
    """Some rows of a banded matrix.

    Attributes:
        rows: which.
        columns: those in which they are not zero.
        matrix: the rows there. A column stands for one pixel, or for a pixel and a tap.
    """

    rows: slice
    columns: slice
    matrix: Tensor


class Blocks(NamedTuple):
    """A banded matrix in which one block comes again and again, each time so many columns further to the right.

    Attributes:
        step: how many columns.
        before: those that the first block reaches to the left of the matrix.
        matrix: the block.
        ends: the rows of the matrix at its two ends that are others.
    """

    step: int
    before: int
    matrix: Tensor
    ends: tuple[Band, ...]

    @property
    def after(self) -> int:
        """Columns that the last block reaches to the right of the matrix."""
        return max(0, self.matrix.shape[1] - self.before - self.step)


@lru_cache(maxsize=64)
def spread(length: int, mode: str, pad: str, taps: int) -> Tensor:
    """S_t U along one axis, for each tap t: shape (taps, 2 length, length)."""
    large = functional.interpolate(
        torch.eye(length)[None], scale_factor=2, mode="linear" if mode == "bilinear" else "nearest"
    )
    around = (taps // 2, taps // 2)
    padded = functional.pad(large, around, mode="reflect" if pad == "reflection" and taps > 1 else "constant")
    return padded[0].unfold(1, 2 * length, 1).permute(1, 2, 0)


@lru_cache(maxsize=256)
def down(length: int, mode: str, pad: str, taps: int, way: str, dtype: torch.dtype) -> tuple[Band, ...]:
    """`spread` along the rows, some at a time, for the way forward or back (transposed): the taps come first."""
    matrix = spread(length, mode, pad, taps)
    matrix = matrix if way == "forward" else matrix.transpose(1, 2)
    step = ROWS if way == "forward" else ROWS // 2
    bands = []
    for begin in range(0, matrix.shape[1], step):
        rows = matrix[:, begin : begin + step]
        columns = _touched(rows.flatten(0, 1))
        part = rows[:, :, columns]
        flat = part.transpose(0, 1).flatten(1) if way == "forward" else part.flatten(0, 1)
        bands.append(Band(slice(begin, begin + rows.shape[1]), columns, flat.contiguous().to(dtype)))
    return tuple(bands)


@lru_cache(maxsize=256)
def across(length: int, mode: str, pad: str, taps: int, way: str, dtype: torch.dtype) -> Blocks:
    """`spread` along the columns, for the way forward or back (transposed): the pixels come first."""
    high, wide = (COLUMNS, COLUMNS // 2 * taps) if way == "forward" else (COLUMNS // 2 * taps, COLUMNS)

    def whole(length: int) -> Tensor:
        matrix = spread(length, mode, pad, taps)
        return matrix.permute(1, 2, 0).flatten(1) if way == "forward" else matrix.permute(2, 0, 1).flatten(0, 1)

    # Far from both ends, in the middle of three.
    middle = whole(3 * COLUMNS // 2)[high : 2 * high]
    near = _touched(middle)
    block, before = middle[:, near], wide - near.start
    true = whole(length)
    count = -(-len(true) // high)
    repeated = torch.zeros(count * high, before + count * wide + block.shape[1])
    for each in range(count):
        repeated[each * high : (each + 1) * high, each * wide : each * wide + block.shape[1]] += block
    repeated[: len(true), before : before + true.shape[1]] -= true
    others = repeated[: len(true)].any(1).nonzero().flatten()
    ends = []
    for some in (others[others < len(true) // 2], others[others >= len(true) // 2]):
        if len(some):
            rows = slice(int(some.min()), int(some.max()) + 1)
            columns = _touched(true[rows])
            ends.append(Band(rows, columns, true[rows, columns].to(dtype)))
    return Blocks(wide, before, block.to(dtype), tuple(ends))


def _touched(rows: Tensor) -> slice:
    """From the first to the last column that is not zero."""
    columns = rows.abs().sum(0).nonzero()
    return slice(int(columns.min()), int(columns.max()) + 1)


class Lines(NamedTuple):
    """Lines that are to be multiplied, one behind the other in memory.

    Attributes:
        everything: with room before the first and after the last, which the blocks reach into.
        inside: the lines, shape (lines, length, C).
    """

    everything: Tensor
    inside: Tensor


def room(like: Tensor, count: int, length: int, blocks: Blocks) -> Lines:
    """Room for so many lines of this length, to be filled and multiplied by these blocks.

    Args:
        like: any tensor of shape (..., C) in their precision.
        count: lines.
        length: of each.
        blocks: what they will be multiplied by.
    """
    channels, end = like.shape[-1], blocks.before + count * length
    everything = like.new_empty(end + blocks.after, channels)
    everything[: blocks.before].zero_()
    everything[end:].zero_()
    return Lines(everything, everything[blocks.before : end].view(count, length, channels))


def multiply(blocks: Blocks, lines: Lines, out: Tensor) -> None:
    """The product of a banded matrix and each of the lines.

    All lines are taken at once: what a block finds beyond the end of a line, at the beginning of the next, does not
    count, for there the ends take its place.

    Args:
        blocks: the matrix.
        lines: what `room` gave, filled; their length a multiple of the blocks' step.
        out: shape (lines, length', C), contiguous.
    """
    count, length, channels = lines.inside.shape
    high, wide = blocks.matrix.shape
    many = count * length // blocks.step
    windows = lines.everything.as_strided((many, wide, channels), (blocks.step * channels, channels, 1))
    torch.bmm(blocks.matrix.expand(many, -1, -1), windows, out=out.view(many, high, channels))
    for rows, columns, matrix in blocks.ends:
        out[:, rows] = torch.bmm(matrix.expand(count, -1, -1), lines.inside[:, columns])
