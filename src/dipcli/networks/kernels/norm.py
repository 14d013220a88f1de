"""Batch norm for few channels; batch norm and LeakyReLU in one step that keeps one tensor instead of two.

`batch_norm` applies on the CPU in bf16 to channels-last tensors of at least 2^16 values whose number of channels is not
a multiple of 16; `batch_norm_leaky_relu`, to channels-last tensors of at least 2^24 values; else plain PyTorch is used.

The second follows Rota Bulo, Porzi, Kontschieder, "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs",
CVPR 2018: the output overwrites the input, and the backward pass starts by inverting the activation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dipcli.networks.kernels import upsampled

FAST_CHANNELS = 16  # PyTorch's norm in bf16 is three times as slow for channels that are not a multiple of this,
MIN_VALUES = 2**16  # which is noticeable from tensors of this size on
MIN_VALUES_IN_PLACE = 2**24  # from this size on the memory is worth a backward pass slower than that of two layers
BLOCK_VALUES = 2**19  # values processed at a time, so that intermediate results stay in the processor's cache
# A norm whose factor is much smaller than its constant cannot be inverted in low precision: it keeps its input as well.
MIN_INVERTIBLE_RATIO = 0.1


class _NormLeakyReLU(torch.autograd.Function):
    """y = leaky(weight n + bias), n = (x - m) / sqrt(v + eps), written over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float) -> Tensor:
        mean, scale = torch.empty_like(weight), torch.empty_like(weight)
        torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps, out=(x, mean, scale))
        functional.leaky_relu_(x, negative_slope)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, weight, bias, scale)
        ctx.negative_slope = negative_slope
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, scale = ctx.saved_tensors
        rows = BLOCK_VALUES // len(weight) or 1
        blocks = list(zip(*(torch.split(_to_rows(tensor), rows) for tensor in (grad_y, y)), strict=True))
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for grad_block, y_block in blocks:
            # The sums alone of the backward pass of a norm with mean `bias` and deviation `weight`.
            grad_normed = _differentiate_leaky_relu(grad_block, y_block, ctx.negative_slope)
            normed = functional.leaky_relu(y_block, 1 / ctx.negative_slope)
            _, block_grad_weight, block_grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad_normed, normed, weight, None, None, bias, 1 / weight, True, 0.0, [False, True, True]
            )
            grad_weight += block_grad_weight
            grad_bias += block_grad_bias
        count = y.numel() // len(weight)
        factor, drift = weight * scale, -scale * grad_weight / count
        constant = -factor * grad_bias / count - drift * bias
        factor, drift, constant = (tensor.to(y.dtype) for tensor in (factor, drift, constant))
        grad_x = torch.empty_like(y)
        for out, (grad_block, y_block) in zip(torch.split(_to_rows(grad_x), rows), blocks, strict=True):
            torch.addcmul(constant, functional.leaky_relu(y_block, 1 / ctx.negative_slope), drift, out=out)
            out.addcmul_(_differentiate_leaky_relu(grad_block, y_block, ctx.negative_slope), factor)
        return grad_x, grad_weight, grad_bias, None, None


def _differentiate_leaky_relu(grad_y: Tensor, y: Tensor, negative_slope: float) -> Tensor:
    """Return the gradient with respect to the input of LeakyReLU, from its output."""
    grad_x: Tensor = torch.ops.aten.leaky_relu_backward(grad_y, y, negative_slope, True)
    return grad_x


def _to_rows(x: Tensor) -> Tensor:
    """Return the pixels as the rows of a matrix."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Apply batch norm with the statistics of the current image: y = weight (x - mean) / sqrt(variance + eps) + bias.

    From (1, C, H, W) to the same shape; weight and bias have shape (C,).
    """
    slow = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[1] % FAST_CHANNELS
    if not slow or x.numel() < MIN_VALUES or not x.is_contiguous(memory_format=torch.channels_last):
        return functional.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
    return upsampled.batch_norm(x, weight, bias, eps, "nearest")  # repeated pixels have the same mean and variance


def batch_norm_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, eps: float, negative_slope: float) -> Tensor:
    """Apply `batch_norm`, then LeakyReLU with this factor below zero; x, which may be overwritten, is invalid then.

    From (1, C, H, W) to the same shape; weight and bias have shape (C,).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    y: Tensor
    large = x.is_contiguous(memory_format=torch.channels_last) and x.numel() >= MIN_VALUES_IN_PLACE
    if large and (weight.abs() > MIN_INVERTIBLE_RATIO * bias.abs() + eps).all():
        y = _NormLeakyReLU.apply(x, weight.to(wide), bias.to(wide), eps, negative_slope)  # type: ignore[no-untyped-call]
    else:
        y = functional.leaky_relu_(batch_norm(x, weight, bias, eps), negative_slope)
    return y
