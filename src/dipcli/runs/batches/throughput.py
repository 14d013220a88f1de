"""Choose how many images of one size are fitted together, by memory and a short measurement."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from time import perf_counter

from dipcli import images, stopping
from dipcli.errors import DipError
from dipcli.fitting.control import Control
from dipcli.fitting.machine import device, memory
from dipcli.fitting.passes import lockstep
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.records.job import Job
from dipcli.stopping.step import Step
from dipcli.tasks.registry import DEFAULT_PRESET

CANDIDATES = (1, 4, 16)  # images together that are measured
TRIAL_SECONDS = 1.0  # for each of them
MIN_SPEEDUP = 1.05  # over fewer images together, or it is not worth the memory
MIN_IMAGES = 4  # for fewer a measurement does not pay
MAX_ITERATIONS = 10**9  # a trial ends by time


def measure_throughput(
    fit: PreparedFit,
    together: int = 1,
    seconds: float = TRIAL_SECONDS,
    interrupted: Callable[[], object] = lambda: None,
) -> float:
    """Run several copies of a fit together for a while; return the iterations per second of all of them.

    The fit is not changed. The result may be 0 if it was interrupted.

    Raises:
        DipError: if the fit fails.
    """
    times: list[float] = []

    def watch(step: Step, _verdict: object) -> None:
        float(step.loss)  # wait for a GPU
        times.append(perf_counter())

    def time_is_up() -> str | None:
        long_enough = len(times) > 2 * together and times[-1] - times[together] > seconds
        return "the trial is over" if long_enough or interrupted() else None

    stop = stopping.exactly(stopping.Never(), MAX_ITERATIONS)
    control = Control(interrupted=time_is_up, observers=(watch,), evaluate=lockstep.evaluate_jointly)
    copies = [replace(fit, prior=deepcopy(fit.prior)) for _ in range(together)]
    fits = iter([partial(solve, copied, stop=stop, control=control) for copied in copies])
    for _ in lockstep.run(lambda _idle: next(fits, None), together):
        pass
    # The first iteration of each fit is slower than the others, and so are those after the first fit that ended.
    counted = times[together : len(times) - together + 1]
    return (len(counted) - 1) / (counted[-1] - counted[0]) if len(counted) > 1 else 0.0


def prepare_job(job: Job) -> PreparedFit:
    """Prepare a single fit of an image, without warm-up or time budget. It writes nothing.

    Raises:
        DipError: if the image cannot be fitted.
    """
    image, _ = images.read(job.source, missing=True)
    given = {name: value for name, value in job.given.items() if name != "time"} | {"warmup": 0, "runs": 1}
    case, settings = job.task.case(image, job.preset or DEFAULT_PRESET, job.arguments, given)
    return prepare(case.problem, settings, stop=stopping.Never(), other_bytes=case.bytes_in_memory)


def choose_batch_size(
    job: Job,
    wanted: int | None,
    count: int,
    note: Callable[[str], None],
    interrupted: Callable[[], object] = lambda: None,
) -> int:
    """Choose how many images of the size of this one to fit together.

    Args:
        job: the first of them.
        wanted: as many as memory allows, up to this; None for the fastest of `CANDIDATES`.
        count: images of this size.
        note: receives what was found.
        interrupted: whether to end the measurement.
    """
    most = min(wanted or CANDIDATES[-1], count)
    if most < (2 if wanted else MIN_IMAGES):
        return 1
    try:
        fit = prepare_job(job)
        limit = memory.read_limit(fit.settings)
        in_memory = most if limit is None else max(1, min(most, limit // fit.estimate.whole))
        if wanted is None:
            return _find_fastest(partial(measure_throughput, fit, interrupted=interrupted), job, in_memory, note)
    except DipError:
        return 1  # the fit itself will report what is wrong
    if in_memory < most:
        note(f"{job.source}: there is memory for {in_memory} images of this size together.")
    return in_memory


def _find_fastest(measure: Callable[[int], float], job: Job, most: int, note: Callable[[str], None]) -> int:
    """Return the smallest candidate that no larger one beats clearly."""
    measured: dict[int, float] = {}
    best = 1
    for together in CANDIDATES:
        if together > most:
            break
        measured[together] = measure(together)
        if not measured[together]:
            return best  # interrupted
        if measured[together] >= MIN_SPEEDUP * measured[best]:
            best = together
    figures = ", ".join(f"{together} together {iterations:.1f}" for together, iterations in measured.items())
    note(f"Iterations per second with images of the size of {job.source}: {figures}. Fitting {best} together.")
    return best


def is_default(job: Job) -> bool:
    """Whether images are fitted together by default: on a GPU. On a CPU the bits would depend on the other images."""
    return device.choose_device(job.given.get("device", "auto")).type == "cuda"
