"""Several fits to one measurement: restarts with other seeds, averaged, and a time budget over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dipcli import networks, stopping
from dipcli.errors import DipError
from dipcli.fitting import device as machine
from dipcli.fitting.engine import Fit, Observer, fit, no_checkpoint
from dipcli.fitting.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.rollback import Checkpoint
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings

OUTLIER_Z = 2.0  # standard errors by which a run must make the mean worse before it is left out,
OUTLIER_MIN_EXCESS = 0.01  # and so much of the error
MIN_HELDOUT = 16  # places below which the held-out ones tell nothing of that
COLLAPSE = 10**0.5  # an error so many times the best run's, 5 dB, is astray where nothing was held out
MAX_RUNS = 100  # runs that a time budget is filled with
TIME_UP = "the time is up (--time)"


@dataclass(frozen=True)
class Run:
    """One of several fits.

    Attributes:
        number: which of them, as observers were told, counted from 1.
        seed: it began with.
        fit: its result.
        astray: whether it was left out of the average.
        tile: which tile of a larger picture was fitted, counted from 1; None for the whole.
    """

    number: int
    seed: int
    fit: Fit
    outlier: bool = False
    tile: int | None = None


@dataclass(frozen=True)
class Runs:
    """The result of one or several fits.

    Attributes:
        image: the mean of the pictures of the runs that agree, finished by the problem, shape (C, H, W).
        runs: those that came to an end, in order.
        reason: why the first that agrees ended, and what there is to say of the others.
        seconds: time spent in the fits, observers not counted.
        places: rows and columns of the tiles, and what else is said of them; none where the whole was fitted.
    """

    image: Tensor
    runs: tuple[Run, ...]
    reason: str
    seconds: float
    places: tuple[tuple[Any, ...], ...] = ()

    @property
    def first(self) -> Fit:
        """Of the runs that the image is the mean of."""
        return next(each.fit for each in self.runs if not each.outlier)

    @property
    def agreeing(self) -> list[int]:
        """The numbers of the runs that the image is the mean of."""
        return [each.number for each in self.runs if not each.outlier]


@dataclass(frozen=True)
class RunsState:
    """How far one or several fits have come: they can go on from there.

    Attributes:
        runs: those that came to an end.
        failures: what was wrong with those that failed.
        current: where the one at work stands.
    """

    runs: tuple[Run, ...]
    failures: tuple[str, ...]
    current: Checkpoint

    @property
    def seconds(self) -> float:
        """Spent in the fits."""
        return sum(each.fit.seconds for each in self.runs) + self.current.seconds

    @property
    def reached(self) -> tuple[int, int, int]:
        """Of no tile; the number of the fit at work, and its iteration."""
        return 0, len(self.runs) + len(self.failures) + 1, self.current.guard.newest.reached.number


Hold: TypeAlias = Callable[[Callable[[], RunsState], bool], None]


class Deadline:
    """Says when another iteration would not fit into the time.

    Args:
        seconds: of time there are from now on; None for no end.
        spent: seconds of it that an earlier part of the run took.
    """

    def __init__(self, seconds: float | None, spent: float = 0.0) -> None:
        self.last: float | None = None
        self.end = None if seconds is None else perf_counter() + seconds - spent

    def begin(self) -> None:
        """A run begins: how long its iterations take is not known yet."""
        self.last = None

    def expired(self) -> str | None:
        """Asked after each iteration, it takes the next one to last as long as the one before.

        The first of a run, which is slower, says nothing of the next.
        """
        now = perf_counter()
        pace, self.last = now - self.last if self.last is not None else 0.0, now
        return TIME_UP if self.end is not None and now + pace > self.end else None

    def left(self) -> float | None:
        """Seconds until then, 0 when it is over; None for no end."""
        return None if self.end is None else max(0.0, self.end - perf_counter())

    def has_room(self, seconds: float) -> bool:
        """Whether there is so much time left."""
        return self.end is not None and perf_counter() + seconds <= self.end


def fit_runs(
    problem: Problem,
    prior: Prior,
    settings: Settings,
    *,
    stop: stopping.Rule | None = None,
    deadline: Deadline | None = None,
    asked: Callable[[], str | None] = lambda: None,
    observers: Iterable[Observer] = (),
    resume_from: RunsState | None = None,
    checkpoint: Hold = no_checkpoint,
    evaluate: Evaluate = evaluate_alone,
) -> Runs:
    """Fit as often as the settings ask for, or as there is time, and average the pictures.

    Two runs differ in what they make of the noise, so that their mean is better than either. A run that went astray is
    noticed by the pixels that the rule held out, which none of the runs has seen: their mean predicts them better
    without it. Where the rule holds out none, it is one whose fit is 5 dB worse than the best.

    Args:
        problem: the measurement and how it came about.
        prior: of the first run; the others are built anew, each with the next seed.
        settings: `runs`, `time` and what `fit` takes.
        stop: the rule; the one that the settings name when left out.
        deadline: takes the place of the one that `settings.time` sets.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run.
        resume_from: how far earlier fits of the same had come; they go on from there.
        checkpoint: called as that of `fit`, with a function that tells how far the fits have come.
        evaluate: as that of `fit`.

    Raises:
        DipError: when all fits end in numbers that are not finite.
    """
    deadline = deadline or Deadline(settings.time_budget())
    rule = stop or settings.rule()
    heeding = stopping.unless(stopping.unless(rule, deadline.expired), asked)
    most = settings.runs or (1 if deadline.end is None else MAX_RUNS)
    observers = tuple(observers)
    runs = list(resume_from.runs) if resume_from else []
    failures = [DipError(each) for each in resume_from.failures] if resume_from else []
    current = resume_from.current if resume_from else None

    def held(take: Callable[[], Checkpoint], last: bool) -> None:
        checkpoint(lambda: RunsState(tuple(runs), tuple(map(str, failures)), take()), last)

    while True:
        number = len(runs) + len(failures) + 1
        own = replace(settings, seed=settings.seed + number - 1, runs=1)
        deadline.begin()
        try:
            with machine.translate_memory_errors(problem.shape):
                if number > 1:
                    prior = fresh_prior(problem, own, rule).to(prior.code.device)
                result = fit(
                    problem,
                    prior,
                    own,
                    stop=heeding,
                    observers=observers,
                    run=number,
                    resume_from=current,
                    checkpoint=held,
                    evaluate=evaluate,
                )
            runs.append(Run(number, own.seed, result))
        except DipError as error:
            failures.append(error)
        current = None
        if number == most or asked() is not None:
            break
        if deadline.end is not None and not deadline.has_room(runs[-1].fit.seconds if runs else 0.0):
            break
    if not runs:
        raise failures[0]
    runs = _mark_outliers(problem, rule, runs)
    mean = torch.stack([each.fit.average for each in runs if not each.outlier]).mean(dim=0)
    reason = _reason(runs, failures, settings.runs, asked())
    return Runs(problem.finish(mean), tuple(runs), reason, sum(each.fit.seconds for each in runs))


def fresh_prior(problem: Problem, settings: Settings, rule: stopping.Rule) -> Prior:
    """A network that has seen nothing, and its input, on the CPU.

    Args:
        problem: says what the picture is like.
        settings: say what the network is like.
        rule: what it holds out of the fit is not in the input either.
    """
    shown = None
    if settings.input == "guide":
        _, reduced = rule.start(problem)
        shown = reduced.visible_guide()
    return networks.build(settings, problem.shape, shown, problem.members)


def _mark_outliers(problem: Problem, rule: stopping.Rule, runs: list[Run]) -> list[Run]:
    """The runs, with those marked that went astray.

    By pixels that none has seen: those that would make the mean clearly worse, the best taken first. Where there are
    none, who is nearer to the measurement may only have learned more of its noise: left out is who is far from it.
    """
    unseen = _heldout_error(problem, rule)
    seen = unseen is None

    def errors(picture: Tensor) -> Tensor:
        """Squared error at each place, the channels of a place taken together: they share what is drawn there."""
        error = (problem.operator(picture) - problem.measured) ** 2
        weight = torch.ones_like(error) if unseen is None else unseen.to(error)
        if error.ndim > 2:  # noqa: PLR2004 - (C, H, W)
            error, weight = (each.flatten(0, -3).sum(dim=0) for each in (weight * error, weight))
            error = error / weight.clamp(min=1)
        return error[weight > 0]

    apart = [float(errors(run.fit.average).mean()) for run in runs]
    best, *others = sorted(range(len(runs)), key=lambda each: apart[each])
    agreeing, total = [best], runs[best].fit.average
    for each in others:
        without, together = (
            errors(total / len(agreeing)),
            errors((total + runs[each].fit.average) / (len(agreeing) + 1)),
        )
        harm = together - without
        if seen:
            welcome = apart[each] <= COLLAPSE * apart[best]
        else:
            sure = OUTLIER_Z * float(harm.std(correction=0)) / len(harm) ** 0.5
            welcome = len(harm) < MIN_HELDOUT or float(harm.mean()) <= max(
                sure, OUTLIER_MIN_EXCESS * float(without.mean())
            )
        if welcome:
            agreeing.append(each)
            total = total + runs[each].fit.average
    return [replace(run, outlier=each not in agreeing) for each, run in enumerate(runs)]


def _heldout_error(problem: Problem, rule: stopping.Rule) -> Tensor | None:
    """Which values of the measurement the rule holds out; None when it holds out none."""
    _, fitted = rule.start(problem)
    ones = torch.ones_like(problem.measured)
    counting, seen = (ones if each.weight is None else each.weight.expand_as(ones) for each in (problem, fitted))
    unseen = counting > seen
    return unseen if unseen.any() else None


def _reason(runs: list[Run], failures: list[DipError], wanted: int | None, asked: str | None) -> str:
    """Why it ended, and what became of the runs."""
    told = [next(each for each in runs if not each.outlier).fit.reason]
    count = len(runs) + len(failures)
    if count > 1:
        astray = sum(each.outlier for each in runs) + len(failures)
        left_out = f", {astray} went astray and {'was' if astray == 1 else 'were'} left out" if astray else ""
        told.append(f"the mean of {count - astray} of {count} runs{left_out}")
        if runs[-1].fit.reason in (asked, TIME_UP) and runs[-1].fit.reason != told[0]:
            told.append(f"the last run was cut short: {runs[-1].fit.reason}")
    if wanted and count < wanted and asked is None:
        told.append(f"there was time for {count} of the {wanted} runs asked for")
    return "; ".join(told)
