"""The description of a network as a frozen value that builds it; U-Net, residual network and free pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dipcli.errors import UsageError
from dipcli.networks.layers import Branches, FreeImage, Residual, activation, batch_norm, convolution, leaky_relu

# Larger values would be a typing error.
MAX_CHANNELS, MAX_LEVELS, MAX_BLOCKS = 4096, 12, 256


class Architecture:
    """The description of a network. Subclasses are frozen dataclasses; their fields are the options of `--network`."""

    name: ClassVar[str]
    # Whether the image itself is the variable: there is no input, and bf16 would lose grey levels.
    free: ClassVar[bool] = False

    @property
    def stride(self) -> int:
        """The sides of z must be multiples of it."""
        return 1

    def min_side(self, pad: str) -> int:  # noqa: ARG002 - for subclasses
        """Return the smallest side of z: a norm needs two pixels, a reflection as many as it mirrors."""
        return 2 * self.stride

    def build(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """Return the initialised network from z with `inputs` channels to images of `shape`."""
        raise NotImplementedError


@dataclass(frozen=True)
class UNet(Architecture):
    """The U-Net of the published comparison of networks.

    One level, from x to y:

        e = act(norm(conv(act(norm(conv(x))))))
        y = act(conv(act(conv([upsample(below(maxpool(e))), e]))))

    The deepest level returns e. The norm is instance norm without weights, the activation is ReLU, and upsampling is
    a transposed convolution with 4x4 windows.

    Attributes:
        channels: of each level, from full resolution down.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, section on inpainting, and the settings published
        with it; after Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015.
    """

    name: ClassVar[str] = "unet"
    channels: tuple[int, ...] = (8, 16, 32, 64, 128, 128)

    def __post_init__(self) -> None:
        check_channels(self.name, self.channels)

    @property
    def stride(self) -> int:
        """Each level but the first halves the size."""
        return int(2 ** (len(self.channels) - 1))

    def build(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """Return the levels, a 1x1 convolution to the image's channels and a sigmoid."""
        return nn.Sequential(
            self._build_level(0, inputs, pad), convolution(self.channels[0], shape[0], 1, pad), nn.Sigmoid()
        )

    def _build_level(self, level: int, inputs: int, pad: str) -> nn.Module:
        """Return a level and all below it, from `inputs` channels to its own."""
        channels = self.channels[level]
        encoder = nn.Sequential(
            convolution(inputs, channels, 3, pad),
            batch_norm(channels, affine=False),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 3, pad),
            batch_norm(channels, affine=False),
            nn.ReLU(inplace=True),
        )
        if level + 1 == len(self.channels):
            return encoder
        deep = nn.Sequential(
            nn.MaxPool2d(2),
            self._build_level(level + 1, channels, pad),
            nn.ConvTranspose2d(self.channels[level + 1], channels, 4, stride=2, padding=1),
        )
        return nn.Sequential(
            encoder,
            Branches(deep, nn.Identity()),
            convolution(2 * channels, channels, 3, pad),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 3, pad),
            nn.ReLU(inplace=True),
        )


@dataclass(frozen=True)
class ResNet(Architecture):
    """The residual network of the published comparison of networks, at full resolution throughout.

        block(x) = x + norm(conv(act(norm(conv(x)))))

    Convolutions in the blocks and directly after them use zero padding whatever `--pad` says, as published.

    Attributes:
        blocks: number of blocks.
        channels: of each block.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, section on inpainting, and the settings published
        with it; after He, Zhang, Ren, Sun, "Deep Residual Learning", CVPR 2016.
    """

    name: ClassVar[str] = "resnet"
    blocks: int = 8
    channels: int = 32

    def __post_init__(self) -> None:
        check_channels(self.name, (self.channels,))
        if not 1 <= self.blocks <= MAX_BLOCKS:
            raise UsageError(f"The network resnet needs blocks of 1 to {MAX_BLOCKS}.")

    def build(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """Return a convolution, the blocks, a convolution with a norm, one to the image's channels, and a sigmoid."""
        channels = self.channels

        def build_block() -> nn.Module:
            return Residual(
                convolution(channels, channels, 3, "zero", bias=False),
                *activation(channels),
                convolution(channels, channels, 3, "zero", bias=False),
                batch_norm(channels),
            )

        return nn.Sequential(
            convolution(inputs, channels, 3, pad),
            leaky_relu(),
            *(build_block() for _ in range(self.blocks)),
            convolution(channels, channels, 3, "zero"),
            batch_norm(channels),
            convolution(channels, shape[0], 3, pad),
            nn.Sigmoid(),
        )


@dataclass(frozen=True)
class Pixels(Architecture):
    """No network: each pixel is a variable. The baseline "no prior", or with `--tv` "TV only"."""

    name: ClassVar[str] = "pixels"
    free: ClassVar[bool] = True

    def min_side(self, pad: str) -> int:  # noqa: ARG002
        """An image of any size will do."""
        return 1

    def build(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:  # noqa: ARG002
        """Return the image, initially uniform noise."""
        return FreeImage(shape)


def check_channels(name: str, channels: tuple[int, ...]) -> None:
    """Refuse too few or too many channels or levels of the network of this name, by a UsageError."""
    if min(channels) < 1 or max(channels) > MAX_CHANNELS:
        raise UsageError(f"The network {name} needs channels of 1 to {MAX_CHANNELS}.")
    if len(channels) > MAX_LEVELS:
        raise UsageError(f"The network {name} has at most {MAX_LEVELS} levels: each halves the image.")
