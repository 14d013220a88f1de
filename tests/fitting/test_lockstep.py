"""Fits that go on together come to what each comes to alone, and none of them knows of the others."""

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

from dipcli import stopping
from dipcli.errors import DipError
from dipcli.fitting import evaluate as descent
from dipcli.fitting import lockstep, restarts
from dipcli.fitting.control import Control
from dipcli.fitting.engine import fit
from dipcli.fitting.restarts import fit_runs
from dipcli.fitting.results import Fit, Runs
from dipcli.networks import build
from dipcli.networks import grouped as ensemble
from dipcli.networks.prior import Prior
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings

SMALL = Settings(network=TINY, input_depth=4, iterations=12, stop="none")
JOINTLY = Control(evaluate=lockstep.evaluate_jointly)
UNET, RESNET = "unet:channels=4,8", "resnet:channels=6:blocks=2"
EXACT = {"rtol": 0, "atol": 1e-7}  # what some tens of steps make of rounding in double precision


def problem(seed: int, side: int = 32) -> Problem:
    measured = torch.from_numpy(noisy(scene(side, side), seed=seed)).permute(2, 0, 1).double() / 255
    return Problem(measured=measured, shape=(3, side, side))


def prior(given: Settings, side: int = 32) -> Prior:
    made = build(given, (3, side, side))
    return Prior(made.network.double(), made.code.double(), made.window)


def fitting(seed: int, given: Settings, side: int = 32, **rest: Any) -> Callable[[], Fit]:
    """A fit that wants company."""
    control = replace(rest.pop("control", Control()), evaluate=lockstep.evaluate_jointly)
    return lambda: fit(problem(seed, side), prior(given, side), given, control=control, **rest)


def alone(seed: int, given: Settings, side: int = 32, **rest: Any) -> Fit:
    return fit(problem(seed, side), prior(given, side), given, **rest)


def together(*works: Callable[[], Any], most: int = 8) -> list[Any]:
    """What they return, in the order in which they end."""
    waiting = list(works)
    return list(lockstep.run(lambda _idle: waiting.pop(0) if waiting else None, most))


@pytest.mark.parametrize(
    "given",
    [
        SMALL,
        replace(SMALL, pad="zero", reg_noise=0),
        replace(SMALL, optimize="net,input"),
        replace(SMALL, optimize="net,input", reg_noise=0),
        replace(SMALL, optimizer="lbfgs", iterations=104),
        replace(SMALL, network=UNET),
        replace(SMALL, network=RESNET),
        replace(SMALL, network="skip:channels=8,8:skips=0,4:up=nearest:down=average:pointwise=no"),
        replace(SMALL, network="pixels"),
        replace(SMALL, warmup=5),
        replace(SMALL, stop="holdout", iterations=None, max_iterations=25),
        replace(SMALL, tv=1e-3, ema=0.9),
    ],
)
def test_each_comes_to_what_it_comes_to_alone(given: Settings) -> None:
    side = 128 if given.warmup else 32
    results = together(*(fitting(seed, given, side) for seed in range(3)))
    for seed, result in enumerate(results):
        same = alone(seed, given, side)
        torch.testing.assert_close(result.image, same.image, **EXACT)
        assert (result.kept, result.steps, result.reason) == (same.kept, same.steps, same.reason)


@pytest.mark.gpu
@pytest.mark.parametrize("network", [TINY, UNET, RESNET])
def test_on_a_gpu_too(network: str) -> None:
    device, given = torch.device("cuda"), replace(SMALL, network=network, device="cuda")

    def there(seed: int, **rest: Any) -> Fit:
        return fit(problem(seed).to(device), prior(given).to(device), given, **rest)

    results = together(*(lambda seed=seed: there(seed, control=JOINTLY) for seed in range(4)))
    for seed, result in enumerate(results):
        torch.testing.assert_close(result.image, there(seed).image, rtol=0, atol=1e-5)


def test_in_half_precision_it_is_the_same_network() -> None:
    networks = [prior(replace(SMALL, seed=seed)).network.float() for seed in range(3)]
    codes = [torch.rand(1, 4, 32, 32) for _ in networks]
    whole = ensemble.group_networks(networks)
    for precision, near in (("fp32", 1e-5), ("bf16", 0.02)):
        joint = descent.render(whole, precision, torch.cat(codes, dim=1))
        each = [descent.render(*one) for one in zip(networks, [precision] * 3, codes, strict=True)]
        torch.testing.assert_close(joint, torch.cat(each, dim=1), rtol=0, atol=near)


def test_one_by_itself_has_the_same_bits(passes: list[int]) -> None:
    given = replace(SMALL, iterations=4)
    (result,) = together(fitting(0, given))
    assert torch.equal(result.image, alone(0, given).image)
    assert passes == []


