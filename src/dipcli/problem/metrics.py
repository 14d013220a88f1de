"""How near two pictures are."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LARGE = 2**24  # values from which on a picture is taken part by part: copies of it are large too
WINDOW, STRIP = 7, 256  # side of SSIM's windows; rows of them that are taken together


def psnr(image: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio in dB for values of 0..1, over all pixels and channels; infinite when equal.

        10 log10( 1 / mean (x - y)^2 )

    Args:
        image: x, any shape.
        reference: y, the same shape.
    """
    # Not scikit-image's: it brings all of SciPy's statistics with it, most of a second before the first iteration ends.
    parts, longest = -(-image.size // LARGE), int(np.argmax(image.shape))
    pairs = zip(*(np.array_split(each, parts, longest) for each in (image, reference)), strict=True)
    error = sum(float(np.sum((own - true) ** 2, dtype=np.float64)) for own, true in pairs) / image.size
    return -10 * math.log10(error) if error else math.inf


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

    if image.size <= LARGE:
        return float(structural_similarity(reference, image, data_range=1, channel_axis=0))
    rows, total = image.shape[1] - WINDOW + 1, 0.0  # places that a window has, one above the other
    for begin in range(0, rows, STRIP):
        strip = slice(begin, min(begin + STRIP, rows) + WINDOW - 1)
        alike = structural_similarity(reference[:, strip], image[:, strip], data_range=1, channel_axis=0)
        total += float(alike) * (strip.stop - strip.start - WINDOW + 1)
    return float(total / rows)


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The luma of an RGB picture, on which super-resolution is measured by custom.

        Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255

    Args:
        image: shape (3, H, W), values 0..1.

    Returns:
        Shape (H, W), values 16/255..235/255.

    Source:
        ITU-R BT.601, as Matlab's rgb2ycbcr has it.
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
    """All measures of a picture that apply, by name.

    Args:
        image: shape (C, H, W), values 0..1.
        reference: the true picture, the same shape.
        border: pixels left out along the edges for the luma.
        known: pixels that were not restored, shape (H, W): the others are measured by themselves too.

    Returns:
        psnr over all pixels and channels, ssim; psnr_y of the luma for colour; psnr_unknown where some were known.
    """
    measures = {"psnr": psnr(image, reference), "ssim": ssim(image, reference)}
    if len(image) == 3:  # noqa: PLR2004 - red, green, blue
        inside = slice(border, -border or None)
        measures["psnr_y"] = psnr(luma(image)[inside, inside], luma(reference)[inside, inside])
    if known is not None:
        measures["psnr_unknown"] = psnr(image[:, ~known], reference[:, ~known])
    return measures
