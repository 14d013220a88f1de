"""How many fits at once, with how many threads each: measured on the first picture, not guessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import psutil
import torch

from dipcli.cluster.child_handle import Child
from dipcli.cluster.messages import order
from dipcli.fitting.machine import memory
from dipcli.records.job import Job
from dipcli.runs.batches.throughput import MORE, MOST, Throughput

SECONDS = 2.0  # that each way is tried for
WORSE = 0.9  # of the best pace: beyond that nothing more is to be hoped for


class Way(NamedTuple):
    """How pictures are shared out.

    Attributes:
        fits: processes at once.
        threads: of each.
        together: pictures that are fitted together in each.
    """

    fits: int
    threads: int
    together: int = 1


def cores() -> int:
    """What there is to share out: physical cores, of those that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def free() -> int:
    """Bytes that all fits may have together."""
    return int(
        memory.FREE_MEMORY_FRACTION * (memory.read_free(torch.device("cpu")) or psutil.virtual_memory().available)
    )


def divided(most: int) -> list[Way]:
    """The cores for one fit, for two, for four, up to so many."""
    there = cores()
    ways = [Way(1, there)]
    while ways[-1].fits < min(there, most):
        fits = min(2 * ways[-1].fits, there, most)
        ways.append(Way(fits, there // fits))
    return ways


def measured(
    job: Job,
    ways: Sequence[Way],
    most: int,
    say: Callable[[str], None],
    *,
    wanted: int | None = 1,
    pins: Sequence[str] = (),
) -> Way:
    """The way that gets on fastest, each tried for a few seconds on this picture; what is found is said.

    Args:
        job: the first that there is something to do for.
        ways: with ever more processes.
        most: fits at once that there is any use for.
        say: told what was found.
        wanted: pictures together in each process, as far as memory allows; None to find out.
        pins: the GPU of each process, none where there are none. As they are alike, one is tried.
    """
    if len(ways) == 1 and (wanted == 1 or ways[0].fits >= most):
        return ways[0]
    found: dict[Way, Throughput] = {}
    with ExitStack() as held:
        children: list[Child] = []
        for way in ways:
            count = 1 if pins else way.fits
            children += [held.enter_context(closing(Child(*pins[:1]))) for _ in range(count - len(children))]
            fastest = max((tried.iterations for tried in found.values()), default=0.0)
            before = len(found)
            found.update(_sizes(way, children[:count], job, most, wanted))
            if len(found) == before:
                break  # the fit itself will tell what is wrong
            best = max([*found.values()][before:], key=lambda tried: tried.iterations)
            if best.iterations < WORSE * fastest or 2 * way.fits * best.memory > free():
                break
    if not found:
        return ways[0]
    best_way = max(found, key=lambda way: found[way].iterations)
    if len(found) > 1:
        told = ", ".join(f"{_told(way)} {tried.iterations:.1f}" for way, tried in found.items())
        company = f", {best_way.together} together in each" if best_way.together > 1 else ""
        say(f"Iterations a second on {job.source}, by fits at once: {told}. So {best_way.fits} at once{company}.")
    return best_way


def _sizes(
    way: Way, children: Sequence[Child], job: Job, most: int, wanted: int | None
) -> Iterator[tuple[Way, Throughput]]:
    """This way with as many together as are wanted, or ever more as long as that is faster; none where one fails."""
    each = -(-most // way.fits)  # pictures for each process
    way = way._replace(together=min(wanted or 1, each))
    best, most_so_far = 1, 0.0
    while tried := _tried(way, children, job):
        if not tried.room(way.together) and way.together > 1:
            way = way._replace(together=max(1, (tried.limit or 0) // tried.memory))
            continue
        yield way, tried
        if tried.iterations >= MORE * most_so_far:
            best, most_so_far = way.together, tried.iterations
        way = way._replace(together=2 * way.together)
        if wanted or way.together > min(each, MOST, 4 * best) or not tried.room(way.together):
            return


def _tried(way: Way, children: Sequence[Child], job: Job) -> Throughput | None:
    """What this way comes to; None where a fit fails."""
    allotted = free() // len(children)
    for child in children:
        child.ask(
            order(job, "try", threads=way.threads, memory=allotted, seconds=SECONDS, together=way.together), ticket=1
        )
    answers = [child.answer(ticket=1) or {} for child in children]
    if not all("iterations" in answer for answer in answers):
        return None
    limits: list[Any] = [answer["limit"] for answer in answers if answer["limit"] is not None]
    return Throughput(
        sum(answer["iterations"] for answer in answers),
        max(answer["memory"] for answer in answers),
        min(limits, default=None),
    )


def _told(way: Way) -> str:
    company = f" and {way.together} together" if way.together > 1 else ""
    return f"{way.fits} with {way.threads} thread{'s' if way.threads > 1 else ''} each{company}"
