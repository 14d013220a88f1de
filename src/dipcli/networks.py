"""The prior f and its input z: architectures, inputs, and `build` that puts them together for a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from dipcli import specs
from dipcli.engine import Prior
from dipcli.errors import UsageError
from dipcli.settings import Settings

SLOPE = 0.2  # of LeakyReLU, published
SCALE = 0.1  # of the uniform noise z, published
WIDEST, DEEPEST = 4096, 12  # more would be a slip of the hand
DEPTH = 32  # channels of z, published for every picture with noise as the input


class Architecture(Protocol):
    """What `build` asks of a network's description: a frozen dataclass with a class attribute `name`."""

    free: ClassVar[
        bool
    ]  # whether the picture itself is the variable: it takes no input, and bf16 would lose grey levels

    @property
    def stride(self) -> int:
        """Sides of z must be multiples of this, and at least twice it."""

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The network from z with `inputs` channels to pictures of `shape`, freshly initialised."""


@dataclass(frozen=True)
class Skip:
    """The published encoder-decoder with skip connections ("skip net").

    Attributes:
        channels: of each level, from full resolution down.
        skips: channels of each level's skip connection; 0 for none.
        up: how the decoder doubles its size, bilinear or nearest.

    Source:
        Ulyanov, Vedaldi, Lempitsky, "Deep Image Prior", CVPR 2018, supplementary material, figure 21.
    """

    name: ClassVar[str] = "skip"
    free: ClassVar[bool] = False
    channels: tuple[int, ...] = (128,) * 5
    skips: tuple[int, ...] = (4,) * 5
    up: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.skips):
            raise UsageError(
                f"The network skip has {len(self.channels)} levels in channels but {len(self.skips)} in skips: "
                "give each the same number."
            )
        if min(self.channels) < 1 or min(self.skips) < 0 or max(self.channels + self.skips) > WIDEST:
            raise UsageError(f"The network skip needs channels of 1 to {WIDEST} and skips of 0 to {WIDEST}.")
        if len(self.channels) > DEEPEST:
            raise UsageError(f"The network skip has at most {DEEPEST} levels: each halves the picture.")
        if self.up not in ("bilinear", "nearest"):
            raise UsageError(f"The network skip does not know up={self.up}: choose bilinear or nearest.")

    @property
    def stride(self) -> int:
        """Each level halves the picture."""
        return int(2 ** len(self.channels))

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:
        """The levels from the deepest out, then a 1x1 convolution to the picture's channels and a sigmoid."""
        body: nn.Module = nn.Identity()
        below = self.channels[-1]
        for level in reversed(range(len(self.channels))):
            above = self.channels[level - 1] if level else inputs
            body = Level(above, self.channels[level], self.skips[level], body, below, self.up, pad)
            below = self.channels[level]
        return nn.Sequential(body, nn.Conv2d(below, shape[0], 1), nn.Sigmoid())


@dataclass(frozen=True)
class Pixels:
    """No network: each pixel is a variable of its own. The baseline "no prior", or with `--tv` "TV only"."""

    name: ClassVar[str] = "pixels"
    free: ClassVar[bool] = True

    @property
    def stride(self) -> int:
        """Nothing is halved."""
        return 1

    def network(self, inputs: int, shape: tuple[int, int, int], pad: str) -> nn.Module:  # noqa: ARG002
        """The picture, uniform noise to begin with."""
        return FreePicture(shape)


