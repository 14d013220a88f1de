"""The published networks, written independently as sequences and plain loops, to compare ours with."""

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


def convolve(inputs: int, outputs: int, kernel: int, stride: int = 1, *, zero: bool = False) -> list[nn.Module]:
    if zero:
        return [nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)]
    padding = [nn.ReflectionPad2d(kernel // 2)] if kernel > 1 else []
    return [*padding, nn.Conv2d(inputs, outputs, kernel, stride, padding=0)]


def normalise(channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.LeakyReLU(0.2)]


def skip_network(
    inputs: int,
    outputs: int,
    channels: list[int],
    skips: list[int],
    *,
    up: list[str] | None = None,
    kernels: tuple[list[int], list[int]] | None = None,
    average: bool = False,
    pointwise: bool = True,
    zero: bool = False,
) -> nn.Sequential:
    """Bilinear upsampling, 3x3 kernels, stride, 1x1 convolutions in the decoder, reflection padding, sigmoid."""
    levels = len(channels)
    modes = up or ["bilinear"] * levels
    kernels_down, kernels_up = kernels or ([3] * levels, [3] * levels)

    def level(index: int, above: int) -> list[nn.Module]:
        width, skip, kernel = channels[index], skips[index], kernels_down[index]
        halve = convolve(above, width, kernel, 2, zero=zero)
        if average:
            halve = [*convolve(above, width, kernel, zero=zero), nn.AvgPool2d(2, 2)]
        deep = [*halve, *normalise(width), *convolve(width, width, kernel, zero=zero), *normalise(width)]
        below = width
        if index + 1 < levels:
            deep += level(index + 1, width)
            below = channels[index + 1]
        smooth = {"align_corners": False} if modes[index] == "bilinear" else {}
        body = nn.Sequential(*deep, nn.Upsample(scale_factor=2, mode=modes[index], **smooth))
        if skip:
            body = Side(nn.Sequential(*convolve(above, skip, 1), *normalise(skip)), body)
        last = [*convolve(width, width, 1), *normalise(width)] if pointwise else []
        return [
            body, nn.BatchNorm2d(skip + below),
            *convolve(skip + below, width, kernels_up[index], zero=zero), *normalise(width), *last,
        ]  # fmt: skip

    return nn.Sequential(*level(0, inputs), *convolve(channels[0], outputs, 1), nn.Sigmoid())


class UNet(nn.Module):
    """Two convolutions a level, instance norm in the encoder only, transposed convolutions in the decoder."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        widths = [8, 16, 32, 64, 128, 128]

        def twice(first: int, width: int, *norms: type[nn.Module]) -> nn.Sequential:
            layers: list[nn.Module] = []
            for before in (first, width):
                layers += [nn.Conv2d(before, width, 3, padding=1), *(norm(width) for norm in norms), nn.ReLU()]
            return nn.Sequential(*layers)

        self.downs = nn.ModuleList(
            twice(before, width, nn.InstanceNorm2d) for before, width in zip([inputs, *widths], widths, strict=False)
        )
        pairs = list(zip(widths[1:], widths, strict=False))[::-1]
        self.widen = nn.ModuleList(nn.ConvTranspose2d(deep, width, 4, stride=2, padding=1) for deep, width in pairs)
        self.ups = nn.ModuleList(twice(2 * width, width) for _, width in pairs)
        self.halve = nn.MaxPool2d(2, 2)
        self.last = nn.Sequential(nn.Conv2d(widths[0], outputs, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.downs[0](x)
        maps = []
        for down in self.downs[1:]:
            maps.append(x)
            x = down(self.halve(x))
        for widen, up in zip(self.widen, self.ups, strict=True):
            x = up(torch.cat([widen(x), maps.pop()], dim=1))
        return self.last(x)


class ResNet(nn.Module):
    """Eight residual blocks of 32 channels; only the first and the last convolution reflect at the border."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        plain = {"kernel_size": 3, "stride": 1, "padding": 1, "bias": False}
        self.first = nn.Sequential(*convolve(inputs, 32, 3), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(32, 32, **plain), *normalise(32), nn.Conv2d(32, 32, **plain), nn.BatchNorm2d(32))
            for _ in range(8)
        )
        after = [nn.Conv2d(32, 32, 3, 1, 1), nn.BatchNorm2d(32)]
        self.last = nn.Sequential(*after, *convolve(32, outputs, 3), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x) + x
        return self.last(x)
