"""Several fits to one measurement, and the time budget over all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from command_line import TINY
from samples import noisy, scene

from dipcli.errors import DipError, UsageError
from dipcli.fitting.control import Control, Deadline, Observer
from dipcli.fitting.engine import fit
from dipcli.fitting.restarts import fit_runs
from dipcli.fitting.results import Fit, Runs
from dipcli.networks import build
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import HoldOut, Rule, Verdict
from dipcli.stopping.step import Step

SHAPE = (3, 24, 20)
SMALL = Settings(network=TINY, input_depth=4, iterations=6, precision="fp32")


def denoising(**changes: Any) -> Problem:
    measured = torch.from_numpy(noisy(scene(24, 20))).permute(2, 0, 1) / 255
    return Problem(measured=measured, shape=SHAPE, **changes)


def fit_several(settings: Settings = SMALL, problem: Problem | None = None, **control: Any) -> Runs:
    return fit_runs(problem or denoising(), build(settings, SHAPE), settings, control=Control(**control))


def fit_once(seed: int, problem: Problem | None = None) -> Fit:
    settings = replace(SMALL, seed=seed)
    return fit(problem or denoising(), build(settings, SHAPE), settings)


def raise_in_runs(error: Exception, *numbers: int) -> Observer:
    """An observer that raises an error in these runs."""

    def observe(step: Step, _verdict: Verdict) -> None:
        if step.run in numbers:
            raise error

    return observe


def test_one_run_is_a_fit() -> None:
    result = fit_several()
    assert len(result.runs) == 1
    assert torch.equal(result.image, fit_once(0).image)
    assert result.reason == fit_once(0).reason


def test_several_runs_are_fits_with_consecutive_seeds_and_the_result_is_their_mean() -> None:
    result = fit_several(replace(SMALL, runs=3, seed=6))
    assert [run.seed for run in result.runs] == [6, 7, 8]
    fits = [fit_once(seed) for seed in (6, 7, 8)]
    for run, expected in zip(result.runs, fits, strict=True):
        assert torch.equal(run.fit.image, expected.image)
    assert torch.allclose(result.image, torch.stack([one.image for one in fits]).mean(dim=0))
    assert "mean of 3 of 3 runs" in result.reason


def test_the_rule_is_started_once_for_all_runs() -> None:
    starts: list[Problem] = []

    class Counted:
        def start(self, problem: Problem) -> tuple[Any, Problem]:
            starts.append(problem)
            return HoldOut().start(problem)

        def judge(self, step: Step, state: Any) -> tuple[Verdict, Any]:
            return Verdict(keep=True, stop="done" if step.number == 3 else None), state

    settings = replace(SMALL, runs=3)
    fit_runs(denoising(), build(settings, SHAPE), settings, stop=cast("Rule", Counted()))
    assert len(starts) == 1


def test_the_mean_is_finished_once() -> None:
    problem = denoising(finish=torch.round)
    result = fit_several(replace(SMALL, runs=2), problem)
    mean = torch.stack([fit_once(seed).average for seed in (0, 1)]).mean(dim=0)
    assert torch.allclose(result.image, mean.round())


def test_steps_name_their_run() -> None:
    seen: list[tuple[int, int]] = []
    fit_several(replace(SMALL, runs=2), observers=(lambda step, _: seen.append((step.run, step.number)),))
    assert seen == [(run, number) for run in (1, 2) for number in range(1, 7)]


def test_an_outlier_is_left_out_of_the_mean() -> None:
    def loss(prediction: torch.Tensor, measured: torch.Tensor, _weight: torch.Tensor | None) -> torch.Tensor:
        calls.append(1)
        return ((prediction - (10 if 6 < len(calls) <= 12 else measured)) ** 2).mean()  # 10 in the second run

    calls: list[int] = []
    settings = replace(SMALL, network="pixels", rate=0.3, reg_noise=0, runs=3, stop="none")
    result = fit_several(settings, denoising(loss=loss))
    assert [run.outlier for run in result.runs] == [False, True, False]
    assert result.agreeing == [1, 3]
    assert "mean of 2 of 3 runs, 1 outlier" in result.reason
    mean = torch.stack([run.fit.average for run in result.runs if not run.outlier]).mean(dim=0)
    assert torch.equal(result.image, mean)


def test_a_run_that_fails_is_left_out() -> None:
    error = DipError("It diverged: try a smaller --lr.")
    result = fit_several(replace(SMALL, runs=3), observers=(raise_in_runs(error, 1),))
    assert [run.seed for run in result.runs] == [1, 2]
    assert result.agreeing == [2, 3], "numbered as in the steps"
    assert "mean of 2 of 3 runs, 1 outlier" in result.reason


def test_the_error_is_raised_if_all_runs_fail() -> None:
    error = DipError("It diverged: try a smaller --lr.")
    with pytest.raises(DipError, match="--lr"):
        fit_several(replace(SMALL, runs=3), observers=(raise_in_runs(error, 1, 2, 3),))


def test_running_out_of_memory_costs_one_run() -> None:
    error = RuntimeError("can't allocate memory: 1 byte")
    result = fit_several(replace(SMALL, runs=3), observers=(raise_in_runs(error, 2),))
    assert result.agreeing == [1, 3]


def test_an_interrupt_ends_all_runs() -> None:
    steps: list[Step] = []
    result = fit_several(
        replace(SMALL, runs=5),
        interrupted=lambda: "enough" if len(steps) >= 8 else None,
        observers=(lambda step, _: steps.append(step),),
    )
    assert [step.run for step in steps] == [1] * 6 + [2] * 3
    assert len(result.runs) == 2
    assert result.runs[1].fit.reason == "enough"
    assert "last run was cut short: enough" in result.reason
    assert "of the 5 runs" not in result.reason, "the user knows"


def test_seeds_of_all_runs_are_valid() -> None:
    with pytest.raises(UsageError, match="--seed"):
        replace(SMALL, seed=2**63 - 2, runs=5)


class Clock:
    """Time that passes by one second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_time_budget_ends_a_run_before_it_is_exceeded() -> None:
    endless = replace(SMALL, iterations=None, stop="none")
    result = fit_several(endless, deadline=Deadline(10, clock=Clock()))
    assert [run.fit.steps for run in result.runs] == [10]
    assert "--time" in result.reason


def test_time_that_is_left_goes_into_further_runs() -> None:
    assert len(fit_several(deadline=Deadline(60, clock=Clock())).runs) > 2
    limited = fit_several(replace(SMALL, runs=2), deadline=Deadline(60, clock=Clock()))
    assert len(limited.runs) == 2, "but not into more than --runs"


def test_the_settings_give_the_time_budget_without_a_deadline() -> None:
    assert len(fit_several(replace(SMALL, time="0.3s")).runs) > 1


def test_runs_for_which_there_was_no_time_are_reported() -> None:
    result = fit_several(replace(SMALL, runs=50), deadline=Deadline(60, clock=Clock()))
    assert "of the 50 runs" in result.reason


def test_time_before_a_run_is_not_taken_for_that_of_an_iteration() -> None:
    deadline = Deadline(100, clock=(clock := Clock()))
    clock.now += 60  # for the preparation
    result = fit_several(replace(SMALL, runs=1), deadline=deadline)
    assert result.runs[0].fit.steps == 6


def test_the_same_seeds_give_the_same_bits() -> None:
    first, second = (fit_several(replace(SMALL, runs=2, stop="holdout")).image for _ in range(2))
    assert torch.equal(first, second)
