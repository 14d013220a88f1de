"""The networks by name: frozen descriptions, each of which makes itself for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import nn

from dipcli.errors import UsageError
from dipcli.layers import Branches, FreePicture, Residual, convolution, leaky, norm

WIDEST, DEEPEST, LARGEST = 4096, 12, 31  # channels, levels, kernel: more would be a slip of the hand


class Architecture(Protocol):
    """What `build` asks of a network's description: a frozen dataclass with a class attribute `name`."""

    free: ClassVar[
        bool
    ]  # whether the picture itself is the variable: it takes no input, and bf16 would lose grey levels

    @property
    def stride(self) -> int:
        """Sides of z must be multiples of this."""

    def least(self, pad: str) -> int:
        """The smallest side of z that leaves norms and padding enough to work with on the deepest level."""

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The network from z with `inputs` channels to pictures of `shape`, freshly initialised."""


@dataclass(frozen=True)
class Skip:
    """The published encoder-decoder with skip connections ("skip net"). Each level is

        d = up(below(act(norm(conv(act(norm(down(conv(x)))))))))
        y = act(norm(conv1x1(act(norm(conv(norm([act(norm(conv1x1(x))), d])))))))

    What is said of each level is said from full resolution down; `up` and the kernels may also be said once for all.

    Attributes:
        channels: of each level.
        skips: channels of each level's skip connection; 0 for none.
        up: how a level doubles its size, bilinear or nearest.
        down: how a level halves its size: its first convolution takes every second pixel (stride), or the mean of
            2x2 pixels is taken after it (average).
        kernel_down: side of the windows of both convolutions on the way down, odd.
        kernel_up: side of the window of the first convolution on the way up, odd.
        pointwise: whether there is a second convolution on the way up, 1x1.

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
                    "give one for all levels, or one for each."
                )
        for kernel in self.kernel_down + self.kernel_up:
            if kernel % 2 == 0 or not 1 <= kernel <= LARGEST:
                raise UsageError(
                    f"The network skip cannot use a kernel of {kernel}: choose odd numbers of 1 to {LARGEST}."
                )
        for word in self.up:
            if word not in ("bilinear", "nearest"):
                raise UsageError(f"The network skip does not know up={word}: choose bilinear or nearest.")
        if self.down not in ("stride", "average"):
            raise UsageError(f"The network skip does not know down={self.down}: choose stride or average.")

    @property
    def stride(self) -> int:
        """Each level halves the picture."""
        return int(2 ** len(self.channels))

    def least(self, pad: str) -> int:
        """Two pixels for the norm on the deepest level, and on every level as many as a reflection has to show."""
        if pad == "zero":
            return 2 * self.stride
        kernels = zip(self._each(self.kernel_down), self._each(self.kernel_up), strict=True)
        reflections = [
            side * 2**level
            for level, (down, up) in enumerate(kernels)
            for side in (2 * (down // 2 + 1), up // 2 + 1)  # the second convolution down sees a picture of half the size
        ]
        return max(2 * self.stride, *reflections)

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The levels from the deepest out, then a 1x1 convolution to the picture's channels and a sigmoid."""
        body: nn.Module = nn.Identity()
        below = self.channels[-1]
        for level in reversed(range(len(self.channels))):
            above = self.channels[level - 1] if level else inputs
            body = self._level(level, above, body, below, pad)
            below = self.channels[level]
        return nn.Sequential(body, nn.Conv2d(below, shape[0], 1), nn.Sigmoid())

    def _level(self, level: int, above: int, body: nn.Module, below: int, pad: str) -> nn.Module:
        """One level: from `above` channels to its own, around a body that returns `below` channels."""
        channels, skip = self.channels[level], self.skips[level]
        down, up, mode = (self._each(values)[level] for values in (self.kernel_down, self.kernel_up, self.up))

        def activated(*layers: nn.Module, channels: int = channels) -> list[nn.Module]:
            return [*layers, norm(channels), leaky()]

        def halved() -> list[nn.Module]:
            if self.down == "stride":
                return [convolution(above, channels, down, pad, stride=2)]
            return [convolution(above, channels, down, pad), nn.AvgPool2d(2)]

        side = nn.Sequential(*activated(convolution(above, skip, 1, pad), channels=skip)) if skip else None
        deep = nn.Sequential(
            *activated(*halved()),
            *activated(convolution(channels, channels, down, pad)),
            body,
            nn.Upsample(scale_factor=2, mode=mode),
        )
        return nn.Sequential(
            Branches(side, deep) if side else deep,
            norm(skip + below),
            *activated(convolution(skip + below, channels, up, pad)),
            *(activated(convolution(channels, channels, 1, pad)) if self.pointwise else []),
        )

    def _each(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """One value for each level."""
        return values * len(self.channels) if len(values) == 1 else values


@dataclass(frozen=True)
class UNet:
    """The U-Net of the published comparison of networks. Each level is

        e = relu(norm(conv(relu(norm(conv(x))))))
        y = relu(conv(relu(conv([deconv(below(maxpool(e))), e]))))

    with 3x3 convolutions, instance norm without weights, and a 4x4 transposed convolution that doubles the size.

    Attributes:
        channels: of each level, from full resolution down.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, section 3.3 (figure 8), and the settings published
        with it. The network is that of Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015.
    """

    name: ClassVar[str] = "unet"
    free: ClassVar[bool] = False
    channels: tuple[int, ...] = (8, 16, 32, 64, 128, 128)

    def __post_init__(self) -> None:
        _check_channels(self.name, self.channels)

    @property
    def stride(self) -> int:
        """Each level but the first halves the picture."""
        return int(2 ** (len(self.channels) - 1))

    def least(self, pad: str) -> int:  # noqa: ARG002
        """Two pixels on the deepest level, for the norm; a reflection is content with them."""
        return 2 * self.stride

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The levels from the deepest out, then a 1x1 convolution to the picture's channels and a sigmoid."""

        def pair(start: int, channels: int, *norms: nn.Module) -> list[nn.Module]:
            starts = (start, channels)
            return [
                layer
                for before in starts
                for layer in (convolution(before, channels, 3, pad), *norms, nn.ReLU(inplace=True))
            ]

        body: nn.Module = nn.Identity()
        for level in reversed(range(len(self.channels))):
            above = self.channels[level - 1] if level else inputs
        return nn.Sequential(body, nn.Conv2d(self.channels[0], shape[0], 1), nn.Sigmoid())
