"""Batch norm for few channels; batch norm and LeakyReLU as one step that keeps one tensor instead of two.

The second after Rota Bulo, Porzi, Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs",
CVPR 2018: the output takes the input's place, and the way back begins by undoing the activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dipcli.networks.kernels import upsampled

EVEN = 16  # channels of which PyTorch's norm likes to have a multiple: of others it is three times as slow,
SMALL = 2**16  # which is noticed from so many numbers on
LARGE = 2**24  # numbers in a tensor whose memory is worth it: the way back takes longer than that of the two layers
BLOCK = 2**19  # numbers that are worked on at a time, so that what lies between stays in the processor's cache
# A norm whose factor is much smaller than its constant cannot be undone in few digits: it keeps its input as well.
UNDOABLE = 0.1


class _NormAct(torch.autograd.Function):
    """y = leaky(weight n + bias), n = (x - m) / sqrt(v + eps), in the place of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
        mean, scale = torch.empty_like(weight), torch.empty_like(weight)
        torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps, out=(x, mean, scale))
        functional.leaky_relu_(x, slope)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.slope = slope
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, scale = ctx.saved_tensors
        rows = BLOCK // len(weight) or 1
        blocks = list(zip(*(torch.split(_pixels(each), rows) for each in (slopes, y)), strict=True))
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for slope, result in blocks:
            # The way back through a norm with the mean `bias` and the deviation `weight`, the sums alone.
            before, normed = _before(slope, result, ctx.slope), functional.leaky_relu(result, 1 / ctx.slope)
            _, some, more = torch.ops.aten.native_batch_norm_backward(
                before, normed, weight, None, None, bias, 1 / weight, True, 0.0, [False, True, True]
            )
            of_weight += some
            of_bias += more
        count = y.numel() // len(weight)
        factor, drift = weight * scale, -scale * of_weight / count
        constant = -factor * of_bias / count - drift * bias
        factor, drift, constant = (each.to(y.dtype) for each in (factor, drift, constant))
        of_x = torch.empty_like(y)
        for part, (slope, result) in zip(torch.split(_pixels(of_x), rows), blocks, strict=True):
            torch.addcmul(constant, functional.leaky_relu(result, 1 / ctx.slope), drift, out=part)
            part.addcmul_(_before(slope, result, ctx.slope), factor)
        return of_x, of_weight, of_bias, None, None


def _before(slope: Tensor, result: Tensor, leak: float) -> Tensor:
    """The slope before the activation."""
    before: Tensor = torch.ops.aten.leaky_relu_backward(slope, result, leak, True)
    return before


def _pixels(x: Tensor) -> Tensor:
    """The pixels as the rows of a matrix."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Batch norm by the picture in hand.

    Args:
        x: shape (1, C, H, W).
        weight: factors of the norm, shape (C,).
        bias: its constants, shape (C,).
        eps: what is added to the variance.

    Returns:
        Shape (1, C, H, W).
    """
    odd = x.shape[1] % EVEN and x.numel() >= SMALL and x.device.type == "cpu"
    if not odd or not x.is_contiguous(memory_format=torch.channels_last):
        return functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return upsampled.norm(x, weight, bias, eps, "nearest")  # each pixel repeated, which leaves mean and variance alone


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
    """Batch norm by the picture in hand, then LeakyReLU, written over x.

    Args:
        x: shape (1, C, H, W), channels last in memory; not to be used again.
        weight: factors of the norm, shape (C,).
        bias: its constants, shape (C,).
        eps: what is added to the variance.
        slope: of the activation below zero.

    Returns:
        Shape (1, C, H, W).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y: Tensor
    last = x.is_contiguous(memory_format=torch.channels_last)
    if last and x.numel() >= LARGE and (weight.abs() > UNDOABLE * bias.abs() + eps).all():
        y = _NormAct.apply(x, weight.to(wide), bias.to(wide), eps, slope)  # type: ignore[no-untyped-call]
    else:
        y = functional.leaky_relu_(norm(x, weight, bias, eps), slope)
    return y
