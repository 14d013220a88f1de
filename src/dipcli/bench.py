"""Laying out a fit: device, precision, prior, whole or in tiles, and which preset fits into a time budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch

from dipcli import device as machine
from dipcli import memory, networks, restarts, stopping, tiles
from dipcli.case import Case
from dipcli.descent import Descend, alone
from dipcli.engine import Observer, let_go
from dipcli.errors import DipError, OutOfMemoryError
from dipcli.mosaic import Course, Note, fit_tiles
from dipcli.networks.prior import Prior
from dipcli.outlook import Outlook, foretell, halves
from dipcli.problem import Problem
from dipcli.registry import Task
from dipcli.restarts import Deadline, Progress, Runs, fit_runs
from dipcli.settings import Settings
from dipcli.stopping.step import Place

BY_SPEED = ("fast", "balanced", "best")
TRIALS = 3  # iterations that tell the pace
LARGE = 2**20  # pixels from which on a fit is slow enough to be told what it will take
WINDOW, SMALL_WINDOW = 512, 128  # side of the window that this is measured on, and of that of smaller pictures


Hold: TypeAlias = Callable[[Callable[[], Progress | Course], bool], None]


@dataclass(frozen=True)
class Bench:
    """Everything laid out for a fit: what can be found wrong with problem and settings has been found.

    Attributes:
        problem: on the device; on the CPU where it is fitted in tiles, each of which goes there by itself.
        prior: on the device, as it was made. Tiles have their own: there it is that of a small window.
        settings: as they will be used: device and precision resolved.
        outlook: what it will take.
    """

    problem: Problem
    prior: Prior
    settings: Settings
    outlook: Outlook

    @property
    def first(self) -> Problem:
        """What is fitted first: the whole, or the first tile."""
        return next((self.problem.window(each.rows, each.columns) for each in self.outlook.places), self.problem)


def prepare(
    problem: Problem,
    settings: Settings,
    *,
    stop: stopping.Rule | None = None,
    beside: int = 0,
    watched: int = 0,
    places: tuple[Place, ...] | None = None,
) -> Bench:
    """Choose device and precision, and whether the picture is fitted whole or in tiles; make a fresh prior.

    Args:
        problem: the measurement and how it came about.
        settings: how to fit.
        stop: the rule; the one that the settings name when left out. What it holds out is not in the network's input.
        beside: bytes of the pictures that are in memory meanwhile, the measured one among them.
        watched: pictures, as large as what is fitted, that the observers will keep.
        places: of the tiles with which an earlier part of the run was begun, none for the whole; None to choose.

    Raises:
        DipError: when the device is not there, there is not enough memory, or the settings do not go together.
    """
    settings = _resolved(settings)
    device = torch.device(settings.device)
    machine.forget_peak_memory(device)
    machine.keep_memory(device)
    with threads(settings.threads), machine.enough_memory(problem.shape):
        large = problem.shape[1] * problem.shape[2] >= LARGE
        side = WINDOW if large else SMALL_WINDOW
        cost, prior = memory.measure(problem, settings, side=side, trials=TRIALS if large else 0)
        outlook = foretell(problem, settings, replace(cost, watched=watched), beside, places)
        if not outlook.places:
            problem = problem.to(device)
            prior = restarts.fresh(problem, settings, stop or settings.rule()).to(device)
        return Bench(problem, prior, settings, outlook)


def solve(
    bench: Bench,
    *,
    stop: stopping.Rule | None = None,
    deadline: Deadline | None = None,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    say: Note = lambda _: None,
    begin: Progress | Course | None = None,
    hold: Hold = let_go,
    descend: Descend = alone,
) -> Runs:
    """Fit, with as many threads as the settings ask for. The bench's network is fitted in place: use it once.

    When memory runs out all the same, it goes on in smaller tiles, once.

    Args:
        bench: as `prepare` laid it out.
        stop: the rule; the one that the settings name when left out.
        deadline: takes the place of the one that `settings.time` sets.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run.
        say: told when memory runs out.
        begin: how far earlier fits of the same had come.
        hold: given the fits' progress now and then, as by `fit_runs` or `fit_tiles`.
        descend: as that of `engine.fit`.

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    problem, settings, places = bench.problem, bench.settings, bench.outlook.places
    smaller: tiles.Cut | None = partial(halves, problem=problem, settings=settings)
    how: dict[str, Any] = {
        "deadline": deadline or Deadline(settings.budget()),
        "asked": asked,
        "observers": tuple(observers),
        "hold": hold,
        "descend": descend,
    }
    with threads(settings.threads), machine.enough_memory(problem.shape):
        if not places:
            whole = begin if isinstance(begin, Progress) else None
            try:
                return fit_runs(problem, bench.prior, settings, stop=stop, begin=whole, **how)
            except OutOfMemoryError:
                places = tuple(halves(problem.shape[1:], problem, settings)) if problem.divisible else ()
                if settings.tile == "none" or len(places) < 2:  # noqa: PLR2004 - as large as the whole
                    raise
            machine.release_memory(torch.device(settings.device))
            smaller = None
            say(f"memory ran out: going on in {len(places)} tiles")
        problem = problem.to(torch.device("cpu"))
        rule = (stop or settings.rule()).resolve(problem)
        course = begin if isinstance(begin, Course) else None
        return fit_tiles(problem, places, settings, rule, say=say, smaller=smaller, begin=course, **how)


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
    """Seconds an iteration; of a large picture by that of a window."""
    problem, settings = case.problem, _resolved(settings)
    size = problem.shape[1:]
    side = WINDOW if size[0] * size[1] >= LARGE else max(size)
    machine.keep_memory(torch.device(settings.device))
    with threads(settings.threads), machine.enough_memory(problem.shape):
        cost, _ = memory.measure(problem, settings, side=side, trials=TRIALS)
        return foretell(problem, settings, cost, case.size).pace or 0.0


def _resolved(settings: Settings) -> Settings:
    """With the device and the precision that auto comes to.

    Raises:
        DipError: when the device is not there.
    """
    device = machine.choose(settings.device)
    precision = settings.precision
    if precision == "auto":
        free = networks.architecture(settings.network).free
        precision = "fp32" if free else machine.precision(device)
    return replace(settings, device=str(device), precision=precision)


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
