"""Data terms E and penalties: plain functions of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dipcli.errors import UsageError
from dipcli.problem.noise import FULL_SCALE

if TYPE_CHECKING:
    from torch import Tensor

Loss: TypeAlias = "Callable[[Tensor, Tensor, Tensor | None], Tensor]"

EFFICIENT = 1.345  # noise levels to Huber's bend: as good as least squares on Gaussian noise, to 95 %
UNKNOWN = 0.1  # the bend where the noise level is not known: a tenth of the range
DIMMEST = 1 / 510  # half a grey level: a network's output is never zero, its logarithm must not run away either


def squared_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error over the pixels that count.

        E(p, y) = sum(w (p - y)^2) / sum(w)

    Args:
        prediction: A(x), any shape.
        measured: y, the same shape.
        weight: w >= 0, of a shape that broadcasts to y's; every pixel counts once when it is left out.

    Returns:
        A scalar, in squared units of y.
    """
    return _mean((prediction - measured) ** 2, weight)


def total_variation(image: Tensor) -> Tensor:
    """Mean length of the picture's gradient: the isotropic total variation per pixel.

        TV(x) = mean sqrt(dx^2 + dy^2 + eps)

    Differences are forward ones; the last row and column, which have no neighbour, are left out.

    Args:
        image: x, shape (..., H, W) with H, W >= 2.

    Returns:
        A scalar, in units of x per pixel.

    Source:
        Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 1992.
    """
    here = image[..., :-1, :-1]
    across = image[..., :-1, 1:] - here
    down = image[..., 1:, :-1] - here
    # eps keeps the slope finite on flat ground; 1e-8 is a hundredth of a grey level of 255, squared.
    return (across**2 + down**2 + 1e-8).sqrt().mean()


def absolute_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute error over the pixels that count, for impulse noise: a wild pixel pulls no harder than another.

        E(p, y) = sum(w |p - y|) / sum(w)

    Args:
        prediction: A(x), any shape.
        measured: y, the same shape.
        weight: as for `squared_error`.

    Returns:
        A scalar, in units of y.
    """
    return _mean((prediction - measured).abs(), weight)


@dataclass(frozen=True)
class Huber:
    """Squared error of small differences, absolute error of large ones: Gaussian noise with some wild pixels.

        E(p, y) = sum(w h(p - y)) / sum(w),   h(d) = d^2 where |d| < delta, delta (2 |d| - delta) beyond

    Called as the other losses are, with the result in squared units of y.

    Attributes:
        delta: where the one becomes the other, in units of y, above 0.

    Source:
        Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 1964.
    """

    delta: float

    def __call__(self, prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
        """E(p, y)."""
        distance = (prediction - measured).abs()
        near = distance.clamp(max=self.delta)
        return _mean(near * (2 * distance - near), weight)


def poisson_deviance(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean deviance of Poisson's distribution, for the noise of counted light: bright pixels may differ more.

        E(p, y) = sum(w 2 (y log(y / p) - y + p)) / sum(w)

    It is twice the negative logarithm of the likelihood, less its smallest value; the unknown scale from counts to
    values of 0..1 is a factor and changes no minimum.

    Args:
        prediction: A(x), any shape; values below half a grey level of 255 are taken for that.
        measured: y >= 0, the same shape.
        weight: as for `squared_error`.

    Returns:
        A scalar, in units of y.
    """
    predicted, counted = prediction.clamp(min=DIMMEST), measured.clamp(min=0)
    return _mean(2 * (counted * (counted.clamp(min=DIMMEST) / predicted).log() - counted + predicted), weight)


def make_loss(name: str, sigma: str = "auto") -> Loss:
    """The data term that `--loss` names.

    Args:
        name: l2, l1, huber or poisson.
        sigma: noise level on the scale of 0 to 255, as `--sigma` gives it, for huber; auto is a tenth of the range.

    Raises:
        UsageError: when there is no such loss.
    """
    known: dict[str, Loss] = {
        "l2": squared_error,
        "l1": absolute_error,
        "huber": Huber(UNKNOWN if sigma == "auto" else EFFICIENT * float(sigma) / FULL_SCALE),
        "poisson": poisson_deviance,
    }
    if name not in known:
        raise UsageError(f"There is no loss {name!r}: choose from {', '.join(known)}.")
    return known[name]


def _mean(error: Tensor, weight: Tensor | None) -> Tensor:
    """Over what counts."""
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (weight * error).sum() / weight.sum()
