"""The state of a fit, of several runs and of tiles: everything a checkpoint holds.

All are frozen dataclasses of tensors, numbers, strings, None, and tuples, lists and dicts of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dipcli.fitting.results import Run
from dipcli.stopping.step import Place


@dataclass(frozen=True)
class BestAverage:
    """The best image so far, by the stopping rule.

    Attributes:
        number: its iteration.
        image: the running average that the rule chose, shape (C, H, W).
        decay: the decay of that average, in [0, 1).
    """

    number: int
    image: Tensor
    decay: float


@dataclass(frozen=True)
class FitState:
    """The results of an iteration, apart from weights and optimiser.

    Attributes:
        number: the iteration.
        averages: exponential averages of the outputs, one for each of `Settings.decays`.
        shares: the sum of the weights in each average, in (0, 1]; the averages are divided by it.
        kept: the best average so far; None before the first iteration.
        state: the stopping rule's state.
    """

    number: int
    averages: tuple[Tensor, ...]
    shares: tuple[float, ...]
    kept: BestAverage | None
    state: Any


@dataclass(frozen=True)
class Snapshot:
    """Copies of everything that an iteration changes.

    Attributes:
        reached: the averages, the best average and the rule's state.
        weights: the network's parameters and buffers.
        code: z, if it is optimised too.
        moments: Adam's state. Empty for L-BFGS, whose history is a hundred times the size of the weights.
    """

    reached: FitState
    weights: dict[str, Tensor]
    code: Tensor | None
    moments: dict[str, Any]


@dataclass(frozen=True)
class GuardState:
    """The state of the collapse guard.

    Attributes:
        trusted: the snapshot that a collapse rolls back to.
        newest: the latest snapshot; trusted once the next check passes.
        recent_losses: the losses at the last checks.
        rollbacks: how many since the last check that passed.
        events: one sentence for each rollback.
    """

    trusted: Snapshot
    newest: Snapshot
    recent_losses: tuple[float, ...]
    rollbacks: int
    events: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to continue a fit bit for bit.

    Attributes:
        code: z.
        guard: the collapse guard's state; its newest snapshot is the current state of the fit.
        rates: the optimiser's learning rates.
        history: the state of L-BFGS; empty for Adam, whose state is in the newest snapshot.
        draws: how often noise has been added to z.
        seconds: time spent in the fit.
    """

    code: Tensor
    guard: GuardState
    rates: tuple[float, ...]
    history: dict[str, Any]
    draws: int
    seconds: float


@dataclass(frozen=True)
class RunsState:
    """The state of several runs of one fit.

    Attributes:
        runs: the finished runs.
        failures: the errors of the runs that failed.
        current: the checkpoint of the current run.
    """

    runs: tuple[Run, ...]
    failures: tuple[str, ...]
    current: Checkpoint

    @property
    def seconds(self) -> float:
        """Time spent in the fits."""
        return sum(run.fit.seconds for run in self.runs) + self.current.seconds

    @property
    def reached(self) -> tuple[int, int, int]:
        """0 for no tile, the number of the current run, and its iteration."""
        return 0, len(self.runs) + len(self.failures) + 1, self.current.guard.newest.reached.number


@dataclass(frozen=True)
class FittedTile:
    """A finished tile, reduced to what blending needs, so that its tensors on the device can be freed.

    Attributes:
        place: its position in the image.
        image: the mean of its runs, fused with the companion, on the CPU, shape (C, h, w), not yet finished.
        runs: its runs, outliers included; empty if nothing was fitted.
        reason: why its fit ended.
        seconds: time spent in its fits.
        share: of the fit in the fusion; None if not fused.
    """

    place: Place
    image: Tensor
    runs: tuple[Run, ...] = ()
    reason: str = "nothing was missing"
    seconds: float = 0.0
    share: float | None = None


@dataclass(frozen=True)
class TilesState:
    """The state of an image that is fitted in tiles.

    Attributes:
        done: the finished tiles, in order.
        waiting: the positions of the other tiles; the first is the current one.
        current: the state of the current tile's runs.
    """

    done: tuple[FittedTile, ...]
    waiting: tuple[Place, ...]
    current: RunsState

    @property
    def seconds(self) -> float:
        """Time spent in the fits."""
        return sum(tile.seconds for tile in self.done) + self.current.seconds

    @property
    def reached(self) -> tuple[int, int, int]:
        """The number of the current tile, of its run, and the iteration."""
        return len(self.done) + 1, *self.current.reached[1:]
