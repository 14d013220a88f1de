"""The fusion of a fit with its companion, another estimate of the same image.

    fused = companion + share (fit - companion)

The errors of the two are partly independent, so that the fused image is better than either. The share is found at
held-out pixels, which the fit f and a first companion h have not seen. There the share that predicts y best is

    s = sum w (f - h) (y - h) / sum w (f - h)^2.

Noise that is independent from pixel to pixel adds a constant to the error of the prediction and leaves s unbiased. But
the image is fused with a companion c that has seen these pixels too and is better than h, the more so the fainter the
noise and the finer the texture. If what the pixel adds were orthogonal to the error that remains, as for conditional
means, the best share would be

    s' = sum w (f - h) (y - c) / sum w (f - c)^2.

Measured against the clean image, s is too large where a pixel has a large part in its own estimate, and s' is too small
elsewhere (docs/notes/fusion.md). The share is therefore

    share = s + k (s' - s),    k = sum w (c - h) (y - h) / sum w (y - h)^2,

with the part k of a pixel in its own estimate. All three are limited to 0..1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-12  # of squared values: the two estimates are equal


def find_share(
    fit: Tensor, companion: Tensor, measured: Tensor, weight: Tensor, final_companion: Tensor | None = None
) -> float:
    """Return the share of the fit, 0..1, with which the fused image is best.

    Args:
        fit: f, shape (C, H, W), as all; if the operator is not the identity, the measurements that it makes of them.
        companion: h.
        measured: the measurement y.
        weight: w, weights of the pixels that neither f nor h has seen; 0 for all others. Broadcastable.
        final_companion: c, which has seen them and will be fused; None to fuse h.
    """

    def project(first: Tensor, second: Tensor, base: Tensor) -> float:
        """Return sum w first second / sum w base^2, within 0..1."""
        square = float((weight * base**2).sum())
        return 1.0 if square < TINY else min(max(float((weight * first * second).sum()) / square, 0.0), 1.0)

    difference, error = fit - companion, measured - companion
    predicting = project(difference, error, difference)
    if final_companion is None:
        return predicting
    orthogonal = project(difference, measured - final_companion, fit - final_companion)
    own = project(final_companion - companion, error, error)
    return predicting + own * (orthogonal - predicting)


def fuse(fit: Tensor, companion: Tensor, share: float) -> Tensor:
    """Return the fused image.

    Args:
        fit: shape (C, H, W).
        companion: the other estimate.
        share: of the fit, 0..1.
    """
    return companion + share * (fit - companion)
