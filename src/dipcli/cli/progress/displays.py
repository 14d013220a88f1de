"""Progress for people: a Rich display on a terminal, plain lines otherwise, a tqdm bar in notebooks and scripts.

A display is an observer that also takes rows of metrics (`tell`) and remarks (`note`). All of them write to
standard error; standard output is for data.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.cli.progress.layout import GAP
from dipcli.cli.progress.progress import Standing
from dipcli.runs.display import Display, Expected, Silent
from dipcli.text import legible

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

PATIENCE = 5.0  # seconds between plain lines
DUMB = ("dumb", "unknown")  # terminals whose cursor cannot be moved
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"


class Lines:
    """One plain line every few seconds: for pipes, logs and cron.

    No control characters are among them, unless the environment asks for them by FORCE_COLOR: then what is at work
    stands out.
    """

    def __init__(self) -> None:
        self.failed = 0
        forced = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
        self.strong = (BOLD, PLAIN) if forced else ("", "")

    def watching(self, title: str, ahead: Expected) -> AbstractContextManager[object]:
        """Remember what is being fitted."""
        self.title, self.standing, self.last = title, Standing(ahead), perf_counter()
        return nullcontext()

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write a line when the last one is old enough."""
        self.standing.learn(step, verdict)
        if step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")
        if perf_counter() - self.last >= PATIENCE:
            self.last = perf_counter()
            failed = f"{self.failed} failed so far{GAP}" if self.failed else ""
            begin, end = self.strong
            self._write(f"{begin}{legible(self.title)}:{end} {failed}{legible(self.standing.line())}")

    def show_row(self, row: Row) -> None:
        """Keep the numbers for the next line."""
        self.standing.hear(row)

    def show_failures(self, failed: int) -> None:
        """Keep it for the next line."""
        self.failed = failed

    def note(self, text: str) -> None:
        """Write it."""
        self._write(legible(text))

    def _write(self, line: str) -> None:
        with suppress(BrokenPipeError):  # who reads along may go: that must not cost the picture
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - this is where lines are written


def choose(*, quiet: bool) -> Display:
    """The display that suits standard error."""
    if quiet or sys.stderr is None:
        return Silent()
    if not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in DUMB or _is_of_old():
        return Lines()
    from dipcli.cli.progress.terminal import Terminal

    return Terminal()


def _is_of_old() -> bool:
    """Whether it is a console of Windows that takes no codes."""
    if sys.platform != "win32":
        return False
    from rich.console import detect_legacy_windows

    return detect_legacy_windows()
