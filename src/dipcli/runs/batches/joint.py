"""Many pictures, those of one size together: their networks are computed in one pass."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from dipcli.errors import DipError
from dipcli.fitting.machine import memory
from dipcli.fitting.passes import lockstep
from dipcli.fitting.solve import use_threads
from dipcli.runs.batches import throughput as pace
from dipcli.runs.batches.batch import Batch, Outcome, decide_without_fit, failed, not_started
from dipcli.runs.batches.shared_display import SharedDisplay
from dipcli.runs.display import Display
from dipcli.runs.interrupt import Interrupt, NotStartedError, handle_signals
from dipcli.runs.run import Announce, restore


def restore_together(
    batch: Batch,
    wanted: int | None,
    *,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
    announce: Announce = lambda _plan: None,
) -> Iterator[Outcome]:
    """Restore pictures of one size together, one size after the other, past those that fail.

    Each has its own rule, its own end, and its own files; when one is done the next takes its place.

    Args:
        batch: which, several.
        wanted: how many together, as far as memory allows; None to find out on the first of each size.
        display: shows progress, of one of them at a time.
        signals: the first of these ends the fits at work, keeps their best pictures so far and ends the batch.
        announce: told of each picture the preset, the settings as they will be used, and what they will take.

    Yields:
        What became of each, as soon as it is known.
    """

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best pictures so far; once more to end at once.")

    with handle_signals(*signals, say=warn) as interrupt:
        work = _Work(batch, SharedDisplay(display), signals, interrupt, announce)
        for group in batch.of_one_size():
            due = []
            for number in group:
                if known := decide_without_fit(batch, number, work.shut):
                    yield known
                else:
                    due.append(number)
            if interrupt.received:
                work.left += due
            elif due:
                job = batch.entries[due[0] - 1].job
                yield from work.done(due, pace.batch_size(job, wanted, len(due), display.note, interrupt.reason))
        if work.left and interrupt.received:
            yield not_started(batch, work.left[0], interrupt.received)


class _Work:
    """Restores the pictures of a batch.

    Attributes:
        shut: folders that took nothing when they were last tried.
        left: numbers of pictures that were not begun because somebody asked for the end.
    """

    def __init__(
        self,
        batch: Batch,
        turns: SharedDisplay,
        signals: tuple[signal.Signals, ...],
        interrupt: Interrupt,
        announce: Announce,
    ) -> None:
        self.batch, self.turns, self.announce = batch, turns, announce
        self.signals, self.interrupt = signals, interrupt
        self.shut: dict[Path, DipError] = {}
        self.left: list[int] = []

    def done(self, numbers: list[int], together: int) -> Iterator[Outcome]:
        """What becomes of these, so many at a time."""
        waiting = list(numbers)

        def feed(_idle: bool) -> Callable[[], Outcome] | None:
            if not waiting or self.interrupt.received:
                return None
            number = waiting.pop(0)
            self.turns.coming = min(together - self.turns.at_work - 1, len(waiting))
            return partial(self._restored, number)

        sharing = memory.FITS_AT_ONCE.set(together)
        try:
            # Each fit sets the number of threads, and puts it back: all to the same.
            with use_threads(self.batch.entries[0].job.given.get("threads") or torch.get_num_threads()):
                yield from lockstep.run(feed, together)
        finally:
            memory.FITS_AT_ONCE.reset(sharing)
            self.left += waiting

    def _restored(self, number: int) -> Outcome:
        """What becomes of one."""
        job = self.batch.entries[number - 1].job
        try:
            record, ended_by = restore(
                job,
                display=self.turns.next(),
                signals=self.signals,
                announce=self.announce,
                resume=True,
                interrupt=self.interrupt,
                evaluate=lockstep.evaluate_jointly,
            )
        except DipError as error:
            return failed(self.batch, number, error)
        except NotStartedError:
            return not_started(self.batch, number, self.interrupt.received or signal.SIGTERM)
        self.interrupt.received = self.interrupt.received or ended_by  # it may have been the comparison that was cut
        return Outcome(record.input, record.output, record, ended_by=ended_by, number=number)
