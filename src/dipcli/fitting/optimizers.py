"""The optimisers: Adam via PyTorch's functional kernel, and L-BFGS after a start with Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.adam import adam

from dipcli.settings import Settings

ADAM_EPS = 1e-8  # PyTorch's default
# Published: L-BFGS starts after this many iterations of Adam at this learning rate.
ADAM_ITERATIONS_BEFORE_LBFGS = 100
ADAM_RATE_BEFORE_LBFGS = 0.001


class Adam:
    """Adam, bit for bit that of `torch.optim.Adam`, with the part of its interface that a fit needs.

    The first step of any of PyTorch's optimisers imports `torch._dynamo`. That takes 1.5 s; the fit of a small image
    takes some 30 s.

    Args:
        variables: tensors to optimise in place by their gradients.
        lr: learning rate.
        betas: decays of the averages of the gradients and of their squares.
        fused: use PyTorch's fused kernel.

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
        """Take one step.

        Args:
            closure: computes the loss and its gradient.

        Returns:
            The loss before the step.
        """
        loss = closure()
        if not self.state:
            self.state = {
                "means": [torch.zeros_like(variable) for variable in self.variables],
                "squares": [torch.zeros_like(variable) for variable in self.variables],
                "counts": [
                    torch.zeros((), device=variable.device if self.fused else None) for variable in self.variables
                ],
            }
        # A variable without a gradient stays as it is: the loss does not depend on it.
        numbers = [number for number, variable in enumerate(self.variables) if variable.grad is not None]
        gradients = [variable.grad for variable in self.variables]
        lists: list[list[Any]] = [self.variables, gradients, *self.state.values()]
        variables, used, means, squares, counts = ([tensors[number] for number in numbers] for tensors in lists)
        with torch.no_grad():
            adam(
                variables,
                used,
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
                eps=ADAM_EPS,
                maximize=False,
            )
        return loss

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Return the state itself, not a copy: the next step changes it."""
        return self.state

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        """Continue with this state; the next step changes it."""
        self.state = state


Optimizer: TypeAlias = Adam | torch.optim.LBFGS


def make_optimizers(variables: list[Tensor], settings: Settings) -> Callable[[int], Optimizer]:
    """Return a function from the number of an iteration to its optimiser."""
    if settings.optimizer == "adam":
        fused = all(variable.device.type in ("cpu", "cuda") for variable in variables)
        optimizer = Adam(variables, lr=settings.rate, betas=(0.9, settings.beta2), fused=fused)
        return lambda _number: optimizer
    first = Adam(variables, lr=ADAM_RATE_BEFORE_LBFGS)
    # One step is one iteration; the history of directions persists between steps. The negative tolerances are
    # published: they keep L-BFGS from stopping on a plateau of the noisy loss.
    lbfgs = torch.optim.LBFGS(variables, lr=settings.rate, max_iter=1, tolerance_grad=-1, tolerance_change=-1)
    return lambda number: first if number <= ADAM_ITERATIONS_BEFORE_LBFGS else lbfgs
