"""How fast fits of a picture get on, one or several together: measured on it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import NamedTuple

from dipcli import images, stopping
from dipcli.errors import DipError
from dipcli.fitting.control import Control
from dipcli.fitting.machine import device as machine
from dipcli.fitting.machine import memory
from dipcli.fitting.passes import lockstep
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.records.job import Job
from dipcli.stopping.step import Step
from dipcli.tasks.registry import DEFAULT_PRESET

SECONDS = 1.0  # that each number of pictures is tried for
MORE = 1.05  # times as fast as fewer, or it is not worth the memory
MOST = 64  # pictures together that are tried
FEW = 4  # pictures for which it is not worth finding out
ENDLESS = 10**9  # iterations


class Throughput(NamedTuple):
    """What was measured.

    Attributes:
        iterations: a second, of all fits together.
        memory: bytes that each may take.
        limit: bytes that all may take together; None for no end.
    """

    iterations: float
    memory: int
    limit: int | None

    def room(self, together: int) -> bool:
        """Whether there is memory for so many."""
        return self.limit is None or together * self.memory <= self.limit


def measure_throughput(
    bench: PreparedFit, together: int = 1, seconds: float = SECONDS, asked: Callable[[], object] = lambda: None
) -> Throughput:
    """Fit a picture for a while, so many times at once.

    Args:
        bench: the fit, laid out; it is not changed.
        together: how many times.
        seconds: how long.
        asked: whether it shall end before that: then there is not much to go by.

    Raises:
        DipError: when it cannot be fitted.
    """
    times: list[float] = []

    def watch(step: Step, _verdict: object) -> None:
        float(step.loss)  # a GPU may still be at work on it
        times.append(perf_counter())

    def enough() -> str | None:
        long = len(times) > 2 * together and times[-1] - times[together] > seconds
        return "that will do" if long or asked() else None

    works = iter(
        [
            partial(
                solve,
                replace(bench, prior=deepcopy(bench.prior)),
                stop=stopping.exactly(stopping.Never(), ENDLESS),
                control=Control(interrupted=enough, observers=(watch,), evaluate=lockstep.evaluate_jointly),
            )
            for _ in range(together)
        ]
    )
    for _ in lockstep.run(lambda _idle: next(works, None), together):
        pass
    # The first iteration of each is slower than the others, and so are those after the first that ended.
    counted = times[together : len(times) - together + 1]
    pace = (len(counted) - 1) / (counted[-1] - counted[0]) if len(counted) > 1 else 0.0
    return Throughput(pace, bench.estimate.whole, memory.read_limit(bench.settings))


def prepare_job(job: Job) -> PreparedFit:
    """A fit of a picture that begins with its first iteration, and writes nothing.

    Raises:
        DipError: when it cannot be fitted.
    """
    picture, _ = images.read(job.source)
    given = {name: value for name, value in job.given.items() if name != "time"} | {"warmup": 0, "runs": 1}
    case, settings = job.task.case(picture, job.preset or DEFAULT_PRESET, job.arguments, given)
    return prepare(case.problem, settings, stop=stopping.Never(), other_bytes=case.bytes_in_memory)


def batch_size(
    job: Job,
    wanted: int | None,
    pictures: int,
    say: Callable[[str], None],
    asked: Callable[[], object] = lambda: None,
) -> int:
    """How many pictures of the size of this one to fit together: so many, or as many as get on fastest.

    Args:
        job: the first of them.
        wanted: as many as memory allows, up to this; None to find out.
        pictures: that there are.
        say: told what was found.
        asked: whether all shall end.
    """
    most = min(wanted or MOST, pictures)
    if most < (2 if wanted else FEW):
        return 1
    try:
        bench = prepare_job(job)
        if wanted:
            limit = memory.read_limit(bench.settings)
            fitting = most if limit is None else max(1, min(most, limit // bench.estimate.whole))
            if fitting < most:
                say(f"{job.source}: there is memory for {fitting} of this size together.")
            return fitting
        return _fastest(partial(measure_throughput, bench, asked=asked), job, most, say)
    except DipError:
        return 1  # the fit itself will tell what is wrong


def _fastest(tried: Callable[[int], Throughput], job: Job, most: int, say: Callable[[str], None]) -> int:
    """The smallest number than which neither twice nor four times as many are faster."""
    paces: dict[int, Throughput] = {}
    best = count = 1
    while count <= min(most, 4 * best):
        paces[count] = pace = tried(count)
        if not pace.iterations:
            return best  # it was cut short
        if pace.iterations >= MORE * paces[best].iterations:
            best = count
        count *= 2
        if not pace.room(count):
            break
    told = ", ".join(f"{count} {pace.iterations:.1f}" for count, pace in paces.items())
    say(f"Iterations a second on {job.source}, by pictures together: {told}. So {best} together.")
    return best


def usual(job: Job) -> bool:
    """Whether to find that out unasked: on a GPU. On a CPU the bits would depend on the other pictures."""
    return machine.choose_device(job.given.get("device", "auto")).type == "cuda"
