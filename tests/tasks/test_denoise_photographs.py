"""`dip denoise` on images whose noise neighbouring pixels share, and on images without noise."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch
from samples import noisy as add_white_noise
from samples import scene, shaded, smooth_noise
from scipy.ndimage import gaussian_filter
from skimage import data

from dipcli.errors import UsageError
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.correlated.estimate import CorrelatedFinish
from dipcli.problem.independent.companion import NonLocalCompanion
from dipcli.problem.independent.noise_model import UndoClipping
from dipcli.problem.metrics import psnr
from dipcli.tasks.case import Case
from dipcli.tasks.registry import tasks

SIDE = 128


def pose(image: np.ndarray, **options: object) -> Case:
    return tasks()["denoise"].case(from_array(image), "balanced", options, {})[0]


def crop(image: np.ndarray) -> np.ndarray:
    top, left = ((length - SIDE) // 2 for length in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def save_as_jpeg(image: np.ndarray, quality: int = 90) -> np.ndarray:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(file))


def draw(seed: int) -> np.ndarray:
    """A screenshot: text and boxes on white."""
    image = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    generator = np.random.default_rng(seed)
    image[10:12, 8:120] = (30, 60, 160)
    for row in range(20, 120, 12):
        width = 2 * int(generator.integers(10, 40))
        image[row : row + 6, 8 : 8 + width][generator.random((6, width)) < 0.5] = 0
    image[70:110, 90:120] = (200, 220, 240)
    return image


def smooth_shading() -> np.ndarray:
    return np.rint(255 * shaded(SIDE).transpose(1, 2, 0)).astype(np.uint8)


def draw_lines() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    rings = np.abs(np.hypot(x - 60, y - 70) % 24 - 12) < 1
    return np.where(rings, 0, 255).astype(np.uint8)


def make_halftone() -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    screen = np.sin(x * 2 * np.pi / 5) * np.sin(y * 2 * np.pi / 5)
    return np.where(screen > shaded(SIDE)[0] - 0.5, 230, 25).astype(np.uint8)


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.rint(gaussian_filter(image.astype(float), (sigma, sigma, 0))).astype(np.uint8)


CLEAN: dict[str, Callable[[], np.ndarray]] = {
    "camera": lambda: crop(data.camera()),
    "moon": lambda: crop(data.moon()),
    "page": lambda: crop(data.page()),
    "coffee": lambda: crop(data.coffee()),
    "cat": lambda: data.chelsea()[:SIDE, :SIDE],
    "astronaut": lambda: data.astronaut()[:SIDE, :SIDE],
    "rocket": lambda: crop(data.rocket()),
    "clock": lambda: crop(data.clock()),
    "horse": lambda: crop(data.horse()).astype(np.uint8) * 255,
    "checkerboard": lambda: crop(data.checkerboard()),
    "screenshot": lambda: draw(0),
    "screenshot, JPEG": lambda: save_as_jpeg(draw(1)),
    "line art": draw_lines,
    "halftone": make_halftone,
    "one colour": lambda: np.full((SIDE, SIDE, 3), 90, dtype=np.uint8),
    "shading": smooth_shading,
    "a denoised image": lambda: smooth(crop(data.coffee()), 1.0),
    "a clean JPEG": lambda: save_as_jpeg(crop(data.rocket())),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLEAN)
def test_an_image_without_noise_comes_back(name: str) -> None:
    """It changes by at most 45 dB, or comes back as it is with a sentence; the fit is skipped."""
    image = CLEAN[name]()
    case = pose(image)
    assert case.presets["balanced"]["iterations"] == 1
    problem = case.problem
    for fitted in (torch.zeros(problem.shape), torch.ones(problem.shape)):
        restored = problem.finish(fitted).numpy()
        if not np.array_equal(restored, problem.measured.numpy()):
            assert psnr(restored, problem.measured.numpy()) >= 45
        else:
            assert "the input is kept as it is" in case.remarks[0]


def photograph(level: float, blur: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """A clean image and a noisy one, uint8 (H, W, C)."""
    clean = scene(SIDE, SIDE)
    noise = 255 * smooth_noise(blur, level, side=SIDE).transpose(1, 2, 0)
    return clean, np.rint(np.clip(clean + noise, 0, 255)).astype(np.uint8)


def test_mild_noise_is_removed_without_a_fit() -> None:
    clean, image = (pixels[:96, :96] for pixels in photograph(4))
    case = pose(image)
    assert case.presets["balanced"]["iterations"] == 1
    assert "without a fit" in case.remarks[0]
    restored = case.problem.finish(torch.zeros(case.problem.shape)).numpy()
    reference = from_array(clean).pixels
    assert psnr(restored, reference) > psnr(case.problem.measured.numpy(), reference) + 2


def test_strong_noise_is_fitted_on_the_mosaic() -> None:
    case = pose(photograph(25)[1])
    settings = case.presets["balanced"]
    assert settings["mosaic"] in (2, 3)
    assert settings["iterations"] > 1
    assert isinstance(case.problem.finish, CorrelatedFinish)
    assert case.problem.finish.fit_weight == pytest.approx(0.5)
    assert case.problem.tileable


@pytest.mark.slow
def test_mild_noise_is_removed_in_tiles_too() -> None:
    image = np.tile(photograph(4)[1], (2, 2, 1))[:160, :160]
    case, settings = tasks()["denoise"].case(from_array(image), "balanced", {}, {"tile": 128, "threads": 1})
    prepared = prepare(case.problem, settings)
    assert len(prepared.estimate.places) > 1
    result = solve(prepared)
    assert len(result.runs) == 1
    torch.testing.assert_close(result.image, case.problem.finish(torch.zeros(case.problem.shape)))


@pytest.mark.slow
def test_strong_noise_is_fitted_in_tiles_too() -> None:
    clean, image = (np.tile(pixels, (2, 2, 1))[:160, :160] for pixels in photograph(25))
    given = {"tile": 128, "threads": 1, "iterations": 3, "warmup": 0, "network": "skip:channels=4,4:skips=2,2"}
    case, settings = tasks()["denoise"].case(from_array(image), "balanced", {}, given)
    prepared = prepare(case.problem, settings)
    result = solve(prepared)
    assert len(result.runs) == len(prepared.estimate.places) > 1
    reference = from_array(clean).pixels
    assert psnr(result.image.numpy(), reference) > psnr(case.problem.measured.numpy(), reference) + 3


def test_the_given_level_scales_the_noise() -> None:
    image = photograph(25)[1]
    case, _ = tasks()["denoise"].case(from_array(image), "balanced", {}, {"sigma": 12})
    assert 255 * case.problem.finish.estimate.noise.level == pytest.approx(12, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("image", [photograph(4)[1][:80, :80], add_white_noise(scene(64, 64))])
def test_strength(image: np.ndarray) -> None:
    whole, half, none = (pose(image, strength=strength).problem for strength in (1.0, 0.5, 0.0))
    fitted = torch.full(whole.shape, 0.5)
    measured = whole.measured
    torch.testing.assert_close(half.finish(fitted), (whole.finish(fitted) + measured) / 2)
    assert torch.equal(none.finish(fitted), measured)


def test_a_given_level_of_independent_noise_is_not_measured_again() -> None:
    case, _ = tasks()["denoise"].case(from_array(CLEAN["astronaut"]()), "balanced", {}, {"sigma": 12})
    assert isinstance(case.problem.finish, UndoClipping)
    assert case.problem.finish.noise.typical_level == pytest.approx(12 / 255)


def test_independent_noise_is_fitted_as_before() -> None:
    case = pose(add_white_noise(scene(64, 64)))
    assert "mosaic" not in case.presets["balanced"]
    assert isinstance(case.problem.companion, NonLocalCompanion)
    assert isinstance(case.problem.finish, UndoClipping)


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_out_of_range(strength: float) -> None:
    with pytest.raises(UsageError, match="--strength"):
        pose(photograph(4)[1], strength=strength)
