"""Kernels that compute several layers at once, against PyTorch's layers in sequence."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from dipcli.fitting.engine import fit
from dipcli.fitting.machine.memory import keep_freed
from dipcli.networks import build, layers
from dipcli.networks.grouped import group_networks
from dipcli.networks.kernels import banded, channelwise, norm, pointwise, upsampled
from dipcli.problem import Problem
from dipcli.settings import Settings

WIDE = "skip:channels=64,8,64:skips=2,0,3:up=nearest,bilinear,bilinear:kernel_up=3,5,3"
EPS, NEGATIVE_SLOPE = 1e-5, 0.2


def random_image(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Channels last in memory, double precision, with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, channels, height, width, dtype=torch.double, generator=generator) * 2 + 1
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def assert_equal_with_gradients(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare values and gradients in double precision."""
    our_y, plain_y = ours(*inputs), plain(*inputs)
    assert torch.allclose(our_y, plain_y, atol=1e-10)
    gradient = torch.randn(plain_y.shape, dtype=plain_y.dtype, generator=torch.Generator().manual_seed(9))
    for a, b in zip(*(torch.autograd.grad(y, inputs, gradient) for y in (our_y, plain_y)), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def upsample(x: Tensor, mode: str) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode=mode)


@given(
    st.integers(4, 40),
    st.integers(4, 100),
    st.sampled_from([1, 3, 5, 7]),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from(["reflection", "zero"]),
)
def test_convolving_before_upsampling_equals_convolving_after(
    height: int, width: int, kernel: int, mode: str, pad: str
) -> None:
    def ours(x: Tensor, weight: Tensor, start: Tensor) -> Tensor:
        return upsampled.convolve(x, weight, start * 1, mode, pad)

    def plain(x: Tensor, weight: Tensor, start: Tensor) -> Tensor:
        border = (kernel // 2,) * 4
        padded = functional.pad(upsample(x, mode), border, mode="reflect" if pad == "reflection" else "constant")
        return start + functional.conv2d(padded, weight)

    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.double, requires_grad=True)
    assert_equal_with_gradients(
        ours, plain, random_image(3, height, width), weight, random_image(4, 2 * height, 2 * width, seed=1)
    )


@given(
    st.integers(4, 100),
    st.integers(1, 3),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from(["reflection", "zero"]),
    st.sampled_from(["forward", "backward"]),
)
def test_repeated_blocks_multiply_like_the_whole_matrix(
    length: int, count: int, taps: int, mode: str, pad: str, direction: str
) -> None:
    matrices = banded.build_matrices(length, mode, pad, taps)
    pixels_first = matrices.permute(1, 2, 0).flatten(1)
    matrix = pixels_first if direction == "forward" else matrices.permute(2, 0, 1).flatten(0, 1)
    blocks = banded.split_columns(length, mode, pad, taps, direction, torch.float32)
    block_rows = len(blocks.matrix)
    repeats = -(-len(matrix) // block_rows)
    lines = banded.allocate_lines(torch.empty(2), count, repeats * blocks.step, blocks)
    lines.inside.zero_()
    values = torch.randn(count, matrix.shape[1], 2)
    lines.inside[:, : matrix.shape[1]] = values
    out = torch.empty(count, repeats * block_rows, 2)
    banded.multiply(blocks, lines, out)
    assert torch.allclose(out[:, : len(matrix)], matrix @ values, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_matrix_product_is_a_1x1_convolution(inputs: int, outputs: int, rows: int, columns: int) -> None:
    weight = random_image(inputs * outputs, 1, 1).detach().reshape(outputs, inputs, 1, 1).requires_grad_()
    bias = torch.randn(outputs, dtype=torch.double, requires_grad=True)
    assert_equal_with_gradients(
        pointwise.convolve, functional.conv2d, random_image(inputs, rows, columns), weight, bias
    )


def test_a_1x1_convolution_is_a_product_in_fp32_and_for_a_single_network(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.dtype] = []
    monkeypatch.setattr(pointwise, "convolve", lambda *a, of=pointwise.convolve: (calls.append(a[0].dtype), of(*a))[1])
    layer = layers.convolution(4, 6, 1, "reflection")
    x = random_image(4, 8, 9).detach().float().contiguous(memory_format=torch.channels_last)
    plain = functional.conv2d(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), plain)
    assert calls == [torch.float32]
    layer(x.contiguous())
    layer.double()(x.double())
    group_networks([layer.float()] * 2)(torch.cat([x, x], dim=1))
    assert layers.convolution(4, 6, 1, "zero", stride=2)(x).shape == (1, 6, 4, 5)
    assert len(calls) == 1


@given(st.integers(2, 20), st.integers(2, 20), st.sampled_from(["bilinear", "nearest"]))
def test_a_norm_before_upsampling_equals_a_norm_after(height: int, width: int, mode: str) -> None:
    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return upsample(upsampled.batch_norm(x, weight, bias, EPS, mode), mode)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.batch_norm(upsample(x, mode), None, None, weight, bias, training=True, eps=EPS)

    weight, bias = torch.randn(2, 3, dtype=torch.double).requires_grad_()
    assert_equal_with_gradients(ours, plain, random_image(3, height, width), weight, bias)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16, 20])
