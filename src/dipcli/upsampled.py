"""Batch norm and convolution of a picture that was made twice as large, computed before it is.

Upsampling u = U x mixes pixels, channel by channel; a tap of a convolution mixes channels, pixel by pixel. So the two
may change places: with the window's taps W_t and the shifts S_t, which see the padding too,

    y = sum over t of  W_t S_t U x  =  sum over t of  (S_t U) (W_t x)

The products W_t x are taken on a quarter of the pixels. What is left, S_t U, is a narrow band of fixed coefficients
along the rows and one along the columns. Neither u, nor what is padded, nor what is normalised, is ever written down.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

ROWS, COLUMNS = 16, 32  # of the enlarged picture that are computed at a time: the fastest of 8 to 64
BLOCK = 4096  # pixels that are summed at a time, so that what lies between is in the processor's cache


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
def _spread(length: int, mode: str, pad: str, taps: int) -> Tensor:
    """S_t U along one axis, for each tap t: shape (taps, 2 length, length)."""
    large = functional.interpolate(
        torch.eye(length)[None], scale_factor=2, mode="linear" if mode == "bilinear" else "nearest"
    )
    around = (taps // 2, taps // 2)
    padded = functional.pad(large, around, mode="reflect" if pad == "reflection" and taps > 1 else "constant")
    return padded[0].unfold(1, 2 * length, 1).permute(1, 2, 0)


@lru_cache(maxsize=256)
def _down(length: int, mode: str, pad: str, taps: int, way: str, dtype: torch.dtype) -> tuple[Band, ...]:
    """`_spread` along the rows, some at a time, for the way forward or back (transposed): the taps come first."""
    matrix = _spread(length, mode, pad, taps)
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
def _across(length: int, mode: str, pad: str, taps: int, way: str, dtype: torch.dtype) -> Blocks:
    """`_spread` along the columns, for the way forward or back (transposed): the pixels come first."""
    high, wide = (COLUMNS, COLUMNS // 2 * taps) if way == "forward" else (COLUMNS // 2 * taps, COLUMNS)

    def whole(length: int) -> Tensor:
        matrix = _spread(length, mode, pad, taps)
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


def _room(x: Tensor, lines: int, length: int, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Uninitialised room for lines to be multiplied by these blocks: all of it, and the lines.

    Returns:
        All of it, as `_times` wants it, and the part that is to be filled, shape (lines, length, O), O the channels
        of x.
    """
    channels, end = x.shape[-1], blocks.before + lines * length
    everything = x.new_empty(end + blocks.after, channels)
    everything[: blocks.before].zero_()
    everything[end:].zero_()
    return everything, everything[blocks.before : end].view(lines, length, channels)


def _times(room: tuple[Tensor, Tensor], blocks: Blocks, out: Tensor) -> None:
    """The product of a banded matrix and each of the lines.

    All lines are taken at once: what a block finds beyond the end of a line, at the beginning of the next, does not
    count, for there the ends take its place.

    Args:
        room: the lines, as `_room` gives it; their length a multiple of the blocks' step.
        blocks: the matrix.
        out: shape (lines, length', O), contiguous.
    """
    everything, lines = room
    count, length, channels = lines.shape
    high, wide = blocks.matrix.shape
    many = count * length // blocks.step
    windows = everything.as_strided((many, wide, channels), (blocks.step * channels, channels, 1))
    torch.bmm(blocks.matrix.expand(many, -1, -1), windows, out=out.view(many, high, channels))
    for rows, columns, matrix in blocks.ends:
        out[:, rows] = torch.bmm(matrix.expand(count, -1, -1), lines[:, columns])


