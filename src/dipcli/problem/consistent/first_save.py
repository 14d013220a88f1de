"""JPEG files that were saved twice: the coefficients of the first save, in a second one of higher quality.

The second save rounds c1 = k1 q1, a coefficient after the first, to a multiple of its smaller step q2. Its values then
lie within q2/2 of the multiples of q1, with gaps between. The first, coarser intervals are those of the original image.

Source:
    Lukas and Fridrich, "Estimation of primary quantization matrix in double compressed JPEG images", DFRWS 2003.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from dipcli.problem.jpeg import BLOCK_SIDE, Encoder, JpegCoefficients, Plane

QUALITIES = range(5, 96)  # of libjpeg, which most programs use
MIN_RATIO = 2.0  # of the first step to the second; nearer ones leave no gaps
# How far from a multiple of q1 a value may be, beside q2 / 2: rounded pixels, and a part of q1.
TOLERANCE, RELATIVE_TOLERANCE = 1.0, 0.03
# Coefficients in the gaps, of those expected there if the file had been saved once. Measured on six images at two or
# more pairs of qualities: 0 to 0.006 if they were saved twice, 0.1 and more if once.
MAX_IN_GAPS = 0.03
MAX_IN_CHROMA_GAPS = 0.2  # for a given quality; resampled chroma is less exact
MIN_EXPECTED = 50.0
CLIPPED = 1 / 255  # values so near 0 and 1 were clipped before the second save


def find_first_save(encoder: Encoder, shown: Tensor) -> tuple[JpegCoefficients, int] | None:
    """Find the coefficients that the first of two saves left, and its quality, 5 to 95; None if there was one save.

    Args:
        encoder: of the file.
        shown: the image that it shows, (C, H, W), 0..1.
    """
    luma, *chroma = encoder.coefficients.planes
    rows, columns = luma.levels.shape[:2]
    coded = encoder.turn_as_coded(shown)[:, : rows * BLOCK_SIDE, : columns * BLOCK_SIDE].numpy()
    blocks = coded.reshape(len(coded), rows, BLOCK_SIDE, columns, BLOCK_SIDE)
    inside = (blocks.min(axis=(0, 2, 4)) > CLIPPED) & (blocks.max(axis=(0, 2, 4)) < 1 - CLIPPED)
    counts = _count(luma.levels[inside])
    tables = {quality: _read_tables(quality) for quality in QUALITIES}
    found = {quality: _look_into_gaps(counts, luma.steps, steps) for quality, (steps, _) in tables.items()}
    quality = max(found, key=lambda quality: found[quality][0] - found[quality][1] / MAX_IN_GAPS)
    expected, seen = found[quality]
    if expected < MIN_EXPECTED or seen > MAX_IN_GAPS * expected:
        return None
    luma_steps, chroma_steps = tables[quality]
    planes = [_undo_second(luma, luma_steps)]
    for plane in chroma:
        expected, seen = _look_into_gaps(
            _count(plane.levels.reshape(-1, BLOCK_SIDE, BLOCK_SIDE)), plane.steps, chroma_steps
        )
        is_twice = expected > 0 and seen <= MAX_IN_CHROMA_GAPS * expected
        planes.append(_undo_second(plane, chroma_steps) if is_twice else plane)
    return replace(encoder.coefficients, planes=tuple(planes)), quality


def _count(levels: NDArray[Any]) -> NDArray[np.float64]:
    """Count the absolute values of levels, (N, 8, 8), by frequency, (64, largest + 1)."""
    values = np.abs(levels.reshape(-1, BLOCK_SIDE**2).astype(int))
    size = int(values.max(initial=0)) + 1
    return np.stack([np.bincount(column, minlength=size) for column in values.T]).astype(float)


def _look_into_gaps(counts: NDArray[Any], second: NDArray[Any], first: NDArray[Any]) -> tuple[float, float]:
    """Return how many values to expect in the gaps between multiples of the first step, and how many there are.

    Only values beyond the first half step count, and only frequencies other than the mean.
    """
    small, large = (np.asarray(steps, float).reshape(-1, 1) for steps in (second, first))
    values = np.arange(counts.shape[1]) * small
    far = (values > (large + small) / 2) & (large > MIN_RATIO * small)
    far[0] = False
    gaps = far & (np.abs(values - large * np.rint(values / large)) > small / 2 + RELATIVE_TOLERANCE * large + TOLERANCE)
    share = gaps.sum(axis=1) / np.maximum(far.sum(axis=1), 1)
    return float(((counts * far).sum(axis=1) * share).sum()), float(counts[gaps].sum())


def _undo_second(plane: Plane, first: NDArray[Any]) -> Plane:
    """Round the values of a plane to the steps of the first save, where these are larger."""
    steps = np.maximum(first, plane.steps)
    levels = np.rint(plane.levels * (plane.steps / steps)).astype(plane.levels.dtype)
    return replace(plane, levels=levels, steps=steps)


def _read_tables(quality: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps of luma and chroma, (8, 8), at a quality of libjpeg."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (BLOCK_SIDE, BLOCK_SIDE)).save(file, "JPEG", quality=quality)
    with PIL.Image.open(file) as image:
        tables: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined]
    luma, chroma = (np.array(tables[number]).reshape(BLOCK_SIDE, BLOCK_SIDE) for number in (0, 1))
    return luma, chroma
