"""What a run asks of a display, and the displays that need no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Expected:
    """What is known about the fits of an image before they start."""

    iterations: int | None = None  # of each fit; None if a rule decides
    usual: int | None = None  # about how many a fit runs if a rule decides; None if that is not known
    most: int | None = None  # the iteration limit; None if that is not known
    runs: int | None = 1  # fits of the image, or of each of its tiles; None for as many as the time allows
    warmup: bool = False  # whether a warm-up precedes the first iteration
    left: Callable[[], float | None] = lambda: None  # seconds left of the time budget, None for no limit


class Display:
    """Shows the progress of a run, and observes its fits. This one shows nothing."""

    def watching(self, title: str, expected: Expected) -> AbstractContextManager[object]:  # noqa: ARG002
        """Show a fit while the context is open."""
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Show an iteration."""

    def show_row(self, row: Row) -> None:
        """Show a row of the log."""

    def show_failures(self, failed: int) -> None:
        """Show how many images of a batch have failed so far."""

    def note(self, text: str) -> None:
        """Print a message."""


Silent = Display


class Bar(Display):
    """A tqdm bar, for notebooks and scripts."""

    @contextmanager
    def watching(self, title: str, expected: Expected) -> Iterator[None]:
        """Show the bar while the context is open."""
        from tqdm.auto import tqdm  # noqa: PLC0415 - only notebooks and scripts need it

        with tqdm(total=expected.iterations, desc=title, unit="it") as self.bar:
            yield

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - the bar only counts
        """Advance the bar; reset it for another run or tile."""
        if step.number == 1 and (step.run > 1 or (step.tile and step.tile.number > 1)):
            self.bar.reset()
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")
        self.bar.update()

    def show_row(self, row: Row) -> None:
        """Show the numbers after the bar."""
        self.bar.set_postfix_str("  ".join(format_row(row)))

    def note(self, text: str) -> None:
        """Print a message above the bar."""
        self.bar.write(text, file=sys.stderr)


def format_row(row: Row | None) -> list[str]:
    """The numbers of a row for people: loss, PSNR to the measurement and, if it is known, to the truth."""
    if row is None:
        return []
    numbers = [f"loss {row['loss']:.5f}", f"fit {row['psnr_noisy']:.2f} dB"]
    return numbers if row["psnr_ref_smoothed"] is None else [*numbers, f"true {row['psnr_ref_smoothed']:.2f} dB"]
