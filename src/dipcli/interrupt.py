"""Ctrl-C and SIGTERM: the first asks the fit to end and keeps the picture, the second ends at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Whether somebody has asked for the run to end, and how.

    Attributes:
        received: the signal; None as long as nobody asked.
    """

    received: signal.Signals | None = None

    def asked(self) -> str | None:
        """Why the run should end now, for a rule."""
        return f"interrupted by {self.received.name}" if self.received else None

    @property
    def exit_code(self) -> int:
        """The shell's code for a process that ended by this signal: 130 or 143; 0 when there was none."""
        return 128 + self.received if self.received else 0


@contextmanager
def heeded(*signals: signal.Signals) -> Iterator[Interrupt]:
    """Inside, the first of these signals is noted; a second one acts as it did before.

    Only the main thread can heed signals; elsewhere nothing changes.
    """
    interrupt = Interrupt()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        interrupt.received = signal.Signals(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for each in signals:
            before[each] = signal.signal(each, note)
    except ValueError:  # not in the main thread
        before.clear()
    try:
        yield interrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