@pytest.mark.parametrize("height", [5, 32])
def test_the_norm_of_few_channels_equals_pytorch_s(channels: int, height: int) -> None:
    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)

    weight, bias = torch.randn(2, channels, dtype=torch.double).requires_grad_()
    assert_equal_with_gradients(
        lambda x, weight, bias: upsampled.batch_norm(x, weight, bias, EPS, "nearest"),
        plain,
        random_image(channels, height, 7),
        weight,
        bias,
    )


def test_the_norm_of_few_channels_is_used_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "MIN_VALUES", 0)
    monkeypatch.setattr(upsampled, "batch_norm", lambda *_: "ours")
    x = random_image(4, 8, 9).detach()
    used = [norm.batch_norm(x.to(dtype), torch.ones(4), torch.zeros(4), EPS) for dtype in (torch.bfloat16, torch.float)]
    assert used[0] == "ours"
    assert isinstance(used[1], Tensor)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_norm_of_a_nearly_constant_image_is_accurate(mode: str) -> None:
    """In single precision: a variation of a thousandth about one, as in nearly constant images."""
    x = (1 + 1e-3 * random_image(4, 40, 40).detach()).requires_grad_()
    weight, bias = torch.ones(4), torch.zeros(4)

    def plain(x: Tensor) -> Tensor:
        return functional.batch_norm(upsample(x, mode), None, None, None, None, training=True, eps=1e-12)

    single = x.detach().float().requires_grad_()
    exact, ours = plain(x), upsample(upsampled.batch_norm(single, weight, bias, 1e-12, mode), mode)
    assert torch.allclose(ours.double(), exact, atol=2e-3)
    gradient = torch.randn(exact.shape, dtype=torch.double, generator=torch.Generator().manual_seed(9))
    (exact_grad,) = torch.autograd.grad(exact, x, gradient)
    (single_grad,) = torch.autograd.grad(ours, single, gradient.float())
    assert (single_grad - exact_grad).norm() < 2e-3 * exact_grad.norm()


def test_pixels_are_grouped_as_far_as_their_number_allows() -> None:
    for channels, height, width, shape in (
        (8, 4, 6, (3, 64)),
        (20, 4, 4, (1, 320)),
        (20, 3, 3, (9, 20)),
        (128, 2, 2, (4, 128)),
    ):
        assert channelwise.group_pixels(random_image(channels, height, width)).shape == shape


