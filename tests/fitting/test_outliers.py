"""Outliers among several runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dipcli.errors import DipError
from dipcli.fitting.outliers import mark_outliers
from dipcli.fitting.results import Fit, Run
from dipcli.fitting.started_rule import start_rule
from dipcli.problem import Problem
from dipcli.stopping import HoldOut, Never, Rule


def find_outliers(problem: Problem, rule: Rule, images: list[Tensor]) -> list[bool]:
    """Whether each of these results is an outlier."""
    runs = [Run(1, 0, Fit(image, image, 1, 0.99, 1, "done", 0.0)) for image in images]
    return [run.outlier for run in mark_outliers(problem, start_rule(rule, problem).problem, runs)]


def make_independent_results(count: int, sigma: float, size: int = 60) -> tuple[Problem, list[Tensor]]:
    """A noisy image, and approximations of the truth whose errors are independent of its noise."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.linspace(0.2, 0.8, size).expand(3, size, size)
    measured = truth + sigma * torch.randn(3, size, size, generator=generator)
    images = [truth + 0.02 * torch.randn(3, size, size, generator=generator) for _ in range(count)]
    return Problem(measured=measured, shape=(3, size, size)), images


@pytest.mark.parametrize("rule", [HoldOut(), HoldOut(fraction=0.2), Never()])
def test_runs_that_agree_are_all_kept(rule: Rule) -> None:
    problem, images = make_independent_results(4, 0.1)
    assert not any(find_outliers(problem, rule, images))


@pytest.mark.parametrize("rule", [HoldOut(), Never()])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_run_with_other_colours_is_an_outlier(rule: Rule, position: int) -> None:
    problem, images = make_independent_results(3, 0.1)
    images[position] = images[position] * torch.tensor([1.5, 0.4, 0.4])[:, None, None]
    assert find_outliers(problem, rule, images) == [number == position for number in range(3)]


def test_two_outliers_of_five_are_found_and_never_are_all_runs_outliers() -> None:
    problem, images = make_independent_results(5, 0.1)
    images[1], images[3] = images[1] * 0, images[3] * 0 + 1
    assert find_outliers(problem, HoldOut(), images) == [False, True, False, True, False]
    assert sum(find_outliers(problem, HoldOut(), [images[1], images[3]])) <= 1


def test_a_run_that_fitted_more_noise_makes_no_outliers_if_nothing_is_held_out() -> None:
    problem, (truth, _) = make_independent_results(2, 0.1)
    noise = problem.measured - truth
    assert not any(find_outliers(problem, Never(), [truth + share * noise for share in (0.1, 0.05, 0.0)]))


def test_one_held_out_value_says_nothing_about_a_run() -> None:
    problem = Problem(measured=torch.rand(1, 6, 8), shape=(1, 6, 8))
    assert not any(find_outliers(problem, HoldOut(), [torch.full((1, 6, 8), 0.5)] * 2))


def test_a_run_that_repeats_the_noise_is_an_outlier_by_the_held_out_pixels() -> None:
    """It is nearest to the measurement, but not at the held-out pixels."""
    problem, images = make_independent_results(3, 0.1)
    rule = HoldOut(fraction=0.2)
    weight = start_rule(rule, problem).problem.weight
    assert weight is not None
    noise = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1))
    images[0] = torch.where(weight > 0, problem.measured, images[0] + 0.3 * noise)
    assert find_outliers(problem, rule, images) == [True, False, False]


def test_a_measurement_that_is_no_number_is_an_outlier_and_an_error_if_there_is_no_other() -> None:
    problem, images = make_independent_results(2, 0.1)
    images[0] = images[0] * torch.nan
    assert find_outliers(problem, Never(), images) == [True, False]
    with pytest.raises(DipError, match="--lr"):
        find_outliers(problem, Never(), images[:1])
