"""Ctrl-C and SIGTERM: the first asks the fit to end and keeps the picture, the second ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Whether somebody has asked for the run to end, and how.

    Attributes:
        received: the signal; None as long as nobody asked.
    """

    received: signal.Signals | None = None

    def reason(self) -> str | None:
        """Why the run should end now, for a rule."""
        return f"it was interrupted by {self.received.name}" if self.received else None


class NotStartedError(Exception):
    """Somebody asked for the end before the fit had begun: nothing was touched."""


@contextmanager
def handle_signals(*signals: signal.Signals, say: Callable[[], None] = lambda: None) -> Iterator[Interrupt]:
    """Inside, the first of these signals is noted; a second one acts as it did before.

    Only the main thread can heed signals; elsewhere nothing changes. A signal that the process was started to ignore is
    heeded too: shells start what a script puts in the background that way, and there as well somebody who sends SIGINT
    wants the run to end.

    Args:
        signals: which ones.
        say: called when the first has come.
    """
    interrupt = Interrupt()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        interrupt.received = signal.Signals(number)
        for each, handler in before.items():
            signal.signal(each, handler)
        say()

    if threading.current_thread() is threading.main_thread():
        for each in signals:
            before[each] = signal.signal(each, note)
    try:
        yield interrupt
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
