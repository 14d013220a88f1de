"""The layers that the networks consist of. They work on one image, shape (1, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipcli.networks.kernels import norm, pointwise, upsampled

# From these output channels and pixels on, convolving before upsampling is faster. Below, the many small steps take
# longer than they save.
MIN_UPSAMPLED_CHANNELS, MIN_UPSAMPLED_PIXELS = 32, 128**2
NEGATIVE_SLOPE = 0.2  # of LeakyReLU, published
NOISE_SCALE = 0.1  # of the uniform noise that a fit starts from, published


class Branches(nn.Module):
    """Parallel branches whose outputs are concatenated along the channels.

        y = [f_1(x), f_2(x), ...]

    Attributes:
        members: number of networks grouped into this one. Each owns an equal part of every branch's channels, and its
            parts stay together: y = [f_1(x) of member 1, f_2(x) of member 1, f_1(x) of member 2, ...].
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.members = 1

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, sum of the branches' channels, H', W')."""
        # Slices, unlike a reshape, keep the memory layout of the branches' outputs.
        parts = [branch(x).chunk(self.members, dim=1) for branch in self.branches]
        return torch.cat([part for member in zip(*parts, strict=True) for part in member], dim=1)


class Level(nn.Sequential):
    """One level of an encoder-decoder with skip connections.

        y = rest(conv(norm([shortcut(x), upsample(deep(x))])))

    It consists of, in this order: the `Branches` shortcut and deep, or deep alone; norm; the convolution; the rest.
    Deep is a sequence that ends with the upsampling.

    With a wide convolution on the CPU, norm and convolution are applied before the upsampling, separately for the
    channels of the shortcut: see `kernels/upsampled.py`. The result is the same up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, C', H, W)."""
        layers: list[Any] = list(self)
        branches, joint_norm, convolution, *rest = layers
        if not _is_faster_before_upsampling(x, convolution):
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        *shortcut, deep = layers[0].branches if isinstance(branches, Branches) else layers[:1]
        *down, up = deep
        low = _apply(down, x)
        skip = joint_norm.num_features - low.shape[1]
        weight, bias = joint_norm.weight, joint_norm.bias
        low = upsampled.batch_norm(low, weight[skip:], bias[skip:], joint_norm.eps, up.mode)
        pad = "reflection" if convolution.padding_mode == "reflect" else "zero"
        if shortcut:
            high = _apply(shortcut[0], x)
            high = norm.batch_norm(high, weight[:skip], bias[:skip], joint_norm.eps)
            border = (convolution.kernel_size[0] // 2,) * 4
            high = functional.pad(high, border, mode="reflect" if pad == "reflection" else "constant")
            y = functional.conv2d(high, convolution.weight[:, :skip], convolution.bias)
        else:
            y = convolution.bias[None, :, None, None].expand(-1, -1, *x.shape[2:])
        y = y.contiguous(memory_format=torch.channels_last)
        y = upsampled.convolve(low, convolution.weight[:, skip:], y, up.mode, pad)
        return _apply(rest, y)


class Residual(nn.Module):
    """Layers that learn a change: y = x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.change = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to the same shape."""
        changed: Tensor = x + self.change(x)
        return changed


class FreeImage(nn.Module):
    """An image whose pixels are the parameters; the input is ignored."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image = nn.Parameter(NOISE_SCALE * torch.rand(1, *shape))

    def forward(self, _code: Tensor) -> Tensor:
        """Return the image, (1, C, H, W)."""
        return self.image


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with the statistics of the current image, where possible by the kernel in `kernels/norm.py`."""

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to the same shape."""
        if self.affine:
            return norm.batch_norm(x, self.weight, self.bias, self.eps)
        y: Tensor = super().forward(x)
        return y


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, where possible by the kernel in `kernels/pointwise.py`."""

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, C', H, W)."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and self.groups == 1 and _is_channels_last(x):
            return pointwise.convolve(x, self.weight, self.bias)
        y: Tensor = super().forward(x)
        return y


def convolution(inputs: int, outputs: int, kernel: int, pad: str, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps the size, or divides it by the stride, with an odd kernel side.

    It has `inputs` channels of x and `outputs` of y; the padding is reflection or zero.
    """
    if kernel == stride == 1:
        return Pointwise(inputs, outputs, 1, bias=bias)
    mode: Literal["reflect", "zeros"] = "reflect" if pad == "reflection" and kernel > 1 else "zeros"
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode=mode, bias=bias)


def batch_norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Return batch norm without running statistics, as published. For one image it is the same as instance norm."""
    return BatchNorm(channels, affine=affine, track_running_stats=False)


def leaky_relu() -> nn.LeakyReLU:
    """Return LeakyReLU with the published factor below zero."""
    return nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)


def activation(channels: int) -> tuple[nn.Module, nn.Module]:
    """Return batch norm and LeakyReLU, which follow most convolutions of the published networks."""
    return batch_norm(channels), leaky_relu()


def _is_faster_before_upsampling(x: Tensor, convolution: nn.Conv2d) -> bool:
    """Return whether to apply a level's convolution before upsampling: see `kernels/upsampled.py`."""
    wide = convolution.out_channels >= MIN_UPSAMPLED_CHANNELS
    large = x.shape[2] * x.shape[3] >= MIN_UPSAMPLED_PIXELS
    return x.device.type == "cpu" and _is_channels_last(x) and convolution.groups == 1 and wide and large


def _is_channels_last(x: Tensor) -> bool:
    """Return whether the layout is channels last, and not the plain one too."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _apply(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply the layers in order, a norm and the LeakyReLU after it in one step."""
    left = [*layers][::-1]
    while left:
        layer, following = left.pop(), left[-1] if left else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(following, nn.LeakyReLU):
            x = norm.batch_norm_leaky_relu(x, layer.weight, layer.bias, layer.eps, following.negative_slope)
            left.pop()
        else:
            x = layer(x)
    return x
