"""What networks are made of, beyond what PyTorch has: each works on one picture, (1, C, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOPE = 0.2  # of LeakyReLU, published
SCALE = 0.1  # of uniform noise, published


class Branches(nn.Module):
    """Several ways through the network, beside each other: their outputs, one behind the other along the channels.

        y = [f_1(x), f_2(x), ...]

    Attributes:
        members: how many networks share this one, each with an equal share of every branch's channels: member 1's
            share of all branches comes first, then member 2's.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.members = 1

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to (1, sum of the branches' channels, H', W')."""
        # Concatenating slices, unlike a reshape, keeps the layout that the hardware likes.
        shares = [branch(x).chunk(self.members, dim=1) for branch in self.branches]
        return torch.cat([share for member in zip(*shares, strict=True) for share in member], dim=1)


class Residual(nn.Sequential):
    """Layers that only have to learn a change: x + f(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """From (1, C, H, W) to the same shape."""
        change: Tensor = super().forward(x)
        return x + change


class FreePicture(nn.Module):
    """A picture of free pixels, whatever it is given: uniform noise to begin with."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.picture = nn.Parameter(SCALE * torch.rand(1, *shape))

    def forward(self, _code: Tensor) -> Tensor:
        """The picture, (1, C, H, W)."""
        return self.picture


def convolution(
    inputs: int, outputs: int, kernel: int, pad: str, *, stride: int = 1, bias: bool = True
) -> nn.Conv2d:
    """Convolution that keeps the size, or divides it by the stride.

    Args:
        inputs: channels of what it is given.
        outputs: channels of what it returns.
        kernel: side of its window, odd.
        pad: what it sees beyond the border, reflection or zero.
        stride: how far the window moves.
        bias: whether a constant is added to each channel.
    """
    mode = "reflect" if pad == "reflection" and kernel > 1 else "zeros"
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode=mode, bias=bias)


def norm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    """Batch norm that always goes by the picture in hand, as published: it has no running statistics to lose.

    There is one picture, so this is instance norm too.
    """
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def leaky() -> nn.LeakyReLU:
    """LeakyReLU, published with a slope of 0.2."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def smallest(kernel: int, pad: str) -> int:
    """The smallest side of a map that a convolution can pad: a reflection has to have as much to show."""
    return kernel // 2 + 1 if pad == "reflection" else 1
