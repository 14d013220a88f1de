"""Batch norm and convolution of an image enlarged by two, computed before it is enlarged.

They apply on the CPU to channels-last tensors, for convolutions of a single network with at least 32 output channels
and 128^2 output pixels (`layers.Level`); else the layers are computed one by one by PyTorch.

Upsampling u = U x mixes pixels within channels; a tap of a convolution mixes channels within pixels. So they commute:
with the taps W_t of the kernel and the shifts S_t, which include the padding,

    y = sum over t of  W_t S_t U x  =  sum over t of  (S_t U) (W_t x)

The products W_t x are computed on a quarter of the pixels. S_t U is a narrow band of fixed coefficients along the rows
and one along the columns. Neither u nor the padded or normalised u is ever stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dipcli.networks.kernels import banded, channelwise


class _Convolution(torch.autograd.Function):
    """y = start + convolution(pad(U x)), written over start."""

    @staticmethod
    def forward(ctx: Any, start: Tensor, x: Tensor, weight: Tensor, mode: str, pad: str) -> Tensor:
        ctx.mark_dirty(start)
        ctx.save_for_backward(x, weight)
        ctx.mode_and_pad = mode, pad
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        pixels, y = _pad_width(x, banded.COLUMNS // 2), start.permute(0, 2, 3, 1)[0]
        padded_width = pixels.shape[1]
        mixing = weight.permute(2, 1, 3, 0).reshape(taps, channels, taps * outputs)
        column_blocks = banded.split_columns(width, mode, pad, taps, "forward", x.dtype)
        rows_done, last_products = 0, y  # rows of the small image whose products are computed; the last products
        for rows, source, matrix in banded.split_rows(height, mode, pad, taps, "forward", x.dtype):
            products = x.new_empty(taps, source.stop - source.start, 2 * padded_width, outputs)
            kept = max(rows_done - source.start, 0)
            if kept:
                products[:, :kept] = last_products[:, -kept:]
            new_pixels = pixels[source.start + kept : source.stop]
            lines = banded.allocate_lines(y, len(new_pixels), padded_width * taps, column_blocks)
            for tap in range(taps):
                torch.mm(new_pixels.flatten(0, 1), mixing[tap], out=lines.inside.view(-1, taps * outputs))
                banded.multiply(column_blocks, lines, out=products[tap, kept:])
            y[rows].flatten(1).addmm_(matrix, products[:, :, : 2 * width].flatten(2).flatten(0, 1))
            rows_done, last_products = source.stop, products
        return start

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        outputs, channels, taps, _ = weight.shape
        height, width = x.shape[2:]
        # To the right of the image the pixels are zero, and their gradients are not used.
        pixels, grad_pixels_y = _pad_width(x, banded.COLUMNS // 2), _pad_width(grad_y, banded.COLUMNS)
        padded_width = pixels.shape[1]
        mixing = weight.permute(2, 3, 0, 1).reshape(taps, taps * outputs, channels)
        sum_dtype = torch.promote_types(x.dtype, torch.float32)
        grad_weight = torch.zeros(taps, taps * outputs, channels, dtype=sum_dtype)
        grad_pixels = x.new_empty(height, padded_width, channels)
        column_blocks = banded.split_columns(width, *ctx.mode_and_pad, taps, "backward", x.dtype)
        for rows, source, matrix in banded.split_rows(height, *ctx.mode_and_pad, taps, "backward", x.dtype):
            count = rows.stop - rows.start
            lines = banded.allocate_lines(grad_pixels_y, taps * count, 2 * padded_width, column_blocks)
            torch.mm(matrix, grad_pixels_y[source].flatten(1), out=lines.inside.view(taps * count, -1))
            products = x.new_empty(taps * count, padded_width * taps, outputs)
            banded.multiply(column_blocks, lines, out=products)
            row_pixels, row_grads = pixels[rows].flatten(0, 1), grad_pixels[rows].flatten(0, 1)
            for tap, tap_products in enumerate(products.view(taps, count * padded_width, taps * outputs)):
                grad_weight[tap] += tap_products.T @ row_pixels
                row_grads.addmm_(tap_products, mixing[tap], beta=min(tap, 1))
        grad_weight = grad_weight.view(taps, taps, outputs, channels).permute(2, 3, 0, 1)
        return grad_y, grad_pixels[:, :width].permute(2, 0, 1)[None], grad_weight.to(weight.dtype), None, None


def _pad_width(x: Tensor, multiple: int) -> Tensor:
    """Return the pixels, shape (H, W', C), with zeros on the right so that W' is a multiple."""
    pixels = x.permute(0, 2, 3, 1)[0].contiguous()
    missing = -pixels.shape[1] % multiple
    return functional.pad(pixels, (0, 0, 0, missing)) if missing else pixels


class _Norm(torch.autograd.Function):
    """Batch norm of U x, applied before U: it is a factor and a constant per channel, and U preserves constants.

    Along one axis U^T U = 2 H, with H the window (3, 10, 3) / 16 for bilinear upsampling, which repeats the border
    pixel, and the identity for nearest. So U x has the mean of x, and the variance mean((x - m) H (x - m)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, mode: str) -> Tensor:
        count = x.shape[2] * x.shape[3]
        mean = channelwise.sum_pixels(x, x)[0] / count
        # The mean is subtracted first: where x hardly varies it is most of x, and all that follows is rounded.
        x = channelwise.scale_and_shift(x, torch.ones_like(mean), -mean)
        scale = (channelwise.sum_pixels(x, _smooth(x, mode))[1] / count + eps).clamp(min=eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        ctx.mode = mode
        return channelwise.scale_and_shift(x, weight * scale, bias.to(scale.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        grad_bias, sums = channelwise.sum_pixels(grad_y, x)
        grad_weight = sums * scale
        count = x.shape[2] * x.shape[3]
        factor = weight * scale
        drift = -factor * scale * grad_weight / count
        grad_x = channelwise.scale_and_shift(_smooth(x, ctx.mode), drift, -factor * grad_bias / count)
        channelwise.add_scaled(grad_x, grad_y, factor)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None


def _smooth(x: Tensor, mode: str) -> Tensor:
    """Return H x along both axes, shape (1, C, h, w)."""
    if mode == "nearest":
        return x
    line = torch.tensor([3, 10, 3], dtype=x.dtype, device=x.device) / 16
    window = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, window.contiguous(memory_format=torch.channels_last), groups=x.shape[1])


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, mode: str) -> Tensor:
    """Return the image whose bilinear or nearest upsampling (mode) is the batch norm of the upsampled x.

    From (1, C, h, w), channels last in memory, to the same shape; weight and bias have shape (C,). The mean of the
    result is the bias, but its variance is not the square of the weight.
    """
    y: Tensor = _Norm.apply(x, weight, bias, eps, mode)  # type: ignore[no-untyped-call]
    return y


def convolve(x: Tensor, weight: Tensor, start: Tensor, mode: str, pad: str) -> Tensor:
    """Upsample x by two (bilinear or nearest), pad it (reflection or zero), convolve it and add it to start, in place.

    Args:
        x: shape (1, C, h, w), channels last in memory.
        weight: shape (O, C, k, k), k odd.
        start: shape (1, O, 2h, 2w), channels last in memory; it is changed and returned.
        mode: of upsampling.
        pad: of the convolution.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    y: Tensor = _Convolution.apply(start, x, weight, mode, pad)  # type: ignore[no-untyped-call]
    return y
