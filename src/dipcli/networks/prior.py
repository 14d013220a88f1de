"""The prior: an untrained network and its fixed input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prior:
    """f and z: an untrained network and its fixed input.

    Attributes:
        network: maps z, shape (1, D, H', W'), to an image, shape (1, C, H, W).
        code: z. Networks that halve the image need H' and W' padded to a multiple; they crop their output.
        window: side of the smallest part of z, in pixels, that the network can turn into an image of that size; None
            when it needs all of z.
    """

    network: nn.Module
    code: Tensor
    window: int | None = None

    def to(self, device: torch.device) -> Prior:
        """Return the prior on another device. The network is moved, not copied."""
        return replace(self, network=self.network.to(device), code=self.code.to(device))
