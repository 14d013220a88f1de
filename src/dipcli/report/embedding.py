"""Pictures for a page: 8 bits, as small as they have to be, within the page itself."""

from __future__ import annotations

import base64
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError
from dipcli.images import png
from dipcli.images.image import Image

LONGEST = 16_383  # pixels on a side of a WebP
ROOMY = 0.2  # bytes a sample, below which nothing but drawings is kept without loss
DENSE = 0.05  # bytes a sample, below which hardly any photograph comes as a WebP of the qualities below
QUALITIES = (95, 88, 80)  # at the first no difference can be seen, at the last little
COARSEST = 64  # times reduced
COLOURS = 3
HEADER = 24  # bytes of a PNG, up to its size
MARKED = (225, 29, 116)  # what is to be filled: a colour that few photographs have


@dataclass(frozen=True)
class View:
    """A picture of the page.

    Attributes:
        name: what it is called there.
        source: it itself, as a data URL.
        size: width and height in pixels of the picture that it shows.
        treatment: what was done to it, in words; empty where it is shown as it is.
        clear: whether it has transparent pixels.
        place: the part of the result that it shows: left, top, width and height in percent; None for all of it.
        legend: what is told beneath it.
    """

    name: str
    source: str
    size: tuple[int, int]
    treatment: str = ""
    clear: bool = False
    place: tuple[float, float, float, float] | None = None
    legend: str = ""


def samples(picture: Image) -> NDArray[np.uint8]:
    """A picture as 8 bits for looking at: shape (H, W) or (H, W, channels), transparency kept.

    Of more channels than a colour has, the first three are shown.
    """
    array: NDArray[np.uint8] = picture.to_8_bits(picture.pixels).array()
    if picture.alpha is None:
        return array
    full = 1.0 if picture.alpha.dtype.kind == "f" else float(np.iinfo(picture.alpha.dtype).max)
    alpha = np.rint(np.clip(picture.alpha / full, 0, 1) * 255).astype(np.uint8)
    colours = array if array.ndim > 2 else np.repeat(array[..., None], COLOURS, axis=2)  # noqa: PLR2004 - grey
    return np.concatenate([colours, alpha[..., None]], axis=2)


def embedded(name: str, picture: Image, most: float, legend: str = "") -> View:
    """A picture as it goes into the page: without loss where that fits, else as WebP, else smaller too.

    Args:
        name: what it is called.
        picture: any.
        most: bytes that it may take.
        legend: what is told beneath it.
    """
    array = samples(picture)
    profile = picture.profile if len(picture.pixels) == COLOURS else None  # that of a grey one would not fit
    told = [f"the first {COLOURS} of {len(picture.pixels)} channels"] if len(picture.pixels) > COLOURS else []
    if picture.dtype != np.uint8 and picture.file:
        told.append(f"{8 * picture.dtype.itemsize} bits shown as 8")
    data, treatment = packed(array, most, profile)
    height, width = array.shape[:2]
    clear = picture.alpha is not None and bool((array[..., -1] < np.iinfo(np.uint8).max).any())
    told += [treatment] if treatment else []
    return View(name, as_url(data), (width, height), ", ".join(told), clear, legend=legend)


def packed(array: NDArray[np.uint8], most: float, profile: bytes | None = None) -> tuple[bytes, str]:
    """The bytes of a WebP of at most so many, and what was done to the picture for it.

    Args:
        array: 8-bit samples, shape (H, W) or (H, W, 3 or 4).
        most: bytes; a picture that is reduced as far as it can be may still take more.
        profile: ICC colour profile.
    """
    picture = PIL.Image.fromarray(array)
    factor = max(-(-max(picture.size) // LONGEST), math.ceil((array.size * DENSE / most) ** 0.5))
    if factor == 1 and array.size * ROOMY <= most:
        data = _webp(picture, profile, lossless=True, quality=20, method=0, exact=True)
        if len(data) <= most:
            return data, ""
    while True:
        smaller = picture.reduce(factor) if factor > 1 else picture
        for quality in QUALITIES:
            data = _webp(smaller, profile, quality=quality, method=2)
            if len(data) <= most or factor >= COARSEST:
                words = [f"at 1/{factor} of its size"] if factor > 1 else []
                return data, " ".join([*words, f"as WebP of quality {quality}"])
        factor += max(1, int((len(data) / most) ** 0.5) - 1)  # straight to about where it fits


def marked(picture: Image, filled: Image) -> Image | None:
    """What the network was shown of a picture: what it was to fill in one flat colour.

    Args:
        picture: the damaged one.
        filled: white where pixels were filled.

    Returns:
        None where the two do not go together.
    """
    if picture.pixels.shape[1:] != filled.pixels.shape[1:]:
        return None
    colour = np.array(MARKED, np.float32)[:, None, None] / 255
    shown = picture.to_8_bits(np.where(filled.pixels[:1] > 1 / 2, colour, picture.pixels[:COLOURS]).astype(np.float32))
    return shown if len(picture.pixels) >= COLOURS else replace(shown, profile=None)  # which speaks of grey


def stretched(picture: Image) -> Image:
    """A map from black to white, whatever its largest value is."""
    most = float(picture.pixels.max())
    return picture.to_8_bits(picture.pixels / most if most else picture.pixels)


def thumbnail(picture: Image, side: int) -> View:
    """A small view, so many pixels on its longer side at most."""
    array = samples(picture)
    height, width = array.shape[:2]
    reduced = PIL.Image.fromarray(array)
    reduced.thumbnail((side, side), PIL.Image.Resampling.LANCZOS, reducing_gap=2)
    profile = picture.profile if len(picture.pixels) == COLOURS else None
    return View("", as_url(_webp(reduced, profile, quality=82, method=4)), (width, height))


def snapshot(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG, by its first bytes.

    Raises:
        DipError: when it is none.
    """
    if not data.startswith(png.SIGNATURE) or data[12:16] != b"IHDR" or len(data) < HEADER:
        raise DipError("This is no snapshot: it was cut short or is something else.")
    width, height = struct.unpack(">II", data[16:HEADER])
    return width, height


def whole(name: str, data: bytes, most: float, **more: Any) -> View:
    """A PNG of ours as it stands in its file where that fits, else as `embedded`.

    Raises:
        DipError: when it is no picture.
    """
    if len(data) <= most:
        return View(name, as_url(data, "png"), snapshot(data), **more)
    view = embedded(name, images.decode(data), most)
    return View(name, view.source, view.size, view.treatment, **more)


def as_url(data: bytes, kind: str = "webp") -> str:
    """Bytes as a URL that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def evenly(count: int, most: int) -> Sequence[int]:
    """Which of so many to take where there are too many: evenly spaced, the first and the last among them."""
    if count <= most:
        return range(count)
    return sorted({round(each * (count - 1) / (most - 1)) for each in range(most)})


def _webp(picture: PIL.Image.Image, profile: bytes | None, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", **how, **({"icc_profile": profile} if profile else {}))
    return file.getvalue()
