"""The stopping rules on simulated steps."""

from __future__ import annotations

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
from dipcli.errors import UsageError
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping import EMV, WMV, Auto, HoldOut, Never, Plateau, Rule, Sigma, Verdict, at_most, exactly, unless
from dipcli.stopping.step import Step

PROBLEM = Problem(measured=torch.zeros(1, 2, 2), shape=(1, 2, 2))


def step(number: int, value: float | torch.Tensor) -> Step:
    image = torch.as_tensor(value, dtype=torch.float32).expand(1, 2, 2)
    return Step(number, torch.zeros(()), image, (image,), 0.01, 0.0)


def step_of(number: int, *averages: torch.Tensor) -> Step:
    return Step(number, torch.zeros(()), averages[0], averages, 0.01, 0.0)


def judge_all(rule: stopping.Rule, values: Iterable[Any]) -> list[Verdict]:
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
    verdicts = judge_all(EMV(alpha=alpha, guard=0), values)
    for count in range(2, 21):
        weights = np.array([(1 - alpha) ** (count - 1)] + [alpha * (1 - alpha) ** k for k in range(count - 2, -1, -1)])
        mean = weights @ values[:count]
        variance = weights @ (values[:count] - mean) ** 2
        name, value = verdicts[count - 1].criterion
        assert name == "variance"
        assert value == pytest.approx(variance, rel=1e-4, abs=1e-9)


def test_emv_keeps_the_minimum_and_stops_when_patience_ends() -> None:
    wobble = [(-1) ** n * abs(n - 60) / 60 for n in range(200)]  # calmest at 60
    verdicts = judge_all(EMV(patience=40, alpha=0.2, guard=10), wobble)
    assert 60 <= kept(verdicts) <= 75
    assert len(verdicts) == kept(verdicts) + 40
    assert "40 iterations" in verdicts[-1].stop


def test_emv_ignores_a_low_variance_within_its_guard() -> None:
    values = [0.0] * 30 + [(-1) ** n * (1 - n / 300) for n in range(200)]
    assert kept(judge_all(EMV(patience=50, guard=0), values)) <= 30
    assert kept(judge_all(EMV(patience=50, guard=60), values)) > 200


def test_emv_keeps_every_average_within_its_guard() -> None:
    assert all(verdict.keep for verdict in judge_all(EMV(guard=100), [0.5, 0.6, 0.4]))


def test_a_rule_is_fresh_for_each_run() -> None:
    rule = EMV(patience=5, guard=2)
    values = [1, 0, 1, 0.5, 0.6, 0.7, 0, 1, 0, 1, 0, 1]
    assert judge_all(rule, values) == judge_all(rule, values)


def test_judging_twice_from_one_state_gives_one_verdict() -> None:
    rule = EMV(guard=0)
    state, _ = rule.start(PROBLEM)
    for number in range(1, 4):
        _, state = rule.judge(step(number, number / 10), state)
    first = rule.judge(step(4, 0.9), state)[0]
    assert rule.judge(step(4, 0.9), state)[0] == first


def test_none_keeps_the_last_average_and_never_stops() -> None:
    assert judge_all(Never(), [0.1] * 50) == [Verdict(keep=True)] * 50


def test_exactly_ignores_the_rule_s_reason_to_stop() -> None:
    verdicts = judge_all(exactly(EMV(patience=1, guard=0), 30), [0, *[0.5] * 10, *[0, 1] * 20])
    assert len(verdicts) == 30
    assert "30 iterations" in verdicts[-1].stop
    assert kept(verdicts) <= 12


def test_at_most_limits_the_iterations() -> None:
    verdicts = judge_all(at_most(Never(), 7), [0] * 50)
    assert len(verdicts) == 7
    assert "--max-iters" in verdicts[-1].stop
    early = judge_all(at_most(EMV(patience=2, guard=0), 50), [0, *[0.5] * 3, *[0, 1] * 20])
    assert "variance" in early[-1].stop


