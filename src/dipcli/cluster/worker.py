"""What a Dask worker runs: it hands each picture to a child process, and keeps that one for the next."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable
from queue import Empty
from threading import Lock
from time import monotonic, sleep
from typing import Any

from distributed import Status, get_worker

from dipcli.cluster.processes import Child

TICK = 0.5  # seconds between two looks whether the picture is still wanted
GRACE = 30.0  # seconds for a fit that is not wanted any more to leave its checkpoint
TAKEN = 10.0  # seconds that the child of a worker which was killed may take to end, and to let go of its files


class _Crew:
    """The children of this worker process."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.idle: list[Child] = []
        self.busy: defaultdict[str, set[Child]] = defaultdict(set)
        self.ending: set[str] = set()
        self.asked: set[Child] = set()


_crew = _Crew()


def dask_setup(_worker: object) -> None:
    """Called by Dask in the main thread of a worker on this machine.

    A Ctrl-C at the terminal, or a SIGTERM to the whole group, is for the client, which passes it on.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def fit(order: dict[str, Any]) -> dict[str, Any]:
    """Have a picture restored by a child process.

    Args:
        order: `call` names the call; the rest is the child's.

    Returns:
        The child's answer, and `worker`; `crashed` with how the process ended where there was no answer.
    """
    worker = get_worker()
    key, slots = worker.get_current_task(), worker.state.nthreads
    memory = worker.memory_manager.memory_limit
    order = {"threads": max(1, _cores() // slots), "memory": memory and memory // slots} | order

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status not in (Status.running, Status.paused)

    return _carried_out(order, unwanted) | {"worker": str(worker.name)}


def _carried_out(order: dict[str, Any], unwanted: Callable[[], bool]) -> dict[str, Any]:
    begun = monotonic()
    while True:
        answer = _answered(order, unwanted)
        if answer.get("kind") != "TakenError" or monotonic() - begun > TAKEN or unwanted():
            return answer
        sleep(TICK)


def _answered(order: dict[str, Any], unwanted: Callable[[], bool]) -> dict[str, Any]:
    """The answer of a child, an idle one or a new one."""
    call = order["call"]
    child = _ready()
    if child is None:
        child = Child()
        if child.answer() is None:
            return {"crashed": _ended(child)}
    with _crew.lock:
        if call in _crew.ending:
            _crew.idle.append(child)
            return {"begun": False}
        child.ask(order)
        _crew.busy[call].add(child)
    answer = _awaited(child, unwanted)
    with _crew.lock:
        _crew.busy[call].discard(child)
        _crew.asked.discard(child)
        if answer is not None:
            _crew.idle.append(child)
            return answer
        ending = call in _crew.ending
    told = _ended(child)
    if ending:
        return {"begun": False}
    # One that had done its last, or had nothing to do for long, may end just as it is given an order.
    return {"crashed": told} if child.process.returncode else _answered(order, unwanted)


def _ready() -> Child | None:
    """A child that has nothing to do, if there is one."""
    with _crew.lock:
        waiting, _crew.idle = _crew.idle, []
        ready = [child for child in waiting if child.process.poll() is None]
        _crew.idle = ready[1:]
    for child in waiting:
        if child not in ready:
            child.close()
    return ready[0] if ready else None


def _ended(child: Child) -> str:
    """How a child ended, which it has."""
    told = child.end()
    child.close()
    return told


def _awaited(child: Child, unwanted: Callable[[], bool]) -> dict[str, Any] | None:
    """What the child answers; None where it ended without a word."""
    since: float | None = None
    while True:
        try:
            return child.answer(TICK)
        except Empty:
            if since is None and unwanted():
                child.send(signal.SIGTERM)
                since = monotonic()
            elif since is not None and monotonic() - since > GRACE:
                child.kill()


def end(call: str, number: int) -> None:
    """Let the fits of a call end with the best pictures so far, and begin no others; to be said any number of times."""
    with _crew.lock:
        _crew.ending.add(call)
        for child in _crew.busy[call] - _crew.asked:
            child.send(number)
            _crew.asked.add(child)


def stop(call: str) -> None:
    """A call is over: stop what is still at work for it at once, and let go of what was kept for it."""
    with _crew.lock:
        _crew.ending.add(call)
        for child in _crew.busy[call]:
            child.kill()
        idle, _crew.idle = _crew.idle, []
    for child in idle:
        child.close()


def _cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
