"""The fusion of a fit with its companion, another estimate of the same image.

    fused = companion + share (fit - companion)

The errors of the two are partly independent, so that the fused image is better than either. The share minimises the
squared error of the fused image at held-out pixels, which neither estimate has seen:

    share = sum w (y - c) (f - c) / sum w (f - c)^2,    at most 1 and at least 0.

Noise that is independent from pixel to pixel adds a constant to that error and leaves the share unbiased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-12  # of squared values: the two estimates are equal


def find_share(fit: Tensor, companion: Tensor, measured: Tensor, weight: Tensor) -> float:
    """Return the share of the fit, 0..1, with which the fused image predicts the weighted pixels best.

    Args:
        fit: shape (C, H, W), as all.
        companion: the other estimate.
        measured: the measurement y.
        weight: weights of the pixels that neither estimate has seen; 0 for all others. Broadcastable.
    """
    difference = fit - companion
    weighted = weight * difference
    square = float((weighted * difference).sum())
    if square < TINY:
        return 1.0
    return min(max(float((weighted * (measured - companion)).sum()) / square, 0.0), 1.0)


def fuse(fit: Tensor, companion: Tensor, share: float) -> Tensor:
    """Return the fused image.

    Args:
        fit: shape (C, H, W).
        companion: the other estimate.
        share: of the fit, 0..1.
    """
    return companion + share * (fit - companion)
