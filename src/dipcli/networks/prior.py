"""The prior: an untrained network and its fixed input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call


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


def render(network: nn.Module, precision: str, z: Tensor) -> Tensor:
    """Compute x = f(z), shape (1, C, H, W).

    In bf16 the weights, their gradients and the optimiser stay in fp32. The network computes with rounded copies of the
    weights, so that nothing inside it is cast back and forth, as it would be under autocast.
    """
    image: Tensor
    if precision != "bf16":
        image = network(z)
        return image
    weights = {name: value.bfloat16() for name, value in network.named_parameters()}
    image = functional_call(network, weights, z.bfloat16())
    return image.float()
