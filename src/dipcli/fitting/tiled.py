"""A large picture in tiles: each is a fit of its own, with its own network and its own end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.errors import OutOfMemoryError
from dipcli.fitting import device as machine
from dipcli.fitting.control import NO_CONTROL, Control, Deadline, Observer
from dipcli.fitting.restarts import fit_runs, fresh_prior
from dipcli.fitting.results import Fit, Runs
from dipcli.fitting.started_rule import start_rule
from dipcli.fitting.state import FittedTile, RunsState, TilesState
from dipcli.fitting.tiling import TileLayout, blend, halve_place, has_unknown
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule, Verdict
from dipcli.stopping.step import Place, Step, Tile


def fit_tiles(
    problem: Problem,
    places: Iterable[Place],
    settings: Settings,
    rule: Rule,
    *,
    smaller: TileLayout | None = None,
    control: Control = NO_CONTROL,
) -> Runs:
    """Fit one tile after the other, each from the same seed, and blend them.

    A tile depends only on the problem, its place and the settings. Tiles without unknown pixels are not fitted. After
    an interrupt the tiles that were not reached show the measurement.

    Args:
        problem: the whole measurement, on the CPU.
        places: the positions of the tiles.
        settings: how to fit each.
        rule: the stopping rule, resolved for the whole image; each tile starts its own.
        smaller: splits a tile's (h, w) into smaller tiles; used once, when memory runs out.
        control: what runs beside the fits. The time left is divided evenly among the tiles.

    Raises:
        OutOfMemoryError: if memory runs out again.
        DipError: if a fit ends in numbers that are not finite.
    """
    deadline = control.deadline or Deadline(settings.time_budget())
    begun = control.resume_from if isinstance(control.resume_from, TilesState) else None
    done = list(begun.done) if begun else []
    waiting = list(begun.waiting if begun else places)
    current = begun.current if begun else None

    def checkpoint(take: Callable[[], RunsState], last: bool) -> None:
        control.checkpoint(lambda: TilesState(tuple(done), tuple(waiting), take()), last)

    while waiting:
        place, count = waiting[0], len(done) + len(waiting)
        left = deadline.left()
        share = Deadline(None if left is None else left / len(waiting))
        own_control = replace(control, deadline=share, checkpoint=checkpoint, resume_from=current)
        first = not any(tile.runs for tile in done)
        try:
            with machine.translate_memory_errors(problem.shape):
                patch = _patch(problem, place, (len(done) + 1, count), settings, rule, own_control, first=first)
        except OutOfMemoryError:
            if smaller is None:
                raise
            patch = None
        current = None
        if patch is None and smaller is not None:
            # Outside of the handler, where the error would still hold what was in memory.
            waiting = [part for large in waiting for part in halve_place(large, smaller)]
            smaller = None
            machine.release_memory(torch.device(settings.device))
            control.notify(f"memory ran out: going on in {len(waiting)} smaller tiles")
        elif patch is not None:
            done.append(patch)
            waiting.pop(0)
    return _together(problem, done, control.interrupted())


def _patch(
    problem: Problem,
    place: Place,
    which: tuple[int, int],
    settings: Settings,
    rule: Rule,
    control: Control,
    *,
    first: bool,
) -> FittedTile:
    """Fit one tile if it has unknown pixels. After an interrupt only the first one is fitted."""
    part = problem.window(place.rows, place.columns)
    if not has_unknown(part):
        return FittedTile(place, part.finish(torch.zeros(part.shape)))
    if not first and (reason := control.interrupted()):
        return FittedTile(place, _shown(part), reason=reason)
    part = part.to(torch.device(settings.device))
    tile = Tile(*which, place, part)
    own_control = replace(control, observers=tuple(_told(observer, tile) for observer in control.observers))
    started = start_rule(rule, part)
    prior = fresh_prior(started.problem, settings).to(part.measured.device)
    runs = fit_runs(part, prior, settings, stop=started, control=own_control)
    done = [replace(run, tile=tile.number, fit=_laid_by(run.fit)) for run in runs.runs]
    agreeing = [run.fit.average for run in done if not run.outlier]
    image = agreeing[0] if len(agreeing) == 1 else torch.stack(agreeing).mean(dim=0)
    return FittedTile(place, image, tuple(done), runs.reason, runs.seconds)


def _laid_by(result: Fit) -> Fit:
    """The same on the CPU, with one picture: what is finished in the end is the whole."""
    average = result.average.cpu()
    return replace(result, image=average, average=average)


def _told(observe: Observer, tile: Tile) -> Observer:
    """The observer, told which tile it is."""

    def watch(step: Step, verdict: Verdict) -> None:
        observe(replace(step, tile=tile), verdict)

    return watch


def _shown(part: Problem) -> Tensor:
    """What there is to see of a tile without a fit: the measurement, as large as the picture is to be."""
    return functional.interpolate(part.measured[None], part.shape[1:], mode="bilinear")[0]


def _together(problem: Problem, patches: list[FittedTile], asked: str | None) -> Runs:
    """The result of all tiles."""
    runs = tuple(run for patch in patches for run in patch.runs)
    fitted = [patch for patch in patches if patch.runs]
    told = [asked or fitted[0].reason, f"{len(patches)} tiles"]
    if len(fitted) < len(patches):
        told[1] += f", {len(fitted)} of them fitted"
    if any(patch.reason == asked for patch in patches if not patch.runs):
        told.append("those that were not reached show the input")
    image = blend(problem.shape, ((patch.place, patch.image) for patch in patches))
    seconds = sum(patch.seconds for patch in patches)
    return Runs(problem.finish(image), runs, "; ".join(told), seconds, tuple(patch.place for patch in patches))
