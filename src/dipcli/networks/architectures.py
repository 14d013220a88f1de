"""The networks by name: each is described by a frozen value, which makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from torch import nn

from dipcli.errors import UsageError
from dipcli.networks.layers import Branches, FreePicture, Level, Residual, activation, convolution, leaky, norm

WIDEST, DEEPEST, LARGEST, LONGEST = 4096, 12, 31, 256  # channels, levels, kernel, blocks: more would be a slip

T = TypeVar("T")


class Architecture(Protocol):
    """What `build` asks of a network's description: a frozen dataclass with a class attribute `name`."""

    # Whether the picture itself is the variable: it takes no input, and bf16 would lose grey levels.
    free: ClassVar[bool]

    @property
    def stride(self) -> int:
        """Sides of z must be multiples of this."""

    def least(self, pad: str) -> int:
        """The smallest side of z: norms need more than one pixel, and a reflection needs something to show."""

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The network from z with `inputs` channels to pictures of `shape`, freshly initialised."""


@dataclass(frozen=True)
class Skip:
    """The published encoder-decoder with skip connections ("skip net").

    One level, from x to y:

        d = upsample(below(act(norm(conv(act(norm(halve(x))))))))
        y = act(norm(conv1x1(act(norm(conv(norm([act(norm(conv1x1(x))), d])))))))

    Fields with a value for each level begin at full resolution; `up` and the kernels may give one value for all.

    Attributes:
        channels: of each level.
        skips: channels of each level's skip connection; 0 for none.
        up: how each level doubles its size, bilinear or nearest.
        down: how the levels halve their size: by a convolution of stride 2 (stride), or by one of stride 1 and the
            mean of 2x2 pixels (average).
        kernel_down: side of the windows of each level's two convolutions on the way down, odd.
        kernel_up: side of the window of each level's convolution on the way up, odd.
        pointwise: whether a 1x1 convolution follows on the way up.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, supplementary material, figure 21.
    """

    name: ClassVar[str] = "skip"
    free: ClassVar[bool] = False
    channels: tuple[int, ...] = (128,) * 5
    skips: tuple[int, ...] = (4,) * 5
    up: tuple[str, ...] = ("bilinear",)
    down: str = "stride"
    kernel_down: tuple[int, ...] = (3,)
    kernel_up: tuple[int, ...] = (3,)
    pointwise: bool = True

    def __post_init__(self) -> None:
        levels = len(self.channels)
        _check_channels(self.name, self.channels)
        if len(self.skips) != levels:
            raise UsageError(
                f"The network skip has {levels} levels in channels but {len(self.skips)} in skips: "
                "give each the same number."
            )
        if min(self.skips) < 0 or max(self.skips) > WIDEST:
            raise UsageError(f"The network skip needs skips of 0 to {WIDEST}.")
        for key, values in (("up", self.up), ("kernel_down", self.kernel_down), ("kernel_up", self.kernel_up)):
            if len(values) not in (1, levels):
                raise UsageError(
                    f"The network skip has {levels} levels in channels but {len(values)} in {key}: "
                    "give one value for all levels, or one for each."
                )
        if any(kernel % 2 == 0 or not 1 <= kernel <= LARGEST for kernel in self.kernel_down + self.kernel_up):
            raise UsageError(f"The network skip needs kernels with a middle: choose odd numbers of 1 to {LARGEST}.")
        if unknown := set(self.up) - {"bilinear", "nearest"}:
            raise UsageError(f"The network skip does not know up={min(unknown)}: choose bilinear or nearest.")
        if self.down not in ("stride", "average"):
            raise UsageError(f"The network skip does not know down={self.down}: choose stride or average.")

    @property
    def stride(self) -> int:
        """Each level halves the picture."""
        return int(2 ** len(self.channels))

    def least(self, pad: str) -> int:
        """Two pixels at the deepest level for the norm; with reflection as many on each level as its kernels show."""
        enough = 2 * self.stride
        if pad == "reflection":
            kernels = zip(self._each(self.kernel_down), self._each(self.kernel_up), strict=True)
            for level, (down, up) in enumerate(kernels):
                # A border pixel and what is reflected there, kernel // 2. The second convolution on the way down sees
                # half as many pixels as the others of its level.
                enough = max(enough, 2**level * max(2 * (down // 2 + 1), up // 2 + 1))
        return enough

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The levels, then a 1x1 convolution to the picture's channels and a sigmoid."""
        return nn.Sequential(self._level(0, inputs, pad), nn.Conv2d(self.channels[0], shape[0], 1), nn.Sigmoid())

    def _level(self, level: int, inputs: int, pad: str) -> nn.Module:
        """This level and all below it, from `inputs` channels to its own."""
        channels, skip = self.channels[level], self.skips[level]
        down, up = self._each(self.kernel_down)[level], self._each(self.kernel_up)[level]
        deepest = level + 1 == len(self.channels)
        below = channels if deepest else self.channels[level + 1]
        body = nn.Identity() if deepest else self._level(level + 1, channels, pad)
        shortcut = nn.Sequential(convolution(inputs, skip, 1, pad), *activation(skip)) if skip else None
        average = self.down == "average"
        deep = nn.Sequential(
            convolution(inputs, channels, down, pad, stride=1 if average else 2),
            *([nn.AvgPool2d(2)] if average else []),
            *activation(channels),
            convolution(channels, channels, down, pad),
            *activation(channels),
            body,
            nn.Upsample(scale_factor=2, mode=self._each(self.up)[level]),
        )
        return Level(
            Branches(shortcut, deep) if shortcut else deep,
            norm(skip + below),
            convolution(skip + below, channels, up, pad),
            *activation(channels),
            *([convolution(channels, channels, 1, pad), *activation(channels)] if self.pointwise else []),
        )

    def _each(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """One value for each level."""
        return values * len(self.channels) if len(values) == 1 else values


@dataclass(frozen=True)
class UNet:
    """The U-Net of the published comparison of networks.

    One level, from x to y:

        e = act(norm(conv(act(norm(conv(x))))))
        y = act(conv(act(conv([upsample(below(maxpool(e))), e]))))

    The deepest level returns e. The norm is instance norm without weights, the activation is ReLU, and upsampling is
    a transposed convolution with windows of 4x4.

    Attributes:
        channels: of each level, from full resolution down.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, section on inpainting, and the settings published
        with it; after Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015.
    """

    name: ClassVar[str] = "unet"
    free: ClassVar[bool] = False
    channels: tuple[int, ...] = (8, 16, 32, 64, 128, 128)

    def __post_init__(self) -> None:
        _check_channels(self.name, self.channels)

    @property
    def stride(self) -> int:
        """Each level but the first has half the size of the one above."""
        return int(2 ** (len(self.channels) - 1))

    def least(self, pad: str) -> int:  # noqa: ARG002 - what the norm needs is enough for a reflection
        """Two pixels at the deepest level."""
        return 2 * self.stride

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The levels, then a 1x1 convolution to the picture's channels and a sigmoid."""
        return nn.Sequential(self._level(0, inputs, pad), nn.Conv2d(self.channels[0], shape[0], 1), nn.Sigmoid())

    def _level(self, level: int, inputs: int, pad: str) -> nn.Module:
        """This level and all below it, from `inputs` channels to its own."""
        channels = self.channels[level]
        encoder = nn.Sequential(
            convolution(inputs, channels, 3, pad),
            norm(channels, affine=False),
            nn.ReLU(inplace=True),
            convolution(channels, channels, 3, pad),
            norm(channels, affine=False),
            nn.ReLU(inplace=True),
        )
        if level + 1 == len(self.channels):
            return encoder
        deep = nn.Sequential(
            nn.MaxPool2d(2),
            self._level(level + 1, channels, pad),
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
class ResNet:
    """The residual network of the published comparison of networks: everything at full resolution.

        block(x) = x + norm(conv(act(norm(conv(x)))))

    Inside the blocks and right after them convolutions pad with zeros whatever `--pad` says, as published.

    Attributes:
        blocks: how many.
        channels: of each.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, section on inpainting, and the settings published
        with it; after He, Zhang, Ren, Sun, "Deep Residual Learning", CVPR 2016.
    """

    name: ClassVar[str] = "resnet"
    free: ClassVar[bool] = False
    blocks: int = 8
    channels: int = 32

    def __post_init__(self) -> None:
        _check_channels(self.name, (self.channels,))
        if not 1 <= self.blocks <= LONGEST:
            raise UsageError(f"The network resnet needs blocks of 1 to {LONGEST}.")

    @property
    def stride(self) -> int:
        """Nothing is halved."""
        return 1

    def least(self, pad: str) -> int:  # noqa: ARG002
        """Two pixels, for norm and reflection."""
        return 2

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """A convolution, the blocks, a convolution with a norm, one to the picture's channels, and a sigmoid."""
        channels = self.channels

        def block() -> nn.Module:
            return Residual(
                convolution(channels, channels, 3, "zero", bias=False),
                *activation(channels),
                convolution(channels, channels, 3, "zero", bias=False),
                norm(channels),
            )

        return nn.Sequential(
            convolution(inputs, channels, 3, pad),
            leaky(),
            *(block() for _ in range(self.blocks)),
            convolution(channels, channels, 3, "zero"),
            norm(channels),
            convolution(channels, shape[0], 3, pad),
            nn.Sigmoid(),
        )


@dataclass(frozen=True)
class Pixels:
    """No network: each pixel is a variable of its own. The baseline "no prior", or with `--tv` "TV only"."""

    name: ClassVar[str] = "pixels"
    free: ClassVar[bool] = True

    @property
    def stride(self) -> int:
        """Nothing is halved."""
        return 1

    def least(self, pad: str) -> int:  # noqa: ARG002
        """Any picture will do."""
        return 1

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:  # noqa: ARG002
        """The picture, uniform noise to begin with."""
        return FreePicture(shape)


def _check_channels(name: str, channels: tuple[int, ...]) -> None:
    if min(channels) < 1 or max(channels) > WIDEST:
        raise UsageError(f"The network {name} needs channels of 1 to {WIDEST}.")
    if len(channels) > DEEPEST:
        raise UsageError(f"The network {name} has at most {DEEPEST} levels: each halves the picture.")
