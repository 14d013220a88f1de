"""Build the prior f and its input z for an image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from dipcli.errors import UsageError
from dipcli.networks.architectures import Architecture, Pixels, ResNet, UNet
from dipcli.networks.grouped import GroupedNetworks
from dipcli.networks.layers import NOISE_SCALE
from dipcli.networks.mosaic import Mosaic
from dipcli.networks.prior import Prior
from dipcli.networks.skip import Skip
from dipcli.settings import Settings
from dipcli.text import parse

WINDOW_SIDE = 64  # pixels: the smallest window of an image that a network is shown alone
DEFAULT_INPUT_DEPTH = 32  # channels of z, published for most images with a noise input


class Crop(nn.Module):
    """Cut out the centre of an image, so that the padding of z enters neither loss nor output; smaller ones stay."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """From (..., H', W') to (..., H, W)."""
        top, left = (max(0, side - own) // 2 for side, own in zip(x.shape[-2:], (self.height, self.width), strict=True))
        return x[..., top : top + self.height, left : left + self.width]

    def extra_repr(self) -> str:
        """Return the size: networks are compared by their `repr`."""
        return f"{self.height}, {self.width}"


def architecture(text: str) -> Architecture:
    """Return the network that `--network` names.

    Raises:
        UsageError: when the network or one of its parameters is unknown.
    """
    known: list[type[Architecture]] = [Skip, UNet, ResNet, Pixels]
    return parse(text, known, "network")


def build(settings: Settings, shape: tuple[int, int, int], guide: Tensor | None = None, members: int = 1) -> Prior:
    """Build the network and the input for an image of this shape, on the CPU.

    z is padded so that the network can halve it at every level; the network crops its output. The prior depends only on
    the arguments: PyTorch's global generator is neither used nor changed.

    Args:
        settings: `network`, `pad`, `mosaic`, `input`, `input_depth` and `seed` are used.
        shape: (C, H, W) of the image.
        guide: the image that is z with `--input guide`, shape (any C, H, W).
        members: number of networks, each for an equal part of the channels. Each starts as the network that is built
            for an image with that many channels.

    Raises:
        UsageError: when network and input do not go together.
    """
    network_type = architecture(settings.network)
    channels, height, width = shape
    if guide is not None and guide.shape[1:] != shape[1:]:
        size = f"{guide.shape[2]}x{guide.shape[1]}"
        raise UsageError(f"The guide image is {size}, the image {width}x{height}: give one of that size.")
    rows, columns = padded_size(settings, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        code = torch.zeros(1, 0, rows, columns) if network_type.free else _make_code(settings, rows, columns, guide)
        network = network_type.build(code.shape[1], (channels // members, height, width), settings.pad)
    if members > 1:
        network = GroupedNetworks(network, members)
    if settings.mosaic > 1 and not network_type.free:
        network = Mosaic(network, settings.mosaic)
    window = None if network_type.free else padded_size(settings, WINDOW_SIDE, WINDOW_SIDE)[0]
    return Prior(nn.Sequential(network, Crop(height, width)), code, window)


def padded_size(settings: Settings, height: int, width: int) -> tuple[int, int]:
    """Return the size of z: multiples of the stride of the network and of the mosaic, at least the smallest side."""
    network_type = architecture(settings.network)
    stride, min_side = math.lcm(network_type.stride, settings.mosaic), network_type.min_side(settings.pad)
    rows, columns = (math.ceil(max(side, min_side) / stride) * stride for side in (height, width))
    return rows, columns


def _make_code(settings: Settings, height: int, width: int, guide: Tensor | None) -> Tensor:
    """Return z, shape (1, D, height, width): uniform noise, coordinates, their sines and cosines, or the guide."""
    depth = settings.input_depth or DEFAULT_INPUT_DEPTH
    if settings.input == "noise":
        return NOISE_SCALE * torch.rand(1, depth, height, width)
    if settings.input == "guide":
        if guide is None:
            raise UsageError("--input guide needs a guide image, and this image has none: choose another --input.")
        if settings.input_depth not in (None, guide.shape[0]):
            raise UsageError(f"--input guide has the guide's {guide.shape[0]} channels: leave --input-depth out.")
        return _mirror_to_size(guide, height, width)[None]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    if settings.input == "meshgrid":
        if settings.input_depth not in (None, 2):
            raise UsageError("--input meshgrid has 2 channels, x and y: leave --input-depth out.")
        return torch.stack([x, y])[None]
    if depth % 4:
        raise UsageError(f"--input fourier needs a multiple of 4 channels: change --input-depth {depth}.")
    # Wavelengths from the whole image down to two pixels, evenly spaced in octaves, as in the positional
    # encoding of Shabtay et al., "PIP: Positional-encoding Image Prior", 2022.
    frequencies = torch.logspace(0, math.log2(max(height, width) / 2), depth // 4, base=2)
    phases = 2 * math.pi * frequencies[:, None, None]
    return torch.cat([wave(phases * axis) for axis in (x, y) for wave in (torch.sin, torch.cos)])[None]


def _mirror_to_size(image: Tensor, height: int, width: int) -> Tensor:
    """Extend an image on all sides, where `Crop` cuts it off, by mirroring it at its borders as often as needed."""
    sides = zip(image.shape[-2:], (height, width), strict=True)
    margins = [((side - own) // 2, side - own - (side - own) // 2) for own, side in sides]
    return torch.from_numpy(np.pad(image.cpu().numpy(), [(0, 0), *margins], mode="reflect")).to(image.device)
