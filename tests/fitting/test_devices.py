"""What a GPU needs, as far as a CPU can show it: layouts, the self-test, precision, noise, sizes and memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TINY
from samples import noisy, scene
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dipcli.errors import DipError, OutOfMemoryError
from dipcli.fitting import cost, restarts, solve
from dipcli.fitting.input_noise import make_noisy_input
from dipcli.fitting.machine import arithmetic, device, memory, self_test
from dipcli.fitting.machine.arithmetic import choose_layout, use_ieee_fp32
from dipcli.fitting.warmup import Window
from dipcli.networks import build
from dipcli.networks.grouped import GroupedNetworks
from dipcli.networks.kernels import norm, upsampled
from dipcli.networks.prior import render
from dipcli.problem import Problem
from dipcli.problem.fusion import fuse
from dipcli.problem.independent.companion import NonLocalCompanion, choose_stages
from dipcli.problem.independent.noise_model import fit_noise_model
from dipcli.problem.independent.ridge import estimate_by_ridge
from dipcli.settings import Settings

CPU, CUDA, MPS, META = map(torch.device, ("cpu", "cuda", "mps", "meta"))
WIDE = "skip:channels=32,32:skips=4,4"
PLAIN, CHANNELS_LAST = torch.contiguous_format, torch.channels_last
GIB = 2**30


class OneDevice(TorchDispatchMode):
    """Fails where an operation mixes tensors of another device with those of the CPU, as a GPU would."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        mixed = len({tensor.device.type for tensor in tensors}) > 1
        assert not mixed or func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default), func
        return func(*args, **(kwargs or {}))


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with an Apple GPU and no other."""
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    device._find_problem.cache_clear()
    yield
    device._find_problem.cache_clear()


# The layout.


def test_the_layout_is_plain_where_channels_last_is_wrong_or_slow() -> None:
    single = build(Settings(network=TINY), (3, 32, 32)).network
    several = GroupedNetworks(single, 2)
    assert [choose_layout(single, where) for where in (CPU, CUDA, MPS)] == [CHANNELS_LAST, CHANNELS_LAST, PLAIN]
    assert [choose_layout(several, where) for where in (CPU, CUDA, MPS)] == [CHANNELS_LAST, PLAIN, PLAIN]
    assert choose_layout(single, CUDA, grouped=True) == PLAIN
    assert choose_layout(single, CPU, grouped=True) == CHANNELS_LAST


# The self-test.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_cpu_passes_the_self_test(precision: Any) -> None:
    assert self_test.find_gradient_problem(CPU, precision) is None


def test_wrong_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"cpu": torch.ones(9), "mps": torch.full((9,), 1.5), "cuda": torch.full((9,), torch.nan)}
    monkeypatch.setattr(self_test, "compute_gradients", lambda where, _kind: (answers[where.type], 0.1))
    assert self_test.find_gradient_problem(MPS, "fp32") == "its gradients in fp32 are off by 0.5"
    assert "nan" in str(self_test.find_gradient_problem(CUDA, "bf16"))


@pytest.mark.usefixtures("apple")
def test_a_gpu_is_taken_after_its_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = []
    monkeypatch.setattr(device, "find_gradient_problem", lambda where, kind: tested.append((where.type, kind)))
    assert device.choose_device("auto") == MPS
    assert device.choose_device("auto") == device.choose_device("mps") == MPS
    assert tested == [("mps", "fp32")], "once"
    assert device.explain_choice(Settings(), MPS) == ()


@pytest.mark.usefixtures("apple")
def test_a_gpu_with_wrong_gradients_is_passed_over_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_gradient_problem", lambda *_: "its gradients in fp32 are off by 13")
    assert device.choose_device("auto") == CPU
    prepared = solve.prepare(Problem(measured=torch.rand(3, 32, 32), shape=(3, 32, 32)), Settings(network=TINY))
    assert prepared.remarks == ("not using mps: its gradients in fp32 are off by 13",)
    with pytest.raises(DipError, match=r"--device mps is not available .*off by 13.*--device cpu"):
        device.choose_device("mps")
    assert device.explain_choice(Settings(device="cpu"), CPU) == ()


@pytest.mark.usefixtures("apple")
def test_a_gpu_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("MPS backend out of memory\nin some file")

    monkeypatch.setattr(device, "find_gradient_problem", fail)
    assert device.choose_device("auto") == CPU
    assert device.explain_choice(Settings(), CPU) == ("not using mps: MPS backend out of memory",)


def test_bf16_that_is_emulated_gets_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "choose_precision", lambda _: ("fp32", "PyTorch finds no bf16 in this CPU"))
    (remark,) = device.explain_choice(Settings(device="cpu", precision="bf16"), CPU)
    assert "finds no bf16" in remark
    assert "--precision fp32" in remark
    assert device.explain_choice(Settings(device="cpu", precision="fp32"), CPU) == ()
    monkeypatch.setattr(device, "choose_precision", lambda _: ("bf16", "the CPU has amx_bf16"))
    assert device.explain_choice(Settings(device="cpu", precision="bf16"), CPU) == ()


# The precision.


def test_fp32_keeps_all_its_bits_on_cuda() -> None:
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [part.fp32_precision for part in parts]
    assert "tf32" in before, "PyTorch's default for convolutions"
    with use_ieee_fp32(CUDA):
        assert [part.fp32_precision for part in parts] == ["ieee"] * 2
    assert [part.fp32_precision for part in parts] == before
    with use_ieee_fp32(CPU):
        assert [part.fp32_precision for part in parts] == before


def test_fp32_keeps_all_its_bits_with_an_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
    monkeypatch.setattr(arithmetic, "torch", SimpleNamespace(backends=backends))
    with use_ieee_fp32(CUDA):
        assert not matmul.allow_tf32
        assert not cudnn.allow_tf32
    assert matmul.allow_tf32
    assert cudnn.allow_tf32


# Everything on one device.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_kernel_of_the_cpu_is_reached_by_a_tensor_of_a_gpu(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    reached = []
    for kernels, name in ((upsampled, "_Convolution"), (upsampled, "_Norm"), (norm, "_NormLeakyReLU")):
        monkeypatch.setattr(kernels, name, SimpleNamespace(apply=lambda *_, name=name: reached.append(name) or 1 / 0))
    given = Settings(network=WIDE, input_depth=4)
    with pytest.raises(ZeroDivisionError):
        render(*_on(CPU, given, 128, precision))
    assert reached, "such a network uses them on the CPU"
    reached.clear()
    network, _, z = arguments = _on(META, given, 2048, precision)
    with OneDevice():
        render(*arguments).square().mean().backward()
    assert not reached
    assert all(weight.grad is not None and weight.grad.device == META for weight in network.parameters())
    assert z.is_contiguous(memory_format=CHANNELS_LAST)


def _on(where: torch.device, given: Settings, side: int, precision: str) -> tuple[nn.Module, str, torch.Tensor]:
    prior = build(given, (3, side, side) if where == CPU else (3, 64, 64)).to(where)
    z = torch.empty(1, 4, side, side, device=where).to(memory_format=CHANNELS_LAST)
    return prior.network.to(memory_format=CHANNELS_LAST), precision, z  # type: ignore[call-overload]


@pytest.mark.parametrize("level", [10, 50])
def test_the_companion_stays_on_its_device(level: float) -> None:
    known = torch.ones(64, 70, dtype=torch.bool, device="meta")
    image = torch.empty(3, 64, 70, device="meta")
    with OneDevice():
        estimate = estimate_by_ridge(image, lambda x: 0.01 * x.abs(), choose_stages(level / 255), known)
        share = torch.zeros((), device="meta")
        fused = fuse(image, estimate, share)
    assert estimate.device == fused.device == META


def test_the_companion_is_computed_on_the_cpu_for_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noisy(scene(24, 24)).transpose(2, 0, 1).astype(np.float32) / 255
    seen = []

    class Estimate:
        def __init__(self, image: torch.Tensor, *_: object) -> None:
            seen.append(image.device)

        def __getitem__(self, _: object) -> Any:
            return SimpleNamespace(to=lambda where: where)

    monkeypatch.setattr("dipcli.problem.independent.companion.estimate_by_ridge", Estimate)
    companion = NonLocalCompanion(pixels=pixels, noise=fit_noise_model(pixels, 0.1)).to(MPS)
    assert companion(torch.ones(1, 24, 24)) == MPS
    assert seen == [CPU]


@pytest.mark.gpu
def test_the_companion_of_a_gpu_is_that_of_the_cpu() -> None:
    pixels = noisy(scene(64, 70)).transpose(2, 0, 1).astype(np.float32) / 255
    companion = NonLocalCompanion(pixels=pixels, noise=fit_noise_model(pixels, 0.1))
    there = companion.to(CUDA)()
    assert there.device.type == "cuda"
    assert float((there.cpu() - companion()).abs().mean()) < 1e-3


def test_the_noise_is_the_same_on_every_device() -> None:
    given = Settings(seed=3, reg_noise=0.1)
    code = torch.zeros(1, 2, 8, 8)
    drawn = make_noisy_input(code.to(META), given, 0)(Window(Problem(measured=code[0], shape=(2, 8, 8))))
    assert drawn.device == META, "drawn on the CPU and moved: a generator of another device draws other numbers"


# Sizes.


def test_an_image_is_tiled_rather_than_counted_beyond_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(network=TINY, input_depth=4, device="cpu", precision="fp32")
    problem = Problem(measured=torch.rand(3, 300, 300), shape=(3, 300, 300))
    measured, _ = cost.measure_cost(problem, given, side=128)
    assert measured.elements_per_pixel >= 8, "of the widest layer"
    assert measured.can_index(300, 300)
    assert not measured.can_index(30_000, 30_000)
    assert not solve.prepare(problem, given).estimate.places
    monkeypatch.setattr(cost, "MAX_ELEMENTS", int(measured.elements_per_pixel * 200 * 200))
    places = solve.prepare(problem, given).estimate.places
    assert len(places) > 1
    assert all(
        measured.can_index(place.rows.stop - place.rows.start, place.columns.stop - place.columns.start)
        for place in places
    )
    with pytest.raises(DipError, match="omit --tile none"):
        solve.prepare(problem, replace(given, tile="none"))


# Memory.


def test_an_error_of_memory_keeps_no_tensor_alive() -> None:
    alive = []

    def fail() -> None:
        tensor = torch.zeros(9)
        alive.append(weakref.ref(tensor))
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError) as caught, memory.translate_memory_errors((3, 9, 9)):
        fail()
    assert caught.value.__cause__ is not None
    assert alive[0]() is None


def test_a_run_without_memory_keeps_no_tensor_alive_during_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    def fit(*_: object, run: int, **__: object) -> None:
        assert all(reference() is None for reference in alive)
        tensor = torch.zeros(9)
        alive.append(weakref.ref(tensor))
        raise RuntimeError(f"out of memory in run {run}")

    monkeypatch.setattr(restarts, "fit", fit)
    given = Settings(network=TINY, input_depth=4, runs=3)
    problem = Problem(measured=torch.rand(3, 32, 32), shape=(3, 32, 32))
    with pytest.raises(OutOfMemoryError):
        restarts.fit_runs(problem, build(given, (3, 32, 32)), given)
    assert len(alive) == 3


def test_two_processes_on_one_card_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10 * GIB, 80 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 2 * GIB)
    given = Settings(device="cuda")
    alone = memory.read_limit(given)
    assert alone == pytest.approx(0.8 * 12 * GIB)
    monkeypatch.setenv(memory.GPU_SHARE_VARIABLE, "2")
    assert memory.read_limit(given) == pytest.approx(alone / 2)


def test_a_fit_beside_others_does_not_reset_their_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(memory, "CLEAR_REFS", memory.Path("/none"))
    memory.reset_peak(CUDA)
    token = memory.FITS_AT_ONCE.set(2)
    try:
        memory.reset_peak(CUDA)
    finally:
        memory.FITS_AT_ONCE.reset(token)
    assert resets == [CUDA]
