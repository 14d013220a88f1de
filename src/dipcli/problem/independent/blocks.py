"""Square blocks of an image, and the details of 2x2 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

FULL_SCALE = 255  # noise levels are given on the scale 0..255


def transform_haar(image: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return means and diagonal details of 2x2 pixels, from (C, H, W) to two arrays of (C, H/2, W/2)."""
    p, q, r, s = (image[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
    return (p + q + r + s) / 2, (p - q - r + s) / 2


def split_blocks(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the values of each complete block as a row: from (C, H, W) to (blocks, C * side * side)."""
    channels, rows, columns = len(values), values.shape[1] // side, values.shape[2] // side
    blocks = values[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    return blocks.transpose(1, 3, 0, 2, 4).reshape(rows * columns, channels * side * side)
