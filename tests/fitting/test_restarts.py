"""Several fits to one measurement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from command_line import TINY
from samples import noisy, scene

from dipcli.errors import DipError, UsageError
from dipcli.fitting import control, restarts
from dipcli.fitting.control import Control, Deadline
from dipcli.fitting.engine import fit
from dipcli.fitting.restarts import fit_runs
from dipcli.fitting.results import Fit, Run, Runs
from dipcli.fitting.started_rule import start_rule
from dipcli.networks import build
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import HoldOut, Never, Rule, Verdict
from dipcli.stopping.step import Step

SHAPE = (3, 24, 20)
SMALL = Settings(network=TINY, input_depth=4, iterations=6, precision="fp32")


def denoising(**rest: Any) -> Problem:
    measured = torch.from_numpy(noisy(scene(24, 20))).permute(2, 0, 1) / 255
    return Problem(measured=measured, shape=SHAPE, **rest)


def several(settings: Settings = SMALL, problem: Problem | None = None, **beside: Any) -> Runs:
    return fit_runs(problem or denoising(), build(settings, SHAPE), settings, control=Control(**beside))


def alone(seed: int, problem: Problem | None = None) -> Fit:
    settings = replace(SMALL, seed=seed)
    return fit(problem or denoising(), build(settings, SHAPE), settings)


def test_one_run_is_a_fit() -> None:
    result = several()
    assert len(result.runs) == 1
    assert torch.equal(result.image, alone(0).image)
    assert result.reason == alone(0).reason


def test_several_runs_are_fits_with_the_seeds_that_follow_and_their_mean() -> None:
    result = several(replace(SMALL, runs=3, seed=6))
    assert [each.seed for each in result.runs] == [6, 7, 8]
    fits = [alone(seed) for seed in (6, 7, 8)]
    for each, expected in zip(result.runs, fits, strict=True):
        assert torch.equal(each.fit.image, expected.image)
    assert torch.allclose(result.image, torch.stack([each.image for each in fits]).mean(dim=0))
    assert "the mean of 3 of 3 runs" in result.reason


def test_the_mean_is_finished_once() -> None:
    problem = denoising(finish=torch.round)
    result = several(replace(SMALL, runs=2), problem)
    mean = torch.stack([alone(seed).average for seed in (0, 1)]).mean(dim=0)
    assert torch.allclose(result.image, mean.round())


def test_observers_are_told_which_run_it_is() -> None:
    seen: list[tuple[int, int]] = []
    several(replace(SMALL, runs=2), observers=(lambda step, _: seen.append((step.run, step.number)),))
    assert seen == [(run, number) for run in (1, 2) for number in range(1, 7)]


def made_up(image: torch.Tensor) -> Run:
    return Run(1, 0, Fit(image, image, 1, 0.99, 1, "made up", 0.0))


def independent(count: int, sigma: float, size: int = 60) -> tuple[Problem, list[torch.Tensor]]:
    """A noisy picture and guesses at the truth that know nothing of its noise."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.linspace(0.2, 0.8, size).expand(3, size, size)
    measured = truth + sigma * torch.randn(3, size, size, generator=generator)
    guesses = [truth + 0.02 * torch.randn(3, size, size, generator=generator) for _ in range(count)]
    return Problem(measured=measured, shape=(3, size, size)), guesses


@pytest.mark.parametrize("rule", [HoldOut(), HoldOut(fraction=0.2), Never()])
def test_runs_that_agree_are_all_kept(rule: Rule) -> None:
    problem, guesses = independent(4, 0.1)
    assert not any(
        each.outlier
        for each in restarts._mark_outliers(
            problem, start_rule(rule, problem).problem, [made_up(each) for each in guesses]
        )
    )


@pytest.mark.parametrize("rule", [HoldOut(), Never()])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_run_that_went_astray_is_left_out(rule: Rule, place: int) -> None:
    problem, guesses = independent(3, 0.1)
    guesses[place] = guesses[place] * torch.tensor([1.5, 0.4, 0.4])[:, None, None]  # it turned red
    judged = restarts._mark_outliers(problem, start_rule(rule, problem).problem, [made_up(each) for each in guesses])
    assert [each.outlier for each in judged] == [number == place for number in range(3)]
    assert "2 of 3 runs, 1 went astray and was left out" in restarts._reason(judged, [], None, None)


def test_two_astray_of_five_are_left_out_and_never_all() -> None:
    problem, guesses = independent(5, 0.1)
    guesses[1], guesses[3] = guesses[1] * 0, guesses[3] * 0 + 1
    judged = restarts._mark_outliers(
        problem, start_rule(HoldOut(), problem).problem, [made_up(each) for each in guesses]
    )
    assert [each.outlier for each in judged] == [False, True, False, True, False]
    black = [made_up(guesses[1]), made_up(guesses[3])]
    assert (
        sum(each.outlier for each in restarts._mark_outliers(problem, start_rule(HoldOut(), problem).problem, black))
        <= 1
    )


def test_who_learned_more_of_the_noise_is_not_taken_for_better_where_nothing_is_held_out() -> None:
    problem, (truth, _) = independent(2, 0.1)
    noise = problem.measured - truth
    runs = [made_up(truth + share * noise) for share in (0.1, 0.05, 0.0)]
    assert not any(
        each.outlier for each in restarts._mark_outliers(problem, start_rule(Never(), problem).problem, runs)
    )


