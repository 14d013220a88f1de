"""`dip superres`: what is fitted, what is measured beside it, and what cannot be done."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from problem.test_jpeg import NATURAL
from samples import noisy, scene

from dipcli.errors import DipError, UsageError
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import Image, from_array
from dipcli.networks import build
from dipcli.problem import identity
from dipcli.problem.consistent.enlarged import EnlargedCompanion
from dipcli.problem.metrics import psnr
from dipcli.tasks.registry import tasks
from dipcli.tasks.superres import FIT_SHARES, superres

TASK = tasks()["superres"]
KERNELS = ("lanczos3", "lanczos2", "bicubic", "box", "gaussian:1.2")


def make_image(height: int = 68, width: int = 100, channels: int = 3, dtype: type = np.uint8) -> Image:
    samples = noisy(scene(height, width, channels), sigma=10)
    if dtype == np.uint16:
        samples = samples.astype(np.uint16) * 257 + np.random.default_rng(0).integers(0, 100, samples.shape, np.uint16)
    if dtype == np.float32:
        samples = samples.astype(np.float32) * np.float32(3.7 / 255)
    return from_array(samples)


@given(st.integers(16, 40), st.integers(16, 40), st.floats(1.5, 8), st.sampled_from(KERNELS), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_the_result_is_larger_by_the_scale(height: int, width: int, scale: float, kernel: str, channels: int) -> None:
    small = make_image(height, width, channels)
    case = superres(small, scale, kernel)
    problem = case.problem
    assert problem.shape == (channels, round(scale * height), round(scale * width))
    assert np.array_equal(problem.measured.numpy(), small.pixels)
    assert problem.operator(torch.zeros(problem.shape)).shape == problem.measured.shape
    assert case.truth is None
    assert case.damaged is None
    assert not case.baseline_images
    assert case.border == math.ceil(scale)
    assert case.image.with_pixels(np.zeros(problem.shape, np.float32)).array().shape[:2] == problem.shape[1:]


@given(st.integers(64, 130), st.integers(64, 130), st.floats(1.5, 4), st.sampled_from(KERNELS), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_simulation_restores_the_original_size(
    height: int, width: int, scale: float, kernel: str, channels: int
) -> None:
    large = make_image(height, width, channels)
    case = superres(large, scale, kernel, simulate=True)
    assert case.problem.shape == large.pixels.shape
    assert case.problem.measured.shape == (channels, round(height / scale), round(width / scale))
    assert case.truth is large.pixels
    assert case.image is large
    assert set(case.baseline_images) == {"bicubic", "nearest"}
    for plain in case.baseline_images.values():
        assert plain.shape == large.pixels.shape
        assert plain.dtype == np.float32


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [2, 2.5, 4])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)])
def test_the_truth_downsamples_to_the_measurement(kernel: str, scale: float, channels: int, dtype: type) -> None:
    """To the last level of the file: nothing but rounding stands between the truth and no loss."""
    # From the middle of the range nothing overshoots black or white, where it would be clipped.
    large = make_image(channels=channels, dtype=dtype)
    large = from_array((large.array() * 0.5 + 0.2 * np.iinfo(dtype).max).astype(dtype))
    case = superres(large, scale, kernel, simulate=True)
    assert case.truth is not None
    problem, level = case.problem, 1 / np.iinfo(dtype).max
    error = problem.operator(torch.from_numpy(case.truth)) - problem.measured
    assert float(error.abs().max()) <= 0.5 * level + 1e-6
    assert float(problem.loss(problem.operator(torch.from_numpy(case.truth)), problem.measured, None)) <= level**2 / 4


def test_the_simulated_measurement_is_quantized_as_in_a_file() -> None:
    for dtype in (np.uint8, np.uint16):
        large = make_image(dtype=dtype)
        case = superres(large, 4, simulate=True)
        pixels = case.problem.measured.numpy()
        again = from_array(large.with_pixels(pixels).array()).pixels
        assert np.array_equal(again, pixels)
        assert case.damaged is not None
        assert np.array_equal(case.damaged, pixels)
    exact = superres(make_image(dtype=np.float32), 4, simulate=True).problem
    levels = exact.measured * 255
    assert not torch.allclose(levels, levels.round(), atol=1e-2)


def test_overshoot_is_clipped() -> None:
    stripes = np.zeros((64, 64), np.float32)
    stripes[:, 32:] = 1
    problem = superres(from_array(stripes), 2, simulate=True).problem
    assert float(problem.operator(torch.from_numpy(stripes[None])).max()) > 1.01
    assert float(problem.measured.max()) == 1
    assert float(problem.measured.min()) == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_baselines_equal_pillow_s(channels: int) -> None:
    case = superres(make_image(channels=channels), 4, simulate=True)
    small = case.problem.measured.numpy()
    for name, way in (("bicubic", PillowImage.Resampling.BICUBIC), ("nearest", PillowImage.Resampling.NEAREST)):
        theirs = [np.asarray(PillowImage.fromarray(plane).resize((100, 68), way)) for plane in small]
        levels = case.baseline_images[name] * 255
        assert np.abs(levels - 255 * np.clip(theirs, 0, 1)).max() <= 0.501
        assert np.allclose(levels, levels.round(), atol=1e-3)
    assert case.truth is not None
    assert psnr(case.baseline_images["bicubic"], case.truth) > psnr(case.baseline_images["nearest"], case.truth)


def test_the_conclusion_states_the_psnr_to_the_input() -> None:
    for case in (superres(make_image(24, 20), 2.5), superres(make_image(), 4, simulate=True)):
        shrunk = np.full(case.problem.shape, 0.25, np.float32)
        assert case.conclude is not None
        expected = psnr(np.full_like(case.problem.measured.numpy(), 0.25), case.problem.measured.numpy())
        assert case.conclude(shrunk) == f"downsampled, it matches the input to {expected:.1f} dB"


def test_a_remark_states_the_sizes() -> None:
    assert superres(make_image(24, 20), 2.5).remarks == ("20x24 becomes 50x60",)
    assert superres(make_image(68, 100), 4, simulate=True).remarks == ("25x17 becomes 100x68",)


@pytest.mark.parametrize("scale", [1.49, 8.01, 0, -4, math.nan, math.inf])
@pytest.mark.parametrize("simulate", [False, True])
def test_a_scale_out_of_range_is_refused(scale: float, simulate: bool) -> None:
    with pytest.raises(UsageError, match=r"--scale .* use 1\.5 to 8"):
        superres(make_image(), scale, simulate=simulate)


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(UsageError, match="choose from lanczos3"):
        superres(make_image(), kernel="nearest")


def test_an_image_too_small_for_a_simulation_is_refused() -> None:
    superres(make_image(64, 64), 4, simulate=True)
    with pytest.raises(DipError, match="would be 25x15, the smallest is 16x16: choose a smaller --scale"):
        superres(make_image(61, 100), 4, simulate=True)


def test_the_paper_preset_is_the_published_method() -> None:
    paper = TASK.settings("paper")
    prior = build(paper, (3, 64, 64))
    assert sum(weights.numel() for weights in prior.network.parameters()) == 2_217_831
    assert prior.code.shape == (1, 32, 64, 64)
    assert (paper.rate, paper.reg_noise, paper.ema, paper.iterations) == (0.01, 0.03, 0.99, 2000)
    assert (paper.pad, paper.input, paper.stop, paper.beta2, paper.tv) == (
        "reflection",
        "noise",
        "none",
        0.999,
        0,
    )


@pytest.mark.parametrize(("scale", "iterations", "noise"), [(2, 2000, 0.03), (4, 2000, 0.03), (8, 4000, 0.05)])
def test_the_published_settings_depend_on_the_scale(scale: float, iterations: int, noise: float) -> None:
    small = make_image(16, 16)
    _, paper = TASK.case(small, "paper", {"scale": scale}, {})
    assert (paper.iterations, paper.reg_noise) == (iterations, noise)
    _, paper = TASK.case(small, "paper", {"scale": scale}, {"iterations": 7, "reg_noise": 0.1})
    assert (paper.iterations, paper.reg_noise) == (7, 0.1)


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_each_small_pixel_is_fitted_until_the_average_settles(preset: str) -> None:
    """Each small pixel is a mean of many large ones: there is no noise to stop for, and every pixel is needed."""
    case, chosen = TASK.case(make_image(16, 16), preset, {"scale": 2}, {})
    assert chosen.stop == "plateau"
    assert chosen.iterations is None
    assert isinstance(case.problem.companion, EnlargedCompanion)


def test_held_out_pixels_and_the_published_method_have_no_companion() -> None:
    for preset, own in (("balanced", {"stop": "holdout"}), ("fast", {"network": "pixels"}), ("paper", {})):
        problem = TASK.case(make_image(16, 16), preset, {}, own)[0].problem
        assert (problem.companion, problem.finish) == (None, identity)


@pytest.mark.slow
def test_the_result_shrinks_to_the_input_and_is_nearer_to_the_clean_image_than_bicubic() -> None:
    clean = from_array(scene(96, 96))
    case, chosen = TASK.case(clean, "fast", {"scale": 3, "simulate": True}, {"iterations": 3, "network": TINY})
    result = solve(prepare(replace(case.problem, share=0.0), chosen))
    assert case.truth is not None
    assert psnr(result.image.clamp(0, 1).numpy(), case.truth) > psnr(case.baseline_images["bicubic"], case.truth)
    assert psnr(case.problem.operator(result.image).numpy(), case.problem.measured.numpy()) > 40


@pytest.mark.slow
@pytest.mark.parametrize("tile", [128, "none"])
def test_the_companion_is_used_in_tiles_too(tile: int | str) -> None:
    own = {"iterations": 2, "network": TINY, "tile": tile, "warmup": 0}
    case, chosen = TASK.case(make_image(40, 80), "fast", {"scale": 2}, own)
    result = solve(prepare(case.problem, chosen))
    assert result.share == FIT_SHARES[2]
    assert len(result.places) == (0 if tile == "none" else 2)


@pytest.mark.parametrize(("scale", "share"), [(1.5, 0.2), (2, 0.2), (2.5, 0.35), (4, 0.8), (6.5, 0.8)])
def test_the_share_of_the_fit_grows_with_the_factor(scale: float, share: float) -> None:
    assert superres(make_image(), scale).problem.share == pytest.approx(share)


def test_the_input_is_the_companion_and_an_enlargement_unless_the_fit_is_alone() -> None:
    case, settings = TASK.case(make_image(40, 60), "fast", {"scale": 2}, {})
    prepared = prepare(case.problem, settings)
    companion, code = prepared.first_problem.visible_companion(), prepared.prior.code
    assert settings.input == "guide"
    assert code.shape[1] == 6
    fitted = prepared.started.problem.visible_guide()
    assert torch.equal(fitted[:3], companion.clamp(0, 1))
    for own in ({"fusion": "none"}, {"stop": "holdout"}):
        case, settings = TASK.case(make_image(40, 60), "fast", {"scale": 2}, own)
        assert (settings.input, case.problem.companion) == ("noise", None)


@pytest.mark.slow
def test_the_fast_preset_is_better_than_bicubic_in_a_given_time_too() -> None:
    import dipcli

    options = {"simulate": True, "scale": 2, "kernel": "bicubic", "preset": "fast", "threads": 1, "progress": False}
    bicubic = superres(from_array(NATURAL), 2, "bicubic", simulate=True).baseline_images["bicubic"]
    result = dipcli.superres(NATURAL, time="6s", runs=1, uncertainty=True, **options)
    truth = from_array(NATURAL).pixels
    assert psnr(from_array(result.image).pixels, truth) > psnr(bicubic, truth) + 0.5
    assert result.fusion == FIT_SHARES[2]
    assert result.uncertainty is not None
    assert result.uncertainty.shape == NATURAL.shape[:2]
