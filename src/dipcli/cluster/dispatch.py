"""The client: submits the images of a batch to the workers and yields their outcomes."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

from distributed import CancelledError, Client, Future, KilledWorker

import dipcli
from dipcli.cluster import worker
from dipcli.cluster.clusters import connect
from dipcli.errors import DipError, UsageError, describe_failure
from dipcli.runs.batches.batch import Batch, BatchSize, Outcome, decide_without_fit, failed, not_started
from dipcli.runs.display import Display
from dipcli.runs.interrupt import Interrupt, handle_signals
from dipcli.settings.scheduler import Scheduler

POLL_SECONDS = 0.5  # between two looks at workers and signals
FIRST_NOTE_SECONDS, NEXT_NOTE_SECONDS = 10.0, 60.0  # without a worker, until that is said


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
        waiting: deque[list[int]] = deque()
        decide_next = partial(next, _decide(batch, batch_size or 1, waiting))
        yield from iter(decide_next, None)  # up to the first task
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
                        yield from iter(decide_next, None)
                yield from tasks.collect(interrupt, waiting)
        if waiting and interrupt.received:
            yield not_started(batch, waiting[0][0], interrupt.received)


def _decide(batch: Batch, batch_size: int, waiting: deque[list[int]]) -> Iterator[Outcome | None]:
    """Yield the outcomes that are known without a fit, and None for each task, which is put into `waiting`."""
    sizes = batch.of_one_size() if batch_size > 1 else [range(1, len(batch.entries) + 1)]
    shut: dict[Path, DipError] = {}
    for group in (numbers[at : at + batch_size] for numbers in sizes for at in range(0, len(numbers), batch_size)):
        task = []
        for number in group:
            if outcome := decide_without_fit(batch, number, shut):
                yield outcome
            else:
                task.append(number)
        if task:
            waiting.append(task)
            yield None


class Tasks:
    """The tasks of one call that are on the cluster: submitted, finished, failed, repeated."""

    def __init__(self, client: Client, threads: int | None, batch: Batch) -> None:
        self.client, self.threads, self.batch = client, threads, batch  # threads of each fit; None for all CPUs
        self.address = str(client.scheduler.address)
        self.call = f"dip-{uuid4().hex}"
        self.submitted = 0
        self.pending: dict[Future, tuple[int, ...]] = {}  # numbers of the images of each task
        self.finished: SimpleQueue[Future] = SimpleQueue()
        self.workers = 0  # that are connected
        self.next_poll, self.next_note = 0.0, monotonic() + FIRST_NOTE_SECONDS

    @property
    def has_room(self) -> bool:
        """Whether a worker is free. No task waits at a busy worker: it would count as failed if that one crashed."""
        return len(self.pending) < self.workers

    def submit(self, numbers: Sequence[int]) -> None:
        """Submit a task: one image, or several of one size."""
        request = {
            "call": self.call,
            "version": dipcli.__version__,
            "cwd": str(Path.cwd()),
            "threads": self.threads,
            "jobs": [self.batch.entries[number - 1].job.to_json() for number in numbers],
        }
        self.submitted += 1
        future = self.client.submit(worker.restore_images, request, key=(self.call, self.submitted), pure=False)
        self.pending[future] = tuple(numbers)
        future.add_done_callback(self.finished.put)

    def poll(self, display: Display, interrupt: Interrupt) -> None:
        """Count the workers, pass on an interrupt, and say if there is no worker, every half second.

        Raises:
            DipError: if the scheduler is gone.
        """
        if monotonic() < self.next_poll:
            return
        self.workers = len(self._ask(self.client.nthreads))
        if interrupt.received:  # again and again: another worker may have connected
            self._ask(self.client.run, worker.end_call, self.call, int(interrupt.received), on_error="ignore")
        self.next_poll = monotonic() + POLL_SECONDS
        if self.workers:
            self.next_note = monotonic() + FIRST_NOTE_SECONDS
        elif monotonic() > self.next_note:
            self.next_note = monotonic() + NEXT_NOTE_SECONDS
            display.note(f"Waiting for workers to connect to {self.address}.")

    def collect(self, interrupt: Interrupt, waiting: deque[list[int]]) -> Iterator[Outcome]:
        """Wait for a task for half a second at most, and yield its outcomes.

        What has to be repeated is put in front of the tasks that are waiting, each image as a task of its own.

        Raises:
            DipError: if the scheduler is gone, or a worker has no dipcli.
        """
        with suppress(Empty):
            future = self.finished.get(timeout=POLL_SECONDS)
            numbers = self.pending.pop(future)
            missing = [*numbers]
            for outcome in self._outcomes(future, numbers):
                if interrupt.received or (outcome.started and not outcome.ended_by):
                    missing.remove(outcome.number)
                    yield outcome
            if not interrupt.received:  # the worker is closing, or one of several images failed the task
                waiting.extendleft([number] for number in reversed(missing))

    def _outcomes(self, future: Future, numbers: Sequence[int]) -> list[Outcome]:
        """The outcomes of a task's images; none if each image has to be tried alone."""
        try:
            outcomes: list[Outcome] = future.result()
        except CancelledError:
            raise self._gone() from None
        except ImportError as error:
            raise DipError(f"A worker lacks this version of dipcli ({error}): install the same version.") from error
        except Exception as error:  # noqa: BLE001 - a bug costs one image, and is reported with it
            return [] if len(numbers) > 1 else [failed(self.batch, numbers[0], _reason(error))]
        return [self._renumber(outcome, numbers[outcome.number - 1]) for outcome in outcomes]

    def _renumber(self, outcome: Outcome, number: int) -> Outcome:
        """The same outcome as one of the call's."""
        if outcome.error:
            return replace(failed(self.batch, number, outcome.error), worker=outcome.worker, notes=outcome.notes)
        # A run that is finished was finished during this call, by a worker that was lost before it could report.
        return replace(outcome, number=number, skipped="" if outcome.record else outcome.skipped)

    def close(self) -> None:
        """Cancel what is still pending: the fits end and keep their checkpoints."""
        if self.pending and self.client.status == "running":
            with suppress(Exception):  # whatever is wrong with the scheduler, the caller is leaving
                self.client.cancel(list(self.pending), force=True)

    def _ask(self, ask: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if self.client.status != "running":  # a scheduler that was restarted does not know the tasks
            raise self._gone()
        try:
            return ask(*arguments, **keywords)
        except (OSError, TimeoutError, CancelledError) as error:
            raise self._gone() from error

    def _gone(self) -> DipError:
        return DipError(
            f"The scheduler at {self.address} is gone: start it again and repeat the call. Finished images are skipped."
        )


def _reason(error: Exception) -> DipError:
    """Why a task failed, for the user."""
    if isinstance(error, DipError):
        return error
    text = f"The fit failed, which is a bug in dip ({describe_failure(error)}): DIP_DEBUG=1 shows where."
    if isinstance(error, KilledWorker):
        deaths = error.allowed_failures + 1
        text = (
            f"{deaths} worker processes died while restoring it (a crash, or no memory): try it alone, or --max-memory."
        )
    reason = DipError(text)
    reason.__cause__ = error
    return reason
