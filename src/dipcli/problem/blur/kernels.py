"""Blur kernels (point-spread functions): Gaussian, linear motion, or an image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError, UsageError, first_line
from dipcli.images.formats import formats
from dipcli.problem.operators import GAUSSIAN_REACH_IN_SIGMAS

NEGLIGIBLE = 1e-9  # part of the light: rounding
EXAMPLES = "name an image of the kernel, or write gaussian:1.5 (sigma in pixels) or motion:9:30 (pixels, degrees)"


def read_kernel(source: Any, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a kernel k, shape (h, w) with odd sides, values >= 0 of sum 1, its middle at the origin.

    Args:
        source: gaussian:SIGMA, motion:LENGTH:DEGREES, the path of an image, or an array of shape (h, w). Colours are
            averaged. The origin of an image is its middle pixel, along an even side the pixel at its centroid.
        size: (H, W) of the blurred image.

    Raises:
        DipError: if there is no such file, its values do not make a kernel, or it is larger than the blurred image.
    """
    kernel = _trim(_parse(source, max(size)) if isinstance(source, str | Path) else _normalise(np.asarray(source)))
    if kernel.shape[0] > size[0] or kernel.shape[1] > size[1]:
        raise _too_large(f"{kernel.shape[1]}x{kernel.shape[0]} pixels")
    return kernel.astype(np.float32)


def gaussian(sigma: float) -> NDArray[np.float64]:
    """Return exp(-|d|^2 / (2 sigma^2)) up to a factor, cut off at 4 sigma."""
    distance = np.arange(-math.ceil(GAUSSIAN_REACH_IN_SIGMAS * sigma), math.ceil(GAUSSIAN_REACH_IN_SIGMAS * sigma) + 1)
    taps = np.exp(-(distance**2) / (2 * sigma**2))
    return np.outer(taps, taps)


def motion(length: float, degrees: float) -> NDArray[np.float64]:
    """Return a line through the origin, one pixel wide, up to a factor: max(0, 1 - distance from it).

    Args:
        length: pixels; the line of length - 1 has all its weight, as `fspecial("motion")` of MATLAB.
        degrees: direction, counter-clockwise from a row.
    """
    half, angle = (length - 1) / 2, math.radians(degrees)
    reach = math.ceil(half) + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    line: NDArray[np.float64] = np.maximum(0, 1 - np.hypot(np.maximum(abs(along) - half, 0), across))
    return line


def _parse(source: str | Path, limit: int) -> NDArray[np.float64]:
    """Return the kernel that a text names; the limit is the longest side of the blurred image."""
    name, *numbers = str(source).split(":")
    if name not in ("gaussian", "motion"):
        return _normalise(_read_samples(Path(source)))
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = []
    if name == "gaussian" and len(values) == 1 and 0 < values[0] < math.inf:
        if 2 * GAUSSIAN_REACH_IN_SIGMAS * values[0] > limit:
            raise _too_large(f"a sigma of {values[0]:g} pixels")
        return _normalise(gaussian(values[0]))
    if name == "motion" and len(values) == 2 and 1 <= values[0] < math.inf and math.isfinite(values[1]):  # noqa: PLR2004
        if values[0] > limit:
            raise _too_large(f"a length of {values[0]:g} pixels")
        return _normalise(motion(*values))
    raise UsageError(f"--kernel {source} is not complete: {EXAMPLES}.")


def _too_large(extent: str) -> DipError:
    return DipError(f"A kernel with {extent} is too large for this image: give a smaller --kernel.")


def _read_samples(path: Path) -> NDArray[Any]:
    """Return the samples of an image of any size, (h, w) or (h, w, channels), without transparency."""
    try:
        data = path.read_bytes()
        raster = next(row for row in formats() if data.startswith(row.signatures)).read(data).upright()
    except FileNotFoundError:
        raise UsageError(f"--kernel {path}: there is no such file; {EXAMPLES}.") from None
    except Exception as error:
        raise DipError(f"--kernel {path} cannot be read ({first_line(error)}): {EXAMPLES}.") from error
    has_alpha = raster.samples.ndim > 2 and raster.samples.shape[2] in (2, 4)  # noqa: PLR2004 - grey, RGB
    return raster.samples[..., :-1] if has_alpha else raster.samples


def _normalise(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Return an array as a kernel of sum 1."""
    values = samples.astype(np.float64).mean(axis=2) if samples.ndim == 3 else samples.astype(np.float64)  # noqa: PLR2004
    if values.ndim != 2 or not values.size:  # noqa: PLR2004 - (h, w)
        raise DipError(f"A kernel of shape {samples.shape} is not an image: give (h, w).")
    if not np.isfinite(values).all() or values.min() < 0:
        raise DipError("The kernel has negative values, or some that are not finite: set them to 0.")
    if not values.any():
        raise DipError("The kernel is black throughout: white is where the light of a point goes.")
    kernel: NDArray[np.float64] = values / values.sum()
    return kernel


def _trim(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel in the smallest frame of odd sides that has the origin in its middle."""
    for axis in (0, 1):
        profile = kernel.sum(axis=1 - axis)
        side, places = len(profile), np.flatnonzero(profile > NEGLIGIBLE)
        origin = side // 2 if side % 2 else round(float(np.arange(side) @ profile))
        reach = int(max(origin - places[0], places[-1] - origin))
        padded = np.pad(kernel, [(side * (axis == number),) * 2 for number in (0, 1)])
        kernel = np.take(padded, range(side + origin - reach, side + origin + reach + 1), axis=axis)
    return kernel
