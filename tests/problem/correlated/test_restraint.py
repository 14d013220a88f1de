"""How much of an estimate is used: closed forms, and a result that is not worse than the input."""

from __future__ import annotations

import math

import pytest
import torch

from dipcli.problem.correlated.restraint import FAINT_CHANGE, TowardsInput, fuse, limit_change, restrain

GENERATOR = torch.Generator().manual_seed(0)


def normal(side: int = 96) -> torch.Tensor:
    return torch.randn(side, side, generator=GENERATOR)


def test_an_estimate_within_the_noise_is_used_as_it_is() -> None:
    noisy = normal()
    estimate = noisy + 0.5 * normal()
    torch.testing.assert_close(restrain(noisy, estimate, torch.ones(96, 96)), estimate)


def test_a_difference_of_k_deviations_is_shrunk_to_one_by_k() -> None:
    """A constant difference d has the energy d^2: x - y = v / d."""
    noisy, variance = normal(), torch.full((96, 96), 0.25)
    restrained = restrain(noisy, noisy + 2, variance)
    torch.testing.assert_close(restrained - noisy, torch.full((96, 96), 0.25 / 2))


@pytest.mark.parametrize("bias", [0.5, 1, 3, 10])
def test_the_blend_is_better_than_input_and_estimate_if_structure_was_lost(bias: float) -> None:
    """With independent noise of variance v and a lost structure of energy b^2 the error is v b^2 / (v + b^2)."""
    clean = torch.zeros(256, 256)
    noise, lost = (torch.randn(256, 256, generator=GENERATOR) for _ in range(2))
    restrained = restrain(clean + noise, clean + bias * lost, torch.ones(256, 256))
    error = float((restrained**2).mean())
    assert error == pytest.approx(bias**2 / (1 + bias**2), rel=0.05)
    assert error < min(1, bias**2)


def test_the_restraint_is_local() -> None:
    noisy = torch.zeros(64, 128)
    estimate = torch.cat([torch.full((64, 64), 0.1), torch.full((64, 64), 10.0)], dim=1)
    restrained = restrain(noisy, estimate, torch.ones(64, 128), window=8)
    torch.testing.assert_close(restrained[:, :50], estimate[:, :50])
    torch.testing.assert_close(restrained[:, 80:], torch.full((64, 48), 0.1))


def test_the_mean_of_two_estimates_that_agree_and_the_first_where_they_do_not() -> None:
    estimate, variance = normal(), torch.ones(96, 96)
    torch.testing.assert_close(fuse(estimate, estimate + 0.4, variance, 0.5), estimate + 0.2)
    torch.testing.assert_close(fuse(estimate, estimate + 5, variance, 0.5), estimate + 0.5 * 0.25 / 5)
    torch.testing.assert_close(fuse(estimate, estimate + 5, variance, 0.0), estimate)


@pytest.mark.parametrize("level", [0.0, 1.0, 2.5])
def test_an_image_with_faint_noise_is_changed_by_at_most_45_decibels(level: float) -> None:
    noisy = torch.rand(3, 32, 32, generator=GENERATOR)
    limited = limit_change(noisy, noisy + 0.1, level / 255)
    change = math.sqrt(((limited - noisy) ** 2).mean())
    assert change == pytest.approx(FAINT_CHANGE, rel=1e-3)
    assert -20 * math.log10(change) > 45
    torch.testing.assert_close(limit_change(noisy, noisy + 1e-4, level / 255), noisy + 1e-4)


def test_visible_noise_is_not_limited() -> None:
    noisy = torch.rand(3, 32, 32, generator=GENERATOR)
    assert torch.equal(limit_change(noisy, noisy + 0.1, 5 / 255), noisy + 0.1)


def test_towards_the_input() -> None:
    noisy, fitted = (torch.rand(3, 8, 9, generator=GENERATOR) for _ in range(2))
    assert torch.equal(TowardsInput(noisy, 0.0)(fitted), noisy)
    torch.testing.assert_close(TowardsInput(noisy, 0.25)(fitted), 0.75 * noisy + 0.25 * fitted)
    window = (slice(2, 5), slice(1, 7))
    part = TowardsInput(noisy, 0.25).window(*window)(fitted[..., window[0], window[1]])
    assert torch.equal(part, TowardsInput(noisy, 0.25)(fitted)[..., window[0], window[1]])
