"""The autocorrelation of a residual against closed forms, and its amplification."""

from __future__ import annotations

import numpy as np
import pytest

from dipcli.problem.residual import MAX_GAIN, amplify, autocorrelation

LAGS = np.arange(-8, 9)


def white_noise(height: int = 256, width: int = 320) -> np.ndarray:
    return np.random.default_rng(0).normal(0.1, 25 / 255, (height, width)).astype(np.float32)


def test_white_noise_has_the_autocorrelation_one_at_the_centre_alone() -> None:
    found = autocorrelation(white_noise(), 8)
    expected = np.zeros((17, 17))
    expected[8, 8] = 1
    assert found == pytest.approx(expected, abs=5 / np.sqrt(256 * 320))


def test_noise_smoothed_by_a_box_has_a_triangle() -> None:
    noise, side = white_noise(1030, 1030).astype(float), 3
    sums = np.cumsum(np.cumsum(np.pad(noise - noise.mean(), ((1, 0), (1, 0))), axis=0), axis=1)
    smooth = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    triangle = np.maximum(0, 1 - abs(LAGS) / side)
    assert autocorrelation(smooth.astype(np.float32), 8) == pytest.approx(np.outer(triangle, triangle), abs=0.02)


def test_autocorrelation_is_the_mean_of_the_products() -> None:
    residual = white_noise(11, 9)
    e = residual.astype(float) - residual.astype(float).mean()
    found = autocorrelation(residual, 8)
    assert found.shape == (17, 17)
    for down, across in ((0, 0), (3, 2), (8, 8), (1, 0)):
        product = (e[down:, across:] * e[: 11 - down, : 9 - across]).mean() / (e**2).mean()
        assert found[8 + down, 8 + across] == pytest.approx(product, abs=1e-9)
    assert found == pytest.approx(found[::-1, ::-1], abs=1e-9), "the same in opposite directions"
    assert autocorrelation(7 * residual + 1, 2) == pytest.approx(found[6:11, 6:11], abs=1e-5)


def test_constant_residual_counts_as_independent() -> None:
    assert np.array_equal(autocorrelation(np.full((20, 16), 0.25, np.float32), 1), [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_amplified_residual_is_grey_at_zero_and_full_at_three_deviations() -> None:
    residual = white_noise()[None] - 0.1
    shown, gain = amplify(residual)
    assert gain == pytest.approx(1 / (6 * 25 / 255), rel=0.01)
    assert shown.mean() == pytest.approx(0.5, abs=0.01)
    assert 0.001 < ((shown == 0) | (shown == 1)).mean() < 0.005, "0.3 % of normal noise are beyond three deviations"
    shown, gain = amplify(np.zeros((3, 16, 16), np.float32))
    assert (shown == 1 / 2).all()
    assert gain == MAX_GAIN