def test_one_held_out_value_says_nothing_of_a_run() -> None:
    problem = Problem(measured=torch.rand(1, 6, 8), shape=(1, 6, 8))
    same = [made_up(torch.full((1, 6, 8), 0.5)) for _ in range(2)]
    assert not any(
        each.outlier for each in restarts._mark_outliers(problem, start_rule(HoldOut(), problem).problem, same)
    )


def test_what_was_learned_by_heart_is_no_help() -> None:
    """A run that repeats the noise is nearest to the measurement, but not where it was held out."""
    problem, guesses = independent(3, 0.1)
    _, reduced = HoldOut(fraction=0.2).start(problem)
    noise = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1))
    guesses[0] = torch.where(reduced.weight > 0, problem.measured, guesses[0] + 0.3 * noise)
    judged = restarts._mark_outliers(
        problem, start_rule(HoldOut(fraction=0.2), problem).problem, [made_up(each) for each in guesses]
    )
    assert [each.outlier for each in judged] == [True, False, False]


def test_a_run_that_fails_is_left_out_and_if_all_fail_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(problem: Problem, prior: Prior, settings: Settings, **rest: Any) -> Fit:
        if settings.seed in failures:
            raise DipError("It ran away: try a smaller --lr.")
        return fit(problem, prior, settings, **rest)

    monkeypatch.setattr(restarts, "fit", failing)
    failures = {0}
    result = several(replace(SMALL, runs=3))
    assert [each.seed for each in result.runs] == [1, 2]
    assert result.agreeing == [2, 3], "numbered as observers saw them"
    assert "the mean of 2 of 3 runs, 1 went astray" in result.reason
    failures = {0, 1, 2}
    with pytest.raises(DipError, match="--lr"):
        several(replace(SMALL, runs=3))


def test_who_asks_for_the_end_ends_all_runs() -> None:
    steps: list[Step] = []
    asked = lambda: "enough" if len(steps) >= 8 else None  # noqa: E731
    result = several(replace(SMALL, runs=5), interrupted=asked, observers=(lambda step, _: steps.append(step),))
    assert [step.run for step in steps] == [1] * 6 + [2] * 3
    assert len(result.runs) == 2
    assert result.runs[1].fit.reason == "enough"
    assert "the last run was cut short: enough" in result.reason
    assert "of the 5 runs asked for" not in result.reason, "who asked for the end knows"


def test_a_failure_of_memory_costs_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(problem: Problem, prior: Prior, settings: Settings, **rest: Any) -> Fit:
        if settings.seed == 1:
            raise RuntimeError("can't allocate memory: 1 byte")
        return fit(problem, prior, settings, **rest)

    monkeypatch.setattr(restarts, "fit", failing)
    result = several(replace(SMALL, runs=3))
    assert result.agreeing == [1, 3]


def test_seeds_do_not_run_out_on_the_way() -> None:
    with pytest.raises(UsageError, match="--seed"):
        replace(SMALL, seed=2**63 - 2, runs=5)


class Clock:
    """Time that passes by one second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_time_budget_ends_a_run_before_it_is_overdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "perf_counter", Clock())
    endless = replace(SMALL, iterations=None, stop="none", time="10s")
    result = several(endless)
    assert [each.fit.steps for each in result.runs] == [10]
    assert result.reason == "the time is up (--time)"


def test_what_is_left_of_the_time_goes_into_further_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "perf_counter", Clock())
    assert len(several(replace(SMALL, time="60s")).runs) > 2
    monkeypatch.setattr(control, "perf_counter", Clock())
    assert len(several(replace(SMALL, time="60s", runs=2)).runs) == 2, "but not into more than were asked for"


def test_what_there_was_no_time_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "perf_counter", Clock())
    assert "of the 50 runs asked for" in several(replace(SMALL, time="60s", runs=50)).reason


def test_what_came_before_a_run_is_not_taken_for_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "perf_counter", clock := Clock())
    deadline = Deadline(100)
    clock.now += 60  # planning, and whatever else
    result = fit_runs(
        denoising(), build(SMALL, SHAPE), replace(SMALL, runs=1, time="100s"), control=Control(deadline=deadline)
    )
    assert result.runs[0].fit.steps == 6


def test_a_deadline_knows_what_fits() -> None:
    assert Deadline(1000).expired() is None
    assert Deadline(1000).has_room(900)
    assert not Deadline(1000).has_room(1100)
    assert Deadline(0).expired()
    assert Deadline(None).expired() is None
    assert not Deadline(None).has_room(0)


def test_the_same_seeds_give_the_same_bits() -> None:
    twice = [several(replace(SMALL, runs=2, stop="holdout")).image for _ in range(2)]
    assert torch.equal(*twice)


def test_a_verdict_may_choose_among_the_averages() -> None:
    class Third:
        def start(self, problem: Problem) -> tuple[None, Problem]:
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            assert len(step.averages) == len(SMALL.decays)
            return Verdict(keep=True, stop="done" if step.number == 5 else None, average_index=2), state

    last: list[Step] = []
    result = fit(denoising(), build(SMALL, SHAPE), SMALL, stop=Third(), observers=[lambda step, _: last.append(step)])
    assert torch.equal(result.average, last[-1].averages[2])
    assert result.decay == SMALL.decays[2]
