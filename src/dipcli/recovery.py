"""Recovery: going back to when a fit was last sound, once it has collapsed.

A hot learning rate can ruin a fit in one step: the picture turns red, or grey, and stays so for hundreds of iterations.
The published remedy is to go back to earlier weights. Here all that a step changes goes back with them.
"""

from __future__ import annotations

import math
from collections import deque
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from dipcli.adam import Adam

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dipcli.engine import Step

LOOKED_AT = 10  # iterations between looks at the loss: reading it makes a GPU wait
COLLAPSE = 10**0.5  # a loss so many times what it was lately, 5 dB, is a collapse: published
LATELY = 5  # looks whose median the loss was lately: a fit with noisy input has a noisy loss
NOUGHT = 1e-5  # losses below it, 50 dB, are all as good
TRIES = 12  # without a sound look between them: by then the step is 4000 times smaller, it was not the step


@dataclass(frozen=True)
class Kept:
    """The best picture so far, by the rule.

    Attributes:
        number: the iteration.
        image: the average that the rule chose, shape (C, H, W).
        memory: how much of itself that average keeps at each iteration.
    """

    number: int
    image: Tensor
    memory: float


@dataclass(frozen=True)
class Reached:
    """What a fit has come to, beside weights and optimiser.

    Attributes:
        number: the iteration.
        averages: of the outputs so far, one for each memory.
        shares: sum of the weights in each, in (0, 1].
        kept: the best so far, by the rule.
        state: the rule's.
    """

    number: int
    averages: tuple[Tensor, ...]
    shares: tuple[float, ...]
    kept: Kept | None
    state: Any


@dataclass(frozen=True)
class _Held:
    """Copies of all that a step changes.

    Attributes:
        reached: the average, the kept step and the rule's state.
        weights: of the network, with whatever statistics it keeps.
        code: z.
        optimizer: the one at work; None before the first step.
        moments: Adam's. L-BFGS, whose history is a hundred times the weights, begins anew.
    """

    reached: Reached
    weights: dict[str, Tensor]
    code: Tensor
    optimizer: Adam | torch.optim.LBFGS | None
    moments: dict[str, Any]


class Lifeline:
    """Watches a fit, and takes it back to when it was last sound.

    A collapse is a loss that is no number, or one that is 5 dB above what it was lately at two looks running: a fit
    that recovers by itself in between is left alone. A state is trusted when the look after it is sound too, for the
    loss is that of the weights before the step: the step that ruins a fit shows only later.

    Args:
        network: with whatever statistics it keeps.
        code: z.
        reached: where the fit begins.
    """

    def __init__(self, network: nn.Module, code: Tensor, reached: Reached) -> None:
        self.network, self.code = network, code
        self.events: list[str] = []
        self.lately: deque[float] = deque(maxlen=LATELY)
        self.warned, self.tries = False, 0
        self.trusted = self.newest = self._held(reached, None)

    def check(
        self, step: Step, reached: Reached, optimizer: Adam | torch.optim.LBFGS, *, last: bool
    ) -> tuple[Step, Reached]:
        """The same, or, after a collapse, the step that says so and what the fit had come to when it was last sound.

        Args:
            step: the iteration.
            reached: what the fit has come to with it.
            optimizer: the one at work.
            last: whether the run ends here: what looks bad is not waited for.
        """
        loss = float(step.loss)
        sound = math.isfinite(loss) and max(loss, NOUGHT) <= COLLAPSE * median(self.lately or [math.inf])
        if sound:
            self.lately.append(max(loss, NOUGHT))
            self.warned, self.tries = False, 0
            self.trusted, self.newest = self.newest, self._held(reached, optimizer)
            return step, reached
        if math.isfinite(loss) and not self.warned and not last:
            self.warned = True
            return step, reached
        shown = self.trusted.reached.kept or self.newest.reached.kept  # at the start there is no picture to go back to
        self.trusted = replace(self.trusted, reached=replace(self.trusted.reached, kept=shown))
        self._go_back(optimizer)
        self.warned, self.tries = False, self.tries + 1
        event = f"the fit collapsed: back to iteration {self.trusted.reached.number}, half the step"
        self.events.append(f"iteration {step.number}: {event}")
        return replace(step, event=event), self.trusted.reached

    def _held(self, reached: Reached, optimizer: Adam | torch.optim.LBFGS | None) -> _Held:
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        moments = deepcopy(optimizer.state_dict()) if isinstance(optimizer, Adam) else {}
        return _Held(reached, weights, self.code.detach().clone(), optimizer, moments)

    def _go_back(self, optimizer: Adam | torch.optim.LBFGS) -> None:
        """Put everything back, in place, and halve the step."""
        held = self.newest = self.trusted
        self.network.load_state_dict(held.weights)
        with torch.no_grad():
            self.code.copy_(held.code)
        rates = [group["lr"] / 2 for group in optimizer.param_groups]
        if optimizer is held.optimizer and held.moments:
            optimizer.load_state_dict(deepcopy(held.moments))  # it goes on working on what it is given
        else:
            optimizer.state.clear()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
