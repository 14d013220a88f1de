"""Writing images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from dipcli import files
from dipcli.errors import DipError, first_line
from dipcli.images import exif, png
from dipcli.images.formats import find_writable
from dipcli.images.image import MIN_SIDE, Image
from dipcli.images.raster import Raster, check_size


def check(image: Image, suffix: str) -> None:
    """Check that the format of a suffix can hold an image, by encoding a corner of it.

    Raises:
        DipError: if there is no such format or it cannot hold the image.
    """
    find_writable(suffix, image)
    height, width = image.pixels.shape[1:]
    check_size(width, height, len(image.pixels) + (image.alpha is not None))
    corner = slice(0, MIN_SIDE)
    alpha = None if image.alpha is None else image.alpha[corner, corner]
    encode(replace(image, pixels=image.pixels[:, corner, corner], alpha=alpha, known=None), suffix)


def encode(image: Image, suffix: str) -> bytes:
    """Encode an image in the format of a suffix, as ".png".

    Raises:
        DipError: if `check` does.
    """
    write_raster = find_writable(suffix, image).write
    assert write_raster  # noqa: S101 - for the type checker
    try:
        return write_raster(_to_raster(image))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DipError(f"{suffix} cannot hold this image ({first_line(error)}): write it as .png.") from error


def encode_preview(image: Image) -> bytes:
    """Encode a PNG quickly, and mark it as one that may be replaced: see `png.is_marked`."""
    return png.write(_to_raster(image), preview=True)


def _to_raster(image: Image) -> Raster:
    samples = image.array()
    block = image.exif and exif.resize(image.exif, samples.shape[1], samples.shape[0])
    return Raster(samples, 1, image.profile, block, image.resolution, image.png_colour)


def write(data: bytes, path: Path) -> None:
    """Write the bytes of an image atomically; `-` is standard output.

    Raises:
        DipError: if they cannot be written; an existing file stays unchanged.
    """
    if str(path) != "-":
        files.write(path, data)
    elif sys.stdout is None:
        raise DipError("Standard output is closed: name a file with -o.")
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
