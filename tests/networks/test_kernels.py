"""Steps that compute several layers at once, against the layers one after the other."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dipcli.fitting import device as machine
from dipcli.fitting.engine import fit
from dipcli.networks import build, layers
from dipcli.networks.kernels import banded, upsampled
from dipcli.networks.kernels import channelwise as pixelwise
from dipcli.networks.kernels import norm as fused
from dipcli.problem import Problem
from dipcli.settings import Settings

WIDE = "skip:channels=64,8,64:skips=2,0,3:up=nearest,bilinear,bilinear:kernel_up=3,5,3"
EPS, SLOPE = 1e-5, 0.2


def picture(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Channels last in memory, double precision, with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, channels, height, width, dtype=torch.double, generator=generator) * 2 + 1
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def agree(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Values and gradients, in double precision."""
    mine, other = ours(*inputs), plain(*inputs)
    assert torch.allclose(mine, other, atol=1e-10)
    slope = torch.randn(other.shape, dtype=other.dtype, generator=torch.Generator().manual_seed(9))
    for a, b in zip(torch.autograd.grad(mine, inputs, slope), torch.autograd.grad(other, inputs, slope), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def enlarged(x: Tensor, mode: str) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode=mode)


@given(
    st.integers(4, 40),
    st.integers(4, 100),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from(["reflection", "zero"]),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_convolution_before_upsampling_is_the_one_after_it(
    height: int, width: int, kernel: int, mode: str, pad: str
) -> None:
    def ours(x: Tensor, weight: Tensor, start: Tensor) -> Tensor:
        return upsampled.convolve(x, weight, start * 1, mode, pad)

    def plain(x: Tensor, weight: Tensor, start: Tensor) -> Tensor:
        around = (kernel // 2,) * 4
        padded = functional.pad(enlarged(x, mode), around, mode="reflect" if pad == "reflection" else "constant")
        return start + functional.conv2d(padded, weight)

    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.double, requires_grad=True)
    agree(ours, plain, picture(3, height, width), weight, picture(4, 2 * height, 2 * width, seed=1))


@given(
    st.integers(4, 100),
    st.integers(1, 3),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from(["reflection", "zero"]),
    st.sampled_from(["forward", "back"]),
)
def test_the_same_block_again_and_again_is_the_whole_matrix(
    length: int, count: int, taps: int, mode: str, pad: str, way: str
) -> None:
    spread = banded.spread(length, mode, pad, taps)
    whole = spread.permute(1, 2, 0).flatten(1) if way == "forward" else spread.permute(2, 0, 1).flatten(0, 1)
    blocks = banded.across(length, mode, pad, taps, way, torch.float32)
    high = len(blocks.matrix)
    many = -(-len(whole) // high)
    lines = banded.room(torch.empty(2), count, many * blocks.step, blocks)
    lines.inside.zero_()
    given = torch.randn(count, whole.shape[1], 2)
    lines.inside[:, : whole.shape[1]] = given
    out = torch.empty(count, many * high, 2)
    banded.multiply(blocks, lines, out)
    assert torch.allclose(out[:, : len(whole)], whole @ given, atol=1e-5)


@given(st.integers(2, 20), st.integers(2, 20), st.sampled_from(["bilinear", "nearest"]))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_norm_before_upsampling_is_the_one_after_it(height: int, width: int, mode: str) -> None:
    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return enlarged(upsampled.norm(x, weight, bias, EPS, mode), mode)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.batch_norm(enlarged(x, mode), None, None, weight, bias, training=True, eps=EPS)

    weight, bias = torch.randn(2, 3, dtype=torch.double).requires_grad_()
    agree(ours, plain, picture(3, height, width), weight, bias)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16, 20])
