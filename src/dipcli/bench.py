"""Laying out a fit: device, precision, prior, whole or in tiles, and which preset fits into a time budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from dipcli import device as machine
from dipcli import memory, networks, restarts, stopping, tiles
from dipcli.case import Case
from dipcli.engine import Observer, Prior
from dipcli.errors import DipError, OutOfMemoryError, UsageError
from dipcli.memory import Cost
from dipcli.mosaic import Note, fit_tiles
from dipcli.problem import Problem
from dipcli.registry import Task
from dipcli.restarts import Deadline, Runs, fit_runs
from dipcli.settings import Settings
from dipcli.tiles import Place

BY_SPEED = ("fast", "balanced", "best")
TRIALS = 3  # iterations that tell the pace
LARGE = 2**20  # pixels from which on a fit is slow enough to be told what it will take
WINDOW, SMALL_WINDOW = 512, 128  # side of the window that this is measured on, and of that of smaller pictures
GIB = 2**30


@dataclass(frozen=True)
class Outlook:
    """What a fit will take, as it was estimated before it.

    Attributes:
        whole: bytes, were the picture fitted whole.
        most: bytes that it may take; None for no end.
        memory: bytes, as it will be fitted.
        pace: seconds an iteration takes, in tiles one of each; None where it was not measured.
        places: of the tiles; none where the picture is fitted whole.
    """

    whole: int
    most: int | None
    memory: int
    pace: float | None = None
    places: tuple[Place, ...] = ()

    def told(self, iterations: int, budget: float | None = None) -> str:
        """The same in words, for so many iterations, within so many seconds."""
        words = f"about {self.memory / GIB:.1f} GiB"
        if self.pace is not None:
            words += f" and {_roughly(min(self.pace * iterations, budget or math.inf))} on this machine"
        if not self.places:
            return words
        rows, columns, *_ = self.places[0]
        words += f"; fitted in {len(self.places)} tiles of {columns.stop - columns.start}x{rows.stop - rows.start}"
        return f"{words} to stay below {self.most / GIB:.1f} GiB" if self.most and self.whole > self.most else words


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
    problem: Problem, settings: Settings, *, stop: stopping.Rule | None = None, beside: int = 0, watched: int = 0
) -> Bench:
    """Choose device and precision, and whether the picture is fitted whole or in tiles; make a fresh prior.

    Args:
        problem: the measurement and how it came about.
        settings: how to fit.
        stop: the rule; the one that the settings name when left out. What it holds out is not in the network's input.
        beside: bytes of the pictures that are in memory meanwhile, the measured one among them.
        watched: pictures, as large as what is fitted, that the observers will keep.

    Raises:
        DipError: when the device is not there, there is not enough memory, or the settings do not go together.
    """
    settings = _resolved(settings)
    device = torch.device(settings.device)
    machine.forget_peak_memory(device)
    machine.keep_memory(device)
    with _threads(settings.threads), machine.enough_memory(problem.shape):
        large = problem.shape[1] * problem.shape[2] >= LARGE
        side = WINDOW if large else SMALL_WINDOW
        cost, prior = memory.measure(problem, settings, side=side, trials=TRIALS if large else 0)
        outlook = _outlook(problem, settings, replace(cost, watched=watched), beside)
        if not outlook.places:
            problem = problem.to(device)
            prior = restarts.fresh(problem, settings, stop or stopping.chosen(settings)).to(device)
        return Bench(problem, prior, settings, outlook)


def solve(
    bench: Bench,
    *,
    stop: stopping.Rule | None = None,
    deadline: Deadline | None = None,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    say: Note = lambda _: None,
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

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    problem, settings, places = bench.problem, bench.settings, bench.outlook.places
    deadline = deadline or Deadline(settings.budget())
    observers = tuple(observers)
    smaller: tiles.Cut | None = partial(_halves, settings=settings)
    with _threads(settings.threads), machine.enough_memory(problem.shape):
        if not places:
            try:
                return fit_runs(
                    problem, bench.prior, settings, stop=stop, deadline=deadline, asked=asked, observers=observers
                )
            except OutOfMemoryError:
                places = tuple(_halves(problem.shape[1:], settings)) if problem.divisible else ()
                if settings.tile == "none" or len(places) < 2:  # noqa: PLR2004 - as large as the whole
                    raise
            machine.release_memory(torch.device(settings.device))
            smaller = None
            say(f"memory ran out: going on in {len(places)} tiles")
        problem = problem.to(torch.device("cpu"))
        rule = stopping.settled(stop or stopping.chosen(settings), problem)
        return fit_tiles(
            problem, places, settings, rule, deadline=deadline, asked=asked, observers=observers, say=say,
            smaller=smaller,
        )  # fmt: skip


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
    with _threads(settings.threads), machine.enough_memory(problem.shape):
        cost, _ = memory.measure(problem, settings, side=side, trials=TRIALS)
        return _outlook(problem, settings, cost, case.size).pace or 0.0


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


def _outlook(problem: Problem, settings: Settings, cost: Cost, beside: int) -> Outlook:
    """Whole where that fits and nothing else is wanted, else in tiles.

    Raises:
        DipError: when there is no way that fits.
    """
    channels, *_ = shape = problem.shape
    size = shape[1], shape[2]
    most, wanted = memory.limit(settings), settings.side()
    values = channels * size[0] * size[1]
    whole = cost.total(size, values, beside)
    fits = settings.tile == "none" or most is None or whole <= most
    if fits and (wanted is None or wanted >= max(size)):
        return Outlook(whole, most, whole, cost.seconds(*size))
    if not problem.divisible and fits:
        raise UsageError("--tile is of no use here: such a measurement cannot be cut into tiles. Leave it out.")
    if not problem.divisible:
        raise DipError(
            f"{_lacking(whole, most)}, and such a measurement cannot be cut into tiles: "
            "try --preset fast, more --max-memory, or --tile none to fit it all the same."
        )

    def suits(height: int, width: int) -> bool:
        small = wanted is None or max(height, width) <= wanted
        return small and (most is None or cost.total((height, width), values, beside, tiled=True) <= most)

    places = tiles.layout(size, networks.architecture(settings.network).stride, suits)
    if not places:
        refused = "even the smallest tiles take too much" if wanted is None else f"tiles of {wanted} will not do"
        raise DipError(
            f"{_lacking(whole, most)}, and {refused}: "
            "try --preset fast, a narrower --network, more --max-memory, or another --tile."
        )
    tiles.check(problem, places)
    rows, columns, *_ = places[0]
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    pace = cost.seconds(high, wide)
    told = None if pace is None else pace * sum(tiles.unsettled(problem.window(*each[:2])) for each in places)
    return Outlook(whole, most, cost.total((high, wide), values, beside, tiled=True), told, tuple(places))


def _lacking(whole: int, most: int | None) -> str:
    """How it stands with memory, to begin a sentence."""
    there = "no limit is known" if most is None else f"{most / GIB:.1f} GiB may be used (--max-memory)"
    return f"The whole picture takes about {whole / GIB:.1f} GiB, {there}"


def _halves(size: tuple[int, int], settings: Settings) -> list[Place]:
    """Tiles of at most half the pixels."""
    stride, most = networks.architecture(settings.network).stride, size[0] * size[1] / 2
    return tiles.layout(size, stride, lambda high, wide: high * wide <= most)


def _roughly(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
