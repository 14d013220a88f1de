"""The client: which pictures go out to the workers, and in which order the outcomes come."""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from dipcli.cluster.clusters import opened
from dipcli.cluster.in_flight import Flight, at_work
from dipcli.errors import DipError
from dipcli.runs.batches.batch import Batch, BatchSize, Outcome, decide_without_fit, not_started
from dipcli.runs.display import Display
from dipcli.runs.interrupt import Interrupt, handle_signals
from dipcli.settings.scheduler import Scheduler


def restore_by(
    scheduler: Scheduler,
    batch: Batch,
    *,
    batch_size: BatchSize = None,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
) -> Iterator[Outcome]:
    """Restore many pictures, several at a time, past those that fail.

    Every picture is a task by itself, and what it leaves behind tells whether it is done: whatever is lost on the way
    (a process, a worker, the scheduler), the same call again does the rest. Workers may come and go.

    Args:
        scheduler: what is to do it.
        batch: which.
        batch_size: pictures of one size that a process fits together.
        display: is told what there is to say.
        signals: the first of these lets the fits at work end with their best pictures so far, and begins no others.

    Yields:
        What became of each, in the order in which it is known: at least one.

    Raises:
        DipError: when there is no such scheduler, or it is lost.
    """

    def warn() -> None:
        display.note("Ending the fits at work, keeping their best pictures so far; once more to end at once.")

    with _orderly(signals), handle_signals(*signals, say=warn) as interrupt:
        due = _Due(batch)
        yield from due.advance()
        if not due.number:
            return
        first, left = batch.entries[due.number - 1].job, len(batch.entries) - due.number + 1
        with opened(scheduler, first, left, batch_size, display.note) as site, at_work(site, batch) as flight:
            if site.together > 1:
                due.by_size()
            while due.number or flight.out:
                yield from _sent(due, flight, interrupt)
                if interrupt.received:
                    flight.end(interrupt.received)
                    if not flight.out:
                        break
                yield from flight.landed(display, interrupt)
        if due.number and interrupt.received:
            yield not_started(batch, due.number, interrupt.received)


@contextmanager
def _orderly(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Inside, a SIGTERM that nobody heeds, a second one, stops what is at work before this process ends."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    heeding = signal.SIGTERM in signals and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if heeding else None
    try:
        yield
    finally:
        if heeding:
            signal.signal(signal.SIGTERM, before)


class _Due:
    """Goes through a batch.

    Attributes:
        number: of the next picture that a fit is to be begun for; 0 when there is none.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch, self.number = batch, 0
        self.shut: dict[Path, DipError] = {}
        self.ahead = deque(range(1, len(batch.entries) + 1))

    def by_size(self) -> None:
        """From now on those of one size one after the other."""
        groups = sorted(self.batch.of_one_size(), key=lambda numbers: self.number not in numbers)
        ahead = {*self.ahead}
        self.ahead = deque(number for numbers in groups for number in numbers if number in ahead)

    def advance(self) -> Iterator[Outcome]:
        """Go on to the next, past those whose outcome is known: these are told."""
        while self.ahead:
            number = self.ahead.popleft()
            known = decide_without_fit(self.batch, number, self.shut)
            if known is None:
                self.number = number
                return
            yield known
        self.number = 0


def _sent(due: _Due, flight: Flight, interrupt: Interrupt) -> Iterator[Outcome]:
    """Send pictures out as long as there is room; outcomes that are known without a fit are told on the way."""
    while due.number and not interrupt.received and flight.room():
        flight.send(due.number)
        yield from due.advance()
