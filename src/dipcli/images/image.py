"""An image in memory, with what is needed to write it back to a file of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images.calibration import Tags

MIN_SIDE = 16  # pixels
MAX_CHANNELS = 256  # an array with more has its axes in another order


@dataclass(frozen=True)
class Image:
    """Pixels as the fit needs them, with the file's sample type and metadata.

    Attributes:
        pixels: float32, shape (C, H, W), values 0..1; C = 1 (grey), 3 (RGB), or 5 and more for other channels.
        dtype: of the file's samples: uint8, uint16 or float32.
        alpha: transparency, shape (H, W), in the file's dtype; None if there is none.
        span: for a float file with values beyond 0..1, its smallest and largest value; otherwise (0, 1).
        profile: ICC colour profile.
        exif: EXIF block, its orientation applied and reset.
        resolution: horizontal and vertical, in pixels per inch.
        png_colour: the colour chunks of a PNG file.
        xmp: XMP packet.
        tags: tags of a TIFF file.
        fits_header: the cards of a FITS file.
        develop: turns restored samples into those that are written, of another size, if they are a camera's raw ones.
        remarks: sentences for the user about what was not read as it is in the file.
        file: the bytes it was read from; None for an image made in memory.
        samples: the file's colours, shape (H, W, C).
        known: where `samples` are written in place of `pixels`, shape (H, W); None for nowhere.
    """

    pixels: NDArray[np.float32]
    dtype: np.dtype[Any]
    alpha: NDArray[Any] | None = None
    span: tuple[float, float] = (0.0, 1.0)
    profile: bytes | None = None
    exif: bytes | None = None
    resolution: tuple[float, float] | None = None
    png_colour: bytes = b""
    xmp: bytes | None = None
    tags: Tags | None = None
    fits_header: bytes = b""
    develop: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    remarks: tuple[str, ...] = ()
    file: bytes | None = None
    samples: NDArray[Any] | None = None
    known: NDArray[np.bool_] | None = None

    @property
    def full(self) -> float:
        """The sample value of an opaque pixel, and unless samples are floats of white."""
        return 1.0 if self.dtype.kind == "f" else float(np.iinfo(self.dtype).max)

    def with_pixels(self, pixels: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> Image:
        """Replace the pixels.

        Args:
            pixels: shape (C, H, W), values 0..1; if the size differs, alpha is resized to it.
            known: where the samples of this image are kept bit for bit, shape (H, W).
        """
        alpha = self.alpha
        if alpha is not None and alpha.shape != pixels.shape[1:]:
            alpha = _resize_alpha(alpha, pixels.shape[1:])
        return replace(self, pixels=pixels, alpha=alpha, known=known)

    def to_8_bits(self, pixels: NDArray[np.float32]) -> Image:
        """Make an opaque 8-bit image for display from the first three channels of pixels, with this colour profile."""
        return Image(pixels[:3], np.dtype(np.uint8), profile=self.profile, png_colour=self.png_colour)

    def quantize(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clip pixels to 0..1 and round them to the levels of this bit depth, as writing and reading would."""
        pixels = np.clip(pixels, 0, 1)
        return pixels if self.dtype.kind == "f" else np.rint(pixels * np.float32(self.full)) / np.float32(self.full)

    def array(self) -> NDArray[Any]:
        """Return the samples to write to a file: shape (H, W) or (H, W, channels), in the file's dtype."""
        low, high = self.span
        values = np.clip(self.pixels, 0, 1)  # one copy, changed in place: a photograph takes gigabytes
        if self.dtype.kind == "f":
            values *= high - low
            values += low
        else:
            values *= self.full
            np.rint(values, out=values)
        samples = values.transpose(1, 2, 0).astype(self.dtype, order="C")
        if self.known is not None and self.samples is not None:
            samples = np.where(self.known[..., None], self.samples, samples)
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        return samples[..., 0] if samples.shape[2] == 1 else samples


Picture = Image  # the name of earlier versions


def from_array(array: NDArray[Any], *, alpha: bool = True, span: tuple[float, float] | None = None) -> Image:
    """Make an image from samples in memory.

    Args:
        array: shape (H, W) for grey, (H, W, 2) for grey with alpha, (H, W, 3) for RGB, (H, W, 4) for RGB with alpha,
            (H, W, C) for 5 and more other channels; bool, uint8, uint16 or float. Floats are in 0..1; if some are not,
            the smallest and largest value are mapped to 0 and 1.
        alpha: whether the last of 2 or 4 channels is alpha, not a channel like the others.
        span: the values of a float array that map to 0 and 1, if known.

    Raises:
        DipError: if shape, type or values are invalid.
    """
    samples = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - grey
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= MAX_CHANNELS:  # noqa: PLR2004 - height, width, channels
        raise DipError(
            f"An array of shape {array.shape} is not an image: give (H, W) or (H, W, channels), 1 to {MAX_CHANNELS}."
        )
    if min(samples.shape[:2]) < MIN_SIDE:
        height, width = samples.shape[:2]
        raise DipError(f"An image of {width}x{height} is too small: the smallest is {MIN_SIDE}x{MIN_SIDE}.")
    if samples.dtype == bool:
        samples = samples.astype(np.uint8) * np.uint8(255)
    kind, size = samples.dtype.kind, samples.dtype.itemsize
    if kind != "f" and (kind, size) not in (("u", 1), ("u", 2)):
        raise DipError(f"Samples of type {samples.dtype} are not supported: convert them to 8 or 16 bits or float.")
    original = samples
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused below
        samples = samples.astype(np.float32 if kind == "f" else f"=u{size}", copy=False)
    transparency = samples[..., -1].copy() if alpha and samples.shape[2] in (2, 4) else None
    if transparency is not None:
        samples, original = samples[..., :-1], original[..., :-1]
    colours = samples.transpose(2, 0, 1)
    low, high = 0.0, 1.0
    if kind == "f":
        if not np.isfinite(colours).all():
            raise DipError("The image has values that are not finite numbers: replace them first.")
        beyond = colours.min() < 0 or colours.max() > 1
        low, high = span or ((float(colours.min()), float(colours.max())) if beyond else (low, high))
        if high - low > float(np.finfo(np.float32).max):
            raise DipError("The image's values are too far apart: scale them to 0..1 first.")
    full = np.float32(((high - low) or 1.0) if kind == "f" else np.iinfo(samples.dtype).max)
    pixels = np.empty(colours.shape, np.float32)  # allocated once and changed in place
    np.subtract(colours, np.float32(low), out=pixels)
    pixels /= full
    return Image(pixels, samples.dtype, transparency, (low, high), samples=original)


def _resize_alpha(alpha: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    from skimage.transform import resize  # noqa: PLC0415 - half a second of SciPy

    values: NDArray[Any] = resize(alpha.astype(np.float64), size, order=1, anti_aliasing=True)
    return (values if alpha.dtype.kind == "f" else np.rint(values)).astype(alpha.dtype)
