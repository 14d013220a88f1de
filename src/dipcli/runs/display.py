"""What a run asks of a display, and the displays that need no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step


@dataclass(frozen=True)
class Expected:
    """What is known of fits before they begin.

    Attributes:
        iterations: that each runs exactly; None when a rule decides.
        usual: that one runs where a rule decides, about; None where nobody knows.
        most: that one may run in any case; None where that is not known.
        runs: fits of a picture, or of each tile of it; None for as many as there is time for.
        warmup: whether something comes before the first iteration.
        left: seconds left of the time there is for all, None for no end.
    """

    iterations: int | None = None
    usual: int | None = None
    most: int | None = None
    runs: int | None = 1
    warmup: bool = False
    left: Callable[[], float | None] = lambda: None


class Display(Protocol):
    """What the composition root asks of a display."""

    def watching(self, title: str, ahead: Expected) -> AbstractContextManager[object]:
        """Inside, a fit is under way."""

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """An iteration is over."""

    def show_row(self, row: Row) -> None:
        """There are new numbers."""

    def show_failures(self, failed: int) -> None:
        """So many pictures of several have failed so far."""

    def note(self, text: str) -> None:
        """There is something to say."""


class Silent:
    """Show nothing."""

    def watching(self, title: str, ahead: Expected) -> AbstractContextManager[object]:  # noqa: ARG002
        """There is nothing to prepare."""
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Say nothing."""

    def show_row(self, row: Row) -> None:
        """Say nothing."""

    def show_failures(self, failed: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


class Bar:
    """tqdm's bar, for notebooks and scripts."""

    @contextmanager
    def watching(self, title: str, ahead: Expected) -> Iterator[None]:
        """Show the bar."""
        from tqdm.auto import tqdm  # noqa: PLC0415 - only notebooks and scripts pay for it

        with tqdm(total=ahead.iterations, desc=title, unit="it") as self.bar:
            yield

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - the bar counts
        """Move the bar; another run, or tile, begins anew."""
        if step.number == 1 and (step.run > 1 or (step.tile and step.tile.number > 1)):
            self.bar.reset()
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")
        self.bar.update()

    def show_row(self, row: Row) -> None:
        """Show the numbers behind the bar."""
        self.bar.set_postfix_str("  ".join(format_row(row)))

    def show_failures(self, failed: int) -> None:
        """There is but one picture."""

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self.bar.write(text, file=sys.stderr)


def format_row(row: Row | None) -> list[str]:
    """The numbers of a row that people look at: loss, PSNR to the measurement and, where it is known, to the truth."""
    if row is None:
        return []
    told = [f"loss {row['loss']:.5f}", f"fit {row['psnr_noisy']:.2f} dB"]
    return told if row["psnr_ref_smoothed"] is None else [*told, f"true {row['psnr_ref_smoothed']:.2f} dB"]
