"""Square blocks of an image, and the variances of their finest details."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FULL_SCALE = 255  # noise levels are given on the scale 0..255
MAX_CLIPPED_FRACTION = 0.1  # blocks with more values at the ends of the range are left out: their noise is cut off
FLATTEST_FRACTION = 0.1  # fraction of the blocks that an estimate uses
MIN_BLOCKS = 8  # fewest blocks for an estimate


def transform_haar(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return means and diagonal details of 2x2 pixels, from (C, H, W) to two arrays of (C, H/2, W/2)."""
    p, q, r, s = (image[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
    return (p + q + r + s) / 2, (p - q - r + s) / 2


def split_blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the values of each complete block as a row: from (C, H, W) to (blocks, C * side * side)."""
    channels, rows, columns = len(values), values.shape[1] // side, values.shape[2] // side
    blocks = values[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(rows * columns, channels * side * side)


def make_surfaces(side: int, degree: int) -> NDArray[np.float64]:
    """Return an orthonormal basis of the polynomials of this degree on a square, shape (side^2, terms)."""
    import numpy as np

    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].reshape(2, -1)
    powers = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.linalg.qr(np.stack(powers, axis=1))[0]


def find_usable_blocks(image: NDArray[np.float32], known: NDArray[np.bool_] | None, side: int) -> NDArray[np.bool_]:
    """Return for each block whether all of it is known and few of its values are clipped."""
    clipped = (image <= 0) | (image >= 1)
    usable: NDArray[np.bool_] = split_blocks(clipped, side).mean(axis=1) < MAX_CLIPPED_FRACTION
    return usable if known is None else usable & split_blocks(known[None], side).all(axis=1)


def measure_variances(image: NDArray[np.float32], side: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the variances of the finest diagonal details, and of those one scale coarser, of each complete block."""
    height, width = (length // side * side for length in image.shape[1:])
    means, fine = transform_haar(image[:, :height, :width])
    _, coarse = transform_haar(means)
    fine_variances, coarse_variances = (
        (split_blocks(details, side // scale) ** 2).mean(axis=1) for details, scale in ((fine, 2), (coarse, 4))
    )
    return fine_variances, coarse_variances
