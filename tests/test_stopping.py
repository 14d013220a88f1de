"""The rules, fed with made-up steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dipcli import stopping
from dipcli.engine import Step
from dipcli.errors import UsageError
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import EMV, HoldOut, Never, Verdict, at_most, exactly, unless

PROBLEM = Problem(measured=torch.zeros(1, 2, 2), shape=(1, 2, 2))


def step(number: int, value: float | torch.Tensor) -> Step:
    image = torch.as_tensor(value, dtype=torch.float32).expand(1, 2, 2)
    return Step(number, torch.zeros(()), image, image, 0.01, 0.0)


def judged(rule: stopping.Rule, values: Iterable[Any]) -> list[Verdict]:
    state, _ = rule.start(PROBLEM)
    verdicts = []
    for number, value in enumerate(values, start=1):
        verdict, state = rule.judge(step(number, value), state)
        verdicts.append(verdict)
        if verdict.stop:
            break
    return verdicts


def kept(verdicts: list[Verdict]) -> int:
    return max(number for number, verdict in enumerate(verdicts, start=1) if verdict.keep)


@given(st.floats(0.05, 0.9), st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=25, deadline=None)
def test_emv_is_the_exponentially_weighted_variance(alpha: float, seed: int) -> None:
    values = np.random.default_rng(seed).random(20)
    verdicts = judged(EMV(alpha=alpha, guard=0), values)
    for count in range(2, 21):
        weights = np.array([(1 - alpha) ** (count - 1)] + [alpha * (1 - alpha) ** k for k in range(count - 2, -1, -1)])
        mean = weights @ values[:count]
        variance = weights @ (values[:count] - mean) ** 2
        name, value = verdicts[count - 1].signal
        assert name == "variance"
        assert value == pytest.approx(variance, rel=1e-4, abs=1e-9)


def test_emv_keeps_where_the_pictures_settle_and_stops_when_patience_ends() -> None:
    wobble = [(-1) ** n * abs(n - 60) / 60 for n in range(200)]  # calmest at 60
    verdicts = judged(EMV(patience=40, alpha=0.2, guard=10), wobble)
    assert 60 <= kept(verdicts) <= 75
    assert len(verdicts) == kept(verdicts) + 40
    assert "40 iterations" in verdicts[-1].stop


def test_emv_does_not_fall_for_a_calm_beginning() -> None:
    values = [0.0] * 30 + [(-1) ** n * (1 - n / 300) for n in range(200)]
    assert kept(judged(EMV(patience=50, guard=0), values)) <= 30
    assert kept(judged(EMV(patience=50, guard=60), values)) > 200


def test_emv_always_has_something_to_keep() -> None:
    assert all(verdict.keep for verdict in judged(EMV(guard=100), [0.5, 0.6, 0.4]))


def test_a_rule_is_fresh_for_each_run() -> None:
    rule = EMV(patience=5, guard=2)
    values = [1, 0, 1, 0.5, 0.6, 0.7, 0, 1, 0, 1, 0, 1]
    assert judged(rule, values) == judged(rule, values)


def test_the_state_can_be_wound_back() -> None:
    rule = EMV(guard=0)
    state, _ = rule.start(PROBLEM)
    for number in range(1, 4):
        _, state = rule.judge(step(number, number / 10), state)
    first = rule.judge(step(4, 0.9), state)[0]
    assert rule.judge(step(4, 0.9), state)[0] == first


def test_none_keeps_the_newest_for_ever() -> None:
    assert judged(Never(), [0.1] * 50) == [Verdict(keep=True)] * 50


def test_exactly_does_not_heed_the_rule_about_the_end() -> None:
    verdicts = judged(exactly(EMV(patience=1, guard=0), 30), [0, *[0.5] * 10, *[0, 1] * 20])
    assert len(verdicts) == 30
    assert "30 iterations" in verdicts[-1].stop
    assert kept(verdicts) <= 12


def test_at_most_ends_what_would_not_end() -> None:
    verdicts = judged(at_most(Never(), 7), [0] * 50)
    assert len(verdicts) == 7
    assert "--max-iters" in verdicts[-1].stop
    early = judged(at_most(EMV(patience=2, guard=0), 50), [0, *[0.5] * 3, *[0, 1] * 20])
    assert "variance" in early[-1].stop


def test_unless_ends_when_asked() -> None:
    answers = iter([None, None, "enough"])
    verdicts = judged(unless(Never(), lambda: next(answers)), [0] * 10)
    assert [verdict.stop for verdict in verdicts] == [None, None, "enough"]
    assert verdicts[-1].keep


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("none", Never()),
        ("emv", EMV()),
        ("emv:patience=50", EMV(patience=50)),
        ("holdout:fraction=0.1", HoldOut(fraction=0.1)),
        ("emv:alpha=0.25:guard=7", EMV(alpha=0.25, guard=7)),
        ("auto", stopping.Auto()),
    ],
)
def test_a_rule_has_a_name_and_parameters(text: str, rule: stopping.Rule) -> None:
    assert stopping.named(text) == rule


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("hope", "auto, emv, holdout, none"),
        ("emv:patients=3", "patience=500"),
        ("emv:patience", "patience=500"),
        ("emv:patience=long", "patience=500"),
        ("emv:patience=0", "1 or more"),
        ("emv:alpha=1", "between 0 and 1"),
        ("holdout:fraction=0.9", "up to 0.5"),
        ("none:x=1", "takes nothing"),
        ("", "auto, emv, holdout, none"),
    ],
)
def test_an_unknown_rule_or_parameter_is_answered_with_what_there_is(text: str, way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        stopping.named(text)
    with pytest.raises(UsageError, match=way_out):
        Settings(stop=text)


def noisy_problem(side: int = 40, weight: torch.Tensor | None = None) -> tuple[Problem, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.linspace(0, 1, side).expand(3, side, side)
    measured = truth + 0.1 * torch.randn(3, side, side, generator=generator)
    return Problem(measured=measured, shape=(3, side, side), weight=weight), truth


def test_holdout_leaves_its_share_of_the_pixels_out_of_the_loss() -> None:
    problem, _ = noisy_problem()
    state, reduced = HoldOut(fraction=0.1).start(problem)
    out = reduced.weight == 0
    assert int(out.sum()) == 3 * 160
    assert torch.equal(out[0], out[2]), "the same pixels in every channel"
    assert torch.equal(state.weight + reduced.weight, torch.ones_like(problem.measured))
    assert problem.weight is None
    prediction = problem.measured.clone()
    prediction[out] += 5
    assert float(reduced.loss(prediction, reduced.measured, reduced.weight)) == 0


def test_holdout_takes_only_pixels_that_count() -> None:
    weight = torch.zeros(1, 40, 40)
    weight[:, :20] = 1
    problem, _ = noisy_problem(weight=weight)
    state, reduced = HoldOut(fraction=0.25).start(problem)
    assert int(state.weight.sum()) == 3 * 200
    assert float((state.weight + reduced.weight)[:, 20:].sum()) == 0


def test_holdout_keeps_the_truth_rather_than_the_noise() -> None:
    """On the way from grey over the truth to the measurement the error at unseen pixels is least at the truth."""
    problem, truth = noisy_problem()
    to_truth = [truth * t for t in np.linspace(0, 1, 30)]
    state, reduced = (rule := HoldOut(fraction=0.1, patience=15)).start(problem)
    out = reduced.weight == 0
    guess = torch.where(out, truth + 0.1 * torch.randn(truth.shape, generator=torch.manual_seed(1)), problem.measured)
    to_noise = [truth + (guess - truth) * t for t in np.linspace(0, 1, 30)[1:]]
    for number, image in enumerate(to_truth + to_noise, start=1):
        verdict, state = rule.judge(Step(number, torch.zeros(()), image, image, 0.01, 0.0), state)
        if verdict.keep:
            best = number
        if verdict.stop:
            break
    assert abs(best - 30) <= 2
    assert number == best + 15
    assert "15 iterations" in verdict.stop


def test_auto_does_what_holdout_does() -> None:
    values = np.random.default_rng(0).random(150)
    assert judged(stopping.Auto(), values) == judged(HoldOut(), values)


def test_a_new_rule_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Patient:
        """Stop at a given iteration."""

        name: ClassVar[str] = "patient"
        until: int = 3

        def start(self, problem: Problem) -> tuple[None, Problem]:
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            return Verdict(keep=True, stop="it is time" if step.number >= self.until else None), state

    monkeypatch.setattr(stopping, "Patient", Patient, raising=False)
    assert Settings(stop="patient:until=5").stop == "patient:until=5"
    assert len(judged(stopping.named("patient:until=5"), [0] * 9)) == 5


def test_a_verdict_says_nothing_by_itself() -> None:
    assert {field.name: field.default for field in fields(Verdict)} == {
        "keep": False,
        "stop": None,
        "signal": None,
    }
    assert math.isinf(stopping._Spread().least)
