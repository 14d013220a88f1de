"""A fit that collapses is rolled back with everything that a step changes; any other is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from command_line import TINY
from samples import noisy, scene
from torch import Tensor, nn

from dipcli.fitting import optimizers
from dipcli.fitting.engine import fit
from dipcli.fitting.optimizers import Adam
from dipcli.fitting.results import Fit
from dipcli.fitting.rollback import MAX_ROLLBACKS, CollapseGuard
from dipcli.fitting.state import FitState
from dipcli.networks import build
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step

SHAPE = (3, 24, 20)
PLAIN = Settings(network=TINY, input_depth=4, stop="none", reg_noise=0, ema=0.9)


def denoising() -> Problem:
    measured = torch.from_numpy(noisy(scene(24, 20))).permute(2, 0, 1) / 255
    return Problem(measured=measured, shape=SHAPE)


def make_spiking_adam(*calls: int, rate: float = 10.0) -> type[Adam]:
    """Adam with a far too high learning rate at some calls."""

    class Spiking(Adam):
        count = 0

        def step(self, closure: object = None) -> object:
            self.count += 1
            group = self.param_groups[0]
            own, group["lr"] = group["lr"], rate if self.count in calls else group["lr"]
            loss = super().step(closure)
            group["lr"] = own
            return loss

    return Spiking


def fit_and_record(settings: Settings, **rest: object) -> tuple[Fit, list[Step], list[Tensor]]:
    """The fit, its steps, and the weights after each of them."""
    steps: list[Step] = []
    weights: list[Tensor] = []
    prior = build(settings, SHAPE)

    def watch(step: Step, _verdict: Verdict) -> None:
        steps.append(step)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in prior.network.parameters()]))

    return fit(denoising(), prior, settings, observers=[watch], **rest), steps, weights


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("stop", "optimize", "spike"),
    [
        ("none", "net", 100),
        ("holdout:fraction=0.1", "net,input", 103),
        # With those above, every pair of values.
        pytest.param("none", "net,input", 103, marks=slow),
        pytest.param("holdout:fraction=0.1", "net", 100, marks=slow),
        pytest.param("emv", "net", 103, marks=slow),
        pytest.param("emv", "net,input", 100, marks=slow),
    ],
)
def test_a_fit_that_collapses_is_rolled_back_and_recovers(
    monkeypatch: pytest.MonkeyPatch, stop: str, optimize: str, spike: int
) -> None:
    monkeypatch.setattr(optimizers, "Adam", make_spiking_adam(*range(spike, spike + 12)))
    result, steps, _ = fit_and_record(replace(PLAIN, iterations=180, reg_noise=0.03, stop=stop, optimize=optimize))
    assert [step.number for step in steps] == list(range(1, 181)), "lost iterations count"
    assert [step.number for step in steps if step.event] == [120]
    assert result.events == ("iteration 120: the fit collapsed: back to iteration 90, half the step",)
    assert [steps[n].rate for n in (0, 119, 120, 179)] == [0.01, 0.01, 0.005, 0.005]
    assert float(steps[119].loss) > 3 * float(steps[89].loss), "it was a collapse"
    clean = torch.from_numpy(scene(24, 20)).permute(2, 0, 1) / 255
    noise = float(squared_error(denoising().measured, clean))
    assert float(squared_error(result.image, clean)) < 0.8 * noise, "the image is sound"
    # The lost iterations are not in the average.
    expected = (steps[89].average * (1 - 0.9**90) * 0.9 + 0.1 * steps[120].image) / (1 - 0.9**91)
    assert torch.allclose(steps[120].average, expected, atol=1e-5)


@pytest.mark.parametrize("optimize", ["net", "net,input"])
def test_the_next_step_after_a_rollback_is_half_of_what_it_was(monkeypatch: pytest.MonkeyPatch, optimize: str) -> None:
    """Weights, input and Adam's moments are those of the trusted state."""
    settings = replace(PLAIN, iterations=122, optimize=optimize)
    _, straight, path = fit_and_record(replace(settings, iterations=92))
    monkeypatch.setattr(optimizers, "Adam", make_spiking_adam(*range(103, 115)))
    _, steps, weights = fit_and_record(settings)
    assert steps[119].event
    assert torch.equal(weights[119], path[89]), "the weights of iteration 90"
    assert torch.equal(steps[120].image, straight[90].image), "and its input"
    moved, would = weights[120] - weights[119], path[90] - path[89]
    assert torch.allclose(moved, would / 2, atol=1e-7), "and its moments"
    assert float(moved.abs().max()) > 1e-4
    assert not torch.equal(steps[121].image, straight[91].image)


