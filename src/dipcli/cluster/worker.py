"""Runs in a Dask worker: restores the images of one task."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

import torch
from dask.system import CPU_COUNT
from distributed import Status, get_worker

import dipcli
from dipcli.errors import DipError
from dipcli.fitting.machine import memory
from dipcli.records.job import Job
from dipcli.runs.batches.batch import Batch, Entry, Outcome, restore_all
from dipcli.runs.batches.joint import restore_together
from dipcli.runs.display import Display
from dipcli.runs.interrupt import Interrupt

NANNY_SECONDS = 0.5  # it looks every 0.05 s
_one_task = Lock()  # a worker that was started with several threads still runs one task at a time
_ended_calls: dict[str, signal.Signals] = {}


def dask_setup(_worker: object) -> None:
    """Ignore SIGINT and SIGTERM. Dask calls this in the main thread of each worker that `clusters` starts.

    Ctrl-C at a terminal is for the client, which passes it on with `end_call`; SIGTERM by Slurm is for the Nanny.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def end_call(call: str, number: int) -> None:
    """End the fits of a call with their best images so far, and start no others. May be called repeatedly."""
    _ended_calls[call] = signal.Signals(number)


def restore_images(request: dict[str, Any]) -> list[Outcome]:
    """Restore the images of one task, several of one size in one pass.

    Args:
        request: plain values: `call`, the identifier of the call; `version` of dipcli; `cwd`, the folder of the call;
            `threads` of the fit, None for all CPUs of the worker; `jobs`, as `Job.to_json` writes them.

    Returns:
        The outcomes, numbered within the task. Images that were not started before the call ended may be missing.

    Raises:
        DipError: if this worker has another version, or cannot see the folder.
    """
    interrupt = TaskInterrupt(request["call"])
    worker = get_worker()
    notes = _Notes()
    _wait_for_nanny()
    with _one_task:
        _enter(request["version"], Path(request["cwd"]))
        torch.set_num_threads(request["threads"] or CPU_COUNT)
        memory.PROCESS_LIMIT_BYTES.set(worker.memory_manager.memory_limit)
        jobs = [Job.from_json(job) for job in request["jobs"]]
        batch = Batch(tuple(Entry(job) for job in jobs), several=True)
        interrupt.reason()
        if len(jobs) > 1:
            outcomes = restore_together(batch, len(jobs), display=notes, interrupt=interrupt)
        else:
            outcomes = restore_all(batch, display=notes, interrupt=interrupt)
        return [replace(outcome, worker=str(worker.name), notes=notes.take()) for outcome in outcomes]


@cache
def _wait_for_nanny() -> None:
    """Wait, once in each process. Dask's Nanny does not replace a process that dies before it knows that it runs."""
    sleep(NANNY_SECONDS)


class TaskInterrupt(Interrupt):
    """Ends the fits of the current task: its call was interrupted, its result is not wanted, or the worker is closing.

    Args:
        call: the identifier of the call.
    """

    def __init__(self, call: str) -> None:
        self.call, self.worker = call, get_worker()
        self.key = self.worker.get_current_task()

    def reason(self) -> str | None:
        """Return why the fit should end now; None to continue."""
        if self.received is None:
            task = self.worker.state.tasks.get(self.key)
            unwanted = task is None or task.state == "cancelled"
            closing = self.worker.status not in (Status.running, Status.paused)
            self.received = _ended_calls.get(self.call) or (signal.SIGTERM if unwanted or closing else None)
        return super().reason()


class _Notes(Display):
    """Collects messages for the client."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """Append a message."""
        self.texts.append(text)

    def take(self) -> tuple[str, ...]:
        """Return the messages since the last call."""
        texts, self.texts = self.texts, []
        return tuple(texts)


def _enter(version: str, folder: Path) -> None:
    """Check the version, and change to the folder of the call, where relative paths mean the same."""
    if version != dipcli.__version__:
        raise DipError(f"This worker has dip {dipcli.__version__}, the caller has {version}: install the same version.")
    try:
        os.chdir(folder)
    except OSError as error:
        raise DipError(
            f"This worker cannot see the folder {folder} ({error.strerror}): all workers need the same file system."
        ) from error