def test_all_are_computed_in_one_pass_and_each_ends_when_it_likes(passes: list[int]) -> None:
    works = [fitting(seed, replace(SMALL, iterations=steps)) for seed, steps in enumerate((5, 2, 8, 3))]
    results = together(*works)
    assert [each.steps for each in results] == [2, 3, 5, 8]
    assert passes == [4, 4, 3, 2, 2]  # and the last three by itself
    for result, seed in zip(results, (1, 3, 0, 2), strict=True):
        same = alone(seed, replace(SMALL, iterations=result.steps))
        torch.testing.assert_close(result.image, same.image, **EXACT)


def test_where_one_ends_the_next_takes_its_place(passes: list[int]) -> None:
    counts = (2, 6, 3, 3, 2)
    results = together(*(fitting(seed, replace(SMALL, iterations=steps)) for seed, steps in enumerate(counts)), most=2)
    assert sorted(each.steps for each in results) == sorted(counts)
    assert set(passes) == {2}
    assert len(passes) == 8  # two at a time as long as there are two


def test_pictures_of_two_sizes_and_two_networks_are_not_mixed(passes: list[int]) -> None:
    given = replace(SMALL, iterations=3)
    works = [
        *(fitting(seed, given, 32) for seed in range(2)),
        *(fitting(seed, given, 40) for seed in range(2)),
        *(fitting(seed, replace(given, network=UNET), 32) for seed in range(3)),
    ]
    results = together(*works)
    assert passes == [2, 2, 3] * 3
    torch.testing.assert_close(results[3].image, alone(1, given, 40).image, **EXACT)
    # One size for the network, another for the picture: what is cut away is not the same.
    passes.clear()
    together(fitting(0, given, 30), fitting(0, given, 32))
    assert passes == []


def test_a_collapse_is_the_matter_of_one() -> None:
    given = replace(SMALL, iterations=60)

    def jumping() -> Problem:
        """Its loss is a hundred times as large for a while."""
        looks = count(1)

        def loss(*arguments: Any) -> Tensor:
            return squared_error(*arguments) * (100 if 30 < next(looks) < 53 else 1)

        return replace(problem(0), loss=loss)

    ruined = fit(jumping(), prior(given), given)
    assert len(ruined.events) == 1
    results = together(
        lambda: fit(jumping(), prior(given), given, control=JOINTLY),
        fitting(1, given),
        fitting(2, given),
    )
    assert [each.events for each in results] == [ruined.events, (), ()]
    torch.testing.assert_close(results[0].image, ruined.image, **EXACT)
    torch.testing.assert_close(results[2].image, alone(2, given).image, **EXACT)


def test_one_that_fails_leaves_the_others_as_they_were() -> None:
    given = replace(SMALL, iterations=8)

    def failing() -> str:
        def fail(*_: object) -> None:
            raise DipError("no")

        with pytest.raises(DipError):
            fitting(0, given, observers=[fail])()
        return "failed"

    def broken(_x: Tensor) -> Tensor:
        raise DipError("in the middle of a pass")

    def failing_within() -> str:
        with pytest.raises(DipError):
            fit(
                replace(problem(0), operator=broken),
                prior(given),
                given,
                control=JOINTLY,
            )
        return "failed within"

    results = together(failing, fitting(1, given), failing_within, fitting(2, given))
    assert set(results[:2]) == {"failed", "failed within"}
    for seed, result in enumerate(results[2:], start=1):
        torch.testing.assert_close(result.image, alone(seed, given).image, **EXACT)


def test_one_that_fails_in_the_middle_of_a_pass_can_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    given, next_seed = replace(SMALL, iterations=6), replace(SMALL, iterations=6, seed=1)
    monkeypatch.setattr(restarts, "fresh_prior", lambda *_: prior(next_seed))
    looks = count(1)

    def moody(x: Tensor) -> Tensor:
        if next(looks) == 3:
            raise DipError("in the middle of a pass")
        return x

    def again() -> Runs:
        own = replace(problem(0), operator=moody)
        return fit_runs(own, prior(given), replace(given, runs=2), control=JOINTLY)

    first, second, runs = together(fitting(1, given), again, fitting(2, replace(given, iterations=7)))
    torch.testing.assert_close(first.image, alone(1, given).image, **EXACT)
    torch.testing.assert_close(second.image, alone(2, replace(given, iterations=7)).image, **EXACT)
    assert [each.number for each in runs.runs] == [2]
    torch.testing.assert_close(runs.image, alone(0, next_seed).image, **EXACT)


