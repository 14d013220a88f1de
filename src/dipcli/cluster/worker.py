"""What a Dask worker runs: it hands each picture to a child process, and keeps that one for the next."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import Empty
from threading import Lock
from time import monotonic, sleep
from typing import Any

from distributed import Status, get_worker

from dipcli.cluster.child_handle import Child

TICK = 0.5  # seconds between two looks whether the picture is still wanted
GRACE = 30.0  # seconds for a fit that is not wanted any more to leave its checkpoint
TAKEN = 10.0  # seconds that the child of a worker which was killed may take to end, and to let go of its files


class _Crew:
    """The children of this worker process.

    Attributes:
        idle: those that have nothing to do.
        shared: of each call the one in which pictures are fitted together.
        busy: of each call those at work, once for each picture.
        ending: calls that are to end.
        asked: those that were asked to end what they have at work.
        single: held by a picture that has a child to itself where others have one together.
    """

    def __init__(self) -> None:
        self.lock, self.single = Lock(), Lock()
        self.idle: list[Child] = []
        self.shared: dict[str, Child] = {}
        self.busy: defaultdict[str, list[Child]] = defaultdict(list)
        self.ending: set[str] = set()
        self.asked: set[Child] = set()
        self.tickets = count(1)


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
    processes = 1 if order.get("sharing", 1) > 1 else slots
    order = {"threads": max(1, _cores() // processes), "memory": memory and memory // processes} | order

    def unwanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled" or worker.status not in (Status.running, Status.paused)

    return _carried_out(order, unwanted) | {"worker": str(worker.name)}


def _carried_out(order: dict[str, Any], unwanted: Callable[[], bool]) -> dict[str, Any]:
    begun = monotonic()
    with _single_file(order, unwanted) as there:
        if not there:
            return {"begun": False}
        while True:
            answer = _answered(order, unwanted)
            if answer.get("kind") != "TakenError" or monotonic() - begun > TAKEN or unwanted():
                return answer
            sleep(TICK)


@contextmanager
def _single_file(order: dict[str, Any], unwanted: Callable[[], bool]) -> Iterator[bool]:
    """Where pictures are fitted together, those that are not have to wait for each other; whether it came to that."""
    waits = order.get("sharing", 1) > 1 and not order.get("company")
    there = not waits
    while not there and not unwanted() and order["call"] not in _crew.ending:
        there = _crew.single.acquire(timeout=TICK)
    try:
        yield there
    finally:
        if waits and there:
            _crew.single.release()


def _answered(order: dict[str, Any], unwanted: Callable[[], bool]) -> dict[str, Any]:
    """The answer of a child, an idle one or a new one."""
    call, ticket = order["call"], next(_crew.tickets)
    child = _ready(call if order.get("company") else None)
    with _crew.lock:
        if call in _crew.ending:
            if not order.get("company"):
                _crew.idle.append(child)
            return {"begun": False}
        child.ask(order, ticket)
        _crew.busy[call].append(child)
    answer = _awaited(child, ticket, unwanted)
    with _crew.lock:
        _crew.busy[call].remove(child)
        if child not in _crew.busy[call]:
            _crew.asked.discard(child)
        if answer is not None:
            if not order.get("company"):
                _crew.idle.append(child)
            return answer
        ending = call in _crew.ending
        if _crew.shared.get(call) is child:
            del _crew.shared[call]
    told = _ended(child)
    if ending:
        return {"begun": False}
    # One that had done its last, or had nothing to do for long, may end just as it is given an order.
    return {"crashed": told} if child.process.returncode else _answered(order, unwanted)


def _ready(call: str | None) -> Child:
    """A child for a picture: the one for all pictures of a call, or, for None, one that has nothing else to do."""
    with _crew.lock:
        if call is not None:
            if call not in _crew.shared or _crew.shared[call].process.poll() is not None:
                _crew.shared[call] = Child()
            return _crew.shared[call]
        waiting, _crew.idle = _crew.idle, []
        ready = [child for child in waiting if child.process.poll() is None]
        _crew.idle = ready[1:]
    for child in waiting:
        if child not in ready:
            child.close()
    return ready[0] if ready else Child()


def _ended(child: Child) -> str:
    """How a child ended, which it has."""
    told = child.end()
    child.close()
    return told


def _awaited(child: Child, ticket: int, unwanted: Callable[[], bool]) -> dict[str, Any] | None:
    """What the child answers; None where it ended without a word."""
    since: float | None = None
    while True:
        try:
            return child.answer(TICK, ticket)
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
        for child in {*_crew.busy[call]} - _crew.asked:
            child.send(number)
            _crew.asked.add(child)


def stop(call: str) -> None:
    """A call is over: stop what is still at work for it at once, and let go of what was kept for it."""
    with _crew.lock:
        _crew.ending.add(call)
        for child in _crew.busy[call]:
            child.kill()
        idle, _crew.idle = _crew.idle, []
        if call in _crew.shared:
            idle.append(_crew.shared.pop(call))
    for child in idle:
        child.close()


def _cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
