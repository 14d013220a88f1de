"""`dip deblur`: the problem, the command line, and the margin that is taken off again."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import Dip
from samples import noisy, scene
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve

from dipcli import deblur as restore
from dipcli.cli.app import app
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.blur import estimates
from dipcli.problem.blur.kernels import read_kernel
from dipcli.problem.independent.ridge import RidgeStep
from dipcli.tasks.deblur import deblur, measure_level
from dipcli.tasks.registry import tasks

TASK = tasks()["deblur"]
TINY = ("--network", "skip:channels=8,8:skips=4,4", "--no-report", "--warmup", "0")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "STEPS", 2)
    for name in ("FIRST_STEP", "STEP"):
        monkeypatch.setattr(estimates, name, RidgeStep(6, 8, 6, 11))


@pytest.fixture
def dip() -> Dip:
    return Dip(app)


def blurred(kernel: str = "gaussian:1", side: int = 60, channels: int = 3) -> np.ndarray:
    taps = read_kernel(kernel, (side, side))
    sharp = scene(side + taps.shape[0] - 1, side + taps.shape[1] - 1, channels)
    channels_first = [convolve(channel, taps, mode="valid") for channel in sharp.transpose(2, 0, 1)]
    return noisy(np.stack(channels_first, axis=2), sigma=2)


def test_the_fitted_image_reaches_beyond_the_measurement() -> None:
    image = from_array(blurred())
    case = deblur(image, "motion:9:0")
    problem = case.problem
    assert problem.shape == (3, 60, 68)
    assert case.origin == (0, 4)
    assert problem.operator(torch.zeros(problem.shape)).shape == problem.measured.shape
    assert problem.finish(torch.zeros(problem.shape)).shape == (3, 60, 60)
    assert problem.visible_guide().shape == (9, 60, 68)
    assert problem.visible_companion().shape == problem.shape
    assert problem.tileable


def test_there_is_no_companion_without_fusion() -> None:
    _, settings = TASK.case(from_array(blurred()), "paper", {"kernel": "gaussian:1"}, {})
    case, _ = TASK.case(from_array(blurred()), "paper", {"kernel": "gaussian:1"}, {})
    assert case.problem.companion is None
    assert (settings.input, settings.stop, settings.iterations) == ("noise", "none", 2000)


@pytest.mark.slow
def test_tiles_make_an_image_of_the_same_size() -> None:
    image = from_array(blurred(side=200, channels=1))
    case, settings = TASK.case(
        image,
        "fast",
        {"kernel": "gaussian:1"},
        {
            "network": "skip:channels=4,4:skips=2,2",
            "tile": 128,
            "iterations": 2,
            "warmup": 0,
            "stop": "holdout",
            "threads": 1,
        },
    )
    prepared = prepare(case.problem, settings)
    assert len(prepared.estimate.places) > 1
    assert solve(prepared).image.shape == (1, 200, 200)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--compare",), ("--fusion", "none"), ("--tile", "128")])
def test_the_command_writes_an_image_of_the_input_s_size(dip: Dip, tmp_path: Path, options: tuple[str, ...]) -> None:
    side = 140 if "--tile" in options else 60
    iio.imwrite(tmp_path / "in.png", blurred(side=side))
    iio.imwrite(tmp_path / "clean.png", scene(side, side))
    iio.imwrite(tmp_path / "psf.png", np.pad(np.full((1, 5, 3), 200, np.uint8), ((2, 2), (0, 0), (0, 0))))
    result = dip(
        "deblur", tmp_path / "in.png", "--kernel", tmp_path / "psf.png", "--reference", tmp_path / "clean.png",
        "--iters", 6, "--uncertainty", tmp_path / "u.png", *TINY, *options,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert iio.imread(tmp_path / "in.deblurred.png").shape == (side, side, 3)
    assert iio.imread(tmp_path / "u.png").shape[:2] == (side, side)
    record = json.loads((tmp_path / "in.deblurred.dip" / "run.json").read_text())
    assert record["psnr_ref"] > 15
    assert ("fusion" in record) == ("none" not in options)
    if options == ("--compare",):
        names = {method["name"] for method in record["comparison"]}
        assert names == {"plug-and-play", "Richardson-Lucy", "unsupervised Wiener"}


@pytest.mark.parametrize(
    ("kernel", "code"), [("gaussian:0", 2), ("nothing.png", 2), ("gaussian:30", 1), ("motion:9", 2)]
)
def test_an_invalid_kernel_ends_in_a_sentence(dip: Dip, tmp_path: Path, kernel: str, code: int) -> None:
    iio.imwrite(tmp_path / "in.png", blurred())
    result = dip("deblur", tmp_path / "in.png", "--kernel", kernel)
    assert result.exit_code == code
    assert "--kernel" in result.output
    assert "Traceback" not in result.output


def test_from_python_the_kernel_is_an_array() -> None:
    kernel = np.zeros((7, 7))
    kernel[3, 2:5] = 1
    result = restore(
        blurred(), kernel=kernel, iterations=3, progress=False, network="skip:channels=8,8:skips=4,4", threads=1
    )
    assert result.image.shape == (60, 60, 3)


def test_a_constant_image_stays_constant() -> None:
    grey = np.full((40, 40), 120, np.uint8)
    result = restore(grey, kernel="gaussian:1", iterations=5, progress=False, network="skip:channels=4:skips=2")
    assert np.abs(result.image.astype(int) - 120).max() <= 3


@pytest.mark.parametrize("level", [0, 2, 10])
def test_the_noise_is_measured_and_the_blur_not_taken_for_it(level: float) -> None:
    clean = gaussian_filter(np.random.default_rng(0).random((1, 96, 96)), (0, 2, 2)) * 2  # texture, blurred
    noise = np.random.default_rng(1).normal(0, level / 255, clean.shape)
    measured = 255 * measure_level((clean + noise).astype(np.float32))
    assert measured == pytest.approx(level, rel=0.1, abs=0.3)
    assert measure_level(np.full((1, 40, 40), 0.5, np.float32)) < 1e-9
