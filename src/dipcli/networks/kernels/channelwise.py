"""Sums over the pixels, and a factor and a constant per channel: the parts of a norm, at memory bandwidth.

They apply on the CPU to channels-last tensors, as parts of `upsampled.batch_norm` and `norm.batch_norm`; elsewhere
PyTorch's batch norm is used.

PyTorch's kernels for batch norm do each in one pass and sum half precision in single precision. But they process the
channels of a pixel 32 at a time and the remainder one by one, so that 20 channels take three times as long as 32.
Therefore several pixels are treated as one with more channels, which has the same memory layout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROW_CHANNELS = 64  # channels processed at a time: a multiple of the 32 half-precision values of a vector


def group_pixels(x: Tensor) -> Tensor:
    """Return the pixels of (1, C, H, W) as rows, k in one if there are few channels: shape (H W / k, k C).

    It is the same memory if x is channels last, else a copy.
    """
    channels = x.shape[1]
    pixels = x.numel() // channels
    pixels_per_row = math.gcd(ROW_CHANNELS // math.gcd(channels, ROW_CHANNELS), pixels)
    return x.permute(0, 2, 3, 1).reshape(pixels // pixels_per_row, pixels_per_row * channels)


def sum_pixels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over the pixels of x and of x y, in at least single precision.

    From two tensors (1, C, H, W) of the same precision to two of shape (C,).
    """
    channels = x.shape[1]
    x, y = group_pixels(x), group_pixels(y)
    # The backward pass of a norm that is the identity.
    ones = torch.ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    identity_norm = (ones, None, None, torch.zeros_like(ones), ones, True, 0.0)
    _, sums_xy, sums_x = torch.ops.aten.native_batch_norm_backward(x, y, *identity_norm, [False, True, True])
    return sums_x.view(-1, channels).sum(0), sums_xy.view(-1, channels).sum(0)


def scale_and_shift(x: Tensor, factor: Tensor, constant: Tensor) -> Tensor:
    """Multiply (1, C, H, W) by a factor and add a constant per channel, (C,), in at least single precision.

    Returns:
        Shape (1, C, H, W), channels last in memory.
    """
    y = torch.empty_like(x, memory_format=torch.channels_last)
    rows = group_pixels(x)
    repeats = rows.shape[1] // len(factor)
    # A norm with mean 0 and variance 1.
    mean, variance = torch.zeros(rows.shape[1], dtype=factor.dtype), torch.ones(rows.shape[1], dtype=factor.dtype)
    out = (group_pixels(y), factor.new_empty(0), factor.new_empty(0))
    weight, bias = factor.repeat(repeats), constant.repeat(repeats)
    torch.native_batch_norm(rows, weight, bias, mean, variance, False, 0.0, 0.0, out=out)
    return y


def add_scaled(x: Tensor, y: Tensor, factor: Tensor) -> None:
    """Add factor y to x in place, in the precision of x: factors (C,), images (1, C, H, W), x channels last."""
    rows = group_pixels(x)
    rows.addcmul_(group_pixels(y), factor.to(x.dtype).repeat(rows.shape[1] // len(factor)))
