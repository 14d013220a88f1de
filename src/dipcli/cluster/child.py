"""The process in which pictures are restored: what crashes it, or takes its memory, costs one picture.

It is given orders, a line of JSON each, on its standard input, and answers with a line on what was its standard output.
Orders that come while others are carried out are carried out with them: fits of one size are computed in one pass.
It lives as long as whoever started it: when its input ends, so does it, in the middle of a fit too. An order holds
paths and settings; no pixels, and nothing that could be run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import IO, Any

import torch

import dipcli
from dipcli.errors import DipError, OutOfMemoryError
from dipcli.fitting.machine import memory
from dipcli.fitting.passes import lockstep
from dipcli.records import job_json as manifest
from dipcli.records.job import Job
from dipcli.runs.batches.finished import find_earlier_result
from dipcli.runs.batches.throughput import measure_throughput, prepare_job
from dipcli.runs.display import Silent
from dipcli.runs.interrupt import Interrupt, NotStartedError
from dipcli.runs.run import restore

IDLE = 60.0  # seconds without an order after which it ends: it holds memory, of a GPU too
MOST = 10**6  # orders at a time: how many there are is for others to say
SIGNALS = (signal.SIGINT, signal.SIGTERM)

Answer = dict[str, Any]


def main() -> None:
    """Carry out orders until there are no more, or one went so wrong that the next had better find a fresh process."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed is no answer
    orders: SimpleQueue[str] = SimpleQueue()
    interrupt = Interrupt()
    for each in SIGNALS:
        signal.signal(each, partial(_note, interrupt))
    Thread(target=_read, args=(sys.stdin, orders), daemon=True).start()
    _tell(answers, {"ticket": 0, "ready": True})
    desk = _Desk(orders, interrupt)
    for answer in lockstep.run(desk.feed, MOST):
        _tell(answers, answer)


def _note(interrupt: Interrupt, number: int, _frame: FrameType | None) -> None:
    """All that is under way shall end, and what comes to be begun meanwhile shall not."""
    interrupt.received = signal.Signals(number)


class _Desk:
    """Where orders are taken.

    Attributes:
        busy: whether there was something to do since the last signal was forgotten.
        spent: whether the process has done its last.
    """

    def __init__(self, orders: SimpleQueue[str], interrupt: Interrupt) -> None:
        self.orders, self.interrupt = orders, interrupt
        self.busy = self.spent = False

    def feed(self, idle: bool) -> Callable[[], Answer] | None:
        """The next thing to do; none when there is none, for long where nothing else is at work."""
        if self.spent:
            return None
        if idle and self.busy:
            self.busy, self.interrupt.received = False, None
        try:
            order = self.orders.get(timeout=IDLE) if idle else self.orders.get_nowait()
        except Empty:
            return None
        self.busy = True
        return partial(self._carried_out, json.loads(order))

    def _carried_out(self, order: Mapping[str, Any]) -> Answer:
        """The answer to an order."""
        notes = _Notes()
        ticket = {"ticket": order["ticket"]}
        try:
            if self.interrupt.received:
                return {"begun": False} | ticket
            _check_version(order["version"])
            _go_to(Path(order["cwd"]))
            torch.set_num_threads(order["threads"])
            memory.PROCESS_LIMIT_BYTES.set(order["memory"])
            memory.FITS_AT_ONCE.set(order.get("sharing", 1))
            job = manifest.from_json(order["job"])
            return ORDERS[order["wanted"]](job, order, notes, self.interrupt) | {"notes": notes.said} | ticket
        except (KeyboardInterrupt, NotStartedError):
            return {"begun": False} | ticket
        except DipError as error:
            self.spent |= isinstance(error, OutOfMemoryError)
            return {"error": str(error), "kind": type(error).__name__, "notes": notes.said} | ticket
        except Exception as error:  # noqa: BLE001 - a bug: it is told of where the call was made
            self.spent = True
            sentence = (
                f"The fit failed, which is a fault in dip ({type(error).__name__}: {error}): DIP_DEBUG=1 says where."
            )
            return {"error": sentence, "trace": traceback.format_exc(), "notes": notes.said} | ticket


class _Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def _read(lines: IO[str], orders: SimpleQueue[str]) -> None:
    """Hand on each line. At the end nobody is there any more to whom a fit would matter: its checkpoint stays."""
    for line in lines:
        orders.put(line)
    os._exit(1)


def _tell(answers: IO[str], answer: Answer) -> None:
    answers.write(json.dumps(answer, default=str) + "\n")
    answers.flush()


def _check_version(wanted: str) -> None:
    """What another version makes of an order is not known."""
    if wanted != dipcli.__version__:
        raise DipError(f"dip is {dipcli.__version__} on this worker, {wanted} where it was called: install the same.")


def _go_to(folder: Path) -> None:
    """Where the call was made, so that all paths mean the same."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise DipError(
            f"This worker cannot see the folder {folder} ({error.strerror}): all workers need the same file system."
        ) from error


def _restore(job: Job, _order: Mapping[str, Any], notes: _Notes, interrupt: Interrupt) -> Answer:
    """Restore a picture, unless that was done in the meantime."""
    if earlier := find_earlier_result(job):
        account = earlier.record.to_json() if earlier.record else {"input": str(job.source), "output": earlier.output}
        return {"account": account, "skipped": earlier.word}
    record, ended_by = restore(
        job, display=notes, signals=SIGNALS, resume=True, interrupt=interrupt, evaluate=lockstep.evaluate_jointly
    )
    interrupt.received = interrupt.received or ended_by  # it may have been the comparison that was cut short
    return {"account": record.to_json(), "ended_by": ended_by}


def _try(job: Job, order: Mapping[str, Any], _notes: _Notes, _interrupt: Interrupt) -> Answer:
    """Fit a picture for so many seconds, write nothing, and say how fast that went and what memory it takes."""
    return measure_throughput(prepare_job(job), order["together"], order["seconds"])._asdict()


ORDERS: Mapping[str, Callable[[Job, Mapping[str, Any], _Notes, Interrupt], Answer]] = {"restore": _restore, "try": _try}

if __name__ == "__main__":
    main()
