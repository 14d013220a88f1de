"""Several networks of one shape as one: a convolution with a group for each, so that nothing passes between them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from dipcli.networks.layers import FreePicture

WIDENED = ("in_channels", "out_channels", "groups", "num_features", "members")  # what a layer counts, where it does


class GroupedNetworks(nn.Module):
    """Networks that begin with the same weights and see the same z; each makes a picture of its own.

    On one CPU thread in bf16 four members of the network for dejpeg take 0.6 (128x128) to 0.8 (256x256) of the time of
    four networks in turn; in fp32, and with wide networks, 0.9 to 1.25.

    A loss that sums over the members fits each as if it were alone, as long as z is not fitted too: z is shared. The
    mean over the members divides every slope by their number, which Adam's eps notices where slopes are small.

    Args:
        network: a member as it begins.
        members: how many.
    """

    def __init__(self, network: nn.Module, members: int) -> None:
        super().__init__()
        self.network, self.members = group_networks([network] * members), members

    def forward(self, z: Tensor) -> Tensor:
        """From (1, D, H, W) to the members' pictures one behind the other along the channels, (1, C, H, W)."""
        pictures: Tensor = self.network(torch.cat([z] * self.members, dim=1))
        return pictures


def can_group(network: nn.Module) -> bool:
    """Whether `widened` knows how: it is for convolutions, norms, and what has no weights."""
    having = [each for each in network.modules() if [*each.parameters(recurse=False)]]
    known = all(isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d) for each in having)
    return known and not any(isinstance(each, GroupedNetworks) for each in network.modules())


def group_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """One network that computes what these do, from all their inputs one behind the other along the channels.

    Args:
        networks: of one shape, for one picture each.

    Returns:
        A network whose weights are theirs one behind the other, member after member, along the first dimension; free
        pixels along the second.
    """
    whole = deepcopy(networks[0])
    for layer, *own in zip(whole.modules(), *(each.modules() for each in networks), strict=True):
        channels = 1 if isinstance(layer, FreePicture) else 0
        for name, _ in own[0].named_parameters(recurse=False):
            weights = torch.cat([getattr(each, name).detach() for each in own], dim=channels)
            setattr(layer, name, nn.Parameter(weights))
        for count in WIDENED:
            if hasattr(layer, count):
                setattr(layer, count, len(networks) * getattr(layer, count))
    return whole
