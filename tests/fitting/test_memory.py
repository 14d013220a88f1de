"""What memory there is, and what a fit is thought to take of it."""

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

from dipcli import text as specs
from dipcli.errors import UsageError
from dipcli.fitting import cgroups as groups
from dipcli.fitting import device as machine
from dipcli.fitting import memory
from dipcli.fitting.estimate import ResourceEstimate
from dipcli.fitting.memory import Cost, kept
from dipcli.fitting.solve import prepare
from dipcli.images.image import from_array
from dipcli.problem import Problem
from dipcli.problem.metrics import MAX_VALUES_AT_ONCE, psnr, ssim
from dipcli.settings import Settings
from dipcli.tasks.denoise import measure_outlier_fraction

NETWORK = "skip:channels=8,8:skips=4,4"
GIB = 2**30


def cost(**rest: Any) -> Cost:
    return Cost(**{"settings": Settings(), "depth": 9, "channels": 3, "kept": 600.0, "fixed": 2**20, **rest})


# What a fit takes.


@settings(max_examples=100, deadline=None)
@given(st.integers(16, 5000), st.integers(16, 5000), st.integers(0, 500), st.integers(0, 500), st.booleans())
def test_more_pixels_never_take_less(height: int, width: int, more: int, wider: int, tiled: bool) -> None:
    one, pace = cost(), cost(pace=1e-6)
    larger = (height + more, width + wider)
    assert one.total((height, width), 1000, 0, tiled=tiled) <= one.total(larger, 1000, 0, tiled=tiled)
    assert one.total((height, width), 1000, 0) <= one.total((height, width), 1000 + more, wider)
    assert (pace.seconds(height, width) or 0) <= (pace.seconds(*larger) or 0)


def test_more_of_everything_takes_more() -> None:
    plain = cost().total((512, 512), 0, 0)
    dearer = [
        cost(kept=700.0),
        cost(depth=32),
        cost(channels=4),
        cost(fixed=2**21),
        cost(watched=6),
        cost(settings=Settings(runs=3)),
        cost(settings=Settings(optimize="net,input")),
    ]
    assert all(each.total((512, 512), 0, 0) > plain for each in dearer)
    assert cost(settings=Settings(ema=0.99)).total((512, 512), 0, 0) < plain, "a single average"
    assert cost(settings=Settings(device="cuda:0")).total((512, 512), 10**9, 10**9) < plain, "pictures are not there"


def test_what_autograd_keeps_is_counted_once() -> None:
    x = torch.rand(100, requires_grad=True)
    with kept() as found:
        y = (x * 2).exp()
        z = y.sin() + y[:50].sum() + y.cos()
    assert sum(found.values()) == y.numel() * 4, "the result of exp, which three steps want, and nothing else"
    z.sum().backward()
    assert x.grad is not None


def test_a_wider_network_and_a_deeper_input_are_seen() -> None:
    y = torch.rand(3, 140, 150)
    problem = Problem(measured=y, shape=(3, 140, 150))

    def measured(**given: Any) -> Cost:
        chosen = Settings(**{"network": NETWORK, "input_depth": 4, "device": "cpu", "precision": "fp32", **given})
        return memory.measure(problem, chosen, side=128)[0]

    plain = measured()
    assert plain.depth == 4
    assert plain.seconds_per_pixel is None
    assert measured(network="skip:channels=32,8:skips=4,4").kept > plain.kept
    assert measured(input_depth=32).kept > plain.kept
    assert measured(precision="bf16").kept < plain.kept
    timed = memory.measure(problem, Settings(network=NETWORK, device="cpu"), side=64, trials=1)[0]
    assert timed.seconds_per_pixel is not None
    assert timed.seconds_per_pixel > 0


def test_measuring_leaves_problem_and_random_numbers_as_they_were() -> None:
    y = torch.rand(3, 40, 40)
    before, state = y.clone(), torch.get_rng_state()
    prepare(Problem(measured=y, shape=(3, 40, 40)), Settings(network=NETWORK))
    assert torch.equal(y, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("size", "preset"), [(160, "fast"), (320, "balanced"), (96, "paper")])
def test_the_estimate_is_not_below_the_peak(tmp_path: Path, size: int, preset: str) -> None:
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(size, size)))
    command = [sys.executable, "-m", "dipcli", "denoise", tmp_path / "noisy.png", "--preset", preset]
    command += ["--iters", "11", "--threads", "1", "--json", "-q", "--no-run-dir", "--warmup", "3"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, env=os.environ).stdout)
    assert told["peak_memory_bytes"] <= told["estimate"]["memory_bytes"] < 2 * told["peak_memory_bytes"]


