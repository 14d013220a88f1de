"""Measures of similarity between two images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_VALUES_AT_ONCE = 2**24  # larger images are compared in parts, because the copies of them are large too
WINDOW_SIDE, STRIP_ROWS = 7, 256  # SSIM: side of a window; rows of windows in a strip


def psnr(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

        10 log10( 1 / mean (x - y)^2 )

    Args:
        image: x, any shape, values 0..1.
        reference: y, the same shape.
    """
    # Not scikit-image's, whose import of scipy.stats takes most of a second before the first iteration ends.
    parts, longest_axis = -(-image.size // MAX_VALUES_AT_ONCE), int(np.argmax(image.shape))
    pairs = zip(*(np.array_split(array, parts, longest_axis) for array in (image, reference)), strict=True)
    error = sum(float(np.sum((x - y) ** 2, dtype=np.float64)) for x, y in pairs) / image.size
    return -10 * math.log10(error) if error else math.inf


def ssim(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the structural similarity, -1..1: the mean over windows of 7x7 pixels and over channels.

    Args:
        image: shape (C, H, W) with H, W >= 7, values 0..1.
        reference: the same shape.

    Source:
        Wang et al., "Image quality assessment: from error visibility to structural similarity", TIP 2004, as
        implemented in scikit-image.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - half a second of SciPy

    if image.size <= MAX_VALUES_AT_ONCE:
        return float(structural_similarity(reference, image, data_range=1, channel_axis=0))
    window_rows, total = image.shape[1] - WINDOW_SIDE + 1, 0.0
    for start in range(0, window_rows, STRIP_ROWS):
        strip = slice(start, min(start + STRIP_ROWS, window_rows) + WINDOW_SIDE - 1)
        similarity = structural_similarity(reference[:, strip], image[:, strip], data_range=1, channel_axis=0)
        total += float(similarity) * (strip.stop - strip.start - WINDOW_SIDE + 1)
    return float(total / window_rows)


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the luma of an RGB image, on which super-resolution is commonly measured.

        Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255

    Args:
        image: shape (3, H, W), values 0..1.

    Returns:
        Shape (H, W), values 16/255..235/255.

    Source:
        ITU-R BT.601, as in Matlab's rgb2ycbcr.
    """
    weights = np.array([65.481, 128.553, 24.966], dtype=np.float32)
    return (16 + np.tensordot(weights, image, axes=1)) / np.float32(255)


def measure_similarity(
    image: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    border: int = 0,
    known: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Return all measures that apply to an image, by name.

    Args:
        image: shape (C, H, W), values 0..1.
        reference: the true image, the same shape.
        border: width of the border that the luma leaves out, in pixels.
        known: the pixels that were not restored, shape (H, W); the others are then measured separately too.

    Returns:
        psnr over all pixels and channels; ssim; psnr_y, of the luma, for RGB; psnr_unknown if `known` is given.
    """
    measures = {"psnr": psnr(image, reference), "ssim": ssim(image, reference)}
    if len(image) == 3:  # noqa: PLR2004 - red, green, blue
        inside = slice(border, -border or None)
        measures["psnr_y"] = psnr(luma(image)[inside, inside], luma(reference)[inside, inside])
    if known is not None:
        measures["psnr_unknown"] = psnr(image[:, ~known], reference[:, ~known])
    return measures
