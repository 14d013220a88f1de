"""Reading and writing pictures, with what belongs to them: bit depth, transparency, colour profile, EXIF."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError
from dipcli.images import exif, pillow, png, tiff
from dipcli.images.image import SMALLEST, Image, from_array
from dipcli.images.raster import Raster, check_size

FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
COLOURS = 3
QUICK = 1  # how hard PNG tries to be small, of 9
LONGEST = {".png": 1_000_000, ".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # sides, in pixels, as they are coded
LARGEST_EXIF = 65_533  # bytes in a JPEG


def read(path: Path, *, span: tuple[float, float] | None = None) -> tuple[Image, bytes]:
    """Read a picture and the bytes it came from; `-` is standard input.

    Args:
        path: the file.
        span: the values of a float file that mean 0 and 1, where they are known.

    Raises:
        DipError: when there is no such file or it is not a picture that can be read to its end.
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
        raise DipError(f"{path} is a folder: name the pictures in it, as {path}/*.png.") from None
    except (OSError, ValueError, MemoryError) as error:
        raise DipError(f"Cannot read {path} ({_first_line(error)}): check the name.") from error
    try:
        return decode(data, span=span), data
    except DipError as error:
        raise DipError(f"{path}: {error}") from error


def to_image(source: NDArray[Any] | str | Path, *, span: tuple[float, float] | None = None) -> Image:
    """A picture from a file or from an array, or from what NumPy makes an array of, as Pillow's pictures.

    Raises:
        DipError: when it is not a picture.
    """
    if isinstance(source, str | Path):
        return read(Path(source), span=span)[0]
    return from_array(np.asarray(source), span=span)


def decode(data: bytes, *, span: tuple[float, float] | None = None) -> Image:
    """Turn a file's bytes into a picture: orientation applied, palette resolved.

    Args:
        data: the bytes.
        span: the values of a float file that mean 0 and 1, where they are known.

    Raises:
        DipError: when they are not a picture that can be read to its end and without loss.
    """
    if not data:
        raise DipError("The file is empty: check where it came from.")
    try:
        raster = _raster(data).upright()
    except DipError:
        raise
    except MemoryError:
        raise DipError("There is not enough memory to read the picture: make it smaller first.") from None
    except PIL.UnidentifiedImageError:
        raise DipError("This is not a picture of a known format: check the file.") from None
    except Exception as error:
        raise DipError(f"This is not a picture that can be read ({_first_line(error)}): check the file.") from error
    return replace(
        from_array(raster.samples, span=span),
        profile=raster.profile,
        exif=raster.exif,
        resolution=raster.resolution,
        colour=raster.colour,
        file=data,
    )


def check(picture: Image, suffix: str) -> None:
    """Find out, without writing it, whether a file of the format that the suffix names can hold a picture.

    Raises:
        DipError: when there is no such format or it cannot.
    """
    suffix = suffix.lower()
    _check_held(picture, suffix)
    height, width = picture.pixels.shape[1:]
    check_size(width, height, len(picture.pixels) + (picture.alpha is not None))
    if max(height, width) > LONGEST.get(suffix, max(height, width)):
        raise DipError(f"{suffix} cannot hold a picture of {width}x{height}: write it as .tif.")
    corner = slice(0, SMALLEST)
    alpha = None if picture.alpha is None else picture.alpha[corner, corner]
    encode(replace(picture, pixels=picture.pixels[:, corner, corner], alpha=alpha, known=None), suffix)


def encode(picture: Image, suffix: str, *, quick: bool = False) -> bytes:
    """The bytes of a file of the format that the suffix names.

    Args:
        picture: what is in it.
        suffix: as `.png`.
        quick: as PNG in a third of the time, and a little larger: for what is soon replaced.

    Raises:
        DipError: when there is no such format or it cannot hold the picture, as `check` would have said.
    """
    suffix = suffix.lower()
    _check_held(picture, suffix)
    samples = picture.array()
    block = picture.exif and exif.sized(picture.exif, samples.shape[1], samples.shape[0])
    raster = Raster(samples, 1, picture.profile, block, picture.resolution, picture.colour)
    try:
        if suffix == ".png":
            return png.write(raster, QUICK if quick else None)
        if suffix in TIFF:
            return tiff.write(raster, alpha=picture.alpha is not None)
        return pillow.write(raster, suffix)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DipError(f"{suffix} cannot hold this picture ({_first_line(error)}): write it as .png.") from error


def write(data: bytes, path: Path) -> None:
    """Write a picture's bytes whole or not at all; `-` is standard output.

    Raises:
        DipError: when they cannot be written; a file that is there stays as it is.
    """
    if str(path) != "-":
        files.write(path, data)
    elif sys.stdout is None:
        raise DipError("Standard output is closed: name a file with -o.")
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def default_suffix(picture: Image) -> str:
    """.png where PNG holds the picture without loss, else .tif."""
    return ".png" if _fits_png(picture) else ".tif"


def _raster(data: bytes) -> Raster:
    """What the file holds, by the reader of its format."""
    if data.startswith(png.SIGNATURE):
        return png.read(data)
    return tiff.read(data) if data.startswith(tiff.SIGNATURES) else pillow.read(data)


def _fits_png(picture: Image) -> bool:
    return len(picture.pixels) <= COLOURS and picture.dtype.kind == "u"


def _check_held(picture: Image, suffix: str) -> None:
    """Find out whether there is such a format, and in it a place for such samples and what stands beside them.

    Raises:
        DipError: when there is none.
    """
    if suffix not in FORMATS:
        wrong = f"The suffix {suffix} is not that of a picture" if suffix else "The output has no suffix"
        raise DipError(f"{wrong}: use one of {' '.join(FORMATS)}.")
    if suffix in TIFF:
        return
    if len(picture.pixels) > COLOURS:
        raise DipError(f"{suffix} cannot hold {len(picture.pixels)} channels: write it as .tif.")
    if not (picture.dtype == np.uint8 or (suffix == ".png" and _fits_png(picture))):
        others = ".png or .tif" if _fits_png(picture) else ".tif"
        raise DipError(f"{suffix} cannot hold {picture.dtype} samples without loss: write it as {others}.")
    if picture.alpha is not None and suffix in (*JPEG, ".bmp"):
        raise DipError(f"{suffix} cannot hold transparency: write it as .png.")
    if len(picture.exif or b"") > LARGEST_EXIF and suffix in JPEG:
        raise DipError(f"{suffix} cannot hold as much EXIF as the picture has: write it as .png.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
