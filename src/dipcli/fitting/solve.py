"""Laying out a fit: device, precision, prior, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch

from dipcli import networks, stopping
from dipcli.errors import OutOfMemoryError
from dipcli.fitting import device as machine
from dipcli.fitting import memory, restarts
from dipcli.fitting import tiling as tiles
from dipcli.fitting.engine import Observer, no_checkpoint
from dipcli.fitting.estimate import ResourceEstimate, estimate_resources, halve_tiles
from dipcli.fitting.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.restarts import Deadline, Runs, RunsState, fit_runs
from dipcli.fitting.tiled import Notify, TilesState, fit_tiles
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping.step import Place

TRIAL_ITERATIONS = 3  # iterations that tell the pace
LARGE_IMAGE_PIXELS = 2**20  # pixels from which on a fit is slow enough to be told what it will take
TRIAL_WINDOW, SMALL_TRIAL_WINDOW = (
    512,
    128,
)  # side of the window that this is measured on, and of that of smaller pictures


Hold: TypeAlias = Callable[[Callable[[], RunsState | TilesState], bool], None]


@dataclass(frozen=True)
class PreparedFit:
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
    estimate: ResourceEstimate

    @property
    def first_problem(self) -> Problem:
        """What is fitted first: the whole, or the first tile."""
        return next((self.problem.window(each.rows, each.columns) for each in self.estimate.places), self.problem)


def prepare(
    problem: Problem,
    settings: Settings,
    *,
    stop: stopping.Rule | None = None,
    beside: int = 0,
    watched: int = 0,
    places: tuple[Place, ...] | None = None,
) -> PreparedFit:
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
    settings = resolve_settings(settings)
    device = torch.device(settings.device)
    machine.forget_peak_memory(device)
    machine.keep_memory(device)
    with use_threads(settings.threads), machine.translate_memory_errors(problem.shape):
        large = problem.shape[1] * problem.shape[2] >= LARGE_IMAGE_PIXELS
        side = TRIAL_WINDOW if large else SMALL_TRIAL_WINDOW
        cost, prior = memory.measure(problem, settings, side=side, trials=TRIAL_ITERATIONS if large else 0)
        outlook = estimate_resources(problem, settings, replace(cost, watched=watched), beside, places)
        if not outlook.places:
            problem = problem.to(device)
            prior = restarts.fresh_prior(problem, settings, stop or settings.rule()).to(device)
        return PreparedFit(problem, prior, settings, outlook)


def solve(
    bench: PreparedFit,
    *,
    stop: stopping.Rule | None = None,
    deadline: Deadline | None = None,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    notify: Notify = lambda _: None,
    resume_from: RunsState | TilesState | None = None,
    checkpoint: Hold = no_checkpoint,
    evaluate: Evaluate = evaluate_alone,
) -> Runs:
    """Fit, with as many threads as the settings ask for. The bench's network is fitted in place: use it once.

    When memory runs out all the same, it goes on in smaller tiles, once.

    Args:
        bench: as `prepare` laid it out.
        stop: the rule; the one that the settings name when left out.
        deadline: takes the place of the one that `settings.time` sets.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run.
        notify: told when memory runs out.
        resume_from: how far earlier fits of the same had come.
        checkpoint: given the fits' progress now and then, as by `fit_runs` or `fit_tiles`.
        evaluate: as that of `engine.fit`.

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    problem, settings, places = bench.problem, bench.settings, bench.estimate.places
    smaller: tiles.TileLayout | None = partial(halve_tiles, problem=problem, settings=settings)
    how: dict[str, Any] = {
        "deadline": deadline or Deadline(settings.time_budget()),
        "asked": asked,
        "observers": tuple(observers),
        "checkpoint": checkpoint,
        "evaluate": evaluate,
    }
    with use_threads(settings.threads), machine.translate_memory_errors(problem.shape):
        if not places:
            whole = resume_from if isinstance(resume_from, RunsState) else None
            try:
                return fit_runs(problem, bench.prior, settings, stop=stop, resume_from=whole, **how)
            except OutOfMemoryError:
                places = tuple(halve_tiles(problem.shape[1:], problem, settings)) if problem.tileable else ()
                if settings.tile == "none" or len(places) < 2:  # noqa: PLR2004 - as large as the whole
                    raise
            machine.release_memory(torch.device(settings.device))
            smaller = None
            notify(f"memory ran out: going on in {len(places)} tiles")
        problem = problem.to(torch.device("cpu"))
        rule = (stop or settings.rule()).resolve(problem)
        course = resume_from if isinstance(resume_from, TilesState) else None
        return fit_tiles(problem, places, settings, rule, say=notify, smaller=smaller, resume_from=course, **how)


def resolve_settings(settings: Settings) -> Settings:
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
def use_threads(wanted: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
