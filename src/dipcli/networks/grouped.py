"""Several networks of the same architecture as one, by grouped convolutions, so that they do not mix."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from dipcli.networks.layers import FreeImage

COUNT_ATTRIBUTES = ("in_channels", "out_channels", "groups", "num_features", "members")  # multiplied in every layer


class GroupedNetworks(nn.Module):
    """Some copies (members) of a network with the same z; each makes its own image.

    On one CPU thread in bf16 four members of the network for dejpeg take 0.6 (128x128) to 0.8 (256x256) of the time of
    four networks in sequence; in fp32, and with wide networks, 0.9 to 1.25.

    A loss that sums over the members fits each as if it were alone, unless the shared z is fitted too. The mean over
    the members divides every gradient by their number, which Adam's eps makes noticeable for small gradients.
    """

    def __init__(self, network: nn.Module, members: int) -> None:
        super().__init__()
        self.network, self.members = group_networks([network] * members), members

    def forward(self, z: Tensor) -> Tensor:
        """From (1, D, H, W) to the members' images, concatenated along the channels, (1, C, H, W)."""
        images: Tensor = self.network(torch.cat([z] * self.members, dim=1))
        return images


def can_group(network: nn.Module) -> bool:
    """Return whether `group_networks` supports a network: convolutions, norms, and layers without weights."""
    weighted = [module for module in network.modules() if [*module.parameters(recurse=False)]]
    supported = all(isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) for module in weighted)
    return supported and not any(isinstance(module, GroupedNetworks) for module in network.modules())


def group_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """Return one network that computes the same as these of one architecture, from inputs concatenated along channels.

    Its weights are those of the members, concatenated along the first dimension; free pixels along the second.
    """
    grouped = deepcopy(networks[0])
    for layer, *members in zip(grouped.modules(), *(network.modules() for network in networks), strict=True):
        dimension = 1 if isinstance(layer, FreeImage) else 0
        for name, _ in members[0].named_parameters(recurse=False):
            weights = torch.cat([getattr(member, name).detach() for member in members], dim=dimension)
            setattr(layer, name, nn.Parameter(weights))
        for count in COUNT_ATTRIBUTES:
            if hasattr(layer, count):
                setattr(layer, count, len(networks) * getattr(layer, count))
    return grouped
