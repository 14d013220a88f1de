"""Data terms E and the total variation penalty, as functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dipcli.errors import UsageError
from dipcli.problem.noise import FULL_SCALE

if TYPE_CHECKING:
    from torch import Tensor

Loss: TypeAlias = "Callable[[Tensor, Tensor, Tensor | None], Tensor]"

HUBER_DELTA_IN_SIGMAS = 1.345  # 95 % of the efficiency of least squares for Gaussian noise
DEFAULT_HUBER_DELTA = 0.1  # of values 0..1, for an unknown noise level
MIN_INTENSITY = 1 / 510  # half a grey level, so that the logarithm of a dark output stays bounded


def squared_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean squared error.

        E(p, y) = sum(w (p - y)^2) / sum(w)

    Args:
        prediction: p = A(x), any shape.
        measured: y, the same shape.
        weight: w >= 0, broadcastable to y; ones when omitted.

    Returns:
        A scalar, in squared units of y.
    """
    return _weighted_mean((prediction - measured) ** 2, weight)


def absolute_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean absolute error, which is robust to impulse noise.

        E(p, y) = sum(w |p - y|) / sum(w)

    Args:
        prediction: p = A(x), any shape.
        measured: y, the same shape.
        weight: as for `squared_error`.

    Returns:
        A scalar, in units of y.
    """
    return _weighted_mean((prediction - measured).abs(), weight)


@dataclass(frozen=True)
class Huber:
    """Squared error of small differences, absolute error of large ones: for Gaussian noise with outliers.

        E(p, y) = sum(w h(p - y)) / sum(w),   h(d) = d^2 if |d| < delta, else delta (2 |d| - delta)

    It is called like the other losses and returns a scalar in squared units of y.

    Attributes:
        delta: threshold between the two, in units of y, above 0.

    Source:
        Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 1964.
    """

    delta: float

    def __call__(self, prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return E(p, y)."""
        distance = (prediction - measured).abs()
        clipped = distance.clamp(max=self.delta)
        return _weighted_mean(clipped * (2 * distance - clipped), weight)


def poisson_deviance(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the weighted mean deviance of the Poisson distribution, for photon noise.

        E(p, y) = sum(w 2 (y log(y / p) - y + p)) / sum(w)

    This is twice the negative log-likelihood minus its smallest value. The unknown scale from counts to values of 0..1
    is a factor and does not move the minimum.

    Args:
        prediction: p = A(x), any shape; values below half a grey level of 255 are raised to it.
        measured: y >= 0, the same shape.
        weight: as for `squared_error`.

    Returns:
        A scalar, in units of y.
    """
    predicted, counted = prediction.clamp(min=MIN_INTENSITY), measured.clamp(min=0)
    log_ratio = (counted.clamp(min=MIN_INTENSITY) / predicted).log()
    return _weighted_mean(2 * (counted * log_ratio - counted + predicted), weight)


def total_variation(image: Tensor) -> Tensor:
    """Return the isotropic total variation per pixel: the mean length of the image gradient.

        TV(x) = mean sqrt(dx^2 + dy^2 + eps)

    dx and dy are forward differences. The last row and column, which have none, are left out.

    Args:
        image: x, shape (..., H, W) with H, W >= 2.

    Returns:
        A scalar, in units of x per pixel.

    Source:
        Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 1992.
    """
    inner = image[..., :-1, :-1]
    dx = image[..., :-1, 1:] - inner
    dy = image[..., 1:, :-1] - inner
    # eps keeps the derivative finite in constant areas: (1e-4)^2, a fortieth of a grey level of 255, squared.
    return (dx**2 + dy**2 + 1e-8).sqrt().mean()


def make_loss(name: str, sigma: str = "auto") -> Loss:
    """Return the data term that `--loss` names.

    Args:
        name: l2, l1, huber or poisson.
        sigma: noise level on the scale 0..255, as `--sigma` gives it, for huber; auto uses a tenth of the value range.

    Raises:
        UsageError: when the name is unknown.
    """
    losses: dict[str, Loss] = {
        "l2": squared_error,
        "l1": absolute_error,
        "huber": Huber(DEFAULT_HUBER_DELTA if sigma == "auto" else HUBER_DELTA_IN_SIGMAS * float(sigma) / FULL_SCALE),
        "poisson": poisson_deviance,
    }
    if name not in losses:
        raise UsageError(f"--loss {name} is unknown: choose from {', '.join(losses)}.")
    return losses[name]


def _weighted_mean(error: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (weight * error).sum() / weight.sum()