class _Convolution(torch.autograd.Function):
    """y = start + convolution(pad(U x)), in the place of start."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, weight: Tensor, mode: str, pad: str) -> Tensor:
        ctx.mark_dirty(start)
        ctx.save_for_backward(x, weight)
        ctx.how = mode, pad
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        pixels, y = _widened(x, COLUMNS // 2), start.permute(0, 2, 3, 1)[0]
        wide = pixels.shape[1]
        mixing = weight.permute(2, 1, 3, 0).reshape(taps, channels, taps * outputs)
        across = _across(width, mode, pad, taps, "forward", x.dtype)
        done, before = 0, y  # rows of the small picture whose products are at hand, and those products
        for rows, source, down in _down(height, mode, pad, taps, "forward", x.dtype):
            products = x.new_empty(taps, source.stop - source.start, 2 * wide, outputs)
            kept = max(done - source.start, 0)
            if kept:
                products[:, :kept] = before[:, -kept:]
            fresh = pixels[source.start + kept : source.stop]
            room = _room(y, len(fresh), wide * taps, across)
            for tap in range(taps):
                torch.mm(fresh.flatten(0, 1), mixing[tap], out=room[1].view(-1, taps * outputs))
                _times(room, across, products[tap, kept:])
            y[rows].flatten(1).addmm_(down, products[:, :, : 2 * width].flatten(2).flatten(0, 1))
            done, before = source.stop, products
        return start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        pixels, slopes = x.permute(0, 2, 3, 1)[0], _widened(slope, COLUMNS)
        wide = slopes.shape[1] // 2
        mixing = weight.permute(2, 3, 0, 1).reshape(-1, channels)
        exact = torch.promote_types(x.dtype, torch.float32)
        of_weight = torch.zeros(taps * taps * outputs, channels, dtype=exact)
        of_pixels = x.new_empty(height, width, channels)
        across = _across(width, *ctx.how, taps, "back", x.dtype)
        for rows, source, up in _down(height, *ctx.how, taps, "back", x.dtype):
            here = rows.stop - rows.start
            room = _room(slopes, taps * here, 2 * wide, across)
            torch.mm(up, slopes[source].flatten(1), out=room[1].view(taps * here, -1))
            mixed = x.new_empty(taps * here, wide * taps, outputs)
            _times(room, across, mixed)
            flat = mixed.view(taps, here, wide, -1)[:, :, :width].permute(1, 2, 0, 3).reshape(here * width, -1)
            of_weight += flat.T @ pixels[rows].flatten(0, 1)
            torch.mm(flat, mixing, out=of_pixels[rows].flatten(0, 1))
        of_weight = of_weight.view(taps, taps, outputs, channels).permute(2, 3, 0, 1)
        return slope, of_pixels.permute(2, 0, 1)[None], of_weight.to(weight.dtype), None, None


def _widened(x: Tensor, multiple: int) -> Tensor:
    """The pixels, shape (H, W', C), with zeros to the right until W' is a multiple of this."""
    pixels = x.permute(0, 2, 3, 1)[0].contiguous()
    missing = -pixels.shape[1] % multiple
    return functional.pad(pixels, (0, 0, 0, missing)) if missing else pixels


class _Norm(torch.autograd.Function):
    """Batch norm of U x, written before U: it is one factor and one constant for each channel, and U keeps constants.

    Along one axis U^T U = 2 H, with H the window (3, 10, 3) / 16 for bilinear upsampling, which sees the border pixel
    beyond the border, and the identity for nearest. So U x has the mean of x, and the variance mean((x - m) H (x - m)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, mode: str) -> Tensor:
        mean, second = (total / (x.shape[2] * x.shape[3]) for total in _sums(x, _smooth(x, mode)))
        scale = (second - mean**2 + eps).clamp(min=eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mode = mode
        factor = weight * scale
        return _affine(x, factor, bias - mean * factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        of_bias, together = _sums(slope, x)
        of_weight = (together - mean * of_bias) * scale
        count = x.shape[2] * x.shape[3]
        factor, drift = weight * scale, -weight * scale**2 * of_weight / count
        of_x = _affine(slope, factor, -factor * of_bias / count - drift * mean)
        of_x.addcmul_(_smooth(x, ctx.mode), drift.to(x.dtype)[:, None, None])
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _smooth(x: Tensor, mode: str) -> Tensor:
    """H x along both axes, shape (1, C, h, w)."""
    if mode == "nearest":
        return x
    line = torch.tensor([3, 10, 3], dtype=x.dtype, device=x.device) / 16
    window = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    around = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(around, window.contiguous(memory_format=torch.channels_last), groups=x.shape[1])


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of x and of x y over the pixels, each of shape (C,), not in less than single precision."""
    wide = torch.promote_types(x.dtype, torch.float32)
    sums = torch.zeros(2, x.shape[1], dtype=wide)
    pairs = (torch.split(each.permute(0, 2, 3, 1).flatten(0, 2), BLOCK) for each in (x, y))
    for part, other in zip(*pairs, strict=True):
        exact = part.to(wide)
        sums[0] += exact.sum(0)
        sums[1] += (exact * other).sum(0)
    return sums[0], sums[1]


def _affine(x: Tensor, factor: Tensor, constant: Tensor) -> Tensor:
    """Multiply and add, channel by channel, in the precision of x."""
    factor, constant = (each.to(x.dtype)[:, None, None] for each in (factor, constant))
    return torch.addcmul(constant, x, factor)


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, mode: str) -> Tensor:
    """What has to be upsampled so that batch norm of the upsampled x comes out.

    Args:
        x: shape (1, C, h, w), channels last in memory.
        weight: factors of the norm, shape (C,).
        bias: its constants, shape (C,).
        eps: what is added to the variance.
        mode: of upsampling, bilinear or nearest.

    Returns:
        Shape (1, C, h, w): its mean is the bias, but not its variance the square of the weight.
    """
    y: Tensor = _Norm.apply(x, weight, bias, eps, mode)  # type: ignore[no-untyped-call]
    return y


def convolve(x: Tensor, weight: Tensor, start: Tensor, mode: str, pad: str) -> Tensor:
    """Upsample x by two, pad and convolve it.

    Args:
        x: shape (1, C, h, w), channels last in memory.
        weight: shape (O, C, k, k), k odd.
        start: what the result is added to, and written over: shape (1, O, 2h, 2w), channels last in memory.
        mode: of upsampling, bilinear or nearest.
        pad: what lies beyond the border, reflection or zero.

    Returns:
        start, changed.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y: Tensor = _Convolution.apply(start, x, weight, mode, pad)  # type: ignore[no-untyped-call]
    return y
