"""Data terms E and penalties: plain functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
    error = (prediction - measured) ** 2
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (weight * error).sum() / weight.sum()


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
