"""Images as data URLs: 8 bits, lossless up to a size, WebP of one quality above it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli.images.image import Image

MAX_LOSSLESS_SIDE = 768  # pixels: 1.4 MB of noise in colour
MAX_SIDE = 2048  # pixels; larger images are reduced
WEBP_QUALITY = 90
COLOURS = 3
FILL_COLOUR = (225, 29, 116)  # of pixels to be filled; rare in photographs


@dataclass(frozen=True)
class EmbeddedImage:
    """An image of the page, with its label, its legend, and a data URL that holds it.

    Attributes:
        size: width and height in pixels before it was reduced.
        treatment: how it differs from its file, in words; empty if it does not.
        place: left, top, width and height of the part of the result that it shows, in percent; None for all of it.
    """

    name: str
    url: str
    size: tuple[int, int]
    treatment: str = ""
    has_transparency: bool = False
    legend: str = ""
    place: tuple[float, float, float, float] | None = None


def to_samples(image: Image) -> NDArray[np.uint8]:
    """Convert an image to 8 bits for display: shape (H, W) or (H, W, channels), transparency kept.

    Of more than three channels the first three are shown.
    """
    samples: NDArray[np.uint8] = image.to_8_bits(image.pixels).array()
    if image.alpha is None:
        return samples
    alpha = np.rint(np.clip(image.alpha / image.full, 0, 1) * 255).astype(np.uint8)
    return np.dstack([samples if samples.ndim == COLOURS else np.dstack([samples] * COLOURS), alpha])


def embed_image(
    name: str,
    image: Image,
    *,
    max_side: int = MAX_SIDE,
    max_lossless_side: int = MAX_LOSSLESS_SIDE,
    legend: str = "",
    place: tuple[float, float, float, float] | None = None,
) -> EmbeddedImage:
    """Embed an image of any type, without loss up to one side in pixels, reduced beyond the other."""
    samples = to_samples(image)
    pillow_image = PIL.Image.fromarray(samples)
    size = pillow_image.size
    treatment = [f"the first {COLOURS} of {len(image.pixels)} channels"] if len(image.pixels) > COLOURS else []
    if image.dtype != np.uint8 and image.file:
        treatment.append(f"{8 * image.dtype.itemsize} bits shown as 8")
    options: dict[str, bool | int | bytes] = {"lossless": True, "exact": True, "quality": 20, "method": 0}
    if max(size) > max_lossless_side:
        pillow_image.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
        if pillow_image.size != size:
            treatment.append(f"reduced to {pillow_image.width}x{pillow_image.height} pixels")
        treatment.append(f"WebP of quality {WEBP_QUALITY}")
        options = {"quality": WEBP_QUALITY, "method": 2}
    if image.profile and len(image.pixels) == COLOURS:  # WebP has no grey: a grey profile does not apply
        options["icc_profile"] = image.profile
    file = io.BytesIO()
    pillow_image.save(file, "WEBP", **options)
    has_transparency = image.alpha is not None and bool((samples[..., -1] < np.iinfo(np.uint8).max).any())
    url = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    return EmbeddedImage(name, url, size, ", ".join(treatment), has_transparency, legend, place)


def mark_filled_pixels(image: Image, filled: Image) -> Image | None:
    """Paint the pixels that are white in `filled` in one flat colour; None if the two images differ in size."""
    if image.pixels.shape[1:] != filled.pixels.shape[1:]:
        return None
    colour = np.array(FILL_COLOUR, np.float32)[:, None, None] / 255
    shown = image.to_8_bits(image.pixels).pixels
    marked = image.to_8_bits(np.where(filled.pixels[:1] > 1 / 2, colour, shown).astype(np.float32))
    return marked if len(image.pixels) >= COLOURS else replace(marked, profile=None)  # no longer grey


def space_evenly(count: int, most: int) -> Sequence[int]:
    """Return at most `most` of `count` indices, evenly spaced, the first and the last among them."""
    if count <= most:
        return range(count)
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
