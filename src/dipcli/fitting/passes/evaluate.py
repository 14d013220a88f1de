"""One evaluation of the objective: output of the network, loss, gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dipcli.fitting.input_noise import make_noisy_input
from dipcli.fitting.warmup import Window
from dipcli.networks.prior import render
from dipcli.problem import Problem
from dipcli.problem.losses import total_variation
from dipcli.settings import Settings

# (network, precision, z, function from x to its loss) -> loss. The gradient of the loss is left in `grad` of the
# weights, and of z if z is optimised too.
Evaluate: TypeAlias = Callable[[nn.Module, str, Tensor, Callable[[Tensor], Tensor]], Tensor]


def evaluate_alone(network: nn.Module, precision: str, z: Tensor, compute_loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the loss of the network's output and its gradient, in a pass for this fit alone."""
    loss = compute_loss(render(network, precision, z)[0])
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


class Objective:
    """E( A( f_theta(z) ), y ) + tv TV(x) and its gradient, with new noise on z at each evaluation.

    Args:
        network: f_theta.
        code: z, shape (1, D, H', W').
        variables: the tensors to optimise.
        settings: `reg_noise`, `input`, `seed`, `precision` and `tv` are used.
        evaluate: computes the loss and its gradient.
        draws: how often noise was added to z before.

    Attributes:
        image: x of the last evaluation, shape (C, H, W), detached.
        draws: how often noise has been added to z.
    """

    def __init__(
        self,
        network: nn.Module,
        code: Tensor,
        variables: list[Tensor],
        settings: Settings,
        evaluate: Evaluate,
        draws: int,
    ) -> None:
        self.network, self.variables, self.settings, self.evaluate = network, variables, settings, evaluate
        self.make_input = make_noisy_input(code, settings, draws)
        self.draws = draws
        self.image = torch.empty(0)

    def __call__(self, window: Window) -> Tensor:
        """Return the loss on a window of the image, or on the whole, and leave its gradient in the variables."""
        z = self.make_input(window)
        self.draws += 1
        for variable in self.variables:
            variable.grad = None
        return self.evaluate(self.network, self.settings.precision, z, partial(self._compute_loss, window.problem))

    def _compute_loss(self, problem: Problem, x: Tensor) -> Tensor:
        self.image = x.detach().clone()  # with free pixels x is the variable itself, which the step is about to change
        loss = problem.loss(problem.operator(x), problem.measured, problem.weight)
        return loss + self.settings.tv * total_variation(x) if self.settings.tv else loss
