"""Fitting a large image in tiles, each with its own network and its own end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch.nn import functional

from dipcli.errors import OutOfMemoryError
from dipcli.fitting.control import NO_CONTROL, Control, Deadline, Observer
from dipcli.fitting.machine import memory
from dipcli.fitting.machine.memory import translate_memory_errors
from dipcli.fitting.restarts import fit_runs, fresh_prior
from dipcli.fitting.results import Fit, Runs
from dipcli.fitting.started_rule import start_rule
from dipcli.fitting.state import FittedTile, RunsState, TilesState
from dipcli.fitting.tiles.tiling import TileLayout, blend, halve_place, has_unknown, is_hidden
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule
from dipcli.stopping.step import Place, Tile


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
    resumed = control.resume_from if isinstance(control.resume_from, TilesState) else None
    done = list(resumed.done) if resumed else []
    waiting = list(resumed.waiting if resumed else places)
    current = resumed.current if resumed else None

    def checkpoint(take: Callable[[], RunsState], last: bool) -> None:
        control.checkpoint(lambda: TilesState(tuple(done), tuple(waiting), take()), last)

    while waiting:
        place, tile_number = waiting[0], (len(done) + 1, len(done) + len(waiting))
        left = deadline.left()
        share = Deadline(None if left is None else left / len(waiting))
        tile_control = replace(control, deadline=share, checkpoint=checkpoint, resume_from=current)
        first = not any(tile.runs for tile in done)
        try:
            with translate_memory_errors(problem.shape):
                tile = _fit_tile(problem, place, tile_number, settings, rule, tile_control, first=first)
        except OutOfMemoryError:
            if smaller is None:
                raise
            tile = None
        current = None
        if tile is None and smaller is not None:
            # Not in the handler: there the error still keeps the tensors alive.
            waiting = [part for large in waiting for part in halve_place(large, smaller)]
            smaller = None
            memory.release(torch.device(settings.device))
            control.notify(f"memory ran out: continuing in {len(waiting)} smaller tiles")
        elif tile is not None:
            done.append(tile)
            waiting.pop(0)
    return _blend_tiles(problem, done, control.interrupted())


def _fit_tile(
    problem: Problem,
    place: Place,
    tile_number: tuple[int, int],
    settings: Settings,
    rule: Rule,
    control: Control,
    *,
    first: bool,
) -> FittedTile:
    """Fit one tile, of the given number and count, if it has unknown pixels.

    After an interrupt only the first tile is fitted.
    """
    part = problem.window(place.rows, place.columns)
    # If no tile has unknown pixels, the last one is fitted: a result has at least one run.
    needed = first and tile_number[0] == tile_number[1]
    if not has_unknown(part) and not needed:
        return FittedTile(place, part.finish(torch.zeros(part.shape)))
    reason = None if first else control.interrupted()
    if reason or (is_hidden(part) and not needed):
        measured = functional.interpolate(part.measured[None], part.shape[1:], mode="bilinear")[0]
        return FittedTile(place, measured, reason=reason or "it is transparent")
    part = part.to(torch.device(settings.device))
    tile = Tile(*tile_number, place, part)
    observers = tuple(_add_tile(observer, tile) for observer in control.observers)
    started = start_rule(rule, part, settings)
    prior = fresh_prior(started.problem, settings).to(part.measured.device)
    result = fit_runs(part, prior, settings, stop=started, control=replace(control, observers=observers))
    runs = tuple(replace(run, tile=tile.number, fit=_move_to_cpu(run.fit)) for run in result.runs)
    return FittedTile(place, result.average.cpu(), runs, result.reason, result.seconds, result.share)


def _move_to_cpu(result: Fit) -> Fit:
    """Return the result with its average on the CPU, and not finished: only the blended image is."""
    average = result.average.cpu()
    return replace(result, image=average, average=average)


def _add_tile(observer: Observer, tile: Tile) -> Observer:
    """Return an observer whose steps name the tile."""
    return lambda step, verdict: observer(replace(step, tile=tile), verdict)


def _blend_tiles(problem: Problem, tiles: list[FittedTile], interrupted: str | None) -> Runs:
    """Return the result of all tiles."""
    runs = tuple(run for tile in tiles for run in tile.runs)
    fitted = [tile for tile in tiles if tile.runs]
    reasons = [interrupted or fitted[0].reason, f"{len(tiles)} tiles"]
    if len(fitted) < len(tiles):
        reasons[1] += f", {len(fitted)} of them fitted"
    if any(tile.reason == interrupted for tile in tiles if not tile.runs):
        reasons.append("the tiles that were not reached show the input")
    image = blend(problem.shape, ((tile.place, tile.image) for tile in tiles))
    seconds = sum(tile.seconds for tile in tiles)
    shares = [tile.share for tile in tiles if tile.share is not None]
    share = sum(shares) / len(shares) if shares else None
    places = tuple(tile.place for tile in tiles)
    return Runs(problem.finish(image), runs, "; ".join(reasons), seconds, image, share, places)
