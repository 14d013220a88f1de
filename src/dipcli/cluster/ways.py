"""How many fits at once, with how many threads each: measured on the first picture, not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import psutil
import torch

from dipcli import memory
from dipcli.cluster.orders import order
from dipcli.cluster.processes import Child
from dipcli.job import Job

SECONDS = 2.0  # that each way is tried for
WORSE = 0.9  # of the best pace: beyond that nothing more is to be hoped for


class Way(NamedTuple):
    """So many fits at once, each with so many threads."""

    fits: int
    threads: int


def cores() -> int:
    """What there is to share out: physical cores, of those that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def free() -> int:
    """Bytes that all fits may have together."""
    return int(memory.SHARE * (memory.free(torch.device("cpu")) or psutil.virtual_memory().available))


def measured(job: Job, most: int, say: Callable[[str], None]) -> Way:
    """The way that gets on fastest, each tried for a few seconds on this picture; what is found is said.

    Args:
        job: the first that there is something to do for.
        most: fits at once that there is any use for.
        say: told what was found.
    """
    there = cores()
    ways = [Way(1, there)]
    while ways[-1].fits < min(there, most):
        fits = min(2 * ways[-1].fits, there, most)
        ways.append(Way(fits, there // fits))
    if len(ways) == 1:
        return ways[0]
    paces: dict[Way, float] = {}
    with ExitStack() as held:
        children: list[Child] = []
        for way in ways:
            children += [held.enter_context(closing(Child())) for _ in range(way.fits - len(children))]
            pace, bytes_each = _tried(way, children, job)
            if not pace:
                break  # the fit itself will tell what is wrong
            paces[way] = pace
            if pace < WORSE * max(paces.values()) or 2 * way.fits * bytes_each > free():
                break
    if not paces:
        return ways[0]
    best = max(paces, key=lambda way: paces[way])
    told = ", ".join(f"{way.fits} with {_counted(way.threads)} {pace:.1f}" for way, pace in paces.items())
    say(f"Iterations a second on {job.source}, by fits at once: {told}. So {best.fits} at once.")
    return best


def _tried(way: Way, children: list[Child], job: Job) -> tuple[float, int]:
    """Iterations a second of all fits together, and the bytes that each takes; 0 where one fails."""
    at_work = children[: way.fits]
    for child in at_work:
        child.ask(order(job, "try", threads=way.threads, memory=free() // way.fits, seconds=SECONDS))
    answers = [_answered(child) for child in at_work]
    if not all("pace" in answer for answer in answers):
        return 0.0, 0
    return sum(answer["pace"] for answer in answers), max(answer["memory"] for answer in answers)


def _answered(child: Child) -> dict[str, Any]:
    answer = child.answer()
    if answer and "ready" in answer:
        answer = child.answer()
    return answer or {}


def _counted(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''} each"
