"""Reading and writing images: files, bytes and arrays."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError, first_line
from dipcli.images import png
from dipcli.images.formats import find_writable, formats
from dipcli.images.image import MIN_SIDE, Image, from_array
from dipcli.images.raster import Raster, check_size


def read(path: Path, *, missing: bool = False) -> tuple[Image, bytes]:
    """Read an image and the bytes of its file; `-` is standard input.

    Args:
        path: the file.
        missing: whether pixels may be missing, that is, not finite.

    Raises:
        DipError: if there is no such file, or `decode` cannot read it.
    """
    try:
        if str(path) != "-":
            data = path.read_bytes()
        elif sys.stdin is None:
            raise DipError("Standard input is closed: name a file.")
        else:
            data = sys.stdin.buffer.read()
    except FileNotFoundError:
        raise DipError(f"There is no file {path}: check the name.") from None
    except IsADirectoryError:
        raise DipError(f"{path} is a folder: name the images in it, as {path}/*.png.") from None
    except (OSError, ValueError, MemoryError) as error:
        raise DipError(f"Cannot read {path} ({first_line(error)}): check the name.") from error
    try:
        return decode(data, missing=missing), data
    except DipError as error:
        raise DipError(f"{path}: {error}") from error


def to_image(source: NDArray[Any] | str | Path, *, alpha: bool = True, missing: bool = False) -> Image:
    """Make an image from a file, an array, or an object that NumPy converts to an array, as Pillow's images.

    Args:
        source: the file or array.
        alpha: of an array, whether the last of 2 or 4 channels is alpha.
        missing: whether pixels may be missing, that is, not finite.

    Raises:
        DipError: if `read` or `from_array` does.
    """
    if isinstance(source, str | Path):
        return read(Path(source), missing=missing)[0]
    return from_array(np.asarray(source), alpha=alpha, missing=missing)


def decode(data: bytes, *, missing: bool = False) -> Image:
    """Decode the bytes of a whole file, with its orientation applied and a palette resolved.

    Transparency that is complete everywhere is none: some programs leave it empty.

    Raises:
        DipError: if the format is unknown, the file is truncated or damaged, or it cannot be read without loss.
    """
    if not data:
        raise DipError("The file is empty: check where it came from.")
    try:
        raster = next(row for row in formats() if data.startswith(row.signatures)).read(data).upright()
    except DipError:
        raise
    except MemoryError:
        raise DipError("There is not enough memory to read the image: make it smaller first.") from None
    except PIL.UnidentifiedImageError:
        raise DipError("This is not an image of a known format: check the file.") from None
    except Exception as error:
        raise DipError(f"This image cannot be read ({first_line(error)}): check the file.") from error
    image = from_array(raster.samples, alpha=raster.alpha, missing=missing)
    profile, remarks = raster.profile, raster.remarks
    if profile and profile[16:20] != (b"GRAY" if len(image.pixels) == 1 else b"RGB "):
        profile, remarks = None, (*remarks, "its colour profile is not for such an image: it is left out")
    alpha = image.alpha if image.alpha is not None and image.alpha.any() else None
    return replace(image, **(raster.metadata | {"profile": profile}), alpha=alpha, remarks=remarks, file=data)


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
    if image.develop:
        if image.samples is not None and image.samples.shape[:2] != (height, width):
            raise DipError("The size of a RAW image cannot change: develop it to a TIFF of 16 bits first.")
        return
    encode(replace(image, pixels=image.pixels[:, corner, corner], alpha=alpha, known=None, excess=None), suffix)


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


def read_back(data: bytes, image: Image) -> NDArray[np.float32]:
    """Return the pixels of an image as they are in its file: rounded; some formats make three channels of one.

    Of a developed RAW image, whose file has other pixels, they are those of the mosaic, rounded.
    """
    return image.quantize(image.pixels) if image.develop else decode(data).match(image).pixels[: len(image.pixels)]


def encode_preview(image: Image) -> bytes:
    """Encode a PNG quickly, and mark it as one that may be replaced: see `png.is_marked`."""
    return png.write(_to_raster(image), preview=True)


def _to_raster(image: Image) -> Raster:
    samples = image.array()
    if image.develop:
        return Raster(image.develop(samples), exif=image.exif, xmp=image.xmp).resized((1, 1))
    height, width = samples.shape[:2]
    before = (height, width) if image.samples is None else image.samples.shape
    raster = Raster(samples, alpha=image.alpha is not None, **image.metadata)
    return raster.resized((width / before[1], height / before[0]))


def write(data: bytes, path: Path) -> None:
    """Write the bytes of an image atomically; `-` is standard output.

    Raises:
        DipError: if they cannot be written; an existing file stays unchanged.
    """
    if str(path) != "-":
        files.write(path, data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
