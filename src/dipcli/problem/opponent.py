"""An orthonormal opponent colour space: one luma channel and differences, in which noise of one level stays so."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def make_opponent(channels: int) -> Tensor:
    """Return the orthonormal matrix of the discrete cosine transform across the channels, shape (C, C).

    Its first row is the mean of the channels times sqrt(C). For red, green and blue the others are red minus blue, and
    green against both.
    """
    frequency, channel = torch.meshgrid(torch.arange(channels), torch.arange(channels), indexing="ij")
    matrix: Tensor = torch.cos(math.pi / channels * (channel + 0.5) * frequency) * (2 / channels) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def to_opponent(image: Tensor) -> Tensor:
    """Return the opponent channels of an image, from (C, H, W) to (C, H, W)."""
    return torch.einsum("oc,chw->ohw", make_opponent(len(image)).to(image), image)


def from_opponent(image: Tensor) -> Tensor:
    """Return the image with these opponent channels, from (C, H, W) to (C, H, W)."""
    return torch.einsum("oc,ohw->chw", make_opponent(len(image)).to(image), image)
