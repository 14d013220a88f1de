"""Batch norm and convolution of a picture that was made twice as large, computed before it is.

Upsampling u = U x mixes pixels, channel by channel; a tap of a convolution mixes channels, pixel by pixel. So the two
may change places: with the window's taps W_t and the shifts S_t, which see the padding too,

    y = sum over t of  W_t S_t U x  =  sum over t of  (S_t U) (W_t x)

The products W_t x are taken on a quarter of the pixels. What is left, S_t U, is a narrow band of fixed coefficients
along the rows and one along the columns. Neither u, nor what is padded, nor what is normalised, is ever written down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dipcli.networks.kernels import banded
from dipcli.networks.kernels import channelwise as pixelwise


class _Convolution(torch.autograd.Function):
    """y = start + convolution(pad(U x)), in the place of start."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, weight: Tensor, mode: str, pad: str) -> Tensor:
        ctx.mark_dirty(start)
        ctx.save_for_backward(x, weight)
        ctx.how = mode, pad
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        pixels, y = _widened(x, banded.COLUMNS // 2), start.permute(0, 2, 3, 1)[0]
        wide = pixels.shape[1]
        mixing = weight.permute(2, 1, 3, 0).reshape(taps, channels, taps * outputs)
        across = banded.across(width, mode, pad, taps, "forward", x.dtype)
        done, before = 0, y  # rows of the small picture whose products are at hand, and those products
        for rows, source, down in banded.down(height, mode, pad, taps, "forward", x.dtype):
            products = x.new_empty(taps, source.stop - source.start, 2 * wide, outputs)
            kept = max(done - source.start, 0)
            if kept:
                products[:, :kept] = before[:, -kept:]
            fresh = pixels[source.start + kept : source.stop]
            lines = banded.room(y, len(fresh), wide * taps, across)
            for tap in range(taps):
                torch.mm(fresh.flatten(0, 1), mixing[tap], out=lines.inside.view(-1, taps * outputs))
                banded.multiply(across, lines, out=products[tap, kept:])
            y[rows].flatten(1).addmm_(down, products[:, :, : 2 * width].flatten(2).flatten(0, 1))
            done, before = source.stop, products
        return start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        # To the right of the picture pixels are nought, and what their slopes are does not count.
        pixels, slopes = _widened(x, banded.COLUMNS // 2), _widened(slope, banded.COLUMNS)
        wide = pixels.shape[1]
        mixing = weight.permute(2, 3, 0, 1).reshape(taps, taps * outputs, channels)
        exact = torch.promote_types(x.dtype, torch.float32)
        of_weight = torch.zeros(taps, taps * outputs, channels, dtype=exact)
        of_pixels = x.new_empty(height, wide, channels)
        across = banded.across(width, *ctx.how, taps, "back", x.dtype)
        for rows, source, up in banded.down(height, *ctx.how, taps, "back", x.dtype):
            here = rows.stop - rows.start
            lines = banded.room(slopes, taps * here, 2 * wide, across)
            torch.mm(up, slopes[source].flatten(1), out=lines.inside.view(taps * here, -1))
            mixed = x.new_empty(taps * here, wide * taps, outputs)
            banded.multiply(across, lines, out=mixed)
            fresh, changed = pixels[rows].flatten(0, 1), of_pixels[rows].flatten(0, 1)
            for tap, flat in enumerate(mixed.view(taps, here * wide, taps * outputs)):
                of_weight[tap] += flat.T @ fresh
                changed.addmm_(flat, mixing[tap], beta=min(tap, 1))
        of_weight = of_weight.view(taps, taps, outputs, channels).permute(2, 3, 0, 1)
        return slope, of_pixels[:, :width].permute(2, 0, 1)[None], of_weight.to(weight.dtype), None, None


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
        count = x.shape[2] * x.shape[3]
        mean = pixelwise.sums(x, x)[0] / count
        # The mean is taken off first: where x hardly varies it is most of x, and all that follows is rounded.
        x = pixelwise.affine(x, torch.ones_like(mean), -mean)
        scale = (pixelwise.sums(x, _smooth(x, mode))[1] / count + eps).clamp(min=eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        ctx.mode = mode
        return pixelwise.affine(x, weight * scale, bias.to(scale.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        of_bias, together = pixelwise.sums(slope, x)
        of_weight = together * scale
        count = x.shape[2] * x.shape[3]
        factor = weight * scale
        drift = -factor * scale * of_weight / count
        of_x = pixelwise.affine(_smooth(x, ctx.mode), drift, -factor * of_bias / count)
        pixelwise.add(of_x, slope, factor)
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None


def _smooth(x: Tensor, mode: str) -> Tensor:
    """H x along both axes, shape (1, C, h, w)."""
    if mode == "nearest":
        return x
    line = torch.tensor([3, 10, 3], dtype=x.dtype, device=x.device) / 16
    window = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    around = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(around, window.contiguous(memory_format=torch.channels_last), groups=x.shape[1])


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