def test_what_nobody_expects_ends_all_and_each_tidies_up() -> None:
    tidied = []

    def tidy(seed: int) -> None:
        try:
            fitting(seed, SMALL)()
        finally:
            tidied.append(seed)

    def broken() -> None:
        def fail(*_: object) -> None:
            raise ZeroDivisionError

        fitting(9, SMALL, observers=[fail])()

    with pytest.raises(ZeroDivisionError):
        together(lambda: tidy(0), broken, lambda: tidy(1))
    assert sorted(tidied) == [0, 1]


def test_who_stops_listening_ends_all() -> None:
    tidied = []

    def tidy() -> None:
        try:
            fitting(1, replace(SMALL, iterations=50))()
        finally:
            tidied.append(True)

    waiting = [fitting(0, replace(SMALL, iterations=2)), tidy]
    results = lockstep.run(lambda _idle: waiting.pop(0) if waiting else None, 2)
    next(results)
    results.close()
    assert tidied == [True]


def test_weights_lie_as_they_lay() -> None:
    networks = [prior(SMALL).network.to(memory_format=torch.channels_last) for _ in range(2)]
    before = [(each.stride(), each.detach().clone()) for one in networks for each in one.parameters()]
    lockstep._Joint(networks)
    after = [(each.stride(), each.detach()) for one in networks for each in one.parameters()]
    for (stride, value), (now, same) in zip(before, after, strict=True):
        assert torch.equal(value, same)
        assert stride == now or 1 in value.shape[1:]  # there strides have no meaning


def test_going_on_from_a_checkpoint_in_company() -> None:
    given = replace(SMALL, iterations=25)
    taken: list[Any] = []

    def hold(take: Callable[[], Any], _last: bool) -> None:
        if not taken:
            taken.append(take())

    whole = alone(0, given, control=Control(checkpoint=hold))
    results = together(fitting(0, given, control=Control(resume_from=taken[0])), fitting(1, given))
    torch.testing.assert_close(results[0].image, whole.image, **EXACT)
    assert results[0].steps == 25


def full(function: Callable[..., Any], most: int, counts: Callable[..., int]) -> Callable[..., Any]:
    """The same function on a machine with memory for so many networks at a time."""

    def limited(*arguments: Any) -> Any:
        if counts(*arguments) > most:
            raise torch.OutOfMemoryError("CUDA out of memory, as the tests have it")
        return function(*arguments)

    return limited


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_when_memory_runs_out_it_goes_on_with_fewer(monkeypatch: pytest.MonkeyPatch, where: str, most: int) -> None:
    given = replace(SMALL, iterations=6)
    function = getattr(lockstep._Joint, where)
    monkeypatch.setattr(lockstep._Joint, where, full(function, most, lambda joint, *_: len(joint.networks)))
    results = together(*(fitting(seed, given) for seed in range(5)))
    for seed in range(5):
        same = alone(seed, given).image
        assert any(torch.allclose(each.image, same, **EXACT) for each in results)


def test_when_not_even_one_fits_each_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = full(lockstep._Joint.backward, 0, lambda *_: 1)
    monkeypatch.setattr(lockstep._Joint, "backward", backward)

    def told() -> str:
        with pytest.raises(torch.OutOfMemoryError):
            fitting(0, SMALL)()
        return "told"

    assert together(told, told, told) == ["told"] * 3


def test_other_trouble_is_not_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(lockstep._Joint, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        together(fitting(0, SMALL), fitting(1, SMALL))


WHO: ContextVar[int] = ContextVar("who", default=0)


def test_each_has_a_context_of_its_own() -> None:
    def named(name: int) -> int:
        WHO.set(name)
        fitting(name, replace(SMALL, iterations=2))()
        return WHO.get()

    WHO.set(7)
    assert together(*(lambda name=name: named(name) for name in range(3))) == [0, 1, 2]
    assert WHO.get() == 7


def test_a_network_of_unknown_layers_is_computed_by_itself() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor) -> Tensor:
            return self.gain * z[:, :3]

    assert not ensemble.can_group(Odd())
    given = replace(SMALL, iterations=3)

    def odd() -> Fit:
        return fit(
            problem(0),
            Prior(Odd().double(), torch.ones(1, 3, 32, 32).double()),
            given,
            control=JOINTLY,
        )

    first, second = together(odd, odd)
    assert torch.equal(first.image, second.image)


def test_stopping_rules_see_their_own_picture() -> None:
    given = replace(SMALL, stop="emv:guard=2:patience=4", iterations=None, max_iterations=40)
    results = {each.steps: each for each in together(*(fitting(seed, given) for seed in range(4)))}
    assert {alone(seed, given).steps for seed in range(4)} == set(results)
    assert isinstance(given.rule(), stopping.Ending)
