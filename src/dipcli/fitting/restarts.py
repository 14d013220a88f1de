"""Several fits to one measurement: restarts with other seeds, averaged, and a time budget over all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dipcli import networks
from dipcli.errors import DipError
from dipcli.fitting import device as machine
from dipcli.fitting.control import NO_CONTROL, TIME_UP, Control, Deadline
from dipcli.fitting.engine import fit
from dipcli.fitting.results import Run, Runs
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.state import Checkpoint, RunsState
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import Rule

OUTLIER_Z = 2.0  # standard errors by which a run must make the mean worse before it is left out,
OUTLIER_MIN_EXCESS = 0.01  # and so much of the error
MIN_HELDOUT = 16  # places below which the held-out ones tell nothing of that
COLLAPSE = 10**0.5  # an error so many times the best run's, 5 dB, is astray where nothing was held out
MAX_RUNS = 100  # runs that a time budget is filled with


def fit_runs(
    problem: Problem,
    prior: Prior,
    settings: Settings,
    *,
    stop: Rule | StartedRule | None = None,
    control: Control = NO_CONTROL,
) -> Runs:
    """Fit as often as the settings ask for, or as there is time, and average the images.

    The errors of two runs are partly independent, so that their mean is better than either. An outlier is found by the
    pixels that the rule holds out, which no run has seen: their mean predicts them better without it. If the rule holds
    out none, an outlier is a run with an error 5 dB above that of the best.

    Args:
        problem: the measurement and how it came about.
        prior: the prior of the first run; each other run has a new one, with the next seed.
        settings: `runs`, `time` and those of `fit`.
        stop: the rule; by default that of the settings.
        control: what runs beside the fits. Its deadline takes the place of `settings.time`.

    Raises:
        DipError: if all fits end in numbers that are not finite.
    """
    started = start_rule(stop or settings.rule(), problem)
    deadline = control.deadline or Deadline(settings.time_budget())
    most = settings.runs or (1 if deadline.end is None else MAX_RUNS)
    begun = control.resume_from if isinstance(control.resume_from, RunsState) else None
    runs = list(begun.runs) if begun else []
    failures = [DipError(failure) for failure in begun.failures] if begun else []

    def checkpoint(take: Callable[[], Checkpoint], last: bool) -> None:
        control.checkpoint(lambda: RunsState(tuple(runs), tuple(map(str, failures)), take()), last)

    own_control = replace(
        control, deadline=deadline, checkpoint=checkpoint, resume_from=begun.current if begun else None
    )
    while True:
        number = len(runs) + len(failures) + 1
        own = replace(settings, seed=settings.seed + number - 1, runs=1)
        deadline.begin()
        try:
            with machine.translate_memory_errors(problem.shape):
                if number > 1:
                    prior = fresh_prior(started.problem, own).to(prior.code.device)
                result = fit(problem, prior, own, stop=started, control=own_control, run=number)
            runs.append(Run(number, own.seed, result))
        except DipError as error:
            failures.append(error)
        own_control = replace(own_control, resume_from=None)
        if number == most or control.interrupted() is not None:
            break
        if deadline.end is not None and not deadline.has_room(runs[-1].fit.seconds if runs else 0.0):
            break
    if not runs:
        raise failures[0]
    runs = _mark_outliers(problem, started.problem, runs)
    mean = torch.stack([run.fit.average for run in runs if not run.outlier]).mean(dim=0)
    reason = _reason(runs, failures, settings.runs, control.interrupted())
    return Runs(problem.finish(mean), tuple(runs), reason, sum(run.fit.seconds for run in runs))


def fresh_prior(problem: Problem, settings: Settings) -> Prior:
    """Make an untrained network and its input, on the CPU.

    Args:
        problem: without the pixels that the rule holds out, so that they are not in the network's input either.
        settings: `network`, `input`, `seed` and those that shape the network.
    """
    guide = problem.visible_guide() if settings.input == "guide" else None
    return networks.build(settings, problem.shape, guide, problem.members)


def _mark_outliers(problem: Problem, fitted: Problem, runs: list[Run]) -> list[Run]:
    """The runs, with those marked that went astray.

    By pixels that none has seen: those that would make the mean clearly worse, the best taken first. Where there are
    none, who is nearer to the measurement may only have learned more of its noise: left out is who is far from it.
    """
    unseen = _heldout_error(problem, fitted)
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


def _heldout_error(problem: Problem, fitted: Problem) -> Tensor | None:
    """Which values of the measurement the rule holds out; None when it holds out none."""
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
