"""How near two pictures are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def psnr(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB for values of 0..1, over all pixels and channels; infinite when equal.

        10 log10( 1 / mean (x - y)^2 )

    Args:
        image: x, any shape.
        reference: y, the same shape.
    """
    from skimage.metrics import peak_signal_noise_ratio  # noqa: PLC0415 - half a second of SciPy

    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(reference, image, data_range=1))


def ssim(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Structural similarity for values of 0..1, -1..1, mean over pixels and channels, windows of 7x7.

    Args:
        image: shape (C, H, W) with H, W >= 7.
        reference: the same shape.

    Source:
        Wang et al., "Image quality assessment: from error visibility to structural similarity", TIP 2004, by
        way of scikit-image.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - half a second of SciPy

    return float(structural_similarity(reference, image, data_range=1, channel_axis=0))
