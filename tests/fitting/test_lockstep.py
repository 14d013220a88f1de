"""Fits in lockstep give the results that each gives alone."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from command_line import TINY
from samples import noisy, scene
from torch import Tensor, nn

from dipcli.errors import DipError
from dipcli.fitting import restarts
from dipcli.fitting.control import Control
from dipcli.fitting.engine import fit
from dipcli.fitting.passes import lockstep
from dipcli.fitting.restarts import fit_runs
from dipcli.fitting.results import Fit, Runs
from dipcli.networks import build
from dipcli.networks.grouped import can_group, group_networks
from dipcli.networks.prior import Prior, render
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings
from dipcli.stopping import Ending

SMALL = Settings(network=TINY, input_depth=4, iterations=12, stop="none")
JOINTLY = Control(evaluate=lockstep.evaluate_jointly)
UNET, RESNET = "unet:channels=4,8", "resnet:channels=6:blocks=2"
EXACT = {"rtol": 0, "atol": 1e-7}  # rounding in double precision after some tens of steps


def make_problem(seed: int, side: int = 32) -> Problem:
    measured = torch.from_numpy(noisy(scene(side, side), seed=seed)).permute(2, 0, 1).double() / 255
    return Problem(measured=measured, shape=(3, side, side))


def make_prior(given: Settings, side: int = 32) -> Prior:
    prior = build(given, (3, side, side))
    return Prior(prior.network.double(), prior.code.double(), prior.window)


def jointly(seed: int, given: Settings, side: int = 32, **rest: Any) -> Callable[[], Fit]:
    """A function that fits in lockstep with others."""
    control = replace(rest.pop("control", Control()), evaluate=lockstep.evaluate_jointly)
    return lambda: fit(make_problem(seed, side), make_prior(given, side), given, control=control, **rest)


def fit_alone(seed: int, given: Settings, side: int = 32, **rest: Any) -> Fit:
    return fit(make_problem(seed, side), make_prior(given, side), given, **rest)


def run_together(*functions: Callable[[], Any], most: int = 8) -> list[Any]:
    """Return their results, in the order in which they end."""
    waiting = list(functions)
    return list(lockstep.run(lambda _idle: waiting.pop(0) if waiting else None, most))


@pytest.mark.parametrize(
    "given",
    [
        SMALL,
        pytest.param(replace(SMALL, pad="zero", reg_noise=0), marks=pytest.mark.slow),
        pytest.param(replace(SMALL, optimize="net,input"), marks=pytest.mark.slow),
        replace(SMALL, optimize="net,input", reg_noise=0),
        pytest.param(replace(SMALL, optimizer="lbfgs", iterations=104), marks=pytest.mark.slow),
        replace(SMALL, network=UNET),
        pytest.param(replace(SMALL, network=RESNET), marks=pytest.mark.slow),
        replace(SMALL, network="skip:channels=8,8:skips=0,4:up=nearest:down=average:pointwise=no"),
        pytest.param(replace(SMALL, network="pixels"), marks=pytest.mark.slow),
        replace(SMALL, mosaic=2),
        pytest.param(replace(SMALL, warmup=5), marks=pytest.mark.slow),
        replace(SMALL, stop="holdout", iterations=None, max_iterations=25),
        pytest.param(replace(SMALL, tv=1e-3, ema=0.9), marks=pytest.mark.slow),
    ],
)
def test_a_fit_in_lockstep_gives_the_result_it_gives_alone(given: Settings) -> None:
    side = 128 if given.warmup else 32
    results = run_together(*(jointly(seed, given, side) for seed in range(3)))
    for seed, result in enumerate(results):
        same = fit_alone(seed, given, side)
        torch.testing.assert_close(result.image, same.image, **EXACT)
        assert (result.kept, result.steps, result.reason) == (same.kept, same.steps, same.reason)


@pytest.mark.gpu
@pytest.mark.parametrize("network", [TINY, UNET, RESNET])
def test_lockstep_on_a_gpu(network: str) -> None:
    device, given = torch.device("cuda"), replace(SMALL, network=network, device="cuda")

    def there(seed: int, **rest: Any) -> Fit:
        return fit(make_problem(seed).to(device), make_prior(given).to(device), given, **rest)

    results = run_together(*(lambda seed=seed: there(seed, control=JOINTLY) for seed in range(4)))
    for seed, result in enumerate(results):
        torch.testing.assert_close(result.image, there(seed).image, rtol=0, atol=1e-5)


def test_grouped_networks_render_the_same_in_both_precisions() -> None:
    networks = [make_prior(replace(SMALL, seed=seed)).network.float() for seed in range(3)]
    codes = [torch.rand(1, 4, 32, 32) for _ in networks]
    whole = group_networks(networks)
    for precision, near in (("fp32", 1e-5), ("bf16", 0.02)):
        joint = render(whole, precision, torch.cat(codes, dim=1))
        apart = [render(network, precision, code) for network, code in zip(networks, codes, strict=True)]
        torch.testing.assert_close(joint, torch.cat(apart, dim=1), rtol=0, atol=near)


def test_a_single_fit_has_the_same_bits(passes: list[int]) -> None:
    given = replace(SMALL, iterations=4)
    (result,) = run_together(jointly(0, given))
    assert torch.equal(result.image, fit_alone(0, given).image)
    assert passes == []


def test_all_are_computed_in_one_pass_and_end_on_their_own(passes: list[int]) -> None:
    functions = [jointly(seed, replace(SMALL, iterations=steps)) for seed, steps in enumerate((5, 2, 8, 3))]
    results = run_together(*functions)
    assert [result.steps for result in results] == [2, 3, 5, 8]
    assert passes == [4, 4, 3, 2, 2]  # the last three iterations are computed alone
    for result, seed in zip(results, (1, 3, 0, 2), strict=True):
        same = fit_alone(seed, replace(SMALL, iterations=result.steps))
        torch.testing.assert_close(result.image, same.image, **EXACT)


def test_the_next_fit_starts_when_one_ends(passes: list[int]) -> None:
    counts = (2, 6, 3, 3, 2)
    results = run_together(
        *(jointly(seed, replace(SMALL, iterations=steps)) for seed, steps in enumerate(counts)), most=2
    )
    assert sorted(result.steps for result in results) == sorted(counts)
    assert set(passes) == {2}
    assert len(passes) == 8  # two at a time as long as there are two


def test_sizes_and_networks_are_not_mixed(passes: list[int]) -> None:
    given = replace(SMALL, iterations=3)
    functions = [
        *(jointly(seed, given, 32) for seed in range(2)),
        *(jointly(seed, given, 40) for seed in range(2)),
        *(jointly(seed, replace(given, network=UNET), 32) for seed in range(3)),
    ]
    results = run_together(*functions)
    assert passes == [2, 2, 3] * 3
    torch.testing.assert_close(results[3].image, fit_alone(1, given, 40).image, **EXACT)
    # The same padded size for the network, but another size of the image.
    passes.clear()
    run_together(jointly(0, given, 30), jointly(0, given, 32))
    assert passes == []


@pytest.mark.slow
def test_a_collapse_rolls_back_one_fit_alone() -> None:
    given = replace(SMALL, iterations=60)

    def jumping() -> Problem:
        """Its loss is a hundred times as large for a while."""
        calls = count(1)

        def loss(*arguments: Any) -> Tensor:
            return squared_error(*arguments) * (100 if 30 < next(calls) < 53 else 1)

        return replace(make_problem(0), loss=loss)

    collapsed = fit(jumping(), make_prior(given), given)
    assert len(collapsed.events) == 1
    results = run_together(
        lambda: fit(jumping(), make_prior(given), given, control=JOINTLY),
        jointly(1, given),
        jointly(2, given),
    )
    assert [result.events for result in results] == [collapsed.events, (), ()]
    torch.testing.assert_close(results[0].image, collapsed.image, **EXACT)
    torch.testing.assert_close(results[2].image, fit_alone(2, given).image, **EXACT)


def test_a_fit_that_fails_leaves_the_others_unchanged() -> None:
    given = replace(SMALL, iterations=8)

    def failing() -> str:
        def fail(*_: object) -> None:
            raise DipError("no")

        with pytest.raises(DipError):
            jointly(0, given, observers=[fail])()
        return "failed"

    def broken(_x: Tensor) -> Tensor:
        raise DipError("in the middle of a pass")

    def failing_within() -> str:
        with pytest.raises(DipError):
            fit(
                replace(make_problem(0), operator=broken),
                make_prior(given),
                given,
                control=JOINTLY,
            )
        return "failed within"

    results = run_together(failing, jointly(1, given), failing_within, jointly(2, given))
    assert set(results[:2]) == {"failed", "failed within"}
    for seed, result in enumerate(results[2:], start=1):
        torch.testing.assert_close(result.image, fit_alone(seed, given).image, **EXACT)


def test_a_fit_that_fails_at_its_loss_can_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    given, next_seed = replace(SMALL, iterations=6), replace(SMALL, iterations=6, seed=1)
    monkeypatch.setattr(restarts, "fresh_prior", lambda *_: make_prior(next_seed))
    calls = count(1)

    def moody(x: Tensor) -> Tensor:
        if next(calls) == 3:
            raise DipError("in the middle of a pass")
        return x

    def again() -> Runs:
        own = replace(make_problem(0), operator=moody)
        return fit_runs(own, make_prior(given), replace(given, runs=2), control=JOINTLY)

    first, second, runs = run_together(jointly(1, given), again, jointly(2, replace(given, iterations=7)))
    torch.testing.assert_close(first.image, fit_alone(1, given).image, **EXACT)
    torch.testing.assert_close(second.image, fit_alone(2, replace(given, iterations=7)).image, **EXACT)
    assert [run.number for run in runs.runs] == [2]
    torch.testing.assert_close(runs.image, fit_alone(0, next_seed).image, **EXACT)


def test_an_unexpected_error_ends_all_with_cleanup() -> None:
    tidied = []

    def tidy(seed: int) -> None:
        try:
            jointly(seed, SMALL)()
        finally:
            tidied.append(seed)

    def broken() -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        jointly(9, SMALL, observers=[fail])()

    with pytest.raises(ZeroDivisionError):
        run_together(lambda: tidy(0), broken, lambda: tidy(1))
    assert sorted(tidied) == [0, 1]


def test_closing_the_iterator_ends_all_with_cleanup() -> None:
    tidied = []

    def tidy() -> None:
        try:
            jointly(1, replace(SMALL, iterations=50))()
        finally:
            tidied.append(True)

    waiting = [jointly(0, replace(SMALL, iterations=2)), tidy]
    results = lockstep.run(lambda _idle: waiting.pop(0) if waiting else None, 2)
    next(results)
    results.close()
    assert tidied == [True]


def test_joint_networks_leave_weights_and_layout_unchanged() -> None:
    networks = [make_prior(SMALL).network.to(memory_format=torch.channels_last) for _ in range(2)]
    before = [(weight.stride(), weight.detach().clone()) for network in networks for weight in network.parameters()]
    lockstep.JointNetworks(networks)
    after = [(weight.stride(), weight.detach()) for network in networks for weight in network.parameters()]
    for (stride, value), (now, same) in zip(before, after, strict=True):
        assert torch.equal(value, same)
        assert stride == now or 1 in value.shape[1:]  # there the stride has no meaning


def test_resuming_in_lockstep() -> None:
    given = replace(SMALL, iterations=25)
    taken: list[Any] = []

    def hold(take: Callable[[], Any], _last: bool) -> None:
        if not taken:
            taken.append(take())

    whole = fit_alone(0, given, control=Control(checkpoint=hold))
    results = run_together(jointly(0, given, control=Control(resume_from=taken[0])), jointly(1, given))
    torch.testing.assert_close(results[0].image, whole.image, **EXACT)
    assert results[0].steps == 25


class LimitedMemory(nn.Module):
    """A layer that runs out of memory when it sees the images of too many networks."""

    def __init__(self, where: str, most: int, message: str = "CUDA out of memory") -> None:
        super().__init__()
        self.where, self.most, self.message = where, most, message

    def fail(self, *_: object) -> None:
        raise RuntimeError(self.message)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] // 3 > self.most:
            if self.where == "forward":
                self.fail()
            images.register_hook(self.fail)
        return images


def fit_with_limit(seed: int, given: Settings, limit: LimitedMemory) -> Callable[[], Fit]:
    own = make_prior(given)
    limited = replace(own, network=nn.Sequential(own.network, limit))
    return lambda: fit(make_problem(seed), limited, given, control=JOINTLY)


@pytest.mark.parametrize(
    ("where", "most"),
    [
        ("forward", 2),
        ("backward", 1),
        *(pytest.param("forward", most, marks=pytest.mark.slow) for most in (1, 3)),
        *(pytest.param("backward", most, marks=pytest.mark.slow) for most in (2, 3)),
    ],
)
def test_when_memory_runs_out_passes_become_smaller(where: str, most: int, passes: list[int]) -> None:
    given = replace(SMALL, iterations=6)
    results = run_together(*(fit_with_limit(seed, given, LimitedMemory(where, most)) for seed in range(5)))
    for seed in range(5):
        expected = fit_alone(seed, given).image
        assert any(torch.allclose(result.image, expected, **EXACT) for result in results)
    assert passes[0] == 5
    assert max(passes[2:], default=0) <= max(most, 2), "halved until the passes fit"


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_when_memory_does_not_suffice_for_one_every_fit_raises_the_error(where: str) -> None:
    def fail() -> str:
        with pytest.raises(RuntimeError, match="out of memory"):
            fit_with_limit(0, SMALL, LimitedMemory(where, most=0))()
        return "raised"

    assert run_together(fail, fail, fail) == ["raised"] * 3


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_another_error_in_a_pass_is_raised(where: str) -> None:
    with pytest.raises(RuntimeError, match="something else"):
        run_together(
            *(fit_with_limit(seed, SMALL, LimitedMemory(where, 1, message="something else")) for seed in (0, 1))
        )


NAME: ContextVar[int] = ContextVar("name", default=0)


def test_each_fit_has_its_own_context() -> None:
    def named(name: int) -> int:
        NAME.set(name)
        jointly(name, replace(SMALL, iterations=2))()
        return NAME.get()

    NAME.set(7)
    assert run_together(*(lambda name=name: named(name) for name in range(3))) == [0, 1, 2]
    assert NAME.get() == 7


def test_a_network_of_unknown_layers_is_computed_by_itself() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor) -> Tensor:
            return self.gain * z[:, :3]

    assert not can_group(Odd())
    given = replace(SMALL, iterations=3)

    def odd() -> Fit:
        return fit(
            make_problem(0),
            Prior(Odd().double(), torch.ones(1, 3, 32, 32).double()),
            given,
            control=JOINTLY,
        )

    first, second = run_together(odd, odd)
    assert torch.equal(first.image, second.image)


def test_stopping_rules_see_their_own_image() -> None:
    given = replace(SMALL, stop="emv:guard=2:patience=4", iterations=None, max_iterations=40)
    results = {result.steps: result for result in run_together(*(jointly(seed, given) for seed in range(4)))}
    assert {fit_alone(seed, given).steps for seed in range(4)} == set(results)
    assert isinstance(given.rule(), Ending)
