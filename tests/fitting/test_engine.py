"""The loop, checked against closed forms and laws."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from command_line import TINY
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import noisy, scene
from torch import Tensor, nn

from dipcli.errors import DipError
from dipcli.fitting.engine import fit
from dipcli.fitting.results import Fit
from dipcli.fitting.solve import prepare, solve
from dipcli.networks import build
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error, total_variation
from dipcli.settings import Settings
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step

SHAPE = (3, 24, 20)
PLAIN = Settings(stop="none", reg_noise=0, ema=0)
SMALL = Settings(network=TINY, input_depth=4, iterations=6, stop="none")


class FreeVector(nn.Module):
    """In place of a network: the image is the variable."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, _code: Tensor) -> Tensor:
        return self.values


class Recorder(nn.Module):
    """A network of one weight that records its inputs."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.shape, self.seen = shape, []

    def forward(self, code: Tensor) -> Tensor:
        self.seen.append(code.detach().clone())
        return self.gain * code[:, : self.shape[0]]


def denoising() -> Problem:
    measured = torch.from_numpy(noisy(scene(24, 20))).permute(2, 0, 1) / 255
    return Problem(measured=measured, shape=SHAPE)


def tiny_fit(settings: Settings = SMALL, **rest: object) -> Fit:
    return fit(denoising(), build(settings, SHAPE), settings, **rest)


@pytest.mark.parametrize(("optimizer", "rate", "steps"), [("adam", 0.05, 1000), ("lbfgs", 0.5, 300)])
def test_a_free_vector_reaches_the_least_squares_solution(optimizer: str, rate: float, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(30, 12, generator=generator)
    measured = torch.randn(30, generator=generator)
    weight = torch.rand(30, generator=generator)
    root = weight.sqrt()
    solution = torch.linalg.lstsq(root[:, None] * matrix, (root * measured)[:, None]).solution[:, 0]
    problem = Problem(
        measured=measured, shape=(1, 3, 4), operator=lambda image: matrix @ image.flatten(), weight=weight
    )
    prior = Prior(FreeVector((1, 3, 4)), torch.zeros(1, 1, 1, 1))
    settings = replace(PLAIN, optimizer=optimizer, rate=rate, iterations=steps)
    assert torch.allclose(fit(problem, prior, settings).image.flatten(), solution, atol=1e-3)


def test_the_average_is_exponential_and_bias_corrected() -> None:
    images, averages = [], []

    def watch(step: Step, _verdict: Verdict) -> None:
        images.append(step.image)
        averages.append(step.average)

    tiny_fit(replace(SMALL, ema=0.7), observers=[watch])
    for count, average in enumerate(averages, start=1):
        weights = torch.tensor([0.7 ** (count - 1 - k) for k in range(count)])
        expected = sum(w * x for w, x in zip(weights / weights.sum(), images, strict=False))
        assert torch.allclose(average, expected, atol=1e-6)
    assert torch.equal(averages[0], images[0]) or torch.allclose(averages[0], images[0], atol=1e-6)


def test_with_no_averaging_the_result_is_the_last_output() -> None:
    images = []
    result = tiny_fit(replace(SMALL, ema=0), observers=[lambda step, _: images.append(step.image)])
    assert torch.equal(result.image, images[-1])


def test_same_seed_same_bits_and_another_seed_others() -> None:
    first, again = tiny_fit(), tiny_fit()
    other = tiny_fit(replace(SMALL, seed=1))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)


def test_the_global_random_state_is_neither_used_nor_changed() -> None:
    first = tiny_fit()
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    assert torch.equal(tiny_fit().image, first.image)
    assert torch.equal(torch.rand(3), expected)


def test_observers_change_nothing() -> None:
    def nosy(step: Step, _verdict: Verdict) -> None:
        torch.rand(100)
        float(step.loss)
        step.image.sum()

    assert torch.equal(tiny_fit().image, tiny_fit(observers=[nosy]).image)


@pytest.mark.parametrize("network", [TINY, "pixels"])
def test_a_step_is_never_written_to_again(network: str) -> None:
    steps = []
    settings = replace(SMALL, network=network)
    tiny_fit(settings, observers=[lambda step, _: steps.append((step, step.average.clone(), step.image.clone()))])
    for step, average, image in steps:
        assert torch.equal(step.average, average)
        assert torch.equal(step.image, image)
        assert not step.image.requires_grad


def test_new_noise_of_the_given_strength_is_added_to_the_input() -> None:
    network = Recorder((3, 64, 64))
    code = torch.rand(1, 8, 64, 64)
    problem = Problem(measured=torch.rand(3, 64, 64), shape=(3, 64, 64))
    fit(problem, Prior(network, code), replace(PLAIN, iterations=3, reg_noise=0.05))
    noise = [seen - code for seen in network.seen]
    for values in noise:
        assert abs(float(values.std()) - 0.05) < 0.001
        assert abs(float(values.mean())) < 0.001
    assert not torch.equal(noise[0], noise[1])
    assert abs(float((noise[0] * noise[1]).mean())) < 1e-4


@pytest.mark.parametrize(("optimize", "moves"), [("net", False), ("net,input", True)])
def test_the_input_is_optimised_only_on_request(optimize: str, moves: bool) -> None:
    network = Recorder(SHAPE)
    code = torch.rand(1, *SHAPE)
    before = code.clone()
    fit(denoising(), Prior(network, code), replace(PLAIN, iterations=3, optimize=optimize))
    assert torch.equal(network.seen[0], before)
    assert torch.equal(network.seen[-1], before) != moves
    assert torch.equal(code, before), "the prior's own input is left as it was"


def test_total_variation_of_known_images() -> None:
    assert float(total_variation(torch.full((1, 5, 5), 0.3))) == pytest.approx(1e-4)
    ramp = torch.arange(6.0).repeat(6, 1) * 0.1
    assert float(total_variation(ramp[None])) == pytest.approx(0.1, rel=1e-4)
    assert float(total_variation((ramp + ramp.T)[None])) == pytest.approx(0.1 * 2**0.5, rel=1e-4)


def test_the_tv_weight_smooths_free_pixels() -> None:
    settings = Settings(network="pixels", stop="none", iterations=300, rate=0.02, reg_noise=0, ema=0)
    rough = fit(denoising(), build(settings, SHAPE), settings).image
    smooth_settings = replace(settings, tv=0.2)
    smooth = fit(denoising(), build(smooth_settings, SHAPE), smooth_settings).image
    assert torch.allclose(rough, denoising().measured, atol=1e-3), "without a prior the noise is fitted"
    assert float(total_variation(smooth)) < 0.5 * float(total_variation(rough))


@given(st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=20, deadline=None)
def test_the_weighted_squared_error_is_that_of_the_weighted_pixels(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, 3, 4, 5, generator=generator)
    mask = (torch.rand(1, 4, 5, generator=generator) < 0.5).float()
    mask[0, 0, 0] = 1
    counted = mask.expand_as(x) > 0
    assert float(squared_error(x, y, mask)) == pytest.approx(float(((x - y)[counted] ** 2).mean()), rel=1e-4)
    assert float(squared_error(x, y)) == pytest.approx(float(((x - y) ** 2).mean()), rel=1e-4)


def test_bf16_keeps_its_weights_in_fp32_and_stays_near() -> None:
    prior = build(SMALL, SHAPE)
    settings = replace(SMALL, precision="bf16", iterations=30)
    rounded = fit(denoising(), prior, settings)
    full = tiny_fit(replace(settings, precision="fp32"))
    assert {weight.dtype for weight in prior.network.parameters()} == {torch.float32}
    assert rounded.image.dtype == torch.float32
    assert not torch.equal(rounded.image, full.image)
    assert float((rounded.image - full.image).abs().mean()) < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_computes_nearly_what_the_cpu_does(precision: str) -> None:
    # Without input noise: the two devices draw different numbers.
    settings = replace(SMALL, reg_noise=0, iterations=20, precision=precision)
    cpu, cuda = (
        solve(prepare(denoising(), replace(settings, device=device))).image.cpu() for device in ("cpu", "cuda")
    )
    assert float((cpu - cuda).abs().mean()) < 0.01


def test_the_rule_chooses_the_average_and_the_end() -> None:
    class Third:
        def start(self, problem: Problem) -> tuple[int, Problem]:
            return 0, problem

        def judge(self, step: Step, state: int) -> tuple[Verdict, int]:
            reason = "five is enough" if step.number == 5 else None
            return Verdict(keep=step.number == 3, stop=reason), state + 1

    averages = []
    result = tiny_fit(stop=Third(), observers=[lambda step, _: averages.append(step.average)])
    assert (result.kept, result.steps, result.reason) == (3, 5, "five is enough")
    assert torch.equal(result.image, averages[2])


def test_a_rule_may_hold_out_pixels() -> None:
    class Blind:
        """Only the first row of the image has weight."""

        def start(self, problem: Problem) -> tuple[None, Problem]:
            weight = torch.zeros(1, *SHAPE[1:])
            weight[:, 0] = 1
            return None, replace(problem, weight=weight)

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            return Verdict(keep=True, stop="done" if step.number == 300 else None), state

    settings = Settings(network="pixels", reg_noise=0, ema=0, rate=0.02)
    start = build(settings, SHAPE).network[0].image.detach().clone()[0]
    result = fit(denoising(), build(settings, SHAPE), settings, stop=Blind()).image
    assert torch.allclose(result[:, 0], denoising().measured[:, 0], atol=1e-3)
    assert torch.equal(result[:, 1:], start[:, 1:])


def test_the_problem_finishes_the_image() -> None:
    problem = replace(denoising(), finish=lambda image: image * 0 + 0.25)
    assert torch.equal(fit(problem, build(SMALL, SHAPE), SMALL).image, torch.full(SHAPE, 0.25))


def test_a_fit_that_diverges_is_an_error() -> None:
    with pytest.raises(DipError, match="--lr"):
        tiny_fit(replace(SMALL, rate=1e38, iterations=20, network="pixels"))


def test_the_loss_of_a_step_is_that_of_its_image() -> None:
    steps = []
    settings = replace(SMALL, network="pixels", reg_noise=0)
    tiny_fit(settings, observers=[lambda step, _: steps.append(step)])
    for step in steps:
        assert float(step.loss) == pytest.approx(float(squared_error(step.image, denoising().measured)), rel=1e-5)


def test_a_fit_that_diverges_late_keeps_the_best_average() -> None:
    def spoil(image: Tensor) -> Tensor:
        count.append(1)
        return image * float("nan") if len(count) > 20 else image

    count: list[int] = []
    settings = replace(SMALL, iterations=30, stop="holdout:fraction=0.2")
    result = fit(replace(denoising(), operator=spoil), build(settings, SHAPE), settings)
    assert result.kept <= 10
    assert "--lr" in result.reason
    assert result.image.isfinite().all()


def test_the_time_of_observers_is_not_counted() -> None:
    result = tiny_fit(replace(SMALL, iterations=1), observers=[lambda _step, _verdict: time.sleep(0.5)])
    assert result.seconds < 0.5


def test_a_rule_sees_only_the_step_and_the_problem() -> None:
    seen = []

    class Nosy:
        def start(self, problem: Problem) -> tuple[None, Problem]:
            seen.append(problem)
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            seen.append(step)
            return Verdict(stop="enough"), state

    tiny_fit(stop=Nosy())
    names = {name for argument in seen for name in vars(argument)}
    assert names == {*Problem.__dataclass_fields__, *Step.__dataclass_fields__}
    assert not any("ref" in name or "truth" in name or "clean" in name for name in names)


def test_the_default_rule_is_that_of_the_settings() -> None:
    result = tiny_fit(replace(SMALL, iterations=None, max_iterations=4, stop="auto"))
    assert result.steps == 4
    assert "--max-iters" in result.reason


def test_a_verdict_may_choose_among_the_averages() -> None:
    class Third:
        def start(self, problem: Problem) -> tuple[None, Problem]:
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[Verdict, None]:
            assert len(step.averages) == len(SMALL.decays)
            return Verdict(keep=True, stop="done" if step.number == 5 else None, average_index=2), state

    steps: list[Step] = []
    result = tiny_fit(stop=Third(), observers=[lambda step, _: steps.append(step)])
    assert torch.equal(result.average, steps[-1].averages[2])
    assert result.decay == SMALL.decays[2]
