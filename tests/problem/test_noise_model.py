"""Noise as a function of brightness, and values that were cut off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dipcli.problem.independent.noise_model import NoiseModel, UndoClipping, fit_noise_model

RAMP = np.broadcast_to(np.linspace(0.1, 0.9, 192), (3, 192, 192))


@pytest.mark.parametrize("x", [0.0, 0.03, 0.5, 0.93])
def test_clipping_is_undone_on_average(x: float) -> None:
    level = 0.12
    values = np.random.default_rng(0).normal(x, level, 400_000).clip(0, 1)
    model = NoiseModel(level**2, dark=True, bright=True)
    expected = torch.tensor(values.mean(), dtype=torch.float32)
    assert float(model.undo_clipping(expected)) == pytest.approx(x, abs=2e-3)
    assert float(model.variance(expected)) == pytest.approx(values.var(), rel=0.02)


def test_nothing_is_undone_where_nothing_was_cut_off() -> None:
    image = torch.rand(3, 5, 5)
    assert torch.equal(NoiseModel(0.01).undo_clipping(image), image)
    assert torch.allclose(NoiseModel(0.01, 0.02).variance(image), 0.01 + 0.02 * image, atol=1e-5)


def test_a_window_of_the_correction_is_the_correction_of_the_window() -> None:
    step, image = UndoClipping(NoiseModel(0.01, dark=True)), torch.rand(3, 8, 8)
    rows, columns = slice(2, 6), slice(1, 5)
    assert torch.equal(step.window(rows, columns)(image[:, rows, columns]), step(image)[:, rows, columns])


def test_constant_noise_has_no_gain_and_values_within_the_range_are_not_cut_off() -> None:
    noisy = (RAMP + np.random.default_rng(0).normal(0, 0.02, RAMP.shape)).astype(np.float32)
    model = fit_noise_model(noisy, 0.02)
    assert (model.gain, model.dark, model.bright) == (0.0, False, False)
    assert model.typical_level == pytest.approx(0.02)


def test_photon_noise_grows_with_brightness() -> None:
    photons = 100
    noisy = (np.random.default_rng(0).poisson(photons * RAMP) / photons).astype(np.float32)
    model = fit_noise_model(noisy, 0.07)
    assert model.gain == pytest.approx(1 / photons, rel=0.25)
    assert model.offset < 0.3 * model.gain


@pytest.mark.parametrize(("dark", "bright"), [(True, True), (True, False), (False, True)])
def test_values_that_were_cut_off_are_recognised(dark: bool, bright: bool) -> None:
    low, high = 0.02 if dark else 0.45, 0.98 if bright else 0.55
    ramp = np.broadcast_to(np.linspace(low, high, 192), (3, 192, 192))
    noisy = (ramp + np.random.default_rng(0).normal(0, 0.1, ramp.shape)).clip(0, 1).astype(np.float32)
    model = fit_noise_model(noisy, 0.1)
    assert (model.dark, model.bright) == (dark, bright)


def test_a_float_image_with_negative_noise_was_not_cut_off() -> None:
    ramp = np.broadcast_to(np.linspace(0.0, 0.5, 192), (3, 192, 192))
    noisy = (ramp + 0.05 + np.abs(np.random.default_rng(0).normal(0, 0.02, ramp.shape))).astype(np.float32)
    assert not fit_noise_model(noisy, 0.02).dark
