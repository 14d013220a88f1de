"""Measuring noise that neighbouring pixels share, on noise of known covariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import shaded, smooth_noise

from dipcli.problem.correlated.noise import (
    MAX_FACTORS,
    PATCH_SIDE,
    average_locally,
    measure_autocorrelation,
    measure_correlated_noise,
    measure_local_detail,
)
from dipcli.problem.opponent import from_opponent, make_opponent, to_opponent


@pytest.mark.parametrize("blur", [0.7, 0.9])
@pytest.mark.parametrize("level", [15, 40])
def test_level_and_autocorrelation_of_smoothed_noise(blur: float, level: float) -> None:
    """White noise smoothed by a Gaussian of s pixels has the autocorrelation exp(-d^2 / (4 s^2)).

    Surfaces on blocks of 16 pixels take some of it at larger distances.
    """
    noise = measure_correlated_noise(shaded() + smooth_noise(blur, level))
    assert noise is not None
    assert 255 * noise.level == pytest.approx(level, rel=0.2)
    profile = measure_autocorrelation(noise.covariance[0])
    expected = [np.exp(-(lag**2) / (4 * blur**2)) for lag in range(PATCH_SIDE)]
    assert profile[0] == pytest.approx(1)
    assert profile[1:5] == pytest.approx(expected[1:5], abs=0.15)


def test_the_correlation_length_grows_with_the_blur() -> None:
    lengths = [
        measure_correlated_noise(shaded() + smooth_noise(blur, 25)).correlation_length for blur in (0.3, 0.7, 1.3)
    ]
    assert lengths[0] == 1
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[1]


def test_correlation_between_the_channels() -> None:
    grain = smooth_noise(0.7, 20, channels=1).repeat(3, axis=0)
    equal, independent = (measure_correlated_noise(shaded() + noise) for noise in (grain, smooth_noise(0.7, 20)))
    assert equal.channel_correlation == pytest.approx(1, abs=0.02)
    assert independent.channel_correlation == pytest.approx(0, abs=0.1)
    luma, *chroma = equal.covariance.diagonal(dim1=1, dim2=2).mean(dim=1)
    assert float(luma) == pytest.approx(3 * (20 / 255) ** 2, rel=0.4)
    assert max(chroma) < 0.01 * luma


def test_levels_by_brightness() -> None:
    """The noise grows with the brightness from left to right."""
    bright = np.linspace(0.2, 0.8, 192, dtype=np.float32)[None, None].repeat(192, axis=1).repeat(3, axis=0)
    dark, medium, light = measure_correlated_noise(bright + smooth_noise(0.7, 25) * bright).levels
    assert dark <= medium <= light
    assert dark < light


def test_the_factors_follow_the_local_level_where_details_are_faint() -> None:
    noise = smooth_noise(1.0, 3)
    noise[:, :, 96:] *= 1.6
    image = shaded() + noise
    measured = measure_correlated_noise(image)
    factors = measured.measure_factors(to_opponent(torch.from_numpy(image))[0])
    assert factors.min() >= 1
    assert factors.max() <= MAX_FACTORS[0]
    assert float(factors[:, 110:].mean() / factors[:, :80].mean()) == pytest.approx(1.6**2, rel=0.25)


def test_strong_details_are_taken_for_structure() -> None:
    noise = smooth_noise(0.5, 20)
    noise[:, :, 96:] *= 1.6
    image = shaded() + noise
    measured = measure_correlated_noise(image)
    assert measured.kept_detail == 1
    assert measured.measure_factors(to_opponent(torch.from_numpy(image))[0]).max() <= MAX_FACTORS[1]


def test_white_noise_has_details_of_its_level() -> None:
    luma = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    assert float(measure_local_detail(luma).mean()) == pytest.approx(1, abs=0.02)


def test_it_is_unknown_without_blocks() -> None:
    clipped = np.where(np.random.default_rng(0).random((3, 96, 96)) < 0.5, 0, 0.5).astype(np.float32)
    assert measure_correlated_noise(clipped) is None
    assert measure_correlated_noise(np.full((1, 96, 96), 0.5, dtype=np.float32)) is None
    assert measure_correlated_noise(smooth_noise(1, 10, side=9) + 0.5) is None
    known = np.zeros((192, 192), dtype=bool)
    assert measure_correlated_noise(shaded() + smooth_noise(1, 10), known) is None


def test_unknown_pixels_are_not_measured() -> None:
    image = shaded() + smooth_noise(0.7, 20)
    known = np.ones((192, 192), dtype=bool)
    known[:, :64] = False
    other = np.where(known, image, np.float32(0.5))
    one, two = (measure_correlated_noise(pixels, known) for pixels in (image, other))
    assert torch.equal(one.covariance, two.covariance)


def test_a_halftone_is_a_regular_pattern() -> None:
    y, x = np.mgrid[:192, :192]
    dots = (np.sin(x * 2 * np.pi / 5) * np.sin(y * 2 * np.pi / 5) > shaded()[0] - 0.5).astype(np.float32) * 0.8 + 0.1
    noise = measure_correlated_noise(dots[None])
    assert noise.regular
    assert not measure_correlated_noise(shaded() + smooth_noise(0.7, 20)).regular


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_opponent_space_is_orthonormal(channels: int) -> None:
    matrix = make_opponent(channels)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(channels))
    torch.testing.assert_close(matrix[0], torch.full((channels,), channels**-0.5))
    image = torch.rand(channels, 5, 6)
    torch.testing.assert_close(from_opponent(to_opponent(image)), image)


def test_local_means() -> None:
    values = torch.rand(20, 30)
    means = average_locally(values, 4)
    assert means.shape == values.shape
    torch.testing.assert_close(means[10, 15], values[8:13, 13:18].mean())
    torch.testing.assert_close(means[0, 0], values[:3, :3].mean())
