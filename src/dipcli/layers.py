"""What the networks are made of. Layers work on one picture, (1, C, H, W)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

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


def norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch norm that always goes by the picture in hand, as published: it has no running statistics to lose.

    As there is one picture, it is instance norm too.
    """
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def leaky() -> nn.LeakyReLU:
    """LeakyReLU with the published slope."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def activation(channels: int) -> tuple[nn.Module, nn.Module]:
    """What follows a convolution of the published networks: batch norm, then LeakyReLU."""
    return norm(channels), leaky()
