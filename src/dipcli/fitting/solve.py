"""Laying out a fit: device, precision, prior, whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from dipcli import networks
from dipcli.errors import OutOfMemoryError
from dipcli.fitting import device as machine
from dipcli.fitting import memory
from dipcli.fitting import tiling as tiles
from dipcli.fitting.control import NO_CONTROL, Control, Deadline, Observer
from dipcli.fitting.estimate import ResourceEstimate, estimate_resources, halve_tiles
from dipcli.fitting.restarts import fit_runs, fresh_prior
from dipcli.fitting.results import Runs
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.tiled import fit_tiles
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule
from dipcli.stopping.step import Place

TRIAL_ITERATIONS = 3  # iterations that tell the pace
LARGE_IMAGE_PIXELS = 2**20  # pixels from which on a fit is slow enough to be told what it will take
TRIAL_WINDOW, SMALL_TRIAL_WINDOW = (
    512,
    128,
)  # side of the window that this is measured on, and of that of smaller pictures


@dataclass(frozen=True)
class PreparedFit:
    """Everything laid out for a fit: what can be found wrong with problem and settings has been found.

    Attributes:
        problem: on the device; on the CPU where it is fitted in tiles, each of which goes there by itself.
        prior: on the device, as it was made. Tiles have their own: there it is that of a small window.
        settings: as they will be used: device and precision resolved.
        estimate: what it will take.
        started: the stopping rule, started on the whole image; in tiles, resolved for the whole image and started on
            the first tile, as a check: each tile starts its own.
    """

    problem: Problem
    prior: Prior
    settings: Settings
    estimate: ResourceEstimate
    started: StartedRule

    @property
    def first_problem(self) -> Problem:
        """What is fitted first: the whole, or the first tile."""
        return next((self.problem.window(each.rows, each.columns) for each in self.estimate.places), self.problem)


def prepare(
    problem: Problem,
    settings: Settings,
    *,
    stop: Rule | None = None,
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
        rule = stop or settings.rule()
        if outlook.places:
            first = outlook.places[0]
            started = start_rule(rule.resolve(problem), problem.window(first.rows, first.columns))
        else:
            problem = problem.to(device)
            started = start_rule(rule, problem)
            prior = fresh_prior(started.problem, settings).to(device)
        return PreparedFit(problem, prior, settings, outlook, started)


def solve(
    prepared: PreparedFit,
    *,
    stop: Rule | None = None,
    observers: Iterable[Observer] = (),
    control: Control = NO_CONTROL,
) -> Runs:
    """Fit, with the number of CPU threads of the settings.

    The prior is fitted in place, so a prepared fit can be used once. If memory runs out, the fit goes on in smaller
    tiles, once.

    Args:
        prepared: the fit.
        stop: a rule in the place of the prepared one.
        observers: called after each iteration, after those of `control`.
        control: what runs beside the fit. Its deadline takes the place of `settings.time`.

    Raises:
        DipError: if memory runs out or the fit ends in numbers that are not finite.
    """
    problem, settings, places = prepared.problem, prepared.settings, prepared.estimate.places
    control = replace(
        control,
        deadline=control.deadline or Deadline(settings.time_budget()),
        observers=(*control.observers, *observers),
    )
    smaller: tiles.TileLayout | None = partial(halve_tiles, problem=problem, settings=settings)
    with use_threads(settings.threads), machine.translate_memory_errors(problem.shape):
        if not places:
            try:
                return fit_runs(problem, prepared.prior, settings, stop=stop or prepared.started, control=control)
            except OutOfMemoryError:
                places = tuple(halve_tiles(problem.shape[1:], problem, settings)) if problem.tileable else ()
                if settings.tile == "none" or len(places) < 2:  # noqa: PLR2004 - as large as the whole
                    raise
            machine.release_memory(torch.device(settings.device))
            smaller = None
            control.notify(f"memory ran out: going on in {len(places)} tiles")
        problem = problem.to(torch.device("cpu"))
        rule = (stop or prepared.started.rule).resolve(problem)
        return fit_tiles(problem, places, settings, rule, smaller=smaller, control=control)


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
