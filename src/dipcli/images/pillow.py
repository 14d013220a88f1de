"""JPEG, WebP, BMP, GIF, and kinds of TIFF that tifffile does not decode, through Pillow; the rest through imageio."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.raster import MAX_PIXELS, TOO_LARGE, Raster, check_size, valid_resolution

# What Pillow's modes are read as. Other modes have no lossless counterpart.
MODES = {
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA",
    "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
}  # fmt: skip
OTHER_MODES = (*MODES, "I", "I;16", "I;16B", "F", None)  # which imageio reads; None: by another plugin than Pillow's
# Samples of more than 8 bits that Pillow, beneath imageio, cuts to 8 without a warning: colours in PPM, JPEG 2000 (file
# and bare code stream) and AVIF, and everything in SGI.
CUT_BY_PILLOW = re.compile(
    rb"P[36](?:(?:\s|#[^\n]*\n)+\d+){2}(?:\s|#[^\n]*\n)+(?!(?:\d\d?|1\d\d|2[0-4]\d|25[0-5])\s)\d"
    rb"|.{0,99}ihdr.{8}\0[\x03\x04][\x08-\x25]"
    rb"|\xff\x4f\xff\x51.{36}\0[\x03\x04][\x08-\x25]"
    rb"|.{0,999}pixi\0{4}[\x03\x04][\x09-\x20]"
    rb"|\x01\xda.\x02",
    re.DOTALL,
)
UNKNOWN = "This is not an image of a known format: check the file."


def read(data: bytes, kind: str) -> Raster:
    """Decode a file of the format that Pillow calls `kind`.

    Raises:
        DipError: if it is too large, has several frames, or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    with limit_size(), PIL.Image.open(io.BytesIO(data), formats=(kind,)) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in ("MPO", "TIFF"):  # a JPEG with previews; checked by the TIFF reader
            raise DipError(f"The file has {frames} frames: extract the one to restore.")
        if image.mode not in MODES:
            raise DipError(f"{image.mode} images are not supported: convert it to RGB.")
        image.load()
        mode = MODES[image.mode]
        if "transparency" in image.info:
            mode = "LA" if mode == "L" else "RGBA"
        orientation = 1
        with contextlib.suppress(Exception):  # a damaged EXIF block does not matter to the pixels
            orientation = int(image.getexif().get(exif.ORIENTATION, 1))
        return make_raster(np.asarray(image.convert(mode)), orientation, image.info)


def read_other(data: bytes) -> Raster:
    """Decode a file of any other format that imageio reads, with the plugins that are installed.

    Raises:
        DipError: if the format is unknown, the image is too large, has several frames or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    if CUT_BY_PILLOW.match(data):
        raise DipError("Samples of more than 8 bits are not supported in this format: convert it to a PNG of 16 bits.")
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):  # EPS is a program, which Pillow would run with Ghostscript
        raise DipError(UNKNOWN)
    with limit_size():
        try:
            file = iio.imopen(data, "r")
        except OSError as error:
            raise DipError(UNKNOWN) from error
        with file:
            properties = file.properties(index=...)  # type: ignore[arg-type]
            frames, height, width, *channels = (*properties.shape, 1, 1)
            if frames > 1:
                raise DipError(f"The file has {frames} frames: extract the one to restore.")
            check_size(width, height, math.prod(channels))
            samples, info = file.read(index=0), file.metadata(index=0, exclude_applied=False)
    if info.get("mode") not in OTHER_MODES:
        raise DipError(f"{info['mode']} images are not supported: convert it to RGB.")
    if samples.dtype.kind == "i" and samples.min() >= 0 and samples.max() <= np.iinfo(np.uint16).max:
        samples = samples.astype(np.uint16)  # Pillow reads a PGM of 16 bits as 32
    return make_raster(samples, exif.orientation(info.get("exif") or b""), info)


def make_raster(samples: NDArray[Any], orientation: int, info: Mapping[Any, Any]) -> Raster:
    """Combine samples with Pillow's metadata."""
    resolution = valid_resolution(*info.get("dpi", (None, None)))
    return Raster(samples, orientation, info.get("icc_profile") or None, info.get("exif") or None, resolution)


def read_size(path: Path) -> tuple[int, int] | None:
    """Read width and height from the header of a file of any format that Pillow knows; None if there is none."""
    with contextlib.suppress(Exception), limit_size(), PIL.Image.open(path) as image:
        return image.size
    return None


def write(raster: Raster, kind: str, **options: Any) -> bytes:
    """Encode a file of the format that Pillow calls `kind`, with its options for this format.

    Raises:
        OSError: if the format cannot hold the image; so do ValueError and TypeError.
    """
    metadata = {"icc_profile": raster.profile, "exif": raster.exif, "dpi": raster.resolution}
    options |= {name: value for name, value in metadata.items() if value}
    file = io.BytesIO()
    PIL.Image.fromarray(raster.samples).save(file, kind, **options)
    return file.getvalue()


@contextlib.contextmanager
def limit_size() -> Iterator[None]:
    """Set Pillow's size limit, which it applies to every header, tile and frame, to that of `check_size`.

    Raises:
        DipError: if an image exceeds it.
    """
    previous = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises an error at twice its limit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PIL.Image.DecompressionBombError:
        raise DipError(f"The image {TOO_LARGE}") from None
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = previous
