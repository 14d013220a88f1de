"""The client: submits the images of a batch to the workers and yields their outcomes."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dipcli.cluster.clusters import connect
from dipcli.cluster.tasks import Tasks
from dipcli.errors import DipError, UsageError
from dipcli.runs.batches.batch import Batch, BatchSize, Outcome, decide_without_fit, not_started
from dipcli.runs.display import Display
from dipcli.runs.interrupt import handle_signals
from dipcli.settings.scheduler import Scheduler


def restore_by(
    scheduler: Scheduler,
    batch: Batch,
    *,
    batch_size: BatchSize = None,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
) -> Iterator[Outcome]:
    """Restore many images, several at a time, and continue after failures.

    Each image's files tell whether it is finished. Whatever is lost (a process, a worker, the scheduler), the same
    call again does the rest. Workers may come and go. The first of the signals ends the fits at work, which keep their
    best images so far, and no others are started.

    Yields:
        The outcomes, as they become known: at least one.

    Raises:
        DipError: if the scheduler cannot be reached, or is lost.
    """
    if batch_size == "auto":
        raise UsageError("--batch-size auto cannot be combined with --scheduler: give a number, as --batch-size 16.")

    def warn() -> None:
        display.note(
            "Ending the fits at work and keeping their best images so far. Press Ctrl-C again to stop at once."
        )

    with handle_signals(*signals, say=warn) as interrupt:
        decisions = _decide(batch, batch_size or 1)
        waiting: deque[list[int]] = deque()
        yield from _advance(decisions, waiting)
        if not waiting:
            return
        first = waiting[0][0]
        with (
            connect(scheduler, batch.entries[first - 1].job, len(batch.entries) - first + 1, display.note) as cluster,
            closing(Tasks(*cluster, batch)) as tasks,
        ):
            while waiting or tasks.pending:
                tasks.poll(display, interrupt)
                if interrupt.received and not (tasks.pending and tasks.workers):
                    break
                while waiting and tasks.has_room and not interrupt.received:
                    tasks.submit(waiting.popleft())
                    if not waiting:
                        yield from _advance(decisions, waiting)
                yield from tasks.collect(interrupt, waiting)
        if waiting and interrupt.received:
            yield not_started(batch, waiting[0][0], interrupt.received)


def _decide(batch: Batch, batch_size: int) -> Iterator[Outcome | list[int]]:
    """Go through a batch: outcomes that are known without a fit, and the numbers of the images for each task."""
    groups: Iterable[Sequence[int]] = ([number] for number in range(1, len(batch.entries) + 1))
    if batch_size > 1:
        groups = (
            numbers[start : start + batch_size]
            for numbers in batch.of_one_size()
            for start in range(0, len(numbers), batch_size)
        )
    shut: dict[Path, DipError] = {}
    for group in groups:
        task = []
        for number in group:
            if outcome := decide_without_fit(batch, number, shut):
                yield outcome
            else:
                task.append(number)
        if task:
            yield task


def _advance(decisions: Iterator[Outcome | list[int]], waiting: deque[list[int]]) -> Iterator[Outcome]:
    """Yield the outcomes that are known without a fit, up to the next task, which is put into `waiting`."""
    for decision in decisions:
        if isinstance(decision, list):
            waiting.append(decision)
            return
        yield decision
