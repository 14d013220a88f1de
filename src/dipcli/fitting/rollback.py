"""Rolling a collapsed fit back to its last trusted state.

A high learning rate can ruin a fit in one step: the image turns red or grey and stays so for hundreds of iterations.
The published remedy is to go back to earlier weights. Here everything that a step changes goes back with them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn

from dipcli.errors import DipError
from dipcli.fitting.optimizers import Adam, Optimizer
from dipcli.fitting.state import Checkpoint, FitState, GuardState, Snapshot
from dipcli.stopping.step import Step

CHECK_INTERVAL = 10  # iterations between checks of the loss: reading it makes a GPU wait
COLLAPSE_RATIO = 10**0.5  # a loss this many times the recent one, 5 dB, is a collapse: published
RECENT_CHECKS = 5  # checks whose median is the recent loss: with noise on the input the loss is noisy
# Losses below this, 43 dB, are treated as equal: for a constant image they fluctuate there.
MIN_LOSS = 5e-5
MAX_ROLLBACKS = 12  # in a row: the learning rate is then 4000 times smaller, so it was not the cause


class CollapseGuard:
    """Checks the loss of a fit and rolls a collapsed fit back.

    A collapse is a loss that is not finite, or one 5 dB above the median of the recent ones at two checks in a row: a
    fit that recovers by itself in between is left alone. A snapshot is trusted once the check after it passes too: the
    loss is that of the weights before the step, so a ruinous step shows only at the next check.

    Args:
        network: its parameters and buffers are saved and restored.
        code: z; it is saved and restored if it is optimised.
        reached: the state before the first iteration.

    Attributes:
        events: one sentence for each rollback.
        rollbacks: rollbacks since the last check that passed.
    """

    def __init__(self, network: nn.Module, code: Tensor, reached: FitState) -> None:
        self.network, self.code = network, code
        self.events: list[str] = []
        self.recent_losses: deque[float] = deque(maxlen=RECENT_CHECKS)
        self.warned, self.rollbacks = False, 0
        self.trusted = self.newest = self._take_snapshot(reached, None)

    def check(self, step: Step, reached: FitState, optimizer: Optimizer, *, last: bool) -> tuple[Step, FitState]:
        """Return step and state as they are or, after a collapse, the step with its event and the trusted state.

        Args:
            step: the iteration.
            reached: the state after it.
            optimizer: the optimiser of this iteration; its learning rate is halved after a collapse.
            last: whether the fit ends here, so that there is no second check.
        """
        loss = float(step.loss)
        limit = COLLAPSE_RATIO * median(self.recent_losses or [math.inf])
        if math.isfinite(loss) and max(loss, MIN_LOSS) <= limit:
            self.recent_losses.append(max(loss, MIN_LOSS))
            self.warned, self.rollbacks = False, 0
            self.trusted, self.newest = self.newest, self._take_snapshot(reached, optimizer)
            return step, reached
        if math.isfinite(loss) and not self.warned and not last:
            self.warned = True
            return step, reached
        # The first trusted snapshot, from before the first iteration, has no image to show.
        kept = self.trusted.reached.kept or self.newest.reached.kept
        self.trusted = replace(self.trusted, reached=replace(self.trusted.reached, kept=kept))
        self._roll_back(optimizer)
        self.warned, self.rollbacks = False, self.rollbacks + 1
        event = f"the fit collapsed: back to iteration {self.trusted.reached.number}, half the step"
        self.events.append(f"iteration {step.number}: {event}")
        return replace(step, event=event), self.trusted.reached

    def is_sound_at(self, number: int) -> bool:
        """Return whether this iteration was checked and passed: `checkpoint` describes this moment."""
        return self.newest.reached.number == number and not self.warned and not self.rollbacks

    def checkpoint(self, optimizer: Optimizer, draws: int, seconds: float) -> Checkpoint:
        """Return a checkpoint of a fit that has just passed a check.

        Args:
            optimizer: the optimiser of this iteration.
            draws: how often noise has been added to z.
            seconds: time spent in the fit.
        """
        guard = GuardState(self.trusted, self.newest, tuple(self.recent_losses), self.rollbacks, tuple(self.events))
        history = {} if isinstance(optimizer, Adam) else dict(optimizer.state_dict())
        rates = tuple(group["lr"] for group in optimizer.param_groups)
        return Checkpoint(self.code.detach(), guard, rates, history, draws, seconds)

    def resume(self, checkpoint: Checkpoint, optimizer: Optimizer) -> FitState:
        """Restore everything from a checkpoint and return the state that the fit had reached.

        Args:
            checkpoint: of a fit with the same network.
            optimizer: the optimiser of the checkpoint's iteration, fresh.

        Raises:
            DipError: if the checkpoint is of another fit.
        """
        guard = checkpoint.guard
        self._check_shapes(checkpoint, optimizer)
        self.trusted, self.newest, self.rollbacks = guard.trusted, guard.newest, guard.rollbacks
        self.recent_losses, self.events = deque(guard.recent_losses, maxlen=RECENT_CHECKS), list(guard.events)
        self._restore(self.newest)
        if self.newest.moments:
            optimizer.load_state_dict(_copy_moments(self.newest.moments))
        elif checkpoint.history:
            optimizer.load_state_dict(checkpoint.history)
        for group, rate in zip(optimizer.param_groups, checkpoint.rates, strict=True):
            group["lr"] = rate
        return self.newest.reached

    def _check_shapes(self, checkpoint: Checkpoint, optimizer: Optimizer) -> None:
        """Raise a DipError unless every tensor has the shape of the one that it replaces."""
        now = self.newest.reached
        shapes = {name: value.shape for name, value in self.network.state_dict().items()}
        variables = [parameter.shape for parameter in self.network.parameters()]
        variables += [self.code.shape] * self.code.requires_grad
        sound = len(checkpoint.rates) == len(optimizer.param_groups)
        for snapshot in (checkpoint.guard.newest, checkpoint.guard.trusted):
            reached, moments = snapshot.reached, snapshot.moments
            images = [*reached.averages, *([reached.kept.image] if reached.kept else [])]
            sound = sound and {name: value.shape for name, value in snapshot.weights.items()} == shapes
            sound = sound and len(reached.averages) == len(reached.shares) == len(now.averages)
            sound = sound and all(image.shape == now.averages[0].shape for image in images)
            sound = sound and (snapshot.code is not None) == self.code.requires_grad
            sound = sound and moments.keys() in ({}.keys(), {"means", "squares", "counts"})
            sound = sound and all(
                [moment.shape for moment in moments[name]] == variables for name in ("means", "squares") if moments
            )
        if not sound:
            raise DipError("The checkpoint is of another network or image: start the run again.")

    def _take_snapshot(self, reached: FitState, optimizer: Optimizer | None) -> Snapshot:
        weights = {name: value.clone() for name, value in self.network.state_dict().items()}
        code = self.code.detach().clone() if self.code.requires_grad else None
        moments = _copy_moments(optimizer.state_dict()) if isinstance(optimizer, Adam) else {}
        return Snapshot(reached, weights, code, moments)

    def _restore(self, snapshot: Snapshot) -> None:
        """Copy the weights, and z if it is optimised, back in place."""
        self.network.load_state_dict(snapshot.weights)
        if snapshot.code is not None:
            with torch.no_grad():
                self.code.copy_(snapshot.code)

    def _roll_back(self, optimizer: Optimizer) -> None:
        """Restore the trusted snapshot and halve the learning rate."""
        self.newest = self.trusted
        self._restore(self.trusted)
        rates = [group["lr"] / 2 for group in optimizer.param_groups]
        if isinstance(optimizer, Adam) and self.trusted.moments:
            optimizer.load_state_dict(_copy_moments(self.trusted.moments))
        else:
            optimizer.state.clear()  # the history of L-BFGS is not in the snapshot
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _copy_moments(moments: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Copy Adam's state tensor by tensor: `deepcopy` takes ten times as long."""
    return {name: [tensor.clone() for tensor in tensors] for name, tensors in moments.items()}
