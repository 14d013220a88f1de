"""The process in which pictures are restored: what crashes it, or takes its memory, costs one picture.

It is given orders, a line of JSON each, on its standard input, and answers with a line on what was its standard output.
It lives as long as whoever started it: when its input ends, so does it, in the middle of a fit too. An order holds
paths and settings; no pixels, and nothing that could be run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import perf_counter
from types import FrameType
from typing import IO, Any

import torch

import dipcli
from dipcli import checkpoints, images, manifest, memory, stopping
from dipcli.bench import prepare, solve
from dipcli.displays import Silent
from dipcli.earlier import finished
from dipcli.engine import Step
from dipcli.errors import DipError, OutOfMemoryError
from dipcli.job import Job
from dipcli.registry import DEFAULT_PRESET
from dipcli.run import restore

IDLE = 60.0  # seconds without an order after which it ends: it holds memory, of a GPU too
ENDLESS = 10**9  # iterations
SIGNALS = (signal.SIGINT, signal.SIGTERM)

Answer = dict[str, Any]


def main() -> None:
    """Carry out orders until there are no more, or one went so wrong that the next had better find a fresh process."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed is no answer
    orders: SimpleQueue[str] = SimpleQueue()
    early = _Early()
    for each in SIGNALS:
        signal.signal(each, early)
    Thread(target=_read, args=(sys.stdin, orders), daemon=True).start()
    _tell(answers, {"ready": True})
    spent = False
    while not spent:
        try:
            order = orders.get(timeout=IDLE)
        except Empty:
            return
        answer, spent = _carried_out(json.loads(order), early)
        _tell(answers, answer)


class _Early:
    """Notes a signal that comes before a fit has begun, or after it."""

    came = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True


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


def _carried_out(order: Mapping[str, Any], early: _Early) -> tuple[Answer, bool]:
    """The answer to an order, and whether the process has done its last."""
    notes = _Notes()
    try:
        with _interruptible(early):
            _check_version(order["version"])
            _go_to(Path(order["cwd"]))
            torch.set_num_threads(order["threads"])
            memory.ALLOTTED.set(order["memory"])
            job = manifest.understood(checkpoints.restored(order["job"]))
            return ORDERS[order["wanted"]](job, order, notes) | {"notes": notes.said}, False
    except KeyboardInterrupt:
        return {"begun": False}, True
    except DipError as error:
        told = {"error": str(error), "kind": type(error).__name__, "notes": notes.said}
        return told, isinstance(error, OutOfMemoryError)
    except Exception as error:  # noqa: BLE001 - a bug: it is told of where the call was made
        sentence = f"The fit failed, which is a fault in dip ({type(error).__name__}: {error}): DIP_DEBUG=1 says where."
        return {"error": sentence, "trace": traceback.format_exc(), "notes": notes.said}, True


@contextmanager
def _interruptible(early: _Early) -> Iterator[None]:
    """Inside, a signal that no fit heeds is a `KeyboardInterrupt`; so is one that came shortly before."""
    try:
        for each in SIGNALS:
            signal.signal(each, signal.default_int_handler)
        if early.came:
            raise KeyboardInterrupt
        yield
    finally:
        for each in SIGNALS:
            signal.signal(each, early)
        early.came = False


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


def _restore(job: Job, _order: Mapping[str, Any], notes: _Notes) -> Answer:
    """Restore a picture, unless that was done in the meantime."""
    if earlier := finished(job):
        return {"account": earlier.account, "skipped": earlier.word}
    account, ended_by = restore(job, display=notes, signals=SIGNALS, resume=True)
    return {"account": account, "ended_by": ended_by}


def _try(job: Job, order: Mapping[str, Any], _notes: _Notes) -> Answer:
    """Fit a picture for so many seconds, write nothing, and say how fast that went and what memory it takes."""
    picture, _ = images.read(job.source)
    given = {name: value for name, value in job.given.items() if name != "time"} | {"warmup": 0, "runs": 1}
    case, settings = job.task.case(picture, job.preset or DEFAULT_PRESET, job.arguments, given)
    rule = stopping.exactly(stopping.Never(), ENDLESS)
    bench = prepare(case.problem, settings, stop=rule, beside=case.size)
    times: list[float] = []

    def watch(step: Step, _verdict: object) -> None:
        float(step.loss)  # a GPU may still be at work on it
        times.append(perf_counter())

    def enough() -> str | None:
        return "that will do" if len(times) > 1 and times[-1] - times[0] > order["seconds"] else None

    solve(bench, stop=rule, asked=enough, observers=[watch])
    return {"pace": (len(times) - 1) / (times[-1] - times[0]), "memory": bench.outlook.memory}


ORDERS: Mapping[str, Callable[[Job, Mapping[str, Any], _Notes], Answer]] = {"restore": _restore, "try": _try}

if __name__ == "__main__":
    main()
