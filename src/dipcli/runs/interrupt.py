"""Ctrl-C and SIGTERM: the first ends the fit and keeps the image, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupt:
    """Whether the run was asked to end."""

    received: signal.Signals | None = None

    def reason(self) -> str | None:
        """Return why the run should end now, or None."""
        return f"it was interrupted by {self.received.name}" if self.received else None


class NotStartedError(Exception):
    """The interrupt came before the fit started; no file was touched."""


@contextmanager
def handle_signals(*signals: signal.Signals, say: Callable[[], None] = lambda: None) -> Iterator[Interrupt]:
    """Record the first of these signals inside the context; a second one acts as before.

    Only the main thread can handle signals; in other threads nothing changes. A signal that the process was started to
    ignore is handled too: shells start background jobs of scripts that way, and a SIGINT sent to one is meant to end
    it. `say` is called when the first has come.
    """
    interrupt = Interrupt()
    before: dict[signal.Signals, Any] = {}

    def record(number: int, _frame: FrameType | None) -> None:
        interrupt.received = signal.Signals(number)
        for name, handler in before.items():
            signal.signal(name, handler)
        say()

    if threading.current_thread() is threading.main_thread():
        for name in signals:
            before[name] = signal.signal(name, record)
    try:
        yield interrupt
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
