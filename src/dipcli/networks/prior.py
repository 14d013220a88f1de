"""The prior: a network that has seen nothing, and its fixed input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prior:
    """f and z: a network that has seen nothing, and its fixed input.

    Attributes:
        network: maps z, shape (1, D, H', W'), to a picture, shape (1, C, H, W).
        code: z. The convolutional networks want H' and W' padded; they crop what they return.
        window: side of the smallest part of z that the network makes something of, a picture of that size; None when
            it wants all of it.
    """

    network: nn.Module
    code: Tensor
    window: int | None = None

    def to(self, device: torch.device) -> Prior:
        """The same prior on another device. The network is moved, not copied."""
        return replace(self, network=self.network.to(device), code=self.code.to(device))
