"""Restarts: several fits to one measurement with other seeds, averaged, within one time budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dipcli import networks
from dipcli.errors import DipError
from dipcli.fitting.control import NO_CONTROL, TIME_UP, Control, Deadline
from dipcli.fitting.engine import fit
from dipcli.fitting.machine.memory import translate_memory_errors
from dipcli.fitting.outliers import find_heldout, mark_outliers
from dipcli.fitting.results import Run, Runs
from dipcli.fitting.started_rule import StartedRule, start_rule
from dipcli.fitting.state import Checkpoint, RunsState
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.fusion import find_share, fuse
from dipcli.settings import Settings
from dipcli.stopping import Rule

MAX_RUNS = 100  # runs with which a time budget is filled


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
        problem: the measurement y, the operator A and the data term E.
        prior: the prior of the first run; each other run has a new one, with the next seed.
        settings: `runs`, `time` and those of `fit`.
        stop: the rule; by default that of the settings.
        control: what runs beside the fits. Its deadline takes the place of `settings.time`.

    Raises:
        DipError: if all fits fail.
    """
    started = start_rule(stop or settings.rule(), problem, settings)
    deadline = control.deadline or Deadline(settings.time_budget())
    most = settings.runs or (1 if deadline.end is None else MAX_RUNS)
    resumed = control.resume_from if isinstance(control.resume_from, RunsState) else None
    runs = list(resumed.runs) if resumed else []
    failures = [DipError(failure) for failure in resumed.failures] if resumed else []

    def checkpoint(take: Callable[[], Checkpoint], last: bool) -> None:
        control.checkpoint(lambda: RunsState(tuple(runs), tuple(map(str, failures)), take()), last)

    own_control = replace(
        control, deadline=deadline, checkpoint=checkpoint, resume_from=resumed.current if resumed else None
    )
    while True:
        number = len(runs) + len(failures) + 1
        own = replace(settings, seed=settings.seed + number - 1, runs=1)
        deadline.begin()
        try:
            with translate_memory_errors(problem.shape):
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
    runs = mark_outliers(problem, started.problem, runs)
    mean = torch.stack([run.fit.average for run in runs if not run.outlier]).mean(dim=0)
    reason = _describe_end(runs, failures, settings.runs, control.interrupted())
    average, share = _fuse_with_companion(problem, started.problem, mean)
    if share is not None:
        reason += f"; fused: fit {share:.0%}, non-local estimate {1 - share:.0%}"
    seconds = sum(run.fit.seconds for run in runs)
    return Runs(problem.finish(average), tuple(runs), reason, seconds, average, share)


def fresh_prior(problem: Problem, settings: Settings) -> Prior:
    """Make an untrained network and its input, on the CPU.

    Args:
        problem: without the pixels that the rule holds out, so that they are not in the network's input either.
        settings: `network`, `input`, `seed` and those that shape the network.
    """
    guide = problem.visible_guide() if settings.input == "guide" else None
    return networks.build(settings, problem.shape, guide, problem.members)


def _fuse_with_companion(problem: Problem, fitted: Problem, mean: Tensor) -> tuple[Tensor, float | None]:
    """Return the mean of the fits, fused with the companion, and its share.

    The companion is made again, with the held-out pixels. Where pixels are missing these matter, which are like the
    held-out ones: no estimate has seen them. If none were held out the share is that of the problem.

    Args:
        problem: the whole measurement.
        fitted: the same without the pixels that the stopping rule holds out.
        mean: the mean of the fits, shape (C, H, W).
    """
    heldout = find_heldout(problem, fitted)
    if heldout is None and problem.share == 1:
        return mean, None
    blind = fitted.visible_companion()
    companion = blind if heldout is None else problem.visible_companion()
    if blind is None or companion is None:
        return mean, None
    if heldout is None:
        return fuse(mean, companion, problem.share), problem.share
    images = (mean, blind, companion) if problem.weight is None else (mean, blind)
    predicted, by_blind, *by_seen = (problem.operator(image) for image in images)
    share = find_share(predicted, by_blind, problem.measured, heldout.to(mean), *by_seen)
    return fuse(mean, companion, share), share


def _describe_end(runs: list[Run], failures: list[DipError], wanted: int | None, interrupted: str | None) -> str:
    """Return why the fit ended, with remarks on the runs."""
    reasons = [next(run for run in runs if not run.outlier).fit.reason]
    count = len(runs) + len(failures)
    if count > 1:
        outliers = sum(run.outlier for run in runs) + len(failures)
        left_out = f", {outliers} {'outlier was' if outliers == 1 else 'outliers were'} left out" if outliers else ""
        reasons.append(f"the mean of {count - outliers} of {count} runs{left_out}")
        if runs[-1].fit.reason in (interrupted, TIME_UP) and runs[-1].fit.reason != reasons[0]:
            reasons.append(f"the last run was cut short: {runs[-1].fit.reason}")
    if wanted and count < wanted and interrupted is None:
        reasons.append(f"there was time for {count} of the {wanted} runs asked for")
    return "; ".join(reasons)