def test_unless_stops_when_asked() -> None:
    answers = iter([None, None, "enough"])
    verdicts = judge_all(unless(Never(), lambda: next(answers)), [0] * 10)
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
        ("auto", Auto()),
        ("auto:patience=100", Auto(patience=100)),
        ("wmv:window=50:patience=9", WMV(window=50, patience=9)),
        ("sigma:level=25", Sigma(25.0)),
        ("holdout:block=5", HoldOut(block=5)),
        ("plateau:change=2", Plateau(change=2)),
    ],
)
def test_a_rule_has_a_name_and_parameters(text: str, rule: stopping.Rule) -> None:
    assert stopping.parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "way_out"),
    [
        ("hope", "auto, emv, holdout, none, plateau, sigma, .*wmv"),
        ("emv:patients=3", "patience=500"),
        ("emv:patience", "patience=500"),
        ("emv:patience=long", "patience=500"),
        ("emv:patience=0", "1 or more"),
        ("emv:alpha=1", "between 0 and 1"),
        ("holdout:fraction=0.9", "up to 0.5"),
        ("none:x=1", "takes nothing"),
        ("holdout:block=0", "1 to 64"),
        ("wmv:window=15", "10, 20, 30"),
        ("sigma:level=-1", "0 to 255"),
        ("auto:level=-1", "0 to 255"),
        ("auto:patience=0", "patience of 1 or more"),
        ("", "auto, emv, holdout, none, plateau, sigma, .*wmv"),
        ("plateau:change=0", "a change above 0"),
    ],
)
def test_an_unknown_rule_or_parameter_is_refused_with_a_hint(text: str, way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        stopping.parse_rule(text)
    with pytest.raises(UsageError, match=way_out):
        Settings(stop=text)


def noisy_problem(side: int = 40, weight: torch.Tensor | None = None) -> tuple[Problem, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.linspace(0, 1, side).expand(3, side, side)
    measured = truth + 0.1 * torch.randn(3, side, side, generator=generator)
    return Problem(measured=measured, shape=(3, side, side), weight=weight), truth


def test_holdout_holds_its_fraction_of_the_pixels_out_of_the_loss() -> None:
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


def test_holdout_takes_four_percent_up_to_2600_pixels() -> None:
    for side, expected in ((40, 64), (600, 2600)):
        problem = Problem(measured=torch.rand(1, side, side), shape=(1, side, side))
        state, _ = HoldOut().start(problem)
        assert int(state.weight.sum()) == expected


def test_holdout_takes_only_pixels_with_weight() -> None:
    weight = torch.zeros(1, 40, 40)
    weight[:, :20] = 1
    problem, _ = noisy_problem(weight=weight)
    state, reduced = HoldOut(fraction=0.25).start(problem)
    assert int(state.weight.sum()) == 3 * 200
    assert float((state.weight + reduced.weight)[:, 20:].sum()) == 0


def test_holdout_keeps_the_truth_rather_than_the_noise() -> None:
    """From grey over the truth to the measurement, the error at held-out pixels is least at the truth."""
    problem, truth = noisy_problem()
    to_truth = [truth * t for t in np.linspace(0, 1, 60)]
    state, reduced = (rule := HoldOut(fraction=0.1, patience=30)).start(problem)
    out = reduced.weight == 0
    guess = torch.where(out, truth + 0.1 * torch.randn(truth.shape, generator=torch.manual_seed(1)), problem.measured)
    to_noise = [truth + (guess - truth) * t for t in np.linspace(0, 1, 60)[1:]]
    for number, image in enumerate(to_truth + to_noise, start=1):
        verdict, state = rule.judge(step_of(number, image), state)
        if verdict.keep:
            best = number
        if verdict.stop:
            break
    assert abs(best - 60) <= 5
    assert number == best + 30
    assert "30 iterations" in verdict.stop


def test_holdout_chooses_among_the_averages() -> None:
    problem, truth = noisy_problem()
    state, _ = (rule := HoldOut(fraction=0.1)).start(problem)
    verdict, state = rule.judge(step_of(5, truth + 0.2, truth, truth - 0.1), state)
    assert (verdict.keep, verdict.average_index) == (True, 1)
    verdict, state = rule.judge(step_of(10, truth + 0.2, truth + 0.1, truth - 0.1), state)
    assert not verdict.keep
    assert verdict.criterion[1] > state.least


def test_holdout_checks_every_fifth_iteration_and_repeats_its_criterion_between() -> None:
    problem, truth = noisy_problem()
    state, _ = (rule := HoldOut()).start(problem)
    signals = []
    for number in range(1, 12):
        verdict, state = rule.judge(step_of(number, truth * number / 11), state)
        signals.append(verdict.criterion and verdict.criterion[1])
    assert signals[:4] == [None] * 4
    assert len(set(signals[4:9])) == 1
    assert signals[9] == signals[10] < signals[8]


def test_holdout_stops_when_the_error_is_negligible() -> None:
    problem = Problem(measured=torch.full((3, 8, 8), 0.25), shape=(3, 8, 8))
    state, _ = (rule := HoldOut()).start(problem)
    verdict, _ = rule.judge(step_of(5, problem.measured + 1e-4), state)
    assert verdict.keep
    assert "fraction of a grey level" in verdict.stop


@given(st.integers(2, 9), st.floats(0.05, 0.5), st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=25, deadline=None)
def test_holdout_by_blocks_holds_whole_squares_out_and_checks_their_centres(
    side: int, fraction: float, seed: int
) -> None:
    height, width = 5 * side + 1, 6 * side
    weight = torch.ones(1, height, width)
    weight[:, 0, 0] = 0  # the first square does not count throughout
    problem = Problem(measured=torch.rand(2, height, width), shape=(2, height, width), weight=weight)
    state, reduced = HoldOut(fraction=fraction, block=side, seed=seed).start(problem)
    out = (weight.expand(2, -1, -1) > 0) & (reduced.weight == 0)
    squares = out[0, : 5 * side].reshape(5, side, 6, side).transpose(1, 2).flatten(2)
    taken = squares.all(dim=2)
    assert torch.equal(taken, squares.any(dim=2)), "whole squares or nothing"
    assert int(taken.sum()) == max(1, round(fraction * 29))
    assert not out[:, 5 * side :].any()
    assert not taken[0, 0]
    checked = state.weight > 0
    assert int(checked.sum()) == 2 * int(taken.sum()) * (1 if side % 2 else 4)
    reach = (side - 1) // 2
    near = torch.nn.functional.max_pool2d((~out).float(), 2 * reach + 1, 1, reach) > 0
    assert not (checked & near).any(), "no fitted pixel is within reach of a checked one"


@given(st.integers(0, 2**32 - 1), st.sampled_from([10, 20, 40]))
@hypothesis_settings(max_examples=20, deadline=None)
def test_wmv_is_the_variance_within_the_window(seed: int, window: int) -> None:
    values = 0.5 + 1e-3 * np.random.default_rng(seed).random((70, 1, 2, 2))
    verdicts = judge_all(WMV(window=window, guard=0), torch.from_numpy(values))
    for number in range(1, 71):
        signal = verdicts[number - 1].criterion
        if number < window or (number - window) % (window // 10):
            assert signal is None
        else:
            last = values[number - window : number].astype(np.float32).astype(float)
            assert signal[0] == "variance"
            assert signal[1] == pytest.approx(((last - last.mean(axis=0)) ** 2).mean(), rel=2e-3)


def test_wmv_keeps_the_minimum_after_its_guard() -> None:
    wobble = [0.0] * 20 + [(-1) ** n * abs(n - 100) / 100 for n in range(20, 300)]
    verdicts = judge_all(WMV(window=20, patience=60, guard=60), wobble)
    assert 100 <= kept(verdicts) <= 120
    assert 60 <= len(verdicts) - kept(verdicts) <= 64
    assert kept(judge_all(WMV(window=20, patience=60, guard=0), wobble)) <= 30, "a calm beginning, with no guard"


def test_wmv_stores_at_most_ten_sums() -> None:
    state, _ = (rule := WMV(window=100)).start(PROBLEM)
    for number in range(1, 301):
        _, state = rule.judge(step(number, number / 300), state)
        assert len(state.sums) <= 10


def test_sigma_stops_where_the_residual_reaches_the_noise_level() -> None:
    problem, truth = noisy_problem()
    level = 255 * float((problem.measured - truth).square().mean().sqrt())
    state, whole = (rule := Sigma(level)).start(problem)
    assert whole is problem, "nothing is held out"
    away = [truth + (problem.measured - truth) * t for t in (-0.2, -0.1, -0.01, 0.01, 0.2)]
    for number, image in enumerate(away, start=1):
        verdict, state = rule.judge(step_of(number, image), state)
        assert verdict.keep
        assert verdict.criterion[1] == pytest.approx(255 * float((image - problem.measured).square().mean().sqrt()))
        if verdict.stop:
            break
    assert number == 4
    assert f"{level:.3g} of 255" in verdict.stop


def test_sigma_keeps_its_average_when_the_run_goes_on() -> None:
    problem, truth = noisy_problem()
    state, _ = (rule := exactly(Sigma(20.0), 9)).start(problem)
    kept = []
    for number in range(1, 10):
        image = truth + (problem.measured - truth) * (number / 10)
        verdict, state = rule.judge(step_of(number, image), state)
        kept.append(verdict.keep)
    assert kept == [True] * 3 + [False] * 6, "0.7 of the noise, 18 grey levels, is what is left at the third"
    assert verdict.stop


def test_sigma_uses_only_pixels_with_weight() -> None:
    weight = torch.zeros(1, 40, 40)
    weight[:, :20] = 1
    problem, _ = noisy_problem(weight=weight)
    state, _ = (rule := Sigma(20.0)).start(problem)
    spoilt = problem.measured.clone()
    spoilt[:, 20:] = 9
    assert rule.judge(step_of(1, spoilt), state)[0].stop


def test_sigma_uses_the_given_level_or_estimates_it() -> None:
    generator = torch.Generator().manual_seed(0)
    measured = 0.5 + 0.1 * torch.randn(3, 96, 96, generator=generator)
    problem = Problem(measured=measured, shape=(3, 96, 96))
    state, _ = Sigma().start(problem)
    assert state.level == pytest.approx(0.1, rel=0.06)
    assert Settings(stop="sigma", sigma="30").rule().rule == Sigma(30.0)
    assert Settings(stop="sigma:level=7", sigma="30").rule().rule == Sigma(7.0), "the rule's own level wins"
    assert Settings(sigma="30").rule().rule == Auto(30.0)
    for small, advice in (
        (torch.zeros(3, 20, 20), "--sigma 25"),
        (torch.zeros(50), "--sigma 25"),
        (torch.full((3, 96, 96), 0.5), "--stop sigma"),
    ):
        with pytest.raises(UsageError, match=advice):
            Sigma().start(Problem(measured=small, shape=(3, 20, 20)))


def smoothed(measured: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(measured[None], 3, 1, 1)[0]


def test_auto_chooses_holdout_for_independent_noise_and_sigma_for_correlated_noise() -> None:
    measured = 0.5 + 0.1 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0))
    for image, rule, words in (
        (measured, HoldOut, "independent"),
        (smoothed(measured), Sigma, "share their noise"),
        (torch.zeros(3, 128, 128), HoldOut, "too little"),
        (torch.rand(40), HoldOut, "too little"),
    ):
        state, _ = Auto().start(Problem(measured=image, shape=(3, 128, 128)))
        assert isinstance(state[0], rule)
        assert words in state[1]
    state, _ = Auto(patience=70).start(Problem(measured=measured, shape=(3, 128, 128)))
    assert state[0] == HoldOut(patience=70)
    state, _ = Auto(20.0).start(Problem(measured=smoothed(measured), shape=(3, 128, 128)))
    assert state[0] == Sigma(20.0)


def test_auto_chooses_holdout_if_the_measurement_is_not_the_image() -> None:
    measured = smoothed(0.5 + 0.1 * torch.randn(3, 128, 128, generator=torch.Generator().manual_seed(0)))
    for rest in ({"weight": torch.ones(1, 128, 128)}, {"operator": lambda image: image}):
        state, _ = Auto().start(Problem(measured=measured, shape=(3, 128, 128), **rest))
        assert isinstance(state[0], HoldOut)


def test_the_reason_to_stop_names_the_rule_that_auto_chose() -> None:
    verdicts = judge_all(Auto(), [0.0] * 30)
    assert "rule holdout" in verdicts[-1].stop
    assert [verdict.stop for verdict in verdicts[:-1]] == [None] * (len(verdicts) - 1)


def test_plateau_stops_when_the_average_changes_little_and_keeps_the_last() -> None:
    values = [10 - min(number, 30) / 3 for number in range(60)]
    verdicts = judge_all(Plateau(change=1.0, interval=10), values)
    assert [verdict.keep for verdict in verdicts] == [True] * 50
    assert verdicts[-1].stop is not None
    assert "in 10 iterations" in verdicts[-1].stop
    assert verdicts[-1].criterion == ("change", pytest.approx(0, abs=1.0))
    assert [verdict.stop for verdict in verdicts[:-1]] == [None] * 49
    assert [verdict.threshold is None for verdict in verdicts[::10]] == [True, True, False, False, False]


def test_a_new_rule_is_one_class() -> None:
    @dataclass(frozen=True)
    class Patient(Rule):
        """Stop at a given iteration."""

        name: ClassVar[str] = "patient"
        until: int = 3

        def start(self, problem: Problem) -> tuple[None, Problem]:
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            return Verdict(keep=True, stop="it is time" if step.number >= self.until else None), state

    assert Settings(stop="patient:until=5").stop == "patient:until=5"
    assert len(judge_all(stopping.parse_rule("patient:until=5"), [0] * 9)) == 5


def test_an_empty_verdict_neither_keeps_nor_stops() -> None:
    assert {field.name: field.default for field in fields(Verdict)} == {
        "keep": False,
        "stop": None,
        "criterion": None,
        "average_index": 0,
        "patience_left": None,
        "threshold": None,
    }
