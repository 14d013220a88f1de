"""What the networks are made of. Layers work on one picture, (1, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from dipcli.networks.kernels import norm as fused
from dipcli.networks.kernels import upsampled

WIDE = 32  # channels from which on it is faster to convolve before upsampling,
ROOMY = 128**2  # and pixels of the enlarged picture: below, many small steps take longer than what they spare
SLOPE = 0.2  # of LeakyReLU, published
SCALE = 0.1  # of the uniform noise that a fit begins with, published


class Branches(nn.Module):
    """Ways through the network beside each other: their outputs one behind the other along the channels.

        y = [f_1(x), f_2(x), ...]

    Attributes:
        members: how many networks share this one. Each owns an equal part of every branch's channels, and its parts
            stay together: y = [f_1(x) of member 1, f_2(x) of member 1, f_1(x) of member 2, ...].
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.members = 1

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, sum of the branches' channels, H', W')."""
        # Slices, unlike a reshape, let the result lie in memory as the branches' outputs do.
        parts = [branch(x).chunk(self.members, dim=1) for branch in self.branches]
        return torch.cat([part for member in zip(*parts, strict=True) for part in member], dim=1)


class Level(nn.Sequential):
    """One level of an encoder-decoder with skips.

        y = rest(conv(norm([shortcut(x), upsample(deep(x))])))

    Made of, in this order: the `Branches` shortcut and deep, or deep alone; norm; the convolution; the rest. Deep is
    a sequence that ends with the upsampling.

    On the CPU, where the convolution is wide, norm and convolution of the upsampled channels are taken before they
    are upsampled, and those of the shortcut beside them: see `kernels/upsampled.py`. The numbers are the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, C', H, W)."""
        parts: list[Any] = list(self)
        ways, together, convolution, *rest = parts
        if not _early(x, convolution):
            y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return y
        *shortcut, deep = parts[0].branches if isinstance(ways, Branches) else parts[:1]
        *down, up = deep
        low = _through(down, x)
        skip = together.num_features - low.shape[1]
        weight, bias = together.weight, together.bias
        low = upsampled.norm(low, weight[skip:], bias[skip:], together.eps, up.mode)
        pad = "reflection" if convolution.padding_mode == "reflect" else "zero"
        if shortcut:
            short = _through(shortcut[0], x)
            short = fused.norm(short, weight[:skip], bias[:skip], together.eps)
            around = (convolution.kernel_size[0] // 2,) * 4
            short = functional.pad(short, around, mode="reflect" if pad == "reflection" else "constant")
            y = functional.conv2d(short, convolution.weight[:, :skip], convolution.bias)
        else:
            y = convolution.bias[None, :, None, None].expand(-1, -1, *x.shape[2:])
        y = y.contiguous(memory_format=torch.channels_last)
        y = upsampled.convolve(low, convolution.weight[:, skip:], y, up.mode, pad)
        return _through(rest, y)


class Residual(nn.Module):
    """Layers that learn a change: y = x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.change = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to the same shape."""
        changed: Tensor = x + self.change(x)
        return changed


class FreePicture(nn.Module):
    """A picture of free pixels, whatever it is given."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.picture = nn.Parameter(SCALE * torch.rand(1, *shape))

    def forward(self, _code: Tensor) -> Tensor:
        """The picture, (1, C, H, W)."""
        return self.picture


def convolution(inputs: int, outputs: int, kernel: int, pad: str, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by its stride.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        kernel: side of its window, odd.
        pad: what lies beyond the border, reflection or zero.
        stride: how far the window moves.
        bias: whether each channel of y is given a constant.
    """
    mode: Literal["reflect", "zeros"] = "reflect" if pad == "reflection" and kernel > 1 else "zeros"
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode=mode, bias=bias)


class Norm(nn.BatchNorm2d):
    """Batch norm that always goes by the picture in hand, and may do so in a faster way: see `kernels/norm.py`."""

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to the same shape."""
        if self.affine:
            return fused.norm(x, self.weight, self.bias, self.eps)
        y: Tensor = super().forward(x)
        return y


def norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch norm that always goes by the picture in hand, as published: it has no running statistics to lose.

    As there is one picture, it is instance norm too.
    """
    return Norm(channels, affine=affine, track_running_stats=False)


def leaky() -> nn.LeakyReLU:
    """LeakyReLU with the published slope."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def activation(channels: int) -> tuple[nn.Module, nn.Module]:
    """What follows a convolution of the published networks: batch norm, then LeakyReLU."""
    return norm(channels), leaky()


def _early(x: Tensor, convolution: nn.Conv2d) -> bool:
    """Whether this convolution is faster before x is upsampled: wide, of one member, channels last, on the CPU."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    large = convolution.out_channels >= WIDE and x.shape[2] * x.shape[3] >= ROOMY
    return x.device.type == "cpu" and last and convolution.groups == 1 and large


def _through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Through the layers one after the other, a norm and the activation behind it in one step."""
    last: nn.Module | None = None
    for layer in layers:
        if isinstance(last, nn.BatchNorm2d):
            if isinstance(layer, nn.LeakyReLU):
                x = fused.norm_act(x, last.weight, last.bias, last.eps, layer.negative_slope)
                last = None
                continue
            x = last(x)
        last = layer
        if not isinstance(layer, nn.BatchNorm2d):
            x = layer(x)
    return last(x) if isinstance(last, nn.BatchNorm2d) else x
