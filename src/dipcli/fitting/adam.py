"""Adam, by PyTorch's own kernel, without its front door."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

EPS = 1e-8  # the usual one


class Adam:
    """What `torch.optim.Adam` computes, bit for bit, with as much of its interface as a fit wants.

    The first step of any of PyTorch's optimisers imports its compiler, which takes as long as importing the rest of
    PyTorch: 1.5 s, of which a small picture has some thirty.

    Args:
        variables: tensors to fit, in place, by their slopes.
        lr: learning rate.
        betas: memories of the slopes and of their squares.
        fused: one pass over everything in place of several.

    Source:
        Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """

    def __init__(
        self, variables: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999), *, fused: bool = False
    ) -> None:
        self.variables, self.betas, self.fused = list(variables), betas, fused
        self.param_groups: list[dict[str, Any]] = [{"lr": lr}]
        self.state: dict[str, list[Tensor]] = {}

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One iteration.

        Args:
            closure: computes the loss and its slopes.

        Returns:
            The loss.
        """
        loss = closure()
        if not self.state:
            self.state = {
                "means": [torch.zeros_like(each) for each in self.variables],
                "squares": [torch.zeros_like(each) for each in self.variables],
                "counts": [torch.zeros((), device=each.device if self.fused else None) for each in self.variables],
            }
        # What the loss does not depend on has no slope and stays as it is.
        having = [number for number, variable in enumerate(self.variables) if variable.grad is not None]
        slopes = [variable.grad for variable in self.variables]
        lists: list[list[Any]] = [self.variables, slopes, *self.state.values()]
        variables, given, means, squares, counts = ([each[number] for number in having] for each in lists)
        with torch.no_grad():
            adam(
                variables,
                given,
                means,
                squares,
                [],
                counts,
                fused=self.fused,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=self.param_groups[0]["lr"],
                weight_decay=0.0,
                eps=EPS,
                maximize=False,
            )
        return loss

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The memories, which go on changing with the steps."""
        return self.state

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Go on from these memories, and change them."""
        self.state = state
