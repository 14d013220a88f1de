"""One look at a network: its picture, the loss of that, and the slopes of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn
from torch.func import functional_call

# From a network, its precision, z and a function from the picture to its loss to that loss; its slopes are left with
# the weights, and with z where that is fitted too.
Evaluate: TypeAlias = Callable[[nn.Module, str, Tensor, Callable[[Tensor], Tensor]], Tensor]


def render(network: nn.Module, precision: str, z: Tensor) -> Tensor:
    """f(z), shape (1, C, H, W).

    In bf16 the weights, their gradients and the optimiser stay in fp32; the network computes with rounded
    copies of them, so that nothing inside it is cast back and forth as it is under autocast.
    """
    picture: Tensor
    if precision != "bf16":
        picture = network(z)
        return picture
    weights = {name: value.bfloat16() for name, value in network.named_parameters()}
    picture = functional_call(network, weights, z.bfloat16())
    return picture.float()


def evaluate_alone(network: nn.Module, precision: str, z: Tensor, judge: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of the network's picture, and its slopes: the network is computed for this fit and no other."""
    loss = judge(render(network, precision, z)[0])
    loss.backward()  # type: ignore[no-untyped-call]
    return loss
