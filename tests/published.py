"""The published network written down a second time, as one nested sequence: what ours is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Side(nn.Module):
    """Skip branch and deep branch, joined along the channels."""

    def __init__(self, skip: nn.Module, deep: nn.Module) -> None:
        super().__init__()
        self.skip, self.deep = skip, deep

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.skip(x), self.deep(x)], dim=1)


def convolve(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    padding = [nn.ReflectionPad2d(kernel // 2)] if kernel > 1 else []
    return [*padding, nn.Conv2d(inputs, outputs, kernel, stride, padding=0)]


def normalise(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]


def skip_network(inputs: int, outputs: int, channels: list[int], skips: list[int]) -> nn.Sequential:
    """Bilinear upsampling, 3x3 kernels, 1x1 convolutions on the way up, reflection padding, sigmoid."""

    def level(index: int, above: int) -> list[nn.Module]:
        width, skip = channels[index], skips[index]
        deep = [
            *convolve(above, width, 3, 2), *normalise(width),
            *convolve(width, width, 3), *normalise(width),
        ]  # fmt: skip
        below = width
        if index + 1 < len(channels):
            deep += level(index + 1, width)
            below = channels[index + 1]
        deep += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)]
        body = nn.Sequential(*deep)
        if skip:
            body = Side(nn.Sequential(*convolve(above, skip, 1), *normalise(skip)), body)
        return [
            body, nn.BatchNorm2d(skip + below),
            *convolve(skip + below, width, 3), *normalise(width),
            *convolve(width, width, 1), *normalise(width),
        ]  # fmt: skip

    return nn.Sequential(*level(0, inputs), *convolve(channels[0], outputs, 1), nn.Sigmoid())
