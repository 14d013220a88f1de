"""The encoder-decoder with skip connections that the Deep Image Prior was published with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import nn

from dipcli.errors import UsageError
from dipcli.networks.architectures import MAX_CHANNELS, Architecture, check_channels
from dipcli.networks.layers import Branches, Level, activation, batch_norm, convolution

MAX_KERNEL_SIDE = 31  # a larger one would be a typing error

T = TypeVar("T")


@dataclass(frozen=True)
class Skip(Architecture):
    """The published encoder-decoder with skip connections ("skip net").

    One level, from x to y:

        d = upsample(below(act(norm(conv(act(norm(halve(x))))))))
        y = act(norm(conv1x1(act(norm(conv(norm([act(norm(conv1x1(x))), d])))))))

    Fields with one value per level start at full resolution; `up` and the kernels may give one value for all levels.

    Attributes:
        channels: of each level.
        skips: channels of each level's skip connection; 0 for none.
        up: how each level doubles the size, bilinear or nearest.
        down: how the levels halve the size: by a convolution of stride 2 (stride), or by one of stride 1 and the mean
            of 2x2 pixels (average).
        kernel_down: side of the kernels of each level's two convolutions in the encoder, odd.
        kernel_up: side of the kernel of each level's convolution in the decoder, odd.
        pointwise: whether a 1x1 convolution follows in the decoder.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, supplementary material, figure 21.
    """

    name: ClassVar[str] = "skip"
    channels: tuple[int, ...] = (128,) * 5
    skips: tuple[int, ...] = (4,) * 5
    up: tuple[str, ...] = ("bilinear",)
    down: str = "stride"
    kernel_down: tuple[int, ...] = (3,)
    kernel_up: tuple[int, ...] = (3,)
    pointwise: bool = True

    def __post_init__(self) -> None:
        levels, once = len(self.channels), "one value for all levels, or one for each"
        check_channels(self.name, self.channels)
        if min(self.skips) < 0 or max(self.skips) > MAX_CHANNELS:
            raise UsageError(f"The network skip needs skips of 0 to {MAX_CHANNELS}.")
        allowed = {"skips": "both the same number", "up": once, "kernel_down": once, "kernel_up": once}
        for key, advice in allowed.items():
            found = len(getattr(self, key))
            if found != levels and not (found == 1 and advice is once):
                raise UsageError(
                    f"The network skip has {levels} levels in channels but {found} in {key}: give {advice}."
                )
        if any(side % 2 == 0 or not 1 <= side <= MAX_KERNEL_SIDE for side in self.kernel_down + self.kernel_up):
            raise UsageError(f"The network skip needs odd kernels: choose odd numbers of 1 to {MAX_KERNEL_SIDE}.")
        if unknown := set(self.up) - {"bilinear", "nearest"}:
            raise UsageError(f"The network skip does not know up={min(unknown)}: choose bilinear or nearest.")
        if self.down not in ("stride", "average"):
            raise UsageError(f"The network skip does not know down={self.down}: choose stride or average.")

    @property
    def stride(self) -> int:
        """Each level halves the size."""
        return int(2 ** len(self.channels))

    def min_side(self, pad: str) -> int:
        """Two pixels at the deepest level for the norm; with reflection, enough on every level for its kernels."""
        side = super().min_side(pad)
        if pad == "reflection":
            kernels = zip(self._expand(self.kernel_down), self._expand(self.kernel_up), strict=True)
            for level, (down, up) in enumerate(kernels):
                # The border pixel and the kernel // 2 pixels that are mirrored. The encoder's second convolution sees
                # half as many pixels as the others of its level.
                side = max(side, 2**level * max(2 * (down // 2 + 1), up // 2 + 1))
        return side

    def build(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """Return the levels, a 1x1 convolution to the image's channels and a sigmoid."""
        return nn.Sequential(
            self._build_level(0, inputs, pad), convolution(self.channels[0], shape[0], 1, pad), nn.Sigmoid()
        )

    def _build_level(self, level: int, inputs: int, pad: str) -> nn.Module:
        """Return a level and all below it, from `inputs` channels to its own."""
        channels, skip = self.channels[level], self.skips[level]
        down, up = self._expand(self.kernel_down)[level], self._expand(self.kernel_up)[level]
        deepest = level + 1 == len(self.channels)
        below = channels if deepest else self.channels[level + 1]
        body = nn.Identity() if deepest else self._build_level(level + 1, channels, pad)
        shortcut = nn.Sequential(convolution(inputs, skip, 1, pad), *activation(skip)) if skip else None
        average = self.down == "average"
        deep = nn.Sequential(
            convolution(inputs, channels, down, pad, stride=1 if average else 2),
            *([nn.AvgPool2d(2)] if average else []),
            *activation(channels),
            convolution(channels, channels, down, pad),
            *activation(channels),
            body,
            nn.Upsample(scale_factor=2, mode=self._expand(self.up)[level]),
        )
        return Level(
            Branches(shortcut, deep) if shortcut else deep,
            batch_norm(skip + below),
            convolution(skip + below, channels, up, pad),
            *activation(channels),
            *([convolution(channels, channels, 1, pad), *activation(channels)] if self.pointwise else []),
        )

    def _expand(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """Return one value per level."""
        return values * len(self.channels) if len(values) == 1 else values
