"""Estimates of the noise, on noise of known strength."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from dipcli.problem.noise import measure_noise


def scenery(side: int = 160) -> np.ndarray:
    """Ramps, an edge, stripes: (3, side, side), 0.2 to 0.8."""
    y, x = np.mgrid[:side, :side] / side
    image = np.stack([0.3 + 0.3 * x, 0.3 + 0.3 * y, 0.5 + 0.1 * np.sin(9 * x)])
    image[:, side // 3 : side // 2, side // 4 : side // 2] += 0.15
    image[:, -20:] += 0.1 * np.sign(np.sin(150 * x[-20:]))
    return image.astype(np.float32)


def white(seed: int = 0, side: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (3, side, side))


@pytest.mark.parametrize("level", [5, 10, 25, 50])
def test_white_noise_is_recognised_and_measured(level: float) -> None:
    noise = measure_noise((scenery() + level / 255 * white()).astype(np.float32))
    assert not noise.correlated
    assert 255 * noise.level == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("level", [75, 100, 150])
def test_strong_noise_is_measured_though_most_of_it_is_cut_off(level: float) -> None:
    noise = measure_noise((scenery() + level / 255 * white()).clip(0, 1).astype(np.float32))
    assert not noise.correlated
    assert 255 * noise.level == pytest.approx(level, rel=0.04)


def test_black_and_white_patterns_are_not_strong_noise() -> None:
    grey = PIL.Image.fromarray((255 * scenery()[0]).astype(np.uint8))
    halftone = np.asarray(grey.convert("1"), np.float32)[None]
    letters = (gaussian_filter(white()[:1], (0, 2, 2)) > 0).astype(np.float32)
    for pattern in (halftone, letters):
        noise = measure_noise(pattern)
        assert noise is None or noise.correlated or noise.level == 0


@pytest.mark.parametrize("level", [2, 5, 10])
def test_texture_is_not_taken_for_noise(level: float) -> None:
    """Half of the image is a grating of one pixel, which the finest details cannot tell from noise."""
    image, (y, x) = scenery(), np.mgrid[:160, :160]
    image += 0.06 * np.sin(1.9 * x + 2.3 * y) * (1 + np.sin(x / 25))
    noise = measure_noise((image + level / 255 * white()).astype(np.float32))
    assert 255 * noise.level == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("blur", [0.6, 1.0])
def test_smoothed_noise_is_recognised_and_measured(blur: float) -> None:
    smoothed = gaussian_filter(white(), (0, blur, blur))
    noise = measure_noise((scenery() + 25 / 255 * smoothed / smoothed.std()).astype(np.float32))
    assert noise.correlated
    assert 255 * noise.level == pytest.approx(25, rel=0.15)


def test_jpeg_compressed_noise_is_recognised_as_correlated() -> None:
    noisy = np.clip(255 * scenery() + 25 * white(), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noisy).save(buffer, "JPEG", quality=75)
    decoded = np.asarray(PIL.Image.open(buffer)).transpose(2, 0, 1) / 255
    assert measure_noise(decoded.astype(np.float32)).correlated


def test_the_level_where_noise_is_strongest_is_measured() -> None:
    """Photon noise is strongest in bright parts; white noise is equal everywhere."""
    generator = np.random.default_rng(0)
    bright = np.linspace(0.1, 0.6, 160)[None, None].repeat(160, axis=1).repeat(3, axis=0)
    for photons in (30, 100, 300):
        noise = measure_noise((generator.poisson(photons * bright) / photons).astype(np.float32))
        assert noise.max_level == pytest.approx((0.52 / photons) ** 0.5, rel=0.1)
        assert noise.level < noise.max_level
    for level in (10, 25, 50):
        noise = measure_noise((scenery() + level / 255 * white()).astype(np.float32))
        assert 255 * noise.max_level == pytest.approx(level, rel=0.12)


def test_poisson_and_impulse_noise_are_uncorrelated() -> None:
    generator = np.random.default_rng(0)
    counted = generator.poisson(30 * scenery()) / 30
    assert not measure_noise(np.clip(counted, 0, 1).astype(np.float32)).correlated
    impulses = np.where(generator.random((160, 160)) < 0.05, generator.integers(0, 2, (160, 160)), scenery())
    assert not measure_noise(impulses.astype(np.float32)).correlated


@given(st.floats(0.1, 1), st.floats(-0.1, 0.1), st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=20, deadline=None)
def test_the_level_scales_with_contrast_and_not_brightness(contrast: float, brightness: float, seed: int) -> None:
    image = (0.5 + 0.05 * white(seed, 96)).astype(np.float32)
    plain, other = (
        measure_noise(image),
        measure_noise(((image - 0.5) * contrast + 0.5 + brightness).astype(np.float32)),
    )
    assert other.level == pytest.approx(contrast * plain.level, rel=1e-3)
    assert other.ratio == pytest.approx(plain.ratio, rel=1e-3)


def test_an_image_of_one_colour_has_no_noise() -> None:
    noise = measure_noise(np.full((3, 96, 96), 0.4, np.float32))
    assert (noise.level, noise.correlated) == (0, False)


def test_a_blank_frame_does_not_hide_the_noise() -> None:
    image = (0.5 + 0.1 * white()).astype(np.float32)
    image[:, :32] = 0.4
    assert measure_noise(image).level == pytest.approx(0.1, rel=0.1)


def test_only_known_pixels_are_used() -> None:
    image = (0.5 + 0.1 * white()).astype(np.float32)
    image[:, :80] = 0.1
    known = np.zeros((160, 160), bool)
    known[80:] = True
    assert measure_noise(image, known).level == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("known", [np.zeros((160, 160), bool), np.random.default_rng(0).random((160, 160)) < 0.5])
def test_without_enough_blocks_there_is_no_estimate(known: np.ndarray) -> None:
    assert measure_noise(scenery(), known) is None
    assert measure_noise(scenery()[:, :20, :20]) is None
    assert measure_noise(np.zeros((3, 160, 160), np.float32)) is None, "clipped throughout"


def test_grey_images() -> None:
    assert measure_noise((scenery() + 0.1 * white()).astype(np.float32)[:1]).level == pytest.approx(0.1, rel=0.1)
