"""The memory of the machine, and the estimate of what a fit takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import Dip
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli.errors import UsageError
from dipcli.fitting.cost import Cost, count_saved_bytes, measure_cost
from dipcli.fitting.estimate import ResourceEstimate
from dipcli.fitting.machine import cgroups, memory
from dipcli.fitting.solve import prepare
from dipcli.images.image import from_array
from dipcli.problem import Problem
from dipcli.problem.independent.impulses import measure_outlier_fraction
from dipcli.problem.metrics import MAX_VALUES_AT_ONCE, psnr, ssim
from dipcli.settings import Settings
from dipcli.text import parse_bytes

NETWORK = "skip:channels=8,8:skips=4,4"
GIB = 2**30


def cost(**changes: Any) -> Cost:
    fields = {"code_channels": 9, "image_channels": 3, "saved_bytes_per_pixel": 600.0, "fixed_bytes": 2**20}
    return Cost(**{"settings": Settings(), **fields, **changes})


# The cost of a fit.


@settings(max_examples=50, deadline=None)
@given(st.integers(16, 5000), st.integers(16, 5000), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_more_pixels_never_cost_less(height: int, width: int, more: int, wider: int, tiled: bool) -> None:
    one, timed = cost(), cost(seconds_per_pixel=1e-6)
    larger = (height + more, width + wider)
    assert one.total_memory((height, width), 1000, 0, tiled=tiled) <= one.total_memory(larger, 1000, 0, tiled=tiled)
    assert one.total_memory((height, width), 1000, 0) <= one.total_memory((height, width), 1000 + more, wider)
    assert (timed.seconds(height, width) or 0) <= (timed.seconds(*larger) or 0)


def test_memory_grows_with_each_part() -> None:
    plain = cost().total_memory((512, 512), 0, 0)
    larger = [
        cost(saved_bytes_per_pixel=700.0),
        cost(code_channels=32),
        cost(image_channels=4),
        cost(fixed_bytes=2**21),
        cost(observer_images=6),
        cost(settings=Settings(runs=3)),
        cost(settings=Settings(optimize="net,input")),
    ]
    assert all(one.total_memory((512, 512), 0, 0) > plain for one in larger)
    assert cost(settings=Settings(ema=0.99)).total_memory((512, 512), 0, 0) < plain, "a single average"
    assert cost(settings=Settings(device="cuda:0")).total_memory((512, 512), 10**9, 10**9) < plain, "not on the GPU"


def test_saved_memory_is_counted_once() -> None:
    x = torch.rand(100, requires_grad=True)
    with count_saved_bytes() as found:
        y = (x * 2).exp()
        z = y.sin() + y[:50].sum() + y.cos()
    assert sum(found.values()) == y.numel() * 4, "the result of exp, which three operations save, and nothing else"
    z.sum().backward()
    assert x.grad is not None


def test_a_wider_network_and_a_deeper_input_cost_more() -> None:
    y = torch.rand(3, 140, 150)
    problem = Problem(measured=y, shape=(3, 140, 150))

    def measure(**given: Any) -> Cost:
        chosen = Settings(**{"network": NETWORK, "input_depth": 4, "device": "cpu", "precision": "fp32", **given})
        return measure_cost(problem, chosen, side=128)[0]

    plain = measure()
    assert plain.code_channels == 4
    assert plain.seconds_per_pixel is None
    assert measure(network="skip:channels=32,8:skips=4,4").saved_bytes_per_pixel > plain.saved_bytes_per_pixel
    assert measure(input_depth=32).saved_bytes_per_pixel > plain.saved_bytes_per_pixel
    assert measure(precision="bf16").saved_bytes_per_pixel < plain.saved_bytes_per_pixel
    timed = measure_cost(problem, Settings(network=NETWORK, device="cpu"), side=64, trials=1)[0]
    assert timed.seconds_per_pixel is not None
    assert timed.seconds_per_pixel > 0


def test_measuring_leaves_problem_and_random_state_unchanged() -> None:
    y = torch.rand(3, 40, 40)
    before, state = y.clone(), torch.get_rng_state()
    prepare(Problem(measured=y, shape=(3, 40, 40)), Settings(network=NETWORK))
    assert torch.equal(y, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "preset"), [(160, "fast"), (192, "balanced"), (64, "paper")])
def test_the_estimate_is_not_below_the_measured_peak(tmp_path: Path, size: int, preset: str) -> None:
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(size, size)))
    command = [sys.executable, "-m", "dipcli", "denoise", tmp_path / "noisy.png", "--preset", preset]
    command += ["--iters", "5", "--threads", "1", "--json", "-q", "--no-run-dir", "--warmup", "3"]
    printed = json.loads(subprocess.run(command, capture_output=True, check=True, env=os.environ).stdout)
    assert printed["peak_memory_bytes"] <= printed["estimate"]["memory_bytes"] < 2 * printed["peak_memory_bytes"]


@pytest.mark.slow
@pytest.mark.skipif(not os.access(memory.CLEAR_REFS, os.W_OK), reason="the peak cannot be reset here")
def test_the_peak_is_that_of_this_image() -> None:
    code = (
        "import numpy as np, torch; from dipcli.fitting.machine import memory; cpu = torch.device('cpu')\n"
        "earlier = np.ones(2**28, np.uint8); print(memory.read_peak(cpu)); del earlier\n"
        "memory.reset_peak(cpu); print(memory.read_peak(cpu))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    before, after = map(int, printed)
    assert after < before - 2**27


def test_the_estimate_in_words() -> None:
    large = ResourceEstimate(9 * GIB, 8 * GIB, 5 * GIB, 2.5)
    assert large.describe(950) == "about 5.0 GiB and 40 min on this machine"
    assert large.describe(9500) == "about 5.0 GiB and 6.6 h on this machine"
    assert large.describe(950, budget=60.0) == "about 5.0 GiB and 60 s on this machine"
    assert ResourceEstimate(GIB, None, GIB // 2).describe(10) == "about 0.5 GiB"


def test_the_estimate_of_a_small_image_is_shown_with_v_only(dip: Dip, noisy_png: Path) -> None:
    assert "GiB" not in dip.quick("denoise", noisy_png).stderr
    assert "about 0.3 GiB\n" in dip.quick("denoise", noisy_png, "-v").stderr


# The memory of the machine.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 * GIB),
        ("1.5GiB", 1.5 * GIB),
        ("800m", 800 * 2**20),
        ("2 GB", 2 * GIB),
        ("1048576", 2**20),
        ("1T", 2**40),
    ],
)
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_bytes(text) == size
    assert memory.read_limit(Settings(max_memory=text)) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "8X", "0", "0G", "1e9", "8 G B"])
def test_an_invalid_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-memory .* 8G or 800M"):
        Settings(max_memory=text)


def test_by_default_the_limit_is_a_fraction_of_the_free_memory() -> None:
    most = memory.read_limit(Settings(device="cpu"))
    assert most is not None
    available = memory.read_free(torch.device("cpu"))
    assert available is not None
    assert most == pytest.approx(memory.FREE_MEMORY_FRACTION * available, rel=0.2)
    assert 50 * 2**20 < available < 2**45


def write_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_free_memory_in_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/user/job\n")
    stat = "anon 10\ninactive_file 300\n"
    write_group(tmp_path / "user/job", {"memory.max": "max\n", "memory.current": "500\n"})
    write_group(tmp_path / "user", {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": stat})
    assert cgroups.read_free_memory(tmp_path, own) == [400], "cached files can be dropped; max is no limit"


def test_inside_a_container_its_own_group_is_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/docker/abc\n")
    write_group(tmp_path, {"memory.max": "2000", "memory.current": "1500"})
    assert cgroups.read_free_memory(tmp_path, own) == [500]
    assert cgroups.read_free_memory(tmp_path, tmp_path / "none") == []


@pytest.mark.parametrize(
    ("own_group", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, (None, None)),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/b/memory.max": "5"}, (0.5, 5)),
        ("0::/a/b\n", {"a/memory.max": "4", "a/b/memory.max": "5"}, (None, 4)),
        ("0::/outside/of/the/container\n", {"memory.max": "7"}, (None, 7)),
        ("nonsense\n\n", {"cpu.max": "", "memory.max": "many"}, (None, None)),
        ("0::/\n", {"cpu.max": "", "memory.max": "many"}, (None, None)),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, own_group: str, files: dict[str, str], expected: tuple[float | None, int | None]
) -> None:
    own = tmp_path / "own"
    own.write_text(own_group)
    for name, text in files.items():
        path = tmp_path / "root" / name
        write_group(path.parent, {path.name: text})
    assert cgroups.read_limits(tmp_path / "root", own) == expected
    assert cgroups.read_limits(tmp_path / "no", tmp_path / "none") == (None, None)


def test_little_memory_means_tiles() -> None:
    y = torch.rand(3, 400, 400)
    problem = Problem(measured=y, shape=(3, 400, 400))
    chosen = Settings(network="skip:channels=64,8:skips=4,4", input_depth=4)
    whole = prepare(problem, chosen).estimate
    assert whole.places == ()
    before = memory.PROCESS_LIMIT_BYTES.set(int((whole.whole - 2**22) / memory.FREE_MEMORY_FRACTION))
    try:
        assert len(prepare(problem, chosen).estimate.places) > 1
    finally:
        memory.PROCESS_LIMIT_BYTES.reset(before)


# Large images are processed in parts, with the same results.


def test_metrics_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((3, 300, 90), dtype=np.float32)
    image = np.clip(truth + generator.normal(0, 0.05, truth.shape), 0, 1).astype(np.float32)
    whole = psnr(image, truth), ssim(image, truth), psnr(image.ravel(), truth.ravel())
    assert image.size < MAX_VALUES_AT_ONCE
    monkeypatch.setattr("dipcli.problem.metrics.MAX_VALUES_AT_ONCE", 5000)
    assert (psnr(image, truth), ssim(image, truth), psnr(image.ravel(), truth.ravel())) == pytest.approx(
        whole, rel=1e-6
    )


def test_outlier_pixels_in_strips_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = noisy(scene(70, 40), 40).transpose(2, 0, 1) / np.float32(255)
    generator = np.random.default_rng(0)
    pixels = np.where(generator.random(clean.shape) < 0.1, generator.integers(0, 2, clean.shape), clean).astype(
        np.float32
    )
    whole = measure_outlier_fraction(pixels)
    assert whole > 0.05
    monkeypatch.setattr("dipcli.problem.independent.impulses.STRIP_ROWS", 16)
    assert measure_outlier_fraction(pixels) == whole


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_samples_are_unchanged_by_a_round_trip(dtype: str) -> None:
    values = np.random.default_rng(0).random((20, 24, 3)) * (1 if dtype == "float32" else np.iinfo(dtype).max)
    array = values.astype(dtype)
    image = from_array(array)
    assert np.array_equal(image.with_pixels(image.pixels).array(), array)
