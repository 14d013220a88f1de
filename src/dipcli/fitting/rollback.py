"""Recovery: going back to when a fit was last sound, once it has collapsed.

A hot learning rate can ruin a fit in one step: the picture turns red, or grey, and stays so for hundreds of iterations.
The published remedy is to go back to earlier weights. Here all that a step changes goes back with them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import torch

from dipcli.errors import DipError
from dipcli.fitting.adam import Adam
from dipcli.fitting.state import Checkpoint, FitState, GuardState, Snapshot

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dipcli.stopping.step import Step

CHECK_INTERVAL = 10  # iterations between looks at the loss: reading it makes a GPU wait
COLLAPSE = 10**0.5  # a loss so many times what it was lately, 5 dB, is a collapse: published
LATELY = 5  # looks whose median the loss was lately: a fit with noisy input has a noisy loss
NOUGHT = 5e-5  # losses below it, 43 dB, are all as good: those of a picture of one colour jump about there
MAX_ROLLBACKS = 12  # without a sound look between them: by then the step is 4000 times smaller, it was not the step


def _copied(moments: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Adam's memories, a tensor at a time: `deepcopy` takes ten times as long."""
    return {name: [each.clone() for each in tensors] for name, tensors in moments.items()}


class CollapseGuard:
    """Watches a fit, and takes it back to when it was last sound.

    A collapse is a loss that is no number, or one that is 5 dB above what it was lately at two looks running: a fit
    that recovers by itself in between is left alone. A state is trusted when the look after it is sound too, for the
    loss is that of the weights before the step: the step that ruins a fit shows only later.

    Args:
        network: with whatever statistics it keeps.
        code: z; it is watched where it is fitted too.
        reached: where the fit begins.
    """

    def __init__(self, network: nn.Module, code: Tensor, reached: FitState) -> None:
        self.network, self.code = network, code
        self.events: list[str] = []
        self.lately: deque[float] = deque(maxlen=LATELY)
        self.warned, self.tries = False, 0
        self.trusted = self.newest = self._held(reached, None)

    def check(
        self, step: Step, reached: FitState, optimizer: Adam | torch.optim.LBFGS, *, last: bool
    ) -> tuple[Step, FitState]:
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

    def is_sound_at(self, number: int) -> bool:
        """Whether the fit was looked at after this iteration and was sound: `checkpoint` is of this moment."""
        return self.newest.reached.number == number and not self.warned and not self.tries

    def checkpoint(self, optimizer: Adam | torch.optim.LBFGS, draws: int, seconds: float) -> Checkpoint:
        """What a fit that was looked at just now goes on from.

        Args:
            optimizer: the one at work.
            draws: how often noise was added to z.
            seconds: spent in the fit.
        """
        watched = GuardState(self.trusted, self.newest, tuple(self.lately), self.tries, tuple(self.events))
        history = {} if isinstance(optimizer, Adam) else dict(optimizer.state_dict())
        rates = tuple(group["lr"] for group in optimizer.param_groups)
        return Checkpoint(self.code.detach(), watched, rates, history, draws, seconds)

    def resume(self, checkpoint: Checkpoint, optimizer: Adam | torch.optim.LBFGS) -> FitState:
        """Put everything in the place where it was.

        Args:
            checkpoint: of a fit of the same network.
            optimizer: the one that was at work, as it was made.

        Returns:
            What the fit had come to.

        Raises:
            DipError: when the checkpoint is of a fit of something else.
        """
        watched = checkpoint.guard
        self._check(checkpoint, optimizer)
        self.trusted, self.newest, self.tries = watched.trusted, watched.newest, watched.tries
        self.lately, self.events = deque(watched.recent_losses, maxlen=LATELY), list(watched.events)
        self._put_back(self.newest)
        if self.newest.moments:
            optimizer.load_state_dict(_copied(self.newest.moments))
        elif checkpoint.history:
            optimizer.load_state_dict(checkpoint.history)
        for group, rate in zip(optimizer.param_groups, checkpoint.rates, strict=True):
            group["lr"] = rate
        return self.newest.reached

    def _check(self, checkpoint: Checkpoint, optimizer: Adam | torch.optim.LBFGS) -> None:
        """See that all that was held is of the shapes of what it takes the place of."""
        now, watched = self.newest.reached, checkpoint.guard
        shapes = {name: value.shape for name, value in self.network.state_dict().items()}
        slopes = [each.shape for each in self.network.parameters()] + [self.code.shape] * self.code.requires_grad
        sound = len(checkpoint.rates) == len(optimizer.param_groups)
        for held in (watched.newest, watched.trusted):
            reached, moments = held.reached, held.moments
            pictures = [*reached.averages, *([reached.kept.image] if reached.kept else [])]
            sound = sound and {name: value.shape for name, value in held.weights.items()} == shapes
            sound = sound and len(reached.averages) == len(reached.shares) == len(now.averages)
            sound = sound and all(each.shape == now.averages[0].shape for each in pictures)
            sound = sound and (held.code is not None) == self.code.requires_grad
            sound = sound and moments.keys() in ({}.keys(), {"means", "squares", "counts"})
            sound = sound and all(
                [each.shape for each in moments[name]] == slopes for name in ("means", "squares") if moments
            )
        if not sound:
            raise DipError("The checkpoint is of another network or picture: begin anew.")

    def _held(self, reached: FitState, optimizer: Adam | torch.optim.LBFGS | None) -> Snapshot:
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        moments = _copied(optimizer.state_dict()) if isinstance(optimizer, Adam) else {}
        return Snapshot(reached, weights, self.code.detach().clone() if self.code.requires_grad else None, moments)

    def _put_back(self, held: Snapshot) -> None:
        self.network.load_state_dict(held.weights)
        if held.code is not None:
            with torch.no_grad():
                self.code.copy_(held.code)

    def _go_back(self, optimizer: Adam | torch.optim.LBFGS) -> None:
        """Put everything back, in place, and halve the step."""
        held = self.newest = self.trusted
        self._put_back(held)
        rates = [group["lr"] / 2 for group in optimizer.param_groups]
        if isinstance(optimizer, Adam) and held.moments:
            optimizer.load_state_dict(_copied(held.moments))  # it goes on working on what it is given
        else:
            optimizer.state.clear()  # L-BFGS after Adam has nothing to go back to
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
