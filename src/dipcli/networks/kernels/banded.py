"""Upsampling by two and the shifts of a convolution along one axis, as banded matrices.

They apply where `upsampled.convolve` does: on the CPU, to channels-last tensors of sufficient size.

`build_matrices` is the closed form. `split_rows` and `split_columns` cut it into dense parts that are fast to multiply
along the rows and the columns of a channels-last image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ROWS, COLUMNS = 16, 32  # of the enlarged image, computed at a time: the fastest of 8 to 64


class Band(NamedTuple):
    """Some rows of a banded matrix.

    Attributes:
        rows: the rows.
        columns: the columns in which they are not zero.
        matrix: the rows in these columns. A column stands for a pixel, or for a pixel and a tap.
    """

    rows: slice
    columns: slice
    matrix: Tensor


class Blocks(NamedTuple):
    """A banded matrix that repeats one block, each time shifted by the same number of columns.

    Attributes:
        step: the shift, in columns.
        before: columns that the first block extends to the left of the matrix.
        matrix: the block.
        ends: the rows at both ends of the matrix that differ.
    """

    step: int
    before: int
    matrix: Tensor
    ends: tuple[Band, ...]

    @property
    def after(self) -> int:
        """Columns that the last block extends to the right of the matrix."""
        return max(0, self.matrix.shape[1] - self.before - self.step)


@lru_cache(maxsize=64)
def build_matrices(length: int, mode: str, pad: str, taps: int) -> Tensor:
    """Return S_t U along one axis, for every tap t: shape (taps, 2 length, length)."""
    large = functional.interpolate(
        torch.eye(length)[None], scale_factor=2, mode="linear" if mode == "bilinear" else "nearest"
    )
    border = (taps // 2, taps // 2)
    padded = functional.pad(large, border, mode="reflect" if pad == "reflection" and taps > 1 else "constant")
    return padded[0].unfold(1, 2 * length, 1).permute(1, 2, 0)


@lru_cache(maxsize=256)
def split_rows(length: int, mode: str, pad: str, taps: int, direction: str, dtype: torch.dtype) -> tuple[Band, ...]:
    """Return the matrices along the rows, some rows at a time, taps before pixels; transposed for "backward"."""
    matrix = build_matrices(length, mode, pad, taps)
    matrix = matrix if direction == "forward" else matrix.transpose(1, 2)
    step = ROWS if direction == "forward" else ROWS // 2
    bands = []
    for start in range(0, matrix.shape[1], step):
        rows = matrix[:, start : start + step]
        columns = _find_nonzero_columns(rows.flatten(0, 1))
        part = rows[:, :, columns]
        flat = part.transpose(0, 1).flatten(1) if direction == "forward" else part.flatten(0, 1)
        bands.append(Band(slice(start, start + rows.shape[1]), columns, flat.contiguous().to(dtype)))
    return tuple(bands)


@lru_cache(maxsize=256)
def split_columns(length: int, mode: str, pad: str, taps: int, direction: str, dtype: torch.dtype) -> Blocks:
    """Return the matrices along the columns as blocks, pixels before taps; transposed for "backward"."""
    block_rows, step = (COLUMNS, COLUMNS // 2 * taps) if direction == "forward" else (COLUMNS // 2 * taps, COLUMNS)

    def flatten_matrices(length: int) -> Tensor:
        matrix = build_matrices(length, mode, pad, taps)
        return matrix.permute(1, 2, 0).flatten(1) if direction == "forward" else matrix.permute(2, 0, 1).flatten(0, 1)

    # Far from both ends: the central one of three.
    central_rows = flatten_matrices(3 * COLUMNS // 2)[block_rows : 2 * block_rows]
    nonzero = _find_nonzero_columns(central_rows)
    block, before = central_rows[:, nonzero], step - nonzero.start
    matrix = flatten_matrices(length)
    count = -(-len(matrix) // block_rows)
    # The sum of the shifted blocks minus the matrix is zero except in the rows at the ends.
    difference = torch.zeros(count * block_rows, before + count * step + block.shape[1])
    for number in range(count):
        rows, columns = number * block_rows, number * step
        difference[rows : rows + block_rows, columns : columns + block.shape[1]] += block
    difference[: len(matrix), before : before + matrix.shape[1]] -= matrix
    different = difference[: len(matrix)].any(1).nonzero().flatten()
    ends = []
    for end in (different[different < len(matrix) // 2], different[different >= len(matrix) // 2]):
        if len(end):
            end_rows = slice(int(end.min()), int(end.max()) + 1)
            end_columns = _find_nonzero_columns(matrix[end_rows])
            ends.append(Band(end_rows, end_columns, matrix[end_rows, end_columns].to(dtype)))
    return Blocks(step, before, block.to(dtype), tuple(ends))


def _find_nonzero_columns(rows: Tensor) -> slice:
    """Return the columns from the first to the last that is not zero."""
    columns = rows.abs().sum(0).nonzero()
    return slice(int(columns.min()), int(columns.max()) + 1)


class Lines(NamedTuple):
    """Lines to be multiplied: `inside`, (lines, length, C), is `padded` without the margins that blocks extend into."""

    padded: Tensor
    inside: Tensor


def allocate_lines(like: Tensor, count: int, length: int, blocks: Blocks) -> Lines:
    """Allocate `count` lines of a length, with channels and precision of (..., C), to be multiplied by these blocks."""
    channels, end = like.shape[-1], blocks.before + count * length
    padded = like.new_empty(end + blocks.after, channels)
    padded[: blocks.before].zero_()
    padded[end:].zero_()
    return Lines(padded, padded[blocks.before : end].view(count, length, channels))


def multiply(blocks: Blocks, lines: Lines, out: Tensor) -> None:
    """Multiply every line, whose length is a multiple of the blocks' step, into `out`, (lines, length', C), contiguous.

    All lines are multiplied at once. Where a block extends beyond the end of a line into the next, the result is
    overwritten by that of the matrix's ends.
    """
    count, length, channels = lines.inside.shape
    block_rows, block_columns = blocks.matrix.shape
    repeats = count * length // blocks.step
    windows = lines.padded.as_strided((repeats, block_columns, channels), (blocks.step * channels, channels, 1))
    torch.bmm(blocks.matrix.expand(repeats, -1, -1), windows, out=out.view(repeats, block_rows, channels))
    for rows, columns, matrix in blocks.ends:
        out[:, rows] = torch.bmm(matrix.expand(count, -1, -1), lines.inside[:, columns])
