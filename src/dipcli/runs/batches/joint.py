"""Restore images of one size together: their networks are computed in one pass."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from dipcli.errors import DipError
from dipcli.fitting.machine import memory
from dipcli.fitting.passes import lockstep
from dipcli.fitting.solve import use_threads
from dipcli.runs.batches.batch import Batch, Outcome, decide_without_fit, not_started, restore_entry
from dipcli.runs.batches.throughput import choose_batch_size
from dipcli.runs.display import Display, Expected, Silent
from dipcli.runs.interrupt import Interrupt, handle_signals
from dipcli.runs.run import Announce
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step


def restore_together(
    batch: Batch,
    wanted: int | None,
    *,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
    announce: Announce = lambda _plan: None,
    interrupt: Interrupt | None = None,
) -> Iterator[Outcome]:
    """Restore images of one size together, one size after the other, and continue after failures.

    Each image has its own stopping rule and its own files. When one is done, the next takes its place. The first of
    the signals, or the interrupt in their place, ends the fits at work, keeps their best images so far and ends the
    batch. `wanted` images are fitted together, as far as memory allows; None to measure it for each size.
    """

    def say_stopping() -> None:
        display.note(
            "Stopping after this iteration and keeping the best images so far. Press Ctrl-C again to stop immediately."
        )

    def run(number: int, joint: JointDisplay) -> Outcome:
        outcome = restore_entry(
            batch,
            number,
            display=joint.for_image(),
            signals=signals,
            announce=announce,
            resume=True,
            interrupt=ending,
            evaluate=lockstep.evaluate_jointly,
        )
        ending.received = ending.received or outcome.ended_by  # a signal during the comparison ends the batch too
        return outcome

    shut: dict[Path, DipError] = {}
    left: list[int] = []
    with nullcontext(interrupt) if interrupt else handle_signals(*signals, say=say_stopping) as ending:
        for group in batch.of_one_size():
            waiting: deque[int] = deque()
            for number in group:
                if outcome := decide_without_fit(batch, number, shut):
                    yield outcome
                else:
                    waiting.append(number)
            if waiting and not ending.received:
                job, count = batch.entries[waiting[0] - 1].job, len(waiting)
                together = choose_batch_size(job, wanted, count, display.note, ending.reason)
                threads = job.given.get("threads") or torch.get_num_threads()
                # Each fit sets its threads; they are set here too, until all have ended.
                with JointDisplay(display, count, together) as joint, share_memory(together), use_threads(threads):
                    fits = partial(_next_fit, partial(run, joint=joint), waiting, ending)
                    yield from lockstep.run(fits, together)
            left += waiting
        if left and ending.received:
            yield not_started(batch, left[0], ending.received)


def _next_fit(
    run: Callable[[int], Outcome], waiting: deque[int], interrupt: Interrupt, _idle: bool
) -> Callable[[], Outcome] | None:
    """The fit of the next image; None if there is none, or no other should start."""
    return partial(run, waiting.popleft()) if waiting and not interrupt.received else None


@contextmanager
def share_memory(together: int) -> Iterator[None]:
    """Divide the memory limit by the number of fits."""
    token = memory.FITS_AT_ONCE.set(together)
    try:
        yield
    finally:
        memory.FITS_AT_ONCE.reset(token)


class JointDisplay(ExitStack):
    """Shows all fits of `count` images of one size as one: the iterations of all of them, and their rate."""

    def __init__(self, display: Display, count: int, together: int) -> None:
        super().__init__()
        self.display, self.count, self.together = display, count, together
        self.iterations, self.shown = 0, False

    def for_image(self) -> Display:
        """The display of one of the fits."""
        return _FitDisplay(self)

    def show(self, expected: Expected) -> None:
        """Begin, with what is expected of the first image."""
        if self.shown:
            return
        self.shown = True
        fits = self.count * (expected.runs or 1)
        expected = replace(
            expected,
            iterations=expected.iterations and fits * expected.iterations,
            usual=expected.usual and fits * expected.usual,
            most=expected.most and fits * expected.most,
            runs=1,
        )
        title = f"{self.count} images, {self.together} at a time"
        self.enter_context(self.display.watching(title, expected))


class _FitDisplay(Silent):
    """The display of one fit: its messages, and its share of the progress."""

    def __init__(self, joint: JointDisplay) -> None:
        self.joint, self.title = joint, ""

    def watching(self, title: str, expected: Expected) -> AbstractContextManager[object]:
        """Remember the title."""
        self.title = title
        self.joint.show(expected)
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - each fit has its own
        """Count the iteration; report an unusual event."""
        joint = self.joint
        joint.iterations += 1
        joint.display(replace(step, number=joint.iterations, event=None, run=1, tile=None), Verdict())
        if step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")

    def note(self, text: str) -> None:
        """Show a message."""
        self.joint.display.note(text)