@pytest.mark.parametrize("weight", [[1, -0.5, 2], [1, 1, 0], [1e-3, 1, 1]])
@pytest.mark.parametrize("block", [2**19, 16, 1])
def test_norm_and_leaky_relu_in_one_step(weight: list[float], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with factors that cannot be inverted, and with many blocks."""
    monkeypatch.setattr(norm, "MIN_VALUES_IN_PLACE", 0)
    monkeypatch.setattr(norm, "BLOCK_VALUES", block)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return norm.batch_norm_leaky_relu(x * 1, weight, bias, EPS, NEGATIVE_SLOPE)

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normed = functional.batch_norm(x, None, None, weight, bias, training=True, eps=EPS)
        return functional.leaky_relu(normed, NEGATIVE_SLOPE)

    factors = torch.tensor(weight, dtype=torch.double, requires_grad=True)
    bias = torch.tensor([0.1, -0.7, 3], dtype=torch.double, requires_grad=True)
    assert_equal_with_gradients(ours, plain, random_image(3, 5, 4), factors, bias)


def test_gradients_equal_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "MIN_VALUES_IN_PLACE", 0)
    x, start = random_image(2, 4, 5), random_image(2, 8, 10, seed=1)
    weight = torch.randn(2, 2, 3, 3, dtype=torch.double, requires_grad=True)
    factor, bias = torch.tensor([[1.5, 0.7], [0.3, -0.2]], dtype=torch.double).requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x, w, s: upsampled.convolve(x, w, s * 1, "bilinear", "reflection"), (x, weight, start))
    assert check(lambda x, f, b: upsampled.batch_norm(x, f, b, EPS, "bilinear"), (x, factor, bias))
    assert check(lambda x, f, b: upsampled.batch_norm(x, f, b, EPS, "nearest"), (x, factor, bias))
    assert check(lambda x, f, b: norm.batch_norm_leaky_relu(x * 1, f, b, EPS, NEGATIVE_SLOPE), (x, factor, bias))


def test_a_constant_image_stays_constant() -> None:
    x = torch.full((1, 2, 5, 6), 0.25).contiguous(memory_format=torch.channels_last)
    normed = upsampled.batch_norm(x, torch.tensor([3.0, 5]), torch.tensor([0.5, -1]), EPS, "bilinear")
    assert torch.allclose(normed, torch.tensor([0.5, -1])[:, None, None].expand_as(normed), atol=1e-4)
    start = torch.zeros(1, 1, 10, 12).contiguous(memory_format=torch.channels_last)
    y = upsampled.convolve(x, torch.ones(1, 2, 3, 3), start, "bilinear", "reflection")
    assert torch.allclose(y, torch.full_like(y, 2 * 9 * 0.25))


def compute_gradients(network: nn.Module, code: Tensor, dtype: torch.dtype, target: Tensor) -> tuple[Tensor, Tensor]:
    """The image and all gradients, as one vector, of a network with weights rounded to a precision."""
    weights = {name: value.detach().to(dtype).requires_grad_() for name, value in network.named_parameters()}
    z = code.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = functional_call(network, weights, z).double()
    gradients = torch.autograd.grad((y - target).square().mean(), [z, *weights.values()])
    return y.detach(), torch.cat([gradient.double().flatten() for gradient in gradients])


@pytest.mark.parametrize("pad", ["reflection", "zero"])
def test_a_network_computes_the_same_with_and_without_the_kernels(pad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = build(Settings(network=WIDE, input_depth=4, pad=pad), (3, 40, 56))
    monkeypatch.setattr(norm, "MIN_VALUES_IN_PLACE", 0)
    monkeypatch.setattr(norm, "MIN_VALUES", 0)
    monkeypatch.setattr(layers, "MIN_UPSAMPLED_PIXELS", 0)
    network, target = prior.network.to(memory_format=torch.channels_last), torch.rand(1, 3, 40, 56).double()
    calls = []
    monkeypatch.setattr(upsampled, "convolve", lambda *a, of=upsampled.convolve: (calls.append(1), of(*a))[1])
    early = [compute_gradients(network, prior.code, dtype, target) for dtype in (torch.double, torch.bfloat16)]
    assert len(calls) == 4, "the wide levels use the kernel"
    monkeypatch.setattr(layers, "MIN_UPSAMPLED_CHANNELS", 10**9)
    monkeypatch.setattr(norm, "MIN_VALUES", 10**9)
    late = [compute_gradients(network, prior.code, dtype, target) for dtype in (torch.double, torch.bfloat16)]
    assert len(calls) == 4
    for kernel, plain in zip(early[0], late[0], strict=True):
        assert torch.allclose(kernel, plain, atol=1e-10)
    for (exact, rounded), (_, plainly) in zip(zip(*early, strict=True), zip(*late, strict=True), strict=True):
        assert (rounded - exact).norm() < 1.5 * (plainly - exact).norm(), "bf16 is as accurate as with PyTorch's layers"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is an option of the GNU C library")
def test_memory_is_reused() -> None:
    import resource

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    keep_freed(torch.device("cpu"))
    before = faults()
    for _ in range(16):
        torch.ones(2**24)
    all_pages = 16 * 2**26 // resource.getpagesize()
    assert faults() - before < all_pages // 4


def test_other_memory_layouts_use_plain_pytorch() -> None:
    prior = build(Settings(network=WIDE, input_depth=4), (3, 40, 56))
    called = []
    for layer in prior.network.modules():
        if isinstance(layer, nn.Upsample):
            layer.register_forward_hook(lambda *_: called.append(1))
    prior.network(prior.code)
    assert len(called) == 3


LBFGS = {"optimizer": "lbfgs", "iterations": 103}  # the first 100 are Adam's


@pytest.mark.parametrize(
    ("precision", "change"),
    [
        *((precision, change) for precision in ("fp32", "bf16") for change in ({}, {"optimize": "net,input"})),
        *(pytest.param(precision, LBFGS, marks=pytest.mark.slow) for precision in ("fp32", "bf16")),
    ],
)
def test_a_fit_of_a_wide_network_is_reproducible_bit_for_bit(
    precision: str, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "MIN_UPSAMPLED_PIXELS", 0)
    monkeypatch.setattr(norm, "MIN_VALUES", 0)
    given = {"network": WIDE, "input_depth": 4, "iterations": 5, "stop": "none", "precision": precision, **change}
    settings = Settings(**given)
    problem = Problem(measured=torch.rand(3, 18, 21, generator=torch.Generator().manual_seed(0)), shape=(3, 18, 21))
    first, again = (fit(problem, build(settings, problem.shape), settings).image for _ in range(2))
    assert torch.equal(first, again)
