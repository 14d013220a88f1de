"""Classical inpainting: cubic interpolation by SciPy and a biharmonic surface by scikit-image."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import griddata
from scipy.ndimage import distance_transform_edt
from skimage.restoration import inpaint_biharmonic

from dipcli.tasks.baselines.baseline import Baseline, Budget

# With more known pixels, only those near the holes are interpolated: kate (512x512, text) takes 1.2 s, not 9.7, and
# loses 0.1 dB.
MAX_KNOWN, NEAR = 2**16, 8  # pixels; distance in pixels
# Neither method can be interrupted, so their time is estimated first. Measured on half to all of 256x256 to 1000x1000
# pixels missing, on one core of an AMD EPYC.
SECONDS_PER_KNOWN, BYTES_PER_KNOWN = 4e-5, 2200  # of the interpolation
SECONDS_PER_MISSING, BYTES_PER_MISSING = 2e-7, 6500  # of the surface; the seconds grow with missing pixels^(3/2)
BYTES_PER_VALUE = 36  # of the surface, beside; 24 megapixels took 33


def make_baselines(pixels: NDArray[np.float32], marked: NDArray[np.bool_]) -> list[Baseline]:
    """Return the methods for an image with holes.

    Args:
        pixels: shape (C, H, W), values 0..1; marked pixels have no influence.
        marked: the pixels to fill, shape (H, W).
    """
    return [
        Baseline("cubic interpolation", "cubic", partial(cubic, pixels, marked)),
        Baseline("biharmonic filling", "biharmonic", partial(biharmonic, pixels, marked)),
    ]


def cubic(pixels: NDArray[np.float32], marked: NDArray[np.bool_], budget: Budget) -> NDArray[np.float32]:
    """Interpolate by smooth cubic pieces on triangles of known pixels; outside of them, use the nearest known pixel.

    Source:
        Clough and Tocher's element with the gradients of Nielson, 1983, as implemented in SciPy.
    """
    near = ~marked
    if near.sum() > MAX_KNOWN:
        near &= distance_transform_edt(near) <= NEAR
    known, missing = np.argwhere(near), np.argwhere(marked)
    budget.expect(seconds=SECONDS_PER_KNOWN * len(known), memory=BYTES_PER_KNOWN * len(known))
    values = pixels[:, near].T
    filled = griddata(known, values, missing, method="cubic")
    outside = np.isnan(filled).any(axis=1)
    if outside.any():
        filled[outside] = griddata(known, values, missing[outside], method="nearest")
    restored = pixels.copy()
    restored[:, marked] = filled.T
    return restored


def biharmonic(pixels: NDArray[np.float32], marked: NDArray[np.bool_], budget: Budget) -> NDArray[np.float32]:
    """Fill with the smoothest surface through the known pixels: the Laplacian of its Laplacian is zero in the holes.

    Source:
        Damelin, Hoang, "On surface completion and image inpainting by biharmonic functions", 2018.
    """
    missing = int(marked.sum())
    budget.expect(
        seconds=SECONDS_PER_MISSING * missing**1.5,
        memory=BYTES_PER_MISSING * missing + BYTES_PER_VALUE * pixels.size,
    )
    # In single precision a hole of 400x400 in a linear ramp is wrong by half of the range.
    channels_last = np.where(marked[..., None], 0, pixels.transpose(1, 2, 0)).astype(np.float64)
    restored: NDArray[np.float32] = inpaint_biharmonic(channels_last, marked, channel_axis=-1).transpose(2, 0, 1)
    return restored.astype(np.float32)