@pytest.mark.skipif(not os.access(machine.FORGET, os.W_OK), reason="the system cannot forget a peak")
def test_the_peak_is_that_of_this_picture() -> None:
    code = (
        "import numpy as np, torch; from dipcli.fitting import device; cpu = torch.device('cpu')\n"
        "earlier = np.ones(2**28, np.uint8); print(device.peak_memory(cpu)); del earlier\n"
        "device.forget_peak_memory(cpu); print(device.peak_memory(cpu))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    before, after = map(int, told)
    assert after < before - 2**27


def test_what_it_says_of_a_fit() -> None:
    large = ResourceEstimate(9 * GIB, 8 * GIB, 5 * GIB, 2.5)
    assert large.describe(950) == "about 5.0 GiB and 40 min on this machine"
    assert large.describe(9500) == "about 5.0 GiB and 6.6 h on this machine"
    assert large.describe(950, budget=60.0) == "about 5.0 GiB and 60 s on this machine"
    assert ResourceEstimate(GIB, None, GIB // 2).describe(10) == "about 0.5 GiB"


def test_it_is_said_of_small_pictures_with_v_alone(dip: Dip, noisy_png: Path) -> None:
    assert "GiB" not in dip.quick("denoise", noisy_png).stderr
    assert "about 0.3 GiB\n" in dip.quick("denoise", noisy_png, "-v").stderr


# What there is.


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
    assert specs.parse_bytes(text) == size
    assert memory.limit(Settings(max_memory=text)) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "8X", "0", "0G", "1e9", "8 G B"])
def test_what_is_no_amount_is_said(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-memory .* 8G or 800M"):
        Settings(max_memory=text)


def test_by_default_it_is_a_share_of_what_is_free() -> None:
    most = memory.limit(Settings(device="cpu"))
    assert most is not None
    there = memory.free(torch.device("cpu"))
    assert there is not None
    assert most == pytest.approx(memory.SHARE * there, rel=0.2)
    assert 50 * 2**20 < there < 2**45


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_control_groups_of_the_second_version(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/user/job\n")
    stat = "anon 10\ninactive_file 300\n"
    group(tmp_path / "user/job", {"memory.max": "max\n", "memory.current": "500\n"})
    group(tmp_path / "user", {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": stat})
    assert groups.left(tmp_path, own) == [400], "files kept in memory can go; no limit is none"


def test_control_groups_of_the_first_version_and_of_a_container(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("9:memory:/docker/abc\n8:cpu:/docker/abc\n0::/\n")
    files = {"memory.limit_in_bytes": "2000", "memory.usage_in_bytes": "1500"}
    group(tmp_path / "memory", files)  # inside a container its own group is at the top
    assert groups.left(tmp_path, own) == [500]
    assert groups.left(tmp_path, tmp_path / "none") == []


def test_a_group_with_little_left_means_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.rand(3, 400, 400)
    problem = Problem(measured=y, shape=(3, 400, 400))
    chosen = Settings(network="skip:channels=64,8:skips=4,4", input_depth=4)
    whole = prepare(problem, chosen).estimate
    assert whole.places == ()
    monkeypatch.setattr(memory, "free", lambda _device: int((whole.whole - 2**22) / memory.SHARE))
    assert len(prepare(problem, chosen).estimate.places) > 1


# Large pictures are taken part by part: the numbers stay the same.


def test_measures_of_large_pictures_are_those_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((3, 300, 90), dtype=np.float32)
    image = np.clip(truth + generator.normal(0, 0.05, truth.shape), 0, 1).astype(np.float32)
    whole = psnr(image, truth), ssim(image, truth), psnr(image.ravel(), truth.ravel())
    assert image.size < MAX_VALUES_AT_ONCE
    monkeypatch.setattr("dipcli.problem.metrics.MAX_VALUES_AT_ONCE", 5000)
    assert (psnr(image, truth), ssim(image, truth), psnr(image.ravel(), truth.ravel())) == pytest.approx(
        whole, rel=1e-6
    )


def test_wild_values_are_found_across_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = noisy(scene(70, 40), 40).transpose(2, 0, 1) / np.float32(255)
    generator = np.random.default_rng(0)
    pixels = np.where(generator.random(clean.shape) < 0.1, generator.integers(0, 2, clean.shape), clean).astype(
        np.float32
    )
    whole = measure_outlier_fraction(pixels)
    assert whole > 0.05
    monkeypatch.setattr("dipcli.tasks.denoise.STRIP", 16)
    assert measure_outlier_fraction(pixels) == whole


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_samples_come_back_as_they_were(dtype: str) -> None:
    values = np.random.default_rng(0).random((20, 24, 3)) * (1 if dtype == "float32" else np.iinfo(dtype).max)
    array = values.astype(dtype)
    picture = from_array(array)
    assert np.array_equal(picture.with_pixels(picture.pixels).array(), array)
