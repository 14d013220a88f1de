"""A picture in memory, and what it takes to write it back as it was."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError

SMALLEST = 16  # pixels on a side
MOST = 256  # channels; more is an array with its axes in another order


@dataclass(frozen=True)
class Image:
    """Pixels as the fit wants them, with what belongs to them in the file.

    Attributes:
        pixels: float32, shape (C, H, W), values 0..1; C = 1 or 3, or 5 and more for other than colours.
        dtype: of the file's samples: uint8, uint16 or float32.
        alpha: transparency, shape (H, W), in the file's own dtype; None where there is none.
        span: the smallest and largest value of a float file that is not within 0..1; (0, 1) for all others.
        profile: ICC colour profile.
        exif: EXIF block, its orientation already applied and reset.
        resolution: pixels an inch, across and down.
        colour: what a PNG file says of its colours beside the profile, as it stands there.
        file: the bytes it was read from; None for a picture made in memory.
        samples: the colours as they stand in the file, shape (H, W, C).
        known: which of them stay, whatever the pixels are, shape (H, W); None for none.
    """

    pixels: NDArray[np.float32]
    dtype: np.dtype[Any]
    alpha: NDArray[Any] | None = None
    span: tuple[float, float] = (0.0, 1.0)
    profile: bytes | None = None
    exif: bytes | None = None
    resolution: tuple[float, float] | None = None
    colour: bytes = b""
    file: bytes | None = None
    samples: NDArray[Any] | None = None
    known: NDArray[np.bool_] | None = None

    def with_pixels(self, pixels: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> Image:
        """The same kind of picture with other pixels.

        Args:
            pixels: shape (C, H, W), values 0..1; of another size, the transparency is resized to it.
            known: where the samples stay those of this picture, bit for bit, shape (H, W).
        """
        alpha = self.alpha
        if alpha is not None and alpha.shape != pixels.shape[1:]:
            alpha = _resized(alpha, pixels.shape[1:])
        return replace(self, pixels=pixels, alpha=alpha, known=known)

    def to_8_bits(self, pixels: NDArray[np.float32]) -> Image:
        """Other pixels as an opaque 8-bit picture of the same colour profile, for looking at.

        Of more channels than a colour has, the first three are shown.
        """
        return Image(pixels[:3], np.dtype(np.uint8), profile=self.profile, colour=self.colour)

    def rounded(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels as they would come back from a file of this kind: within 0..1, on the levels of its bit depth."""
        pixels = np.clip(pixels, 0, 1)
        if self.dtype.kind == "f":
            return pixels
        full = np.float32(np.iinfo(self.dtype).max)
        levels: NDArray[np.float32] = np.rint(pixels * full) / full
        return levels

    def array(self) -> NDArray[Any]:
        """The samples as they stand in a file: shape (H, W) or (H, W, channels), in the file's dtype."""
        low, high = self.span
        values = np.clip(self.pixels, 0, 1)  # one copy, changed in place: a photograph has gigabytes
        if self.dtype.kind == "f":
            values *= high - low
            values += low
        else:
            values *= np.iinfo(self.dtype).max
            np.rint(values, out=values)
        samples = values.transpose(1, 2, 0).astype(self.dtype, order="C")
        if self.known is not None and self.samples is not None:
            samples = np.where(self.known[..., None], self.samples, samples)
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        return samples[..., 0] if samples.shape[2] == 1 else samples


def from_array(array: NDArray[Any], *, span: tuple[float, float] | None = None) -> Image:
    """A picture from samples in memory.

    Args:
        array: shape (H, W) for grey, (H, W, 2) grey with alpha, (H, W, 3) RGB, (H, W, 4) RGB with alpha, (H, W, C)
            with 5 channels or more for what is not colours; bool, uint8, uint16 or float. Floats are taken as 0..1,
            or, where they go beyond it, from their smallest to their largest value.
        span: the values of a float array that mean 0 and 1, where they are known.

    Raises:
        DipError: when shape, type or values are not those of a picture.
    """
    samples = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - a grey picture
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= MOST:  # noqa: PLR2004 - height, width, channels
        raise DipError(f"An array of shape {array.shape} is no picture: give (H, W) or (H, W, channels), 1 to {MOST}.")
    if min(samples.shape[:2]) < SMALLEST:
        height, width = samples.shape[:2]
        raise DipError(f"A picture of {width}x{height} is too small: the smallest is {SMALLEST}x{SMALLEST}.")
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * np.uint8(255)
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and (kind, size) not in (("u", 1), ("u", 2)):
        raise DipError(f"Samples of type {samples.dtype} are not supported: convert them to 8 or 16 bits or float.")
    given = samples
    with np.errstate(over="ignore"):  # what is too large for the type becomes infinite, which is told below
        samples = samples.astype(np.float32 if kind == "f" else f"=u{size}", copy=False)
    alpha = samples[..., -1].copy() if samples.shape[2] in (2, 4) else None
    samples, given = (each if alpha is None else each[..., :-1] for each in (samples, given))
    colours = samples.transpose(2, 0, 1)
    low, high = 0.0, 1.0
    if kind == "f":
        if not np.isfinite(colours).all():
            raise DipError("The picture has values that are not finite numbers: replace them first.")
        beyond = colours.min() < 0 or colours.max() > 1
        low, high = span or ((float(colours.min()), float(colours.max())) if beyond else (low, high))
        if high - low > float(np.finfo(np.float32).max):
            raise DipError("The picture's values are too far apart: scale them to 0..1 first.")
    full = np.float32(((high - low) or 1.0) if kind == "f" else np.iinfo(samples.dtype).max)
    pixels = np.empty(colours.shape, np.float32)  # made once and changed in place
    np.subtract(colours, np.float32(low), out=pixels)
    pixels /= full
    return Image(pixels, samples.dtype, alpha, (low, high), samples=given)


def _resized(alpha: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Transparency, (H, W), at another size."""
    from skimage.transform import resize  # noqa: PLC0415 - half a second of SciPy

    values = resize(alpha.astype(np.float64), size, order=1, anti_aliasing=True)
    values = values if alpha.dtype.kind == "f" else np.rint(values)
    resized: NDArray[Any] = values.astype(alpha.dtype)
    return resized


Picture = Image  # the old name
