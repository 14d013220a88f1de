"""An image in memory, with what is needed to write it back to a file of the same kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images.ranges import Span, find_span, sample_range
from dipcli.images.raster import Metadata

MIN_SIDE = 16  # pixels
MAX_CHANNELS = 256  # an array with more has its axes in another order
MAX_INTEGER_RANGE = 2**53  # integers that are further apart are not exact in 64-bit floats


@dataclass(frozen=True)
class Image(Metadata):
    """Pixels as the fit needs them, with the file's sample type and metadata.

    Attributes:
        pixels: float32, shape (C, H, W), values 0..1; C = 1 (grey), 3 (RGB), or the number of other channels. A pixel
            that is not valid has the values of the nearest valid one.
        dtype: of the file's samples: integers or floats.
        alpha: transparency, shape (H, W), in the file's dtype; None if there is none.
        span: the sample values that are mapped to 0 and 1; None for the range of the sample type (`images.ranges`).
        file: the bytes it was read from; None for an image made in memory.
        samples: the file's colours, shape (H, W, C).
        valid: the pixels to fit, shape (H, W): those that are finite and not fully transparent; None for all.
        known: where `samples` are written in place of `pixels`, shape (H, W, C): at fully transparent pixels, and where
            the samples are outliers beyond the span; None for nowhere.
        excess: how far outliers lie beyond the span, resized, to be added to the samples, shape (H, W, C).
    """

    pixels: NDArray[np.float32]
    dtype: np.dtype[Any]
    alpha: NDArray[Any] | None = None
    span: Span | None = None
    file: bytes | None = None
    samples: NDArray[Any] | None = None
    valid: NDArray[np.bool_] | None = None
    known: NDArray[np.bool_] | None = None
    excess: NDArray[np.float64] | None = None

    @property
    def full(self) -> float:
        """The sample value of an opaque pixel."""
        return sample_range(self.dtype)[1]

    @property
    def range(self) -> Span:
        """The sample values that are mapped to 0 and 1."""
        return self.span or sample_range(self.dtype)

    @property
    def missing(self) -> NDArray[np.bool_] | None:
        """The pixels that are not finite, shape (H, W); None if all are."""
        if self.valid is None or self.samples is None or np.isfinite(self.samples).all():
            return None
        missing: NDArray[np.bool_] = ~np.isfinite(self.samples).all(axis=2)
        return missing

    @property
    def weights(self) -> dict[str, Any]:
        """The weight of the pixels as an attribute of `Problem`: 0 where they are not valid; none if all are."""
        import torch  # noqa: PLC0415 - images are read without it

        if self.valid is None:
            return {}
        return {"weight": torch.from_numpy(self.valid)[None].float(), "hidden": self.missing is None}

    def with_span(self, span: Span | None) -> Image:
        """Map other sample values to 0 and 1; None for the range of the sample type."""
        return self if span == self.span else _map_samples(replace(self, span=span))

    def match(self, other: Image) -> Image:
        """Map the same sample values as another image, if both are of one sample type."""
        return self.with_span(other.span) if self.dtype == other.dtype else self

    def leave_out(self, places: NDArray[np.bool_]) -> Image:
        """Take pixels, shape (H, W), for missing: not valid, not counted in the span, and not kept as they are."""
        assert self.samples is not None  # noqa: S101 - for the type checker: every image that was read has samples
        valid = ~places if self.valid is None else self.valid & ~places
        return _map_samples(replace(self, valid=valid, span=find_span(self.samples[valid])), places)

    def with_pixels(self, pixels: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> Image:
        """Replace the pixels.

        Args:
            pixels: shape (C, H, W), values 0..1; if the size differs, alpha is resized to it, and so are outliers.
            known: where the samples of this image are kept bit for bit, shape (H, W).
        """
        size = pixels.shape[1:]
        if self.samples is None or size == self.samples.shape[:2]:
            kept = self.known
            if known is not None:
                kept = known[..., None] if kept is None else kept | known[..., None]
            if self.samples is not None and (self.dtype.kind == "f" or self.dtype.itemsize > 2):  # noqa: PLR2004
                # The mapping rounds these types; where nothing was changed, they come back bit for bit.
                unchanged = (pixels == self.pixels).transpose(1, 2, 0)
                unchanged = unchanged if self.valid is None else unchanged & self.valid[..., None]
                kept = unchanged if kept is None else kept | unchanged
            return replace(self, pixels=pixels, known=kept)
        alpha = None if self.alpha is None else _resize(self.alpha, size)
        return replace(self, pixels=pixels, alpha=alpha, valid=None, known=None, excess=self._resize_excess(size))

    def _resize_excess(self, size: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Return how far the samples lie beyond the span, resized; None if none does."""
        if self.samples is None or self.known is None:
            return None
        samples = self.samples.astype(np.float64)
        excess = samples - samples.clip(*self.range)
        if self.valid is not None:
            excess[~self.valid] = 0
        return _resize(excess, size) if excess.any() else None

    def to_8_bits(self, pixels: NDArray[np.float32]) -> Image:
        """Make an opaque 8-bit image for display from the first three channels of pixels, with this colour profile."""
        shown = pixels[:1] if len(pixels) == 2 else pixels[:3]  # noqa: PLR2004 - no format shows two
        return Image(shown, np.dtype(np.uint8), profile=self.profile, png_colour=self.png_colour)

    def quantize(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clip pixels to 0..1 and round them to the levels of the samples, as writing and reading would."""
        pixels = np.clip(pixels, 0, 1)
        levels = np.float32(self.range[1] - self.range[0] or 1)
        return pixels if self.dtype.kind == "f" else np.rint(pixels * levels) / levels

    def array(self) -> NDArray[Any]:
        """Return the samples to write to a file: shape (H, W) or (H, W, channels), in the file's dtype."""
        low, high = self.range
        # One copy, changed in place: a photograph takes gigabytes.
        values = np.clip(self.pixels, 0, 1).astype(np.result_type(self.dtype, np.float32), copy=False)
        values *= high - low
        values += low
        if self.dtype.kind != "f":
            np.rint(values, out=values)
        if self.excess is not None:
            limits = np.finfo(self.dtype) if self.dtype.kind == "f" else np.iinfo(self.dtype)
            values = (values + self.excess.transpose(2, 0, 1)).clip(float(limits.min), float(limits.max))
        samples = values.transpose(1, 2, 0).astype(self.dtype, order="C")
        if self.known is not None and self.samples is not None:
            samples = np.where(self.known, self.samples, samples)
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        return samples[..., 0] if samples.shape[2] == 1 else samples


Picture = Image  # the name of earlier versions


def from_array(array: NDArray[Any], *, alpha: bool = True, missing: bool = False) -> Image:
    """Make an image from samples in memory.

    Args:
        array: shape (H, W) for grey, (H, W, 2) for grey with alpha, (H, W, 3) for RGB, (H, W, 4) for RGB with alpha,
            (H, W, C) for 5 and more other channels; bool, integers or floats in any unit.
        alpha: whether the last of 2 or 4 channels is alpha, not a channel like the others.
        missing: whether pixels may be missing, that is, not finite.

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
    if samples.dtype.kind not in "iuf" or samples.dtype.itemsize > 8:  # noqa: PLR2004 - bytes
        raise DipError(f"Samples of type {samples.dtype} are not supported: convert them to integers or floats.")
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    transparency = samples[..., -1].copy() if alpha and samples.shape[2] in (2, 4) else None
    colours = samples if transparency is None else samples[..., :-1]
    valid = None
    if samples.dtype.kind == "f" and not (finite := np.isfinite(samples).all(axis=2)).all():
        if not missing:
            raise DipError("The image has values that are not finite numbers: replace them first.")
        if not finite.any():
            raise DipError("No pixel of the image is a finite number: check the file.")
        valid = finite
    if transparency is not None and transparency.any() and not transparency.all():
        valid = transparency > 0 if valid is None else valid & (transparency > 0)
        if not valid.any():
            raise DipError("All pixels of the image are transparent or not finite: check the file.")
    span = find_span(colours if valid is None else colours[valid])
    blank = np.empty(0, np.float32)
    return _map_samples(Image(blank, samples.dtype, transparency, span, samples=colours, valid=valid))


def _map_samples(image: Image, left_out: NDArray[np.bool_] | None = None) -> Image:
    """Map the samples of an image to pixels, and mark those that are written as they are.

    Args:
        image: with samples and span.
        left_out: pixels that are not written as they are, shape (H, W).
    """
    samples, valid, (low, high) = image.samples, image.valid, image.range
    assert samples is not None  # noqa: S101 - for the type checker
    wide = np.result_type(image.dtype, np.float32)
    if high - low > (float(np.finfo(wide).max) if image.dtype.kind == "f" else MAX_INTEGER_RANGE):
        raise DipError("The image's values are too far apart: scale them to 0..1 first.")
    pixels = np.empty((samples.shape[2], *samples.shape[:2]), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # outliers, and values that are not finite
        for channel, colour in zip(pixels, samples.transpose(2, 0, 1), strict=True):
            values = channel if wide == np.float32 else np.empty(channel.shape, wide)
            np.subtract(colour, wide.type(low), out=values, dtype=wide)
            values /= wide.type((high - low) or 1.0)
            channel[:] = values
    known = None
    if image.dtype.kind != "u" or image.span:
        beyond = (samples < low) | (samples > high)
        if beyond.any():
            np.clip(pixels, 0, 1, out=pixels)
            known = beyond
    if image.alpha is not None and valid is not None and not (visible := image.alpha > 0).all():
        hidden = np.broadcast_to(~visible[..., None], samples.shape)
        known = hidden if known is None else known | hidden
    if valid is not None:
        pixels = fill_from_nearest(pixels, valid)
        if known is not None:
            kept = (
                np.isfinite(samples).all(axis=2) if left_out is None else np.isfinite(samples).all(axis=2) & ~left_out
            )
            known = known & kept[..., None]
    return replace(image, pixels=pixels, known=known)


def fill_from_nearest(pixels: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Give each pixel, (C, H, W), that is not valid the values of the nearest that is."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415 - half a second of SciPy

    rows, columns = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled: NDArray[np.float32] = pixels[:, rows, columns]
    return filled


def _resize(values: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    """Resize values of shape (H, W) or (H, W, C) to a size (h, w), in their own type."""
    from skimage.transform import resize  # noqa: PLC0415 - half a second of SciPy

    resized: NDArray[Any] = resize(values.astype(np.float64), size, order=1, anti_aliasing=True)
    return (resized if values.dtype.kind == "f" else np.rint(resized)).astype(values.dtype)
