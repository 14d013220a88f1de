"""The data terms against their definitions and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dipcli.errors import UsageError
from dipcli.problem.losses import (
    HUBER_DELTA_IN_SIGMAS,
    Huber,
    absolute_error,
    make_loss,
    poisson_deviance,
    squared_error,
)

LOSSES = [squared_error, absolute_error, Huber(0.05), poisson_deviance]


def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(3, 5, 4, generator=generator).double() for _ in range(3))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: getattr(loss, "__name__", str(loss)))
@given(seed=st.integers(0, 2**32 - 1))
@hypothesis_settings(max_examples=15, deadline=None)
def test_the_loss_is_zero_for_equal_images_and_positive_otherwise(loss: object, seed: int) -> None:
    prediction, measured, weight = pair(seed)
    measured = measured.clamp(min=0.01)
    assert float(loss(measured, measured, None)) == pytest.approx(0, abs=1e-12)
    assert float(loss(prediction, measured, None)) > 0
    assert float(loss(prediction, measured, weight)) > 0


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: getattr(loss, "__name__", str(loss)))
def test_pixels_of_weight_zero_do_not_count(loss: object) -> None:
    prediction, measured, _ = pair(0)
    weight = torch.zeros(1, 5, 4).double()
    weight[:, :2] = 1
    changed = measured.clone()
    changed[:, 2:] = 0.5
    assert float(loss(prediction, measured, weight)) == pytest.approx(float(loss(prediction, changed, weight)))
    assert float(loss(prediction, measured, weight)) == pytest.approx(
        float(loss(prediction[:, :2], measured[:, :2], None))
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: getattr(loss, "__name__", str(loss)))
def test_the_gradient_is_finite_everywhere(loss: object) -> None:
    prediction = torch.tensor([0.0, 1e-9, 0.5, 1.0], requires_grad=True)
    loss(prediction, torch.tensor([0.7, 0.0, 0.5, 0.0]), None).backward()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "centre"),
    [(squared_error, np.mean), (absolute_error, np.median), (poisson_deviance, np.mean)],
    ids=["l2", "l1", "poisson"],
)
def test_the_best_constant_is_the_mean_or_the_median(loss: object, centre: object) -> None:
    values = torch.tensor([0.1, 0.2, 0.25, 0.3, 0.9]).double()
    guesses = torch.linspace(0.01, 0.99, 981).double()
    losses = [float(loss(guess.expand(5), values, None)) for guess in guesses]
    assert float(guesses[int(np.argmin(losses))]) == pytest.approx(centre(values.numpy()), abs=1e-3)


def test_huber_is_quadratic_for_small_and_linear_for_large_differences() -> None:
    small, large, zero = torch.tensor([0.02]), torch.tensor([0.5]), torch.zeros(1)
    assert float(Huber(0.1)(small, zero)) == pytest.approx(0.02**2)
    assert float(Huber(0.1)(large, zero)) == pytest.approx(0.1 * (2 * 0.5 - 0.1))


def test_poisson_weights_errors_by_brightness() -> None:
    """For small errors it is (p - y)^2 / y, the square over the variance of a photon count."""
    measured = torch.tensor([0.1, 0.5, 0.9]).double()
    for pixel in range(3):
        prediction = measured.clone()
        prediction[pixel] += 1e-3
        expected = 1e-6 / float(measured[pixel]) / 3
        assert float(poisson_deviance(prediction, measured)) == pytest.approx(expected, rel=0.02)


def test_losses_are_made_by_name() -> None:
    assert make_loss("l2") is squared_error
    assert make_loss("l1") is absolute_error
    assert make_loss("poisson") is poisson_deviance
    assert make_loss("huber", "51") == Huber(HUBER_DELTA_IN_SIGMAS * 0.2)
    assert make_loss("huber") == Huber(0.1)
    with pytest.raises(UsageError, match="l2, l1, huber, poisson"):
        make_loss("l3")
