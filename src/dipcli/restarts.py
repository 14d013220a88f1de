"""Several fits to one measurement: restarts with other seeds, averaged, and a time budget over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from dipcli import networks, stopping
from dipcli.engine import Fit, Observer, Prior, fit
from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.settings import Settings

SURE = 2.0  # standard errors by which a run must make the mean worse before it is left out,
WORTH = 0.01  # and so much of the error


@dataclass(frozen=True)
class Run:
    """One of several fits.

    Attributes:
        number: which of them, as observers were told, counted from 1.
        seed: it began with.
        fit: its result.
        astray: whether it was left out of the average.
    """

    number: int
    seed: int
    fit: Fit
    astray: bool = False


@dataclass(frozen=True)
class Runs:
    """The result of one or several fits.

    Attributes:
        image: the mean of the pictures of the runs that agree, finished by the problem, shape (C, H, W).
        runs: those that came to an end, in order.
        reason: why the first one ended, and what there is to say of the others.
        seconds: time spent in the fits, observers not counted.
    """

    image: Tensor
    runs: tuple[Run, ...]
    reason: str
    seconds: float

    @property
    def agreeing(self) -> list[int]:
        """The numbers of the runs that the image is the mean of."""
        return [each.number for each in self.runs if not each.astray]


class Deadline:
    """Says when another iteration would not fit into the time.

    Args:
        seconds: of time there are from now on; None for no end.
    """

    def __init__(self, seconds: float | None) -> None:
        self.last = perf_counter()
        self.end = None if seconds is None else self.last + seconds

    def up(self) -> str | None:
        """Asked after each iteration, it takes the next one to last as long as the one before."""
        now = perf_counter()
        pace, self.last = now - self.last, now
        return "the time is up (--time)" if self.end is not None and now + pace > self.end else None

    def room(self, seconds: float) -> bool:
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
) -> Runs:
    """Fit as often as the settings ask for, or as there is time, and average the pictures.

    Two runs differ in what they make of the noise, so that their mean is better than either. A run that went astray is
    noticed by the pixels that the rule held out, which none of the runs has seen: their mean predicts them better
    without it. Where the rule holds out none, all that count are looked at.

    Args:
        problem: the measurement and how it came about.
        prior: of the first run; the others are built anew, each with the next seed.
        settings: `runs`, `time` and what `fit` takes.
        stop: the rule; the one that the settings name when left out.
        deadline: takes the place of the one that `settings.time` sets.
        asked: why the runs should end now, or None.
        observers: called after each iteration of each run.

    Raises:
        DipError: when all fits end in numbers that are not finite.
    """
    deadline = deadline or Deadline(settings.budget())
    rule = stop or stopping.chosen(settings)
    heeding = stopping.unless(stopping.unless(rule, deadline.up), asked)
    most = settings.runs or (1 if deadline.end is None else None)
    observers = tuple(observers)
    runs: list[Run] = []
    failures: list[DipError] = []
    while True:
        number = len(runs) + len(failures) + 1
        own = replace(settings, seed=settings.seed + number - 1)
        if number > 1:
            prior = networks.build(own, problem.shape, problem.guide, problem.members).to(prior.code.device)
        try:
            result = fit(problem, prior, own, stop=heeding, observers=observers, run=number)
            runs.append(Run(number, own.seed, result))
        except DipError as error:
            failures.append(error)
        enough = number == most or asked() is not None
        if enough or (deadline.end is not None and not (runs and deadline.room(runs[-1].fit.seconds))):
            break
    if not runs:
        raise failures[0]
    runs = _judged(problem, rule, runs)
    mean = torch.stack([each.fit.average for each in runs if not each.astray]).mean(dim=0)
    return Runs(problem.finish(mean), tuple(runs), _reason(runs, failures), sum(each.fit.seconds for each in runs))


def _judged(problem: Problem, rule: stopping.Rule, runs: list[Run]) -> list[Run]:
    """The runs, with those marked that would make the mean clearly worse, the best taken first."""
    unseen = _unseen(problem, rule)

    def errors(chosen: list[int]) -> Tensor:
        mean = torch.stack([runs[each].fit.average for each in chosen]).mean(dim=0)
        return ((problem.operator(mean) - problem.measured) ** 2)[unseen]

    best, *others = sorted(range(len(runs)), key=lambda each: float(errors([each]).mean()))
    agreeing = [best]
    for each in others:
        without = errors(agreeing)
        harm = errors([*agreeing, each]) - without
        sure = SURE * float(harm.std()) / len(harm) ** 0.5
        if float(harm.mean()) <= max(sure, WORTH * float(without.mean())):
            agreeing.append(each)
    return [replace(run, astray=each not in agreeing) for each, run in enumerate(runs)]


def _unseen(problem: Problem, rule: stopping.Rule) -> Tensor:
    """Which values of the measurement the rule holds out; all that count when it holds out none."""
    _, fitted = rule.start(problem)
    ones = torch.ones_like(problem.measured)
    counting, seen = (ones if each.weight is None else each.weight.expand_as(ones) for each in (problem, fitted))
    unseen = counting > seen
    return unseen if unseen.any() else counting > 0


def _reason(runs: list[Run], failures: list[DipError]) -> str:
    """Why it ended, and what became of the runs."""
    count = len(runs) + len(failures)
    if count == 1:
        return runs[0].fit.reason
    astray = sum(each.astray for each in runs) + len(failures)
    left_out = f", {astray} went astray and {'was' if astray == 1 else 'were'} left out" if astray else ""
    return f"{runs[0].fit.reason}; the mean of {count - astray} of {count} runs{left_out}"