@pytest.mark.parametrize("height", [5, 32])
def test_a_norm_of_few_channels_is_a_norm(channels: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SMALL", 0)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)

    weight, bias = torch.randn(2, channels, dtype=torch.double).requires_grad_()
    agree(lambda *given: fused.norm(*given, EPS), plain, picture(channels, height, 7), weight, bias)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_norm_of_what_hardly_varies_is_exact_enough(mode: str) -> None:
    """In single precision: a thousandth of variation about one, as flat pictures have it."""
    x = (1 + 1e-3 * picture(4, 40, 40).detach()).requires_grad_()
    weight, bias = torch.ones(4), torch.zeros(4)

    def plain(x: Tensor) -> Tensor:
        return functional.batch_norm(enlarged(x, mode), None, None, None, None, training=True, eps=1e-12)

    single = x.detach().float().requires_grad_()
    exact, ours = plain(x), enlarged(upsampled.norm(single, weight, bias, 1e-12, mode), mode)
    assert torch.allclose(ours.double(), exact, atol=2e-3)
    slope = torch.randn(exact.shape, dtype=torch.double, generator=torch.Generator().manual_seed(9))
    (of_x,), (of_single,) = torch.autograd.grad(exact, x, slope), torch.autograd.grad(ours, single, slope.float())
    assert (of_single - of_x).norm() < 2e-3 * of_x.norm()


def test_pixels_are_taken_together_as_far_as_they_go() -> None:
    for channels, height, width, shape in (
        (8, 4, 6, (3, 64)),
        (20, 4, 4, (1, 320)),
        (20, 3, 3, (9, 20)),
        (128, 2, 2, (4, 128)),
    ):
        assert pixelwise.rows(picture(channels, height, width)).shape == shape


@pytest.mark.parametrize("weight", [[1, -0.5, 2], [1, 1, 0], [1e-3, 1, 1]])
@pytest.mark.parametrize("block", [2**19, 16, 1])
def test_norm_and_activation_at_once(weight: list[float], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with factors that cannot be undone, and when the picture is worked on in many blocks."""
    monkeypatch.setattr(fused, "LARGE", 0)
    monkeypatch.setattr(fused, "BLOCK", block)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused.norm_act(x * 1, weight, bias, EPS, SLOPE)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normed = functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
        return functional.leaky_relu(normed, SLOPE)

    factors = torch.tensor(weight, dtype=torch.double, requires_grad=True)
    bias = torch.tensor([0.1, -0.7, 3], dtype=torch.double, requires_grad=True)
    agree(ours, plain, picture(3, 5, 4), factors, bias)


def test_the_slopes_are_those_of_small_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LARGE", 0)
    x, start = picture(2, 4, 5), picture(2, 8, 10, seed=1)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.double, requires_grad=True)
    factor, bias = torch.tensor([[1.5, 0.7], [0.3, -0.2]], dtype=torch.double).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x, w, s: upsampled.convolve(x, w, s * 1, "bilinear", "reflection"), (x, weight, start))
    assert check(lambda x, f, b: upsampled.norm(x, f, b, EPS, "bilinear"), (x, factor, bias))
    monkeypatch.setattr(fused, "SMALL", 0)
    assert check(lambda x, f, b: fused.norm(x, f, b, EPS), (x, factor, bias))
    assert check(lambda x, f, b: fused.norm_act(x * 1, f, b, EPS, SLOPE), (x, factor, bias))


def test_a_constant_stays_constant() -> None:
    x = torch.full((1, 2, 5, 6), 0.25).contiguous(memory_format=torch.channels_last)
    normed = upsampled.norm(x, torch.tensor([3.0, 5]), torch.tensor([0.5, -1]), EPS, "bilinear")
    assert torch.allclose(normed, torch.tensor([0.5, -1])[:, None, None].expand_as(normed), atol=1e-4)
    start = torch.zeros(1, 1, 10, 12).contiguous(memory_format=torch.channels_last)
    y = upsampled.convolve(x, torch.ones(1, 2, 3, 3), start, "bilinear", "reflection")
    assert torch.allclose(y, torch.full_like(y, 2 * 9 * 0.25))


def slopes(network: nn.Module, code: Tensor, dtype: torch.dtype, target: Tensor) -> tuple[Tensor, Tensor]:
    """The picture and all slopes, as one vector, of a network whose weights are rounded to a precision."""
    weights = {name: value.detach().to(dtype).requires_grad_() for name, value in network.named_parameters()}
    z = code.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = functional_call(network, weights, z).double()
    together = torch.autograd.grad((y - target).square().mean(), [z, *weights.values()])
    return y.detach(), torch.cat([each.double().flatten() for each in together])


@pytest.mark.parametrize("pad", ["reflection", "zero"])
def test_a_network_computes_the_same_both_ways(pad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = build(Settings(network=WIDE, input_depth=4, pad=pad), (3, 40, 56))
    monkeypatch.setattr(fused, "LARGE", 0)
    monkeypatch.setattr(fused, "SMALL", 0)
    monkeypatch.setattr(layers, "ROOMY", 0)
    network, target = prior.network.to(memory_format=torch.channels_last), torch.rand(1, 3, 40, 56).double()
    calls = []
    monkeypatch.setattr(upsampled, "convolve", lambda *a, of=upsampled.convolve: (calls.append(1), of(*a))[1])
    early = [slopes(network, prior.code, dtype, target) for dtype in (torch.double, torch.bfloat16)]
    assert len(calls) == 4, "the wide levels take the fast way"
    monkeypatch.setattr(layers, "WIDE", 10**9)
    monkeypatch.setattr(fused, "SMALL", 10**9)
    late = [slopes(network, prior.code, dtype, target) for dtype in (torch.double, torch.bfloat16)]
    assert len(calls) == 4
    for mine, plain in zip(early[0], late[0], strict=True):
        assert torch.allclose(mine, plain, atol=1e-10)
    for (exact, rounded), (_, plainly) in zip(zip(*early, strict=True), zip(*late, strict=True), strict=True):
        assert (rounded - exact).norm() < 1.5 * (plainly - exact).norm(), "bf16 loses no more than it did"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is an option of the GNU C library")
def test_memory_is_used_again() -> None:
    import resource

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    machine.keep_memory(torch.device("cpu"))
    before = faults()
    for _ in range(16):
        torch.ones(2**24)
    every = 16 * 2**26 // resource.getpagesize()
    assert faults() - before < every // 4


def test_other_layouts_take_the_plain_way() -> None:
    prior = build(Settings(network=WIDE, input_depth=4), (3, 40, 56))
    called = []
    for layer in prior.network.modules():
        if isinstance(layer, nn.Upsample):
            layer.register_forward_hook(lambda *_: called.append(1))
    prior.network(prior.code)
    assert len(called) == 3


@pytest.mark.parametrize("change", [{}, {"optimize": "net,input"}, {"optimizer": "lbfgs", "iterations": 103}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_of_a_wide_network_repeats_bit_by_bit(
    change: dict[str, object], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "ROOMY", 0)
    monkeypatch.setattr(fused, "SMALL", 0)
    given = {"network": WIDE, "input_depth": 4, "iterations": 5, "stop": "none", "precision": precision, **change}
    settings = Settings(**given)
    problem = Problem(measured=torch.rand(3, 18, 21, generator=torch.Generator().manual_seed(0)), shape=(3, 18, 21))
    first, again = (fit(problem, build(settings, problem.shape), settings).image for _ in range(2))
    assert torch.equal(first, again)
