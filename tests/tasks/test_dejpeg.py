"""`dip dejpeg`: a JPEG is fitted by its coefficients, everything else by its pixels."""

from __future__ import annotations

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from problem.test_jpeg import NATURAL, ODD, jpeg, jpeg_with_orientation
from samples import scene

from dipcli import images, networks
from dipcli.fitting import engine
from dipcli.images.image import from_array
from dipcli.problem import identity
from dipcli.problem.consistent.compressed import CompressedCompanion
from dipcli.problem.jpeg import Encoder
from dipcli.problem.metrics import psnr
from dipcli.settings import Settings
from dipcli.tasks.case import Case
from dipcli.tasks.dejpeg import FIT_SHARE
from dipcli.tasks.registry import tasks

DEJPEG = tasks()["dejpeg"]


def make_case(data: bytes, **own: bool) -> Case:
    case = DEJPEG.pose(images.decode(data), **own)
    assert isinstance(case, Case)
    return case


@pytest.mark.parametrize("array", [NATURAL, ODD, ODD[..., 0]], ids=["colour", "odd", "grey"])
def test_a_jpeg_is_fitted_by_its_coefficients(array: np.ndarray) -> None:
    case = make_case(jpeg(array))
    problem = case.problem
    assert isinstance(problem.operator, Encoder)
    assert problem.operator(torch.rand(problem.shape)).shape == problem.measured.shape
    assert problem.finish(torch.rand(problem.shape)).shape == case.image.pixels.shape
    assert case.remarks == ()


def test_blind_is_the_published_problem() -> None:
    case = make_case(jpeg(ODD), blind=True)
    assert case.problem.operator is identity
    assert np.array_equal(case.problem.measured.numpy(), case.image.pixels)
    assert case.remarks == ()


def test_the_paper_preset_is_blind_and_the_published_method() -> None:
    paper = DEJPEG.settings("paper")
    assert DEJPEG.presets["paper"]["blind"] is True
    assert sum(weights.numel() for weights in networks.build(paper, (3, 64, 64)).network.parameters()) == 572_827
    assert (paper.rate, paper.reg_noise, paper.ema, paper.beta2) == (0.01, 1 / 30, 0.99, 0.999)
    assert (paper.iterations, paper.stop, paper.input_depth, paper.pad) == (2400, "none", 3, "reflection")


def png(array: np.ndarray) -> bytes:
    return iio.imwrite("<bytes>", array, extension=".png")


def garbled(data: bytes) -> bytes:
    """Remove some bytes of the coefficients, which decoders repair silently."""
    return data[: len(data) // 2] + data[len(data) // 2 + 40 :]


def test_other_formats_are_fitted_by_their_pixels_with_a_remark() -> None:
    for image in (images.decode(png(ODD)), from_array(ODD)):
        case = DEJPEG.pose(image)
        assert isinstance(case, Case)
        assert case.problem.operator is identity
        assert "--blind" in case.remarks[0]
        assert "not from a JPEG file" in case.remarks[0]


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_the_decoded_image_is_the_input_unless_it_is_fitted(preset: str) -> None:
    case = make_case(jpeg(ODD))
    assert DEJPEG.settings(preset, case.presets).input == "guide"
    assert case.problem.guide is not None
    assert case.problem.guide.shape == case.problem.shape
    case = make_case(jpeg(ODD), blind=True)
    assert DEJPEG.settings(preset, case.presets).input == "noise"
    assert case.problem.guide is None


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_a_jpeg_is_fused_with_a_smooth_image_unless_coefficients_are_held_out(preset: str) -> None:
    image = images.decode(jpeg(ODD))
    case, chosen = DEJPEG.case(image, preset, {}, {})
    assert isinstance(case.problem.companion, CompressedCompanion)
    assert (chosen.stop, chosen.iterations) == ("plateau", None)
    for given in ({"stop": "holdout"}, {"fusion": "none"}):
        assert DEJPEG.case(image, preset, {}, given)[0].problem.companion is None
    assert DEJPEG.case(image, preset, {"blind": True}, {})[1].stop == "none"


@pytest.mark.slow
def test_the_fused_image_agrees_with_the_file(dip: Dip, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(NATURAL, 10))
    result = dip("dejpeg", path, "--json", "-q", "--iters", 3, "--network", TINY)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["fusion"] == FIT_SHARE
    assert "fused" in record["reason"]


def test_an_rgb_jpeg_is_fitted_by_its_pixels_with_a_remark() -> None:
    case = make_case(jpeg(ODD, sampling="4:4:4", keep_rgb=True))
    assert case.problem.operator is identity
    assert "is in RGB" in case.remarks[0]


def test_a_damaged_jpeg_can_be_fitted() -> None:
    problem = make_case(garbled(jpeg(NATURAL, 90))).problem
    assert problem.operator(torch.rand(problem.shape)).shape == problem.measured.shape


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_jpeg_with_orientation_is_restored_upright(orientation: int) -> None:
    case = make_case(jpeg_with_orientation(ODD, orientation))
    encoder = case.problem.operator
    assert isinstance(encoder, Encoder)
    finished = case.problem.finish(encoder.extend(torch.from_numpy(case.image.pixels)))
    assert np.abs(finished.numpy() - case.image.pixels).mean() < 3 / 255


def test_the_conclusion_states_the_agreement_with_the_file() -> None:
    case = make_case(jpeg(NATURAL))
    assert case.conclude is not None
    truth = NATURAL.transpose(2, 0, 1).astype(np.float32) / 255
    assert float(case.conclude(truth).split()[0]) > 99.9
    conclusion = case.conclude(np.zeros_like(case.image.pixels))
    assert conclusion.endswith("% of its coefficients agree with the file.")
    assert float(conclusion.split()[0]) < 99


def test_free_pixels_reach_an_image_that_agrees_with_the_file() -> None:
    """Without a prior only the data term is left: every coefficient reaches the middle of its interval."""
    problem = make_case(jpeg(scene(32, 32), sampling="4:4:4")).problem
    settings = Settings(network="pixels", rate=0.02, reg_noise=0, ema=0, iterations=400, stop="none", precision="fp32")
    fit = engine.fit(problem, networks.build(settings, problem.shape), settings)
    assert isinstance(problem.operator, Encoder)
    assert problem.operator.agreement(fit.image) > 0.99


def test_it_runs_from_the_command_line(dip: Dip, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg_with_orientation(ODD, 6))
    result = dip("dejpeg", path, "--json", "-q", "--iters", 3, "--network", TINY)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["task"] == "dejpeg"
    assert iio.imread(tmp_path / "photo.dejpegged.png").shape == (53, 37, 3)


def test_the_python_api_takes_arrays() -> None:
    import dipcli

    result = dipcli.dejpeg(ODD, blind=True, iterations=2, network=TINY, input_depth=4)
    assert result.image.shape == ODD.shape


@pytest.mark.slow
def test_the_fast_preset_ends_by_itself_and_is_better_than_the_decoded_image(tmp_path: Path) -> None:
    import dipcli

    path = tmp_path / "photo.jpg"
    natural = NATURAL[16:80, 16:80]
    path.write_bytes(jpeg(natural, 10))
    decoded = iio.imread(path)
    result = dipcli.dejpeg(path, preset="fast", max_iterations=600, threads=1, progress=False)
    clean, *images_found = (np.float32(image) / 255 for image in (natural, decoded, result.image))
    before, after = (psnr(image, clean) for image in images_found)
    assert after > before + 0.7
    assert "the average changed" in result.reason
