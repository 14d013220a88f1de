"""Classical inpainting: cubic interpolation by SciPy and a biharmonic surface by scikit-image."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import griddata
from scipy.ndimage import distance_transform_edt
from skimage.restoration import inpaint_biharmonic

from dipcli.tasks.baselines.baseline import Baseline, Budget

WHOLE = 2**16  # known pixels: with more of them only those around the holes are gone by,
AROUND = 8  # so many pixels wide: kate (512x512, text) in 1.2 s for 9.7, and 0.1 dB less
# Measured on half to all of 256x256 to 1000x1000 pixels missing; seconds are those of one core of an AMD EPYC.
POINT_SECONDS, POINT_BYTES = 4e-5, 2200  # of the interpolation, for each known pixel
HOLE_SECONDS, HOLE_BYTES = 2e-7, 6500  # of the surface, for each unknown pixel to the power of 3/2, and for each
VALUE_BYTES = 36  # and for each value of the picture: 24 megapixels took 33


def classical(pixels: NDArray[np.float32], marked: NDArray[np.bool_]) -> list[Baseline]:
    """The methods for a picture with holes.

    Args:
        pixels: shape (C, H, W), values 0..1; what they are where they are marked has no influence.
        marked: what is to be filled, shape (H, W).
    """
    return [
        Baseline("cubic interpolation", "cubic", partial(cubic, pixels, marked)),
        Baseline("biharmonic filling", "biharmonic", partial(biharmonic, pixels, marked)),
    ]


def cubic(pixels: NDArray[np.float32], marked: NDArray[np.bool_], allowance: Budget) -> NDArray[np.float32]:
    """Smooth cubic pieces on triangles between known pixels; beyond the outermost of them the nearest.

    Source:
        Clough and Tocher's element with the gradients of Nielson, 1983, as SciPy has it.
    """
    near = ~marked
    if near.sum() > WHOLE:
        near &= distance_transform_edt(near) <= AROUND
    known, unknown = np.argwhere(near), np.argwhere(marked)
    allowance.expect(seconds=POINT_SECONDS * len(known), memory=POINT_BYTES * len(known))
    values = pixels[:, near].T
    filled = griddata(known, values, unknown, method="cubic")
    beyond = np.isnan(filled).any(axis=1)
    if beyond.any():
        filled[beyond] = griddata(known, values, unknown[beyond], method="nearest")
    restored = pixels.copy()
    restored[:, marked] = filled.T
    return restored


def biharmonic(pixels: NDArray[np.float32], marked: NDArray[np.bool_], allowance: Budget) -> NDArray[np.float32]:
    """The smoothest surface through what is known: its Laplacian's Laplacian is zero in the holes.

    Source:
        Damelin, Hoang, "On surface completion and image inpainting by biharmonic functions", 2018.
    """
    missing = int(marked.sum())
    allowance.expect(seconds=HOLE_SECONDS * missing**1.5, memory=HOLE_BYTES * missing + VALUE_BYTES * pixels.size)
    # In single precision a hole of 400x400 in a plain slope is filled wrong by half of the range.
    last = np.where(marked[..., None], 0, pixels.transpose(1, 2, 0)).astype(np.float64)
    restored: NDArray[np.float32] = inpaint_biharmonic(last, marked, channel_axis=-1).transpose(2, 0, 1)
    return restored.astype(np.float32)