def test_buffers_and_the_rules_state_are_rolled_back(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid())
    seen: list[tuple[int, Tensor]] = []

    class Counting:
        def start(self, problem: Problem) -> tuple[int, Problem]:
            return 0, problem

        def judge(self, step: Step, state: int) -> tuple[Verdict, int]:
            return Verdict(
                keep=True, stop="done" if step.number == 131 else None, criterion=("count", state)
            ), state + 1

    def watch(step: Step, verdict: Verdict) -> None:
        seen.append((verdict.criterion[1], network[1].running_var.clone(), step.event))

    monkeypatch.setattr(optimizers, "Adam", make_spiking_adam(*range(103, 115)))
    torch.manual_seed(0)
    fit(denoising(), Prior(network, torch.rand(1, 4, 24, 20)), PLAIN, stop=Counting(), observers=[watch])
    assert seen[119][2], "it collapsed"
    assert torch.equal(seen[119][1], seen[89][1]), "the running variance of iteration 90"
    assert [count for count, *_ in seen] == [*range(120), *range(90, 101)]


def test_a_collapse_in_the_last_iterations_costs_only_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "Adam", make_spiking_adam(97))
    result, steps, _ = fit_and_record(replace(PLAIN, iterations=98, ema=0.5))
    assert result.kept == 80
    assert torch.equal(result.image, steps[79].average)
    assert "collapsed" in result.reason


def test_a_loss_that_is_not_finite_is_rolled_back_at_once() -> None:
    result = fit_with_factor(lambda count: float("nan") if count == 125 else 1, replace(PLAIN, iterations=140))
    assert [event.partition(":")[0] for event in result.events] == ["iteration 130"]
    assert result.image.isfinite().all()


def test_a_fit_that_never_recovers_ends() -> None:
    result = fit_with_factor(lambda count: float("nan") if count > 25 else 1, replace(PLAIN, iterations=10**6))
    assert result.kept == 10
    assert "in a row" in result.reason
    assert len(result.events) == MAX_ROLLBACKS


@pytest.mark.parametrize("spoiled", [105, pytest.param(125, marks=slow)])
def test_lbfgs_is_rolled_back_too(spoiled: int) -> None:
    settings = replace(PLAIN, optimizer="lbfgs", rate=0.1, iterations=160)
    result = fit_with_factor(lambda count: float("nan") if count == spoiled else 1, settings)
    assert len(result.events) == 1
    assert result.image.isfinite().all()
    assert result.kept == 160


def fit_with_factor(factor: Callable[[int], float], settings: Settings) -> Fit:
    """A fit whose operator multiplies by a factor that depends on the number of its calls."""
    calls: list[int] = []

    def spoil(image: Tensor) -> Tensor:
        calls.append(1)
        return image * factor(len(calls))

    return fit(replace(denoising(), operator=spoil), build(settings, SHAPE), settings)


def check_losses(*losses: float) -> list[bool]:
    """Whether the guard rolls back, check by check."""
    network, code = nn.Linear(1, 1), torch.zeros(1)
    optimizer = Adam(network.parameters(), lr=0.001)
    reached = FitState(0, code, 0.0, None, None)
    guard = CollapseGuard(network, code, reached)
    steps = [Step(number, torch.tensor(loss), code, (code,), 0.1, 0.0) for number, loss in enumerate(losses, start=1)]
    return [guard.check(step, reached, optimizer, last=False)[0].event is not None for step in steps]


@pytest.mark.parametrize(
    ("losses", "rollbacks"),
    [
        ([1, 0.1, 0.01, 0.001], []),
        ([0.01, 0.01, 0.03, 0.01, 0.03, 0.03], []),
        ([0.01, 0.01, 0.04, 0.01, 0.04, 0.01], []),
        ([0.01, 0.01, 0.04, 0.04, 0.01], [3]),
        ([0.01, float("nan"), 0.01], [1]),
        ([float("inf"), 1, 1], [0]),
        ([float("nan"), 1, 1], [0]),
        ([1e-7, 1e-9, 1e-6, 1e-6, 3e-5, 3e-5], []),
        ([0.0, 0.0, 0.0], []),
        ([0.0, 0.0, 0.01, 0.01], [3]),
    ],
    ids=["falling", "noisy", "healing", "collapsed", "nan", "inf at once", "nan at once", "tiny", "zero", "from zero"],
)
def test_a_collapse_is_a_high_loss_at_two_checks_or_one_not_finite(losses: list[float], rollbacks: list[int]) -> None:
    assert [number for number, rolled_back in enumerate(check_losses(*losses)) if rolled_back] == rollbacks


@pytest.mark.parametrize(
    ("reg_noise", "rate", "iterations"),
    [
        (0.3, 0.03, 100),
        pytest.param(0.3, 0.03, 400, marks=slow),
        pytest.param(0.03, 0.03, 200, marks=slow),
        pytest.param(0.0, 0.01, 200, marks=slow),
    ],
)
def test_a_sound_fit_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, reg_noise: float, rate: float, iterations: int
) -> None:
    settings = replace(PLAIN, iterations=iterations, reg_noise=reg_noise, rate=rate)
    guarded, _, _ = fit_and_record(settings)
    monkeypatch.setattr(CollapseGuard, "check", lambda _self, step, reached, _optimizer, last: (step, reached))  # noqa: ARG005
    unguarded, _, _ = fit_and_record(settings)
    assert torch.equal(guarded.image, unguarded.image)
    assert not guarded.events
