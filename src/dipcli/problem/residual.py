"""The residual of a restoration of y = x + noise: what was removed, and whether it looks like independent noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHOWN_DEVIATIONS = 3  # standard deviations that fill the range of the amplified residual
MAX_GAIN = 100  # rounding to 8 bits is then as strong as the noise


def autocorrelation(residual: NDArray[np.float32], max_lag: int) -> NDArray[np.float64]:
    """Return the correlation of a residual with itself, shifted by up to `max_lag` pixels.

        r(d) = c(d) / c(0),    c(d) = mean over p of  e(p) e(p + d),    e = residual - its mean

    The mean is over the pixels p for which p + d lies inside too. Independent noise has r = 0 at all d but 0, within
    about 1 / sqrt(HW); noise smoothed by a box of n pixels has a triangle, r = 1 - |d| / n.

    Args:
        residual: shape (H, W), any values.
        max_lag: largest shift, 0 to min(H, W) - 1.

    Returns:
        Shape (2 max_lag + 1, 2 max_lag + 1), values -1..1 up to chance; row and column `max_lag` are no shift. A
        constant residual counts as independent.
    """
    lags = np.arange(-max_lag, max_lag + 1)
    padded = [side + max_lag for side in residual.shape]  # with zeros, so that opposite borders do not meet
    spectrum = np.fft.rfft2(residual - residual.mean(dtype=np.float64), padded)
    products = np.fft.irfft2(abs(spectrum) ** 2, padded)[np.ix_(lags, lags)]
    rows, columns = (side - abs(lags) for side in residual.shape)
    covariances = products / (rows[:, None] * columns)
    variance = covariances[max_lag, max_lag] if np.ptp(residual) else np.inf
    correlations: NDArray[np.float64] = covariances / variance
    correlations[max_lag, max_lag] = 1
    return correlations


def amplify(residual: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return a residual as an image in which 1/2 is zero and three standard deviations fill the range, and the gain.

    Args:
        residual: differences, shape (C, H, W).

    Returns:
        Values 0..1, shape (C, H, W); and the factor, at most 100, by which the differences were multiplied.
    """
    gain = min(MAX_GAIN, 1 / (2 * SHOWN_DEVIATIONS * max(float(residual.std()), 1e-9)))
    return np.clip(1 / 2 + gain * residual, 0, 1).astype(np.float32), gain
