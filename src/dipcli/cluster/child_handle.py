"""A child process that restores pictures, seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

# What Dask sets for its workers is not meant for the fits: how many threads they have is another matter.
NOT_OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
PARTING = 5.0  # seconds for it to end by itself
TAIL = 4000  # bytes of what it said last


class Child:
    """A process that is given orders and answers them, in its own good time, each by its ticket.

    It is a session of its own: a Ctrl-C at the terminal does not reach it but through `send`.

    Args:
        pin: the GPU that it may see, as CUDA_VISIBLE_DEVICES names it; all that this process sees when left out.
    """

    def __init__(self, pin: str | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        if pin is not None:
            environment["CUDA_VISIBLE_DEVICES"] = pin
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - it lasts as long as the process
        self.process = subprocess.Popen(
            # -P: the folder that one is in may hold anything, a torch.py too
            [sys.executable, "-P", "-m", "dipcli.cluster.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin  # noqa: S101 - there are pipes: that was asked for
        assert self.process.stdout  # noqa: S101
        self.orders, self.lines = self.process.stdin, self.process.stdout
        self.lock = Lock()
        self.gone, self.told = False, ""
        self.answers: defaultdict[int, SimpleQueue[dict[str, Any] | None]] = defaultdict(SimpleQueue)
        Thread(target=self._listen, daemon=True).start()

    def ask(self, order: Mapping[str, Any], ticket: int = 0) -> None:
        """Give it an order; where it is gone, `answer` tells."""
        with self.lock, suppress(OSError, ValueError):
            self.orders.write(json.dumps({"ticket": ticket, **order}) + "\n")
            self.orders.flush()

    def answer(self, timeout: float | None = None, ticket: int = 0) -> dict[str, Any] | None:
        """Its next answer to the orders of this ticket; None when it has ended without one.

        Raises:
            queue.Empty: when there is none yet.
        """
        with self.lock:
            answers = self.answers[ticket]
            if self.gone and answers.empty():
                return None
        answer = answers.get(timeout=timeout)
        with self.lock:
            if answers.empty():
                self.answers.pop(ticket, None)  # a child may see many thousands of them
        return answer

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
        with self.lock:
            self.words.close()

    def end(self) -> str:
        """How it ended, in words that follow `the process`, after it has."""
        code = self.process.wait()
        with self.lock:
            self.told = self.told or f"{_fate(code)}{self._last_words()}"
        return self.told

    def _last_words(self) -> str:
        self.words.seek(0, os.SEEK_END)
        self.words.seek(max(0, self.words.tell() - TAIL))
        lines = self.words.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1].strip()})" if lines else ""

    def _listen(self) -> None:
        with self.lines:
            for line in self.lines:
                answer = json.loads(line)
                with self.lock:
                    self.answers[answer.pop("ticket")].put(answer)
        with self.lock:
            self.gone = True
            for each in self.answers.values():
                each.put(None)


def _fate(code: int) -> str:
    """How a process with this code ended."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
