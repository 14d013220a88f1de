"""A child process that restores pictures, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

# What Dask sets for its workers is not meant for the fits: how many threads they have is another matter.
NOT_OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
PARTING = 5.0  # seconds for it to end by itself
TAIL = 4000  # bytes of what it said last


class Child:
    """A process that is given orders and answers them, in its own good time.

    It is a session of its own: a Ctrl-C at the terminal does not reach it but through `send`.
    """

    def __init__(self) -> None:
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - it lasts as long as the process
        self.process = subprocess.Popen(
            # -P: the folder that one is in may hold anything, a torch.py too
            [sys.executable, "-P", "-m", "dipcli.cluster.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
            encoding="utf-8",
            env={name: value for name, value in os.environ.items() if name not in NOT_OURS},
            start_new_session=True,
        )
        assert self.process.stdin  # noqa: S101 - there are pipes: that was asked for
        assert self.process.stdout  # noqa: S101
        self.orders, self.lines = self.process.stdin, self.process.stdout
        self.answers: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        Thread(target=self._listen, daemon=True).start()

    def ask(self, order: Mapping[str, Any]) -> None:
        """Give it an order; where it is gone, `answer` tells."""
        with suppress(OSError):
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()

    def answer(self, timeout: float | None = None) -> dict[str, Any] | None:
        """Its next answer; None when it has ended without one.

        Raises:
            queue.Empty: when there is none yet.
        """
        return self.answers.get(timeout=timeout)

    def send(self, number: int) -> None:
        """Send it a signal, if it is there."""
        with suppress(OSError):
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def close(self) -> None:
        """Have it end, and wait for that."""
        with suppress(OSError):
            self.orders.close()
        try:
            self.process.wait(PARTING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.words.close()

    def end(self) -> str:
        """How it ended, in words that follow `the process`, after it has."""
        code = self.process.wait()
        if code >= 0:
            return f"ended with code {code}{self._last_words()}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"was killed by {name}{self._last_words()}"

    def _last_words(self) -> str:
        self.words.seek(0, os.SEEK_END)
        self.words.seek(max(0, self.words.tell() - TAIL))
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""

    def _listen(self) -> None:
        with self.lines:
            for line in self.lines:
                self.answers.put(json.loads(line))
        self.answers.put(None)
