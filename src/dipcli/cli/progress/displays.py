"""Choose the display for standard error, and the plain lines for pipes and logs. Standard output is for data."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.cli.progress.fit_progress import GAP, FitProgress, ProgressDisplay
from dipcli.runs.display import Display, Expected, Silent
from dipcli.text import escape_controls

if TYPE_CHECKING:
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

SECONDS_BETWEEN_LINES = 5.0
DUMB_TERMINALS = ("dumb", "unknown")  # values of TERM: the cursor cannot be moved
BOLD, RESET = "\x1b[1m", "\x1b[0m"


class Lines(ProgressDisplay):
    """One plain line every few seconds, for pipes, logs and cron.

    There are no control characters unless FORCE_COLOR is set (and NO_COLOR is not): then the title is bold.
    """

    def __init__(self) -> None:
        super().__init__()
        coloured = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
        self.bold, self.reset = (BOLD, RESET) if coloured else ("", "")

    def watching(self, title: str, expected: Expected) -> AbstractContextManager[object]:
        """Start the progress of a fit."""
        self.title, self.progress, self.written_at = title, FitProgress(expected), perf_counter()
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write a line if the last one is old enough."""
        self.progress.update(step, verdict)
        if step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")
        if perf_counter() - self.written_at >= SECONDS_BETWEEN_LINES:
            self.written_at = perf_counter()
            failed = f"{self.failed} failed{GAP}" if self.failed else ""
            self._write(f"{self.bold}{escape_controls(self.title)}:{self.reset} {failed}{self.progress.line()}")

    def note(self, text: str) -> None:
        """Write a line at once."""
        self._write(escape_controls(text))

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):  # a broken pipe or a closed stream must not end the fit
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress goes to standard error


def choose(*, quiet: bool) -> Display:
    """Choose the display that standard error can show."""
    if quiet or sys.stderr is None:
        return Silent()
    if sys.stderr.closed or not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in DUMB_TERMINALS:
        return Lines()
    from rich.console import detect_legacy_windows

    if detect_legacy_windows():  # a Windows console without escape codes
        return Lines()
    from dipcli.cli.progress.terminal import Terminal

    return Terminal()
