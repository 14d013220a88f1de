"""The prior f and its input z: `build` puts them together for a picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dipcli import text as specs
from dipcli.errors import UsageError
from dipcli.networks.architectures import Architecture, Pixels, ResNet, Skip, UNet
from dipcli.networks.grouped import GroupedNetworks
from dipcli.networks.layers import SCALE
from dipcli.networks.prior import Prior
from dipcli.settings import Settings

WINDOW_SIDE = 64  # pixels: the smallest window of an image that a network is shown alone
DEFAULT_INPUT_DEPTH = 32  # channels of z, published for most pictures with noise as the input


class Crop(nn.Module):
    """Cut the middle out of a picture: what was padded for the network's sake is in no loss and no output.

    A picture that is smaller, because the network was shown a part of its input alone, stays as it is.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """From (..., H', W') to (..., H, W)."""
        top, left = (max(0, side - own) // 2 for side, own in zip(x.shape[-2:], (self.height, self.width), strict=True))
        return x[..., top : top + self.height, left : left + self.width]

    def extra_repr(self) -> str:
        """The size, for whoever compares networks by what they say of themselves."""
        return f"{self.height}, {self.width}"


def architecture(text: str) -> Architecture:
    """The network that `--network` names.

    Raises:
        UsageError: when there is no such network or it does not take that parameter.
    """
    known: list[type[Architecture]] = [Skip, UNet, ResNet, Pixels]
    return specs.parse(text, known, "network")


def build(settings: Settings, shape: tuple[int, int, int], guide: Tensor | None = None, members: int = 1) -> Prior:
    """The network and the input that the settings ask for, for a picture of this shape, on the CPU.

    z is larger than the picture where the network halves it often; the network crops what it returns. The same
    seed gives the same prior, whatever was drawn before, and PyTorch's global generator is left as it was.

    Args:
        settings: `network`, `pad`, `input`, `input_depth` and `seed` are used.
        shape: (C, H, W) of the picture.
        guide: the picture that `--input guide` gives to the network, shape (any C, H, W).
        members: how many networks make the picture, each an equal part of its channels. All begin as the one
            network that a picture of that many channels would be given.

    Raises:
        UsageError: when network and input do not go together.
    """
    chosen = architecture(settings.network)
    channels, height, width = shape
    if guide is not None and guide.shape[1:] != shape[1:]:
        size = f"{guide.shape[2]}x{guide.shape[1]}"
        raise UsageError(f"The guide picture is {size}, the picture {width}x{height}: give one of that size.")
    rows, columns = padded_size(settings, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        code = torch.zeros(1, 0, rows, columns) if chosen.free else _code(settings, rows, columns, guide)
        network = chosen.network(code.shape[1], (channels // members, height, width), settings.pad)
    if members > 1:
        network = GroupedNetworks(network, members)
    window = None if chosen.free else padded_size(settings, WINDOW_SIDE, WINDOW_SIDE)[0]
    return Prior(nn.Sequential(network, Crop(height, width)), code, window)


def padded_size(settings: Settings, height: int, width: int) -> tuple[int, int]:
    """Of z for a picture of this size: what the network can halve as often as it wants to, and not too small for it."""
    chosen = architecture(settings.network)
    least = chosen.least(settings.pad)
    return _multiple(max(height, least), chosen.stride), _multiple(max(width, least), chosen.stride)


def _multiple(side: int, stride: int) -> int:
    return math.ceil(side / stride) * stride


def _code(settings: Settings, height: int, width: int, guide: Tensor | None) -> Tensor:
    """z, shape (1, D, height, width): uniform noise, the coordinates, sines and cosines of them, or the guide."""
    depth = settings.input_depth or DEFAULT_INPUT_DEPTH
    if settings.input == "noise":
        return SCALE * torch.rand(1, depth, height, width)
    if settings.input == "guide":
        if guide is None:
            raise UsageError(
                "--input guide needs a guide picture, and there is not one for this picture: choose another --input."
            )
        if settings.input_depth not in (None, guide.shape[0]):
            raise UsageError(f"--input guide has the guide's {guide.shape[0]} channels: leave --input-depth out.")
        return _surrounded(guide, height, width)[None]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    if settings.input == "meshgrid":
        if settings.input_depth not in (None, 2):
            raise UsageError("--input meshgrid has 2 channels, x and y: leave --input-depth out.")
        return torch.stack([x, y])[None]
    if depth % 4:
        raise UsageError(f"--input fourier needs a multiple of 4 channels, --input-depth {depth} is not one.")
    # Wavelengths from the whole picture down to two pixels, evenly spaced in octaves, as in the positional
    # encoding of Shabtay et al., "PIP: Positional-encoding Image Prior", 2022.
    frequencies = torch.logspace(0, math.log2(max(height, width) / 2), depth // 4, base=2)
    phases = 2 * math.pi * frequencies[:, None, None]
    return torch.cat([wave(phases * axis) for axis in (x, y) for wave in (torch.sin, torch.cos)])[None]


def _surrounded(picture: Tensor, height: int, width: int) -> Tensor:
    """The picture in the middle of a larger one, where `Crop` finds it, mirrored at its borders as often as needed."""
    for dimension, side in ((-2, height), (-1, width)):
        length = picture.shape[dimension]
        there_and_back = max(1, 2 * (length - 1))
        away = (torch.arange(side) - (side - length) // 2) % there_and_back
        picture = picture.index_select(dimension, torch.minimum(away, there_and_back - away).to(picture.device))
    return picture