class Level(nn.Module):
    """One level of the skip net: halve, pass through what lies below, double, join the skip.

        d = upsample(below(act(norm(conv3x3(act(norm(conv3x3/2(x))))))))
        y = act(norm(conv1x1(act(norm(conv3x3(norm([skip(x), d])))))))

    Args:
        above: channels of x.
        channels: channels of y.
        skip: channels of the skip connection, 0 for none.
        below: the next level, or the identity at the deepest.
        below_channels: channels that `below` returns.
        up: bilinear or nearest.
        pad: reflection or zero.
    """

    def __init__(
        self, above: int, channels: int, skip: int, below: nn.Module, below_channels: int, up: str, pad: str
    ) -> None:
        super().__init__()
        self.skip = _convolution(above, skip, 1, pad) if skip else None
        self.down = nn.Sequential(
            *_convolution(above, channels, 3, pad, stride=2), *_convolution(channels, channels, 3, pad)
        )
        self.below = below
        self.upsample = nn.Upsample(scale_factor=2, mode=up)
        self.join = nn.Sequential(
            _norm(skip + below_channels),
            *_convolution(skip + below_channels, channels, 3, pad),
            *_convolution(channels, channels, 1, pad),
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (1, above, H, W) to (1, channels, H, W), H and W even."""
        deep: Tensor = self.upsample(self.below(self.down(x)))
        if self.skip is not None:
            deep = torch.cat([self.skip(x), deep], dim=1)
        out: Tensor = self.join(deep)
        return out


class FreePicture(nn.Module):
    """A picture of free pixels, whatever it is given."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.picture = nn.Parameter(SCALE * torch.rand(1, *shape))

    def forward(self, _code: Tensor) -> Tensor:
        """The picture, (1, C, H, W)."""
        return self.picture


class Crop(nn.Module):
    """Cut the middle out of a picture: what was padded for the network's sake is in no loss and no output."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """From (..., H', W') to (..., H, W)."""
        top, left = (x.shape[-2] - self.height) // 2, (x.shape[-1] - self.width) // 2
        return x[..., top : top + self.height, left : left + self.width]


def architecture(text: str) -> Architecture:
    """The network that `--network` names.

    Raises:
        UsageError: when there is no such network or it does not take that parameter.
    """
    known: list[type[Architecture]] = [Skip, Pixels]
    return specs.parse(text, known, "network")


def build(settings: Settings, shape: tuple[int, int, int]) -> Prior:
    """The network and the input that the settings ask for, for a picture of this shape, on the CPU.

    z is larger than the picture where the network halves it often; the network crops what it returns. The same
    seed gives the same prior, whatever was drawn before, and PyTorch's global generator is left as it was.

    Args:
        settings: `network`, `pad`, `input`, `input_depth` and `seed` are used.
        shape: (C, H, W) of the picture.

    Raises:
        UsageError: when network and input do not go together.
    """
    chosen = architecture(settings.network)
    _, height, width = shape
    rows, columns = (max(2, math.ceil(side / chosen.stride)) * chosen.stride for side in (height, width))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        code = torch.zeros(1, 0, rows, columns) if chosen.free else _code(settings, rows, columns)
        network = chosen.network(code.shape[1], shape, settings.pad)
    return Prior(nn.Sequential(network, Crop(height, width)), code)


def _code(settings: Settings, height: int, width: int) -> Tensor:
    """z, shape (1, D, height, width): uniform noise, the coordinates, or sines and cosines of them."""
    if settings.input == "noise":
        return SCALE * torch.rand(1, settings.input_depth or DEPTH, height, width)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    if settings.input == "meshgrid":
        if settings.input_depth not in (None, 2):
            raise UsageError("--input meshgrid has 2 channels, x and y: leave --input-depth out.")
        return torch.stack([x, y])[None]
    depth = settings.input_depth or DEPTH
    if depth % 4:
        raise UsageError(f"--input fourier needs a multiple of 4 channels, --input-depth {depth} is not one.")
    # Wavelengths from the whole picture down to two pixels, evenly spaced in octaves, as in the positional
    # encoding of Shabtay et al., "PIP: Positional-encoding Image Prior", 2022.
    frequencies = torch.logspace(0, math.log2(max(height, width) / 2), depth // 4, base=2)
    phases = 2 * math.pi * frequencies[:, None, None]
    return torch.cat([wave(phases * axis) for axis in (x, y) for wave in (torch.sin, torch.cos)])[None]


def _convolution(inputs: int, outputs: int, kernel: int, pad: str, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (or halves it), batch norm, LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2,
            padding_mode="reflect" if pad == "reflection" and kernel > 1 else "zeros",
        ),
        _norm(outputs),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that always goes by the picture in hand, as published: it has no running statistics to lose."""
    return nn.BatchNorm2d(channels, track_running_stats=False)
