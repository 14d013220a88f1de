"""Reading and writing pictures, with what belongs to them: bit depth, transparency, colour profile, EXIF."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
import PIL.ImageOps
import tifffile
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError
from dipcli.picture import Picture, from_array

ORIENTATION = 0x0112  # the tag, in EXIF and in TIFF, that says which way is up
PROFILE = 34675  # the tag in TIFF that holds the colour profile
FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
TIFF = (".tif", ".tiff")
COLOURS = 3
OPTIONS: dict[str, dict[str, Any]] = {  # as little loss as the format allows
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True, "exact": True},
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What Pillow's modes are read as; others have no counterpart that would not lose something.
MODES = {
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16", "I;16B": "I;16",
    "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
}  # fmt: skip
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def read(path: Path, *, span: tuple[float, float] | None = None) -> tuple[Picture, bytes]:
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
    except (OSError, ValueError) as error:
        raise DipError(f"Cannot read {path} ({_first_line(error)}): check the name.") from error
    try:
        return decode(data, span=span), data
    except DipError as error:
        raise DipError(f"{path}: {error}") from error


def obtain(source: NDArray[Any] | str | Path, *, span: tuple[float, float] | None = None) -> Picture:
    """A picture from a file or from an array, or from what NumPy makes an array of, as Pillow's pictures.

    Raises:
        DipError: when it is not a picture.
    """
    if isinstance(source, str | Path):
        return read(Path(source), span=span)[0]
    return from_array(np.asarray(source), span=span)


def decode(data: bytes, *, span: tuple[float, float] | None = None) -> Picture:
    """Turn a file's bytes into a picture: orientation applied, palette resolved.

    Args:
        data: the bytes.
        span: the values of a float file that mean 0 and 1, where they are known.

    Raises:
        DipError: when they are not a picture that can be read to its end and without loss.
    """
    if not data:
        raise DipError("The file is empty: check where it came from.")
    if data.startswith(PNG_SIGNATURE) and data[24:26] in (b"\x10\x02", b"\x10\x04", b"\x10\x06"):
        # Pillow would cut these to 8 bits without a word.
        raise DipError("PNG with 16 bits in colour or with transparency is not supported yet: convert it to TIFF.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            array, profile, exif = _deep_tiff(data) or _ordinary(data)
    except DipError:
        raise
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        raise DipError("The picture is larger than can be handled: make it smaller first.") from None
    except PIL.UnidentifiedImageError:
        raise DipError("This is not a picture of a known format: check the file.") from None
    except Exception as error:
        raise DipError(f"This is not a picture that can be read ({_first_line(error)}): check the file.") from error
    return replace(from_array(array, span=span), profile=profile, exif=exif, file=data)


def encode(picture: Picture, suffix: str) -> bytes:
    """The bytes of a file of the format that the suffix names.

    Raises:
        DipError: when there is no such format or it cannot hold the picture.
    """
    suffix = suffix.lower()
    if suffix not in FORMATS:
        wrong = f"The suffix {suffix} is not that of a picture" if suffix else "The output has no suffix"
        raise DipError(f"{wrong}: use one of {' '.join(FORMATS)}.")
    array, tiff = picture.array(), suffix in TIFF
    deep = array.dtype != np.uint8
    if len(picture.pixels) > COLOURS and not tiff:
        raise DipError(f"{suffix} cannot hold {len(picture.pixels)} channels: write it as .tif.")
    if deep and not tiff and not (suffix == ".png" and _fits_png(array)):
        raise DipError(f"{suffix} cannot hold {array.dtype} samples of this kind without loss: write it as .tif.")
    if picture.alpha is not None and suffix in (".jpg", ".jpeg", ".bmp"):
        raise DipError(f"{suffix} cannot hold transparency: write it as .png.")
    if tiff:
        options: dict[str, Any] = {
            "iccprofile": picture.profile,
            "photometric": "rgb" if len(picture.pixels) == COLOURS else "minisblack",
        }
        if len(picture.pixels) > COLOURS:
            options |= {"planarconfig": "contig"}
        if picture.alpha is not None:
            options |= {"extrasamples": ["unassalpha"], "planarconfig": "contig"}
    else:
        options = {"icc_profile": picture.profile, "exif": picture.exif, **OPTIONS.get(suffix, {})}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        data: bytes = iio.imwrite(
            "<bytes>", array, plugin="tifffile" if tiff else "pillow", extension=suffix, **options
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DipError(f"{suffix} cannot hold this picture ({_first_line(error)}): write it as .png.") from error
    return data


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


def default_suffix(picture: Picture) -> str:
    """.png where PNG holds the picture without loss, else .tif."""
    array = picture.array()
    plain = array.dtype == np.uint8 and len(picture.pixels) <= COLOURS
    return ".png" if plain or _fits_png(array) else ".tif"


def _fits_png(array: NDArray[Any]) -> bool:
    """Whether Pillow writes these samples, which are not 8-bit ones, to PNG: 16-bit grey alone."""
    return array.dtype == np.uint16 and array.ndim == 2  # noqa: PLR2004


def _deep_tiff(data: bytes) -> tuple[NDArray[Any], bytes | None, None] | None:
    """Samples and colour profile of a TIFF of more than 8 bits or 4 channels; None for all else: Pillow reads it."""
    if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if page.bitspersample in (1, 2, 4, 8) and page.samplesperpixel <= COLOURS + 1:
            return None
        if len(file.pages) > 1:
            raise DipError(f"The file has {len(file.pages)} pages: extract the one to restore.")
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise DipError(
                f"{tifffile.PHOTOMETRIC(page.photometric).name} pictures are not supported: convert it to RGB."
            )
        array = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and array.ndim == 3:  # noqa: PLR2004 - channels first
            array = np.moveaxis(array, 0, -1)
        tags = {code: tag.value for code in (ORIENTATION, PROFILE) if (tag := page.tags.get(code))}
    turn = UPRIGHT.get(tags.get(ORIENTATION, 1))
    return (turn(array) if turn else array), tags.get(PROFILE), None


def _ordinary(data: bytes) -> tuple[NDArray[Any], bytes | None, bytes | None]:
    """Samples, colour profile and EXIF block of what Pillow reads."""
    with PIL.Image.open(io.BytesIO(data)) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # a phone's JPEG with a preview in it
            raise DipError(f"The file has {frames} pictures or pages: extract the one to restore.")
        if image.mode not in MODES:
            raise DipError(f"{image.mode} pictures are not supported: convert it to RGB.")
        image.load()
        mode, profile = MODES[image.mode], image.info.get("icc_profile")
        if "transparency" in image.info:
            mode = "LA" if mode == "L" else "RGBA"
        try:
            upright = PIL.ImageOps.exif_transpose(image)
            block = upright.getexif().tobytes() or None
        except Exception:  # noqa: BLE001 - whatever is wrong with the EXIF block, the pixels are sound
            upright, block = image, None
        return np.asarray(upright.convert(mode)), profile, block


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
