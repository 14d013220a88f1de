"""A large picture in tiles: each is a fit of its own, with its own network and its own end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.errors import OutOfMemoryError
from dipcli.fitting import device as machine
from dipcli.fitting.engine import Fit, Observer, no_checkpoint
from dipcli.fitting.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.restarts import Deadline, Run, Runs, RunsState, fit_runs, fresh_prior
from dipcli.fitting.tiling import TileLayout, blend, halve_place, has_unknown
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule, Verdict
from dipcli.stopping.step import Place, Step, Tile

Notify: TypeAlias = Callable[[str], None]


@dataclass(frozen=True)
class FittedTile:
    """A tile that is done: all that is needed of it later, so that it can be laid by.

    Attributes:
        place: in the picture.
        image: what it shows, on the CPU, shape (C, h, w), not yet finished by the problem.
        runs: the fits it is the mean of, and those that went astray; none where there was nothing to fit.
        reason: why it ended.
        seconds: time spent in the fits.
    """

    place: Place
    image: Tensor
    runs: tuple[Run, ...] = ()
    reason: str = "nothing was missing"
    seconds: float = 0.0


@dataclass(frozen=True)
class TilesState:
    """How far a picture in tiles has come: it can be gone on with from there.

    Attributes:
        done: the tiles that are, in order.
        waiting: where the others are; the first is at work.
        current: how far its fits have come.
    """

    done: tuple[FittedTile, ...]
    waiting: tuple[Place, ...]
    current: RunsState

    @property
    def seconds(self) -> float:
        """Spent in the fits."""
        return sum(each.seconds for each in self.done) + self.current.seconds

    @property
    def reached(self) -> tuple[int, int, int]:
        """The tile at work, the number of its fit, and its iteration."""
        return len(self.done) + 1, *self.current.reached[1:]


Hold: TypeAlias = Callable[[Callable[[], TilesState], bool], None]


def fit_tiles(
    problem: Problem,
    places: Iterable[Place],
    settings: Settings,
    rule: Rule,
    *,
    deadline: Deadline,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    say: Notify = lambda _: None,
    smaller: TileLayout | None = None,
    resume_from: TilesState | None = None,
    checkpoint: Hold = no_checkpoint,
    evaluate: Evaluate = evaluate_alone,
) -> Runs:
    """Fit one tile after the other, each from the same seed, and blend them.

    A tile depends on nothing but the problem, its place and the settings. One that is known throughout is not fitted.
    Those that are not reached, because somebody asked for the run to end, show the measurement.

    Args:
        problem: the whole measurement, on the CPU.
        places: of the tiles.
        settings: how to fit each.
        rule: when to stop and what to keep, with nothing left to decide by the whole picture.
        deadline: its time is divided evenly among the tiles.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run of each tile, which the step names.
        say: told when memory runs out.
        smaller: from a tile's (h, w) to smaller tiles within it: what is done, once, when memory runs out.
        resume_from: how far an earlier run of the same had come; it goes on from there, bit for bit.
        checkpoint: called as that of `restarts.fit_runs`, with a function that tells how far the tiles have come.
        evaluate: as that of `engine.fit`.

    Raises:
        OutOfMemoryError: when it runs out again.
        DipError: when a fit ends in numbers that are not finite.
    """
    done = list(resume_from.done) if resume_from else []
    waiting = list(resume_from.waiting if resume_from else places)
    current = resume_from.current if resume_from else None
    observers = tuple(observers)

    def held(take: Callable[[], RunsState], last: bool) -> None:
        checkpoint(lambda: TilesState(tuple(done), tuple(waiting), take()), last)

    while waiting:
        place, count = waiting[0], len(done) + len(waiting)
        left = deadline.left()
        own = Deadline(None if left is None else left / len(waiting))
        begun = any(each.runs for each in done)
        try:
            with machine.translate_memory_errors(problem.shape):
                which = (len(done) + 1, count)
                fitting = partial(
                    fit_runs, deadline=own, asked=asked, resume_from=current, checkpoint=held, evaluate=evaluate
                )
                patch = _patch(problem, place, which, settings, rule, asked, observers, fitting, begun=begun)
        except OutOfMemoryError:
            if smaller is None:
                raise
            patch = None
        current = None
        if patch is None and smaller is not None:
            # Outside of the handler, where the error would still hold what was in memory.
            waiting = [each for large in waiting for each in halve_place(large, smaller)]
            smaller = None
            machine.release_memory(torch.device(settings.device))
            say(f"memory ran out: going on in {len(waiting)} smaller tiles")
        elif patch is not None:
            done.append(patch)
            waiting.pop(0)
    return _together(problem, done, asked())


def _patch(
    problem: Problem,
    place: Place,
    which: tuple[int, int],
    settings: Settings,
    rule: Rule,
    asked: Callable[[], str | None],
    observers: tuple[Observer, ...],
    fitting: Callable[..., Runs],
    *,
    begun: bool,
) -> FittedTile:
    """One tile, fitted where it needs to be, and where nobody asked for the end before; the first one in any case."""
    part = problem.window(place.rows, place.columns)
    if not has_unknown(part):
        return FittedTile(place, part.finish(torch.zeros(part.shape)))
    if begun and (reason := asked()):
        return FittedTile(place, _shown(part), reason=reason)
    part = part.to(torch.device(settings.device))
    tile = Tile(*which, place, part)
    watching = [_told(observe, tile) for observe in observers]
    prior = fresh_prior(part, settings, rule).to(part.measured.device)
    runs = fitting(part, prior, settings, stop=rule, observers=watching)
    done = [replace(each, tile=tile.number, fit=_laid_by(each.fit)) for each in runs.runs]
    agreeing = [each.fit.average for each in done if not each.outlier]
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
