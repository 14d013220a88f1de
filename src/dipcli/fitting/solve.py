"""Preparing a fit (device, precision, prior, whole or in tiles) and running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from dipcli import networks
from dipcli.errors import OutOfMemoryError
from dipcli.fitting.control import NO_CONTROL, Control, Deadline, Observer
from dipcli.fitting.cost import measure_cost
from dipcli.fitting.estimate import ResourceEstimate, estimate_resources, halve_tiles
from dipcli.fitting.machine import memory
from dipcli.fitting.machine.arithmetic import choose_precision, use_ieee_fp32
from dipcli.fitting.machine.device import choose_device, explain_choice
from dipcli.fitting.machine.memory import translate_memory_errors
from dipcli.fitting.restarts import fit_runs, fresh_prior
from dipcli.fitting.results import Runs
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.tiles import tiling
from dipcli.fitting.tiles.tiled import fit_tiles
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule
from dipcli.stopping.step import Place

LARGE_IMAGE_PIXELS = 2**20  # from here on a fit takes so long that its time is measured before
TRIAL_ITERATIONS = 3  # to measure the time
TRIAL_WINDOW, SMALL_TRIAL_WINDOW = 512, 128  # side of the window on which a large and a small image are measured


@dataclass(frozen=True)
class PreparedFit:
    """A fit that is ready to run: problem and settings have been checked.

    Attributes:
        problem: on the device; on the CPU if fitted in tiles, each of which is moved by itself.
        prior: untrained, on the device; if fitted in tiles, that of a small window, since each tile has its own.
        settings: with device and precision resolved.
        estimate: of memory and time, with the positions of the tiles.
        started: the stopping rule, started on the whole image; if fitted in tiles, resolved for the whole image and
            started on the first tile, as a check: each tile starts its own.
        remarks: messages to the user about device and precision.
    """

    problem: Problem
    prior: Prior
    settings: Settings
    estimate: ResourceEstimate
    started: StartedRule
    remarks: tuple[str, ...] = ()

    @property
    def first_problem(self) -> Problem:
        """The problem that is fitted first: the whole or the first tile."""
        return _find_first_tile(self.problem, self.estimate.places) or self.problem


def prepare(
    problem: Problem,
    settings: Settings,
    *,
    stop: Rule | None = None,
    other_bytes: int = 0,
    observer_images: int = 0,
    places: tuple[Place, ...] | None = None,
) -> PreparedFit:
    """Choose device, precision, and the whole image or tiles; start the rule and make the prior.

    Args:
        problem: the measurement y, the operator A and the data term E.
        settings: how to fit.
        stop: the stopping rule; by default that of the settings. Held-out pixels are not in the network's input.
        other_bytes: bytes of the images in memory at the same time, the measured one among them.
        observer_images: images of the fitted size that the observers will keep.
        places: the positions of the tiles of an earlier part of the run, empty for the whole; None to choose.

    Raises:
        DipError: if the device is missing, memory does not suffice, or the settings do not go together.
    """
    if settings.iterations in (None, 1) and not getattr(problem.finish, "uses_fit", True):
        # There is nothing to fit: an iteration, as a formality.
        settings, stop = replace(settings, iterations=1, runs=1, stop="none"), None
    asked, settings = settings, resolve_settings(settings)
    device = torch.device(settings.device)
    memory.reset_peak(device)
    memory.keep_freed(device)
    with use_threads(settings.threads), use_ieee_fp32(device), translate_memory_errors(problem.shape):
        large = problem.shape[1] * problem.shape[2] >= LARGE_IMAGE_PIXELS
        side = TRIAL_WINDOW if large else SMALL_TRIAL_WINDOW
        cost, prior = measure_cost(problem, settings, side=side, trials=TRIAL_ITERATIONS if large else 0)
        cost = replace(cost, observer_images=observer_images)
        estimate = estimate_resources(problem, settings, cost, other_bytes, places)
        rule = stop or settings.rule()
        if estimate.places:
            started = start_rule(rule.resolve(problem), _find_first_tile(problem, estimate.places) or problem)
        else:
            problem = problem.to(device)
            started = start_rule(rule, problem, settings)
            prior = fresh_prior(started.problem, settings).to(device)
        return PreparedFit(problem, prior, settings, estimate, started, explain_choice(asked, device))


def _find_first_tile(problem: Problem, places: Iterable[Place]) -> Problem | None:
    """Return the problem of the first tile that is not hidden; None without one."""
    windows = (problem.window(place.rows, place.columns) for place in places)
    return next((window for window in windows if not tiling.is_hidden(window)), None)


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
    smaller: tiling.TileLayout | None = partial(halve_tiles, problem=problem, settings=settings)
    device = torch.device(settings.device)
    with use_threads(settings.threads), use_ieee_fp32(device), translate_memory_errors(problem.shape):
        if not places:
            try:
                return fit_runs(problem, prepared.prior, settings, stop=stop or prepared.started, control=control)
            except OutOfMemoryError:
                places = tuple(halve_tiles(problem.shape[1:], problem, settings)) if problem.tileable else ()
                if settings.tile == "none" or len(places) < 2:  # noqa: PLR2004 - as large as the whole
                    raise
            memory.release(device)
            smaller = None
            control.notify(f"memory ran out: continuing in {len(places)} tiles")
        problem = problem.to(torch.device("cpu"))
        rule = (stop or prepared.started.rule).resolve(problem)
        return fit_tiles(problem, places, settings, rule, smaller=smaller, control=control)


def resolve_settings(settings: Settings) -> Settings:
    """Return the settings with `auto` for device and precision resolved.

    Raises:
        DipError: if the device is missing.
    """
    device = choose_device(settings.device)
    precision = settings.precision
    if precision == "auto":
        free_pixels = networks.architecture(settings.network).free
        precision = "fp32" if free_pixels else choose_precision(device)[0]
    return replace(settings, device=str(device), precision=precision)


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Use this many CPU threads inside the context; None leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
