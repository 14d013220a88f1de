"""What runs beside a fit: deadline, interrupt, observers, checkpoints, messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeAlias

from dipcli.fitting.passes.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.state import Checkpoint, RunsState, TilesState
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step

TIME_UP = "the time is up (--time)"

Observer: TypeAlias = Callable[[Step, Verdict], None]
# Called with a function that returns the state of the fit at this moment, and whether this was the last iteration.
# The state's type is that of `Control.resume_from`. Its tensors may change with the next iteration.
CheckpointHook: TypeAlias = Callable[[Callable[[], Any], bool], None]
Notify: TypeAlias = Callable[[str], None]


class Deadline:
    """A time budget: says when another iteration would not fit into it.

    Args:
        seconds: the budget, counted from now; None for no limit.
        spent: seconds of it that an earlier part of the run used.
        clock: returns the time in seconds.
    """

    def __init__(self, seconds: float | None, spent: float = 0.0, *, clock: Callable[[], float] = perf_counter) -> None:
        self.clock = clock
        self.last: float | None = None
        self.end = None if seconds is None else clock() + seconds - spent

    def begin(self) -> None:
        """Start a run: the duration of its iterations is not known yet."""
        self.last = None

    def expired(self) -> str | None:
        """Return why to end now, or None. Call it after each iteration.

        The next iteration is expected to take as long as the last one. The first of a run is slower and is not used.
        """
        now = self.clock()
        duration, self.last = now - self.last if self.last is not None else 0.0, now
        return TIME_UP if self.end is not None and now + duration > self.end else None

    def left(self) -> float | None:
        """Return the seconds left, at least 0; None for no limit."""
        return None if self.end is None else max(0.0, self.end - self.clock())

    def has_room(self, seconds: float) -> bool:
        """Return whether a limit is set and this many seconds are left."""
        return self.end is not None and self.clock() + seconds <= self.end


def no_checkpoint(_take: Callable[[], Any], _last: bool) -> None:
    """Keep no checkpoint: an interrupted fit starts from scratch."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """What runs beside a fit. None of it changes the result of a fit that is left to end by itself.

    Attributes:
        deadline: the time budget; None for that of the settings, which `engine.fit` ignores.
        interrupted: returns why the fit should end now, or None.
        observers: called after each iteration of each run, in order; they watch and cannot steer.
        checkpoint: called every ten iterations, after the observers, and after the last one.
        resume_from: the state of an earlier fit with the same problem, prior and settings: a `Checkpoint` for
            `engine.fit`, `RunsState` for `fit_runs`, `TilesState` for `fit_tiles`. The fit continues bit for bit.
        evaluate: computes the loss and its gradient; several fits may share one pass.
        notify: receives messages to the user.
    """

    deadline: Deadline | None = None
    interrupted: Callable[[], str | None] = lambda: None
    observers: tuple[Observer, ...] = ()
    checkpoint: CheckpointHook = no_checkpoint
    resume_from: Checkpoint | RunsState | TilesState | None = None
    evaluate: Evaluate = evaluate_alone
    notify: Notify = lambda _message: None

    def reason_to_end(self) -> str | None:
        """Return why the fit should end now, by interrupt or deadline, or None. Call it once an iteration."""
        expired = self.deadline.expired() if self.deadline else None
        return self.interrupted() or expired


NO_CONTROL = Control()  # nothing runs beside the fit
