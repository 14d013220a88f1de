"""The level of independent noise, weak or strong.

White noise adds its variance to every eigenvalue of the covariance of small patches, and structure has a few large
ones: the level of weak white noise is that of the smallest, as many as have a mean no larger than their median. Strong
noise outweighs structure, but values beyond 0 and 1 are cut off: its level is that with which the cut-off normal
distribution has the variance of the finest details, for the brightness of each block.

Sources:
    Chen, Zhu, Heng, "An efficient statistical method for image noise level estimation", ICCV 2015.
    Foi, "Clipped noisy images: heteroskedastic modeling and practical denoising", Signal Processing 2009.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dipcli.problem.independent.blocks import FULL_SCALE, MAX_CLIPPED_FRACTION, split_blocks, transform_haar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_SIDE = 16  # pixels
PATCH_SIDE, MAX_PATCHES, MIN_PATCHES = 4, 40_000, 1000  # pixels; patches of the covariance
# Above this level the noise is measured as cut off. On nine images of 256x256 that measurement was within 2 % at levels
# of 50 to 150, and up to 7 and 38 % too large at 25 and 10; that of the eigenvalues was within 2 % at 10 and 25, but
# for baboon and peppers at 10 (9 %), and up to 18 % too small at 50.
STRONG_LEVEL = 37.5 / FULL_SCALE
# From this ratio between a brightness group and the whole image on, noise depends on brightness. In nine images with
# noise of 25 grey levels everywhere the ratio was at most 1.14, where all bright parts are brick walls. Their texture
# outweighs noise of 10 levels: the ratio was 1.28. Photon noise had 1.1 to 1.5.
MIN_LEVEL_RATIO = 1.2
MIN_EVENNESS = 0.7  # of measured to expected variance, median over the blocks; text has less
MIN_INNER, MAX_INNER = 0.7, 0.2  # of the level without what was cut off, to the level up to the second number
WEAKEST, STRONGEST, BISECTIONS = 1 / FULL_SCALE, 2.0, 20


def measure_clipped_level(image: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> float:
    """Return the level of strong white noise, standard deviation before values were cut off at 0 and 1.

    It is 0 if the finest details are not about as strong everywhere as such noise would be: they are structure. It is
    also 0 if the values between 0 and 1 have much less noise: the others are impulses.

    Args:
        image: shape (C, H, W), values 0..1.
        known: the pixels to use, shape (H, W); all when None.
    """
    import numpy as np

    height, width = (side // BLOCK_SIDE * BLOCK_SIDE for side in image.shape[1:])
    cut = image[:, :height, :width]
    details = split_blocks(transform_haar(cut)[1], BLOCK_SIDE // 2) ** 2
    usable = details.any(axis=1)  # a frame is not
    if known is not None:
        usable &= split_blocks(known[None], BLOCK_SIDE).all(axis=1)
    if not usable.any():
        return 0.0
    means = np.stack([split_blocks(channel[None], BLOCK_SIDE)[usable].mean(axis=1) for channel in cut])
    measured = details[usable].mean(axis=1)
    low, high = WEAKEST, STRONGEST
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        x = np.linspace(-4 * middle, 1 + 4 * middle, 1001)
        mean, variance, _ = clipped_moments(x, middle)
        expected = np.interp(means, mean, variance).mean(axis=0)
        low, high = (middle, high) if expected.mean() < measured.mean() else (low, middle)
    even = np.median(measured / expected) > MIN_EVENNESS
    return float(middle) if even and _measure_inner_level(image, known) > MIN_INNER * min(middle, MAX_INNER) else 0.0


def _measure_inner_level(image: NDArray[np.float32], known: NDArray[np.bool_] | None) -> float:
    """Return the noise level of the values that were not cut off, from the differences of neighbours."""
    import numpy as np

    inside = (image > 0) & (image < 1)
    if known is not None:
        inside &= known
    pairs = inside[:, :, 1:] & inside[:, :, :-1]
    return float(np.sqrt((np.diff(image, axis=2)[pairs] ** 2).mean() / 2)) if pairs.any() else 0.0


def clipped_moments(
    x: NDArray[np.float64], level: Any, *, dark: bool = True, bright: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of noisy values that were cut off, and the probability of those that were not.

    With a = -x / s, b = (1 - x) / s:

        E[y] = x P + s (phi(a) - phi(b)) + (1 - Phi(b)),    P = Phi(b) - Phi(a)

    Args:
        x: expected values before that.
        level: s, standard deviation before that.
        dark: whether values below 0 became 0.
        bright: whether values above 1 became 1.
    """
    import numpy as np
    from scipy.special import ndtr  # importing scipy.stats takes a second

    low = -x / level if dark else np.full_like(x, -np.inf)
    high = (1 - x) / level if bright else np.full_like(x, np.inf)
    inside, above = ndtr(high) - ndtr(low), ndtr(-high)
    density_low, density_high = (np.exp(-(end**2) / 2) / np.sqrt(2 * np.pi) for end in (low, high))
    mean = x * inside + level * (density_low - density_high) + above
    edges = np.where(np.isfinite(low), low, 0) * density_low - np.where(np.isfinite(high), high, 0) * density_high
    square = (x**2 + level**2) * inside + 2 * x * level * (density_low - density_high) + level**2 * edges + above
    return mean, np.maximum(square - mean**2, 0.0), inside


def measure_smallest_eigenvalues(image: NDArray[np.float32], known: NDArray[np.bool_] | None) -> float | None:
    """Return the level of weak white noise; None with too few patches whose values are not cut off."""
    import numpy as np

    side = (PATCH_SIDE, PATCH_SIDE)
    windows = np.lib.stride_tricks.sliding_window_view(image, side, axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    rows, columns = windows.shape[:2]
    chosen = np.unravel_index(np.arange(0, rows * columns, max(1, rows * columns // MAX_PATCHES)), (rows, columns))
    patches = windows[chosen].reshape(len(chosen[0]), -1)
    usable = (((patches <= 0) | (patches >= 1)).mean(axis=1) < MAX_CLIPPED_FRACTION) & (np.ptp(patches, axis=1) > 0)
    if known is not None:
        usable &= np.lib.stride_tricks.sliding_window_view(known, side)[chosen].all(axis=(1, 2))
    patches = patches[usable]
    if len(patches) < MIN_PATCHES:
        return None
    eigenvalues = np.linalg.eigvalsh(np.cov(patches.T.astype(np.float64)))  # in growing order
    for count in range(len(eigenvalues), 0, -1):
        smallest = eigenvalues[:count]
        if smallest.mean() <= np.median(smallest):
            break
    return float(np.sqrt(max(smallest.mean(), 0.0)))
