"""Laying out a fit: device, precision, prior, and which preset fits into a time budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import torch

from dipcli import device as machine
from dipcli import networks, restarts, stopping
from dipcli.case import Case
from dipcli.engine import Observer, Prior, Step, fit
from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.registry import Task
from dipcli.restarts import Deadline, Hold, Progress, Runs, fit_runs
from dipcli.settings import Settings

BY_SPEED = ("fast", "balanced", "best")
TRIAL = 4  # iterations that tell the pace; the first, which is slower, not counted


@dataclass(frozen=True)
class Bench:
    """Everything laid out for a fit: what can be found wrong with problem and settings has been found.

    Attributes:
        problem: on the device.
        prior: on the device, as it was made.
        settings: as they will be used: device and precision resolved.
    """

    problem: Problem
    prior: Prior
    settings: Settings


def prepare(problem: Problem, settings: Settings, *, stop: stopping.Rule | None = None) -> Bench:
    """Choose device and precision, and make a fresh prior there.

    Args:
        problem: the measurement and how it came about.
        settings: how to fit.
        stop: the rule; the one that the settings name when left out. What it holds out is not in the network's input.

    Raises:
        DipError: when the device is not there, memory runs out, or the settings do not go together.
    """
    device = machine.choose(settings.device)
    precision = settings.precision
    if precision == "auto":
        free = networks.architecture(settings.network).free
        precision = "fp32" if free else machine.precision(device)
    settings = replace(settings, device=str(device), precision=precision)
    machine.forget_peak_memory(device)
    machine.keep_memory(device)
    with machine.enough_memory(problem.shape):
        problem = problem.to(device)
        prior = restarts.fresh(problem, settings, stop or stopping.chosen(settings))
        return Bench(problem, prior.to(device), settings)


def solve(
    bench: Bench,
    *,
    stop: stopping.Rule | None = None,
    deadline: Deadline | None = None,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    begin: Progress | None = None,
    hold: Hold = restarts.let_go,
) -> Runs:
    """Fit, with as many threads as the settings ask for. The bench's network is fitted in place: use it once.

    Args:
        bench: as `prepare` laid it out.
        stop: the rule; the one that the settings name when left out.
        deadline: takes the place of the one that `settings.time` sets.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run.
        begin: how far earlier fits of the same had come.
        hold: given the fits' progress now and then, as by `fit_runs`.

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    with _threads(bench.settings.threads), machine.enough_memory(bench.problem.shape):
        return fit_runs(
            bench.problem,
            bench.prior,
            bench.settings,
            stop=stop,
            deadline=deadline,
            asked=asked,
            observers=observers,
            begin=begin,
            hold=hold,
        )


def planned(task: Task, pose: Callable[[str], tuple[Case, Settings]], deadline: Deadline) -> str:
    """The best preset whose usual number of iterations fits into the time there is, by the pace of a few of them.

    A slower preset is tried only where the faster one fits.

    Args:
        task: knows how long its presets usually run.
        pose: from a preset's name to what the task makes of the picture with it.
        deadline: of all that is to be done; the trials take their share.

    Raises:
        DipError: when not even the fastest preset can be tried.
    """
    chosen = ""
    for preset in (each for each in BY_SPEED if each in task.presets):
        try:
            case, settings = pose(preset)
            seconds = _pace(case, settings) * task.usual(preset, settings) * (settings.runs or 1)
        except DipError:
            if chosen:
                break  # too large for this machine: the faster one will do
            raise
        if chosen and not deadline.room(seconds):
            break
        chosen = preset
        if not deadline.room(seconds):
            break
    return chosen


def _pace(case: Case, settings: Settings) -> float:
    """Seconds an iteration."""
    times: list[float] = []

    def watch(step: Step, _verdict: object) -> None:
        float(step.loss)  # a GPU may still be at work on it
        times.append(perf_counter())

    bench = prepare(case.problem, replace(settings, warmup=0))
    trial = stopping.exactly(stopping.Never(), TRIAL)
    with _threads(settings.threads), machine.enough_memory(case.problem.shape):
        fit(bench.problem, bench.prior, bench.settings, stop=trial, observers=[watch])
    return (times[-1] - times[0]) / (TRIAL - 1)


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
