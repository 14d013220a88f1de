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
def _bands(length: int, mode: str, pad: str, taps: int, axis: str, way: str, dtype: torch.dtype) -> tuple[Band, ...]:
    """The bands of `_spread`, along the rows or the columns, for the way forward or back (transposed).

    Taps and pixels are on one side, in the order in which they lie in memory: along the rows the taps come first,
    along the columns the pixels do.
    """
    matrix = _spread(length, mode, pad, taps)
    matrix = matrix if way == "forward" else matrix.transpose(1, 2)
    step = ROWS if axis == "rows" else COLUMNS
    step = step if way == "forward" else step // 2
    bands = []
    for begin in range(0, matrix.shape[1], step):
        rows = matrix[:, begin : begin + step]
        touched = rows.abs().sum((0, 1)).nonzero()
        columns = slice(int(touched.min()), int(touched.max()) + 1)
        part = rows[:, :, columns]
        if way == "forward":
            flat = part.permute(1, 0, 2) if axis == "rows" else part.permute(1, 2, 0)
            flat = flat.flatten(1)
        else:
            flat = part if axis == "rows" else part.transpose(0, 1)
            flat = flat.flatten(0, 1)
        bands.append(Band(slice(begin, begin + rows.shape[1]), columns, flat.contiguous().to(dtype)))
    return tuple(bands)


class _Convolution(torch.autograd.Function):
    """y = start + convolution(pad(U x)), in the place of start."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, weight: Tensor, mode: str, pad: str) -> Tensor:
        ctx.mark_dirty(start)
        ctx.save_for_backward(x, weight)
        ctx.how = mode, pad
        outputs, channels, taps, _ = weight.shape
        pixels = x.permute(0, 2, 3, 1)[0]
        height, width, _ = pixels.shape
        mixing = weight.permute(2, 1, 3, 0).reshape(taps, channels, taps * outputs)
        y = start.permute(0, 2, 3, 1)[0]
        across = _bands(width, mode, pad, taps, "columns", "forward", x.dtype)
        done, before = 0, y  # rows of the small picture whose products are at hand, and those products
        for rows, source, down in _bands(height, mode, pad, taps, "rows", "forward", x.dtype):
            products = x.new_empty(taps, source.stop - source.start, 2 * width, outputs)
            kept = max(done - source.start, 0)
            if kept:
                products[:, :kept] = before[:, -kept:]
            fresh = pixels[source.start + kept : source.stop].flatten(0, 1)
            for tap in range(taps):
                mixed = (fresh @ mixing[tap]).view(-1, width * taps, outputs)
                for columns, near, along in across:
                    part = mixed[:, near.start * taps : near.stop * taps]
                    products[tap, kept:, columns] = torch.bmm(along.expand(len(mixed), -1, -1), part)
            y[rows].flatten(1).addmm_(down, products.flatten(2).flatten(0, 1))
            done, before = source.stop, products
        return start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        outputs, channels, taps, _ = weight.shape
        pixels, slopes = x.permute(0, 2, 3, 1)[0], slope.permute(0, 2, 3, 1)[0].contiguous()
        height, width, _ = pixels.shape
        mixing = weight.permute(2, 3, 0, 1).reshape(-1, channels)
        wide = torch.promote_types(x.dtype, torch.float32)
        of_weight = torch.zeros(taps * taps * outputs, channels, dtype=wide)
        of_pixels = x.new_empty(height, width, channels)
        across = _bands(width, *ctx.how, taps, "columns", "back", x.dtype)
        for rows, source, up in _bands(height, *ctx.how, taps, "rows", "back", x.dtype):
            gathered = (up @ slopes[source].flatten(1)).view(taps, -1, 2 * width, outputs)
            here = gathered.shape[1]
            mixed = x.new_empty(here, width, taps, taps * outputs)
            for tap in range(taps):
                for columns, near, along in across:
                    part = torch.bmm(along.expand(here, -1, -1), gathered[tap, :, near])
                    mixed[:, columns, tap] = part.view(here, -1, taps * outputs)
            flat = mixed.view(here * width, -1)
            of_weight += flat.T @ pixels[rows].flatten(0, 1)
            torch.mm(flat, mixing, out=of_pixels[rows].flatten(0, 1))
        of_weight = of_weight.view(taps, taps, outputs, channels).permute(2, 3, 0, 1)
        return slope, of_pixels.permute(2, 0, 1)[None], of_weight.to(weight.dtype), None, None


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
