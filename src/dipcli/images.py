"""Reading and writing pictures, with what belongs to them: bit depth, transparency, colour profile, EXIF."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError

SMALLEST = 16  # pixels on a side
ORIENTATION = 0x0112  # the EXIF tag that says which way is up
FORMATS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
OPTIONS: dict[str, dict[str, Any]] = {  # as little loss as the format allows
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture in memory, with what is needed to write it back as it was.

    Attributes:
        pixels: float32, shape (C, H, W), values 0..1, C = 1 or 3.
        dtype: of the file's samples: uint8, uint16 or float32.
        alpha: transparency, shape (H, W), in the file's own dtype; None where there is none.
        span: the smallest and largest value of a float file that is not within 0..1; (0, 1) for all others.
        profile: ICC colour profile.
        exif: EXIF block, its orientation already applied and reset.
    """

    pixels: NDArray[np.float32]
    dtype: np.dtype[Any]
    alpha: NDArray[Any] | None = None
    span: tuple[float, float] = (0.0, 1.0)
    profile: bytes | None = None
    exif: bytes | None = None

    def showing(self, pixels: NDArray[np.float32]) -> Picture:
        """The same kind of picture with other pixels, shape (C, H, W), values 0..1."""
        return replace(self, pixels=pixels)

    def to_8_bits(self, pixels: NDArray[np.float32]) -> Picture:
        """Other pixels as an opaque 8-bit picture of the same colour profile, for looking at."""
        return Picture(pixels, np.dtype(np.uint8), profile=self.profile)

    def array(self) -> NDArray[Any]:
        """The samples as they stand in a file: shape (H, W) or (H, W, channels), in the file's dtype."""
        low, high = self.span
        values = np.clip(self.pixels, 0, 1).transpose(1, 2, 0)
        if self.dtype.kind == "f":
            samples = (low + (high - low) * values).astype(self.dtype)
        else:
            samples = np.rint(values * np.iinfo(self.dtype).max).astype(self.dtype)
        if self.alpha is not None:
            samples = np.concatenate([samples, self.alpha[..., None]], axis=2)
        return samples[..., 0] if samples.shape[2] == 1 else samples

    def written(self) -> NDArray[np.float32]:
        """The pixels as a reader of the file will see them, rounded to its samples: (C, H, W), values 0..1."""
        return from_array(self.array(), span=self.span).pixels


def from_array(array: NDArray[Any], *, span: tuple[float, float] | None = None) -> Picture:
    """A picture from samples in memory.

    Args:
        array: shape (H, W) for grey, (H, W, 2) grey with alpha, (H, W, 3) RGB, (H, W, 4) RGB with alpha; bool, uint8,
            uint16 or float. Floats are taken as 0..1, or, where they go beyond it, from their smallest to their
            largest value.
        span: the values of a float array that mean 0 and 1, where they are known.

    Raises:
        DipError: when shape, type or values are not those of a picture.
    """
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    samples = array[..., None] if array.ndim == 2 else array  # noqa: PLR2004 - a grey picture
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4):  # noqa: PLR2004 - height, width, channels
        raise DipError(f"An array of shape {array.shape} is no picture: give (H, W) or (H, W, channels) with 1 to 4.")
    if min(samples.shape[:2]) < SMALLEST:
        height, width = samples.shape[:2]
        raise DipError(f"A picture of {width}x{height} is too small: the smallest is {SMALLEST}x{SMALLEST}.")
    alpha = samples[..., -1] if samples.shape[2] in (2, 4) else None
    colours = (samples if alpha is None else samples[..., :-1]).transpose(2, 0, 1)
    if samples.dtype in (np.uint8, np.uint16):
        pixels = colours.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
        return Picture(np.ascontiguousarray(pixels), samples.dtype, alpha)
    if samples.dtype.kind != "f":
        raise DipError(f"Samples of type {samples.dtype} are not understood: convert them to 8 or 16 bits or float.")
    if not np.isfinite(colours).all():
        raise DipError("The picture has values that are not finite numbers: replace them first.")
    low, high = span or (0.0, 1.0)
    if span is None and (colours.min() < 0 or colours.max() > 1):
        low, high = float(colours.min()), float(colours.max())
    pixels = ((colours - low) / (high - low)).astype(np.float32)
    return Picture(np.ascontiguousarray(pixels), np.dtype(np.float32), alpha, (low, high))


def read(path: Path) -> tuple[Picture, bytes]:
    """Read a picture and the bytes it came from; `-` is standard input.

    Raises:
        DipError: when there is no such file or it is not a picture that can be read to its end.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except FileNotFoundError:
        raise DipError(f"There is no file {path}: check the name.") from None
    except IsADirectoryError:
        raise DipError(f"{path} is a folder: name the pictures in it, as {path}/*.png.") from None
    except OSError as error:
        raise DipError(f"Cannot read {path}: {error.strerror or error}.") from error
    try:
        return decode(data), data
    except DipError as error:
        raise DipError(f"{path}: {error}") from error


def decode(data: bytes) -> Picture:
    """Turn a file's bytes into a picture: orientation applied, palette resolved.

    Raises:
        DipError: when they are not a picture that can be read to its end.
    """
    if not data:
        raise DipError("The file is empty: check where it came from.")
    if data.startswith(PNG_SIGNATURE) and data[24:26] in (b"\x10\x02", b"\x10\x06"):
        # Pillow, imageio's reader of PNG, would cut these to 8 bits without a word.
        raise DipError("PNG with 16 bits a colour is not read without loss yet: convert it to TIFF.")
    tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            if tiff:
                array = iio.imread(data, index=0, plugin="tifffile")
                about = {"icc_profile": iio.immeta(data, index=0, plugin="tifffile").get("InterColorProfile")}
            else:
                array = iio.imread(data, index=0, plugin="pillow", rotate=True)
                about = iio.immeta(data, index=0, plugin="pillow", exclude_applied=False)
    except Exception as error:
        if isinstance(error.__cause__ or error, PIL.Image.DecompressionBombWarning | PIL.Image.DecompressionBombError):
            raise DipError("The picture is larger than can be handled: make it smaller first.") from error
        raise DipError(f"This is not a picture that can be read ({_first_line(error)}): check the file.") from error
    if about.get("mode") == "CMYK":
        raise DipError("CMYK pictures are not understood: convert it to RGB.")
    return replace(from_array(array), profile=about.get("icc_profile"), exif=_upright(about.get("exif")))


def encode(picture: Picture, suffix: str) -> bytes:
    """The bytes of a file of the format that the suffix names.

    Raises:
        DipError: when there is no such format or it cannot hold the picture.
    """
    if suffix.lower() not in FORMATS:
        raise DipError(f"Pictures are not written as {suffix or 'a file without a suffix'}: use {' '.join(FORMATS)}.")
    array = picture.array()
    tiff = suffix.lower() in (".tif", ".tiff")
    if not tiff and (array.dtype.kind == "f" or (array.dtype == np.uint16 and not _deep_png(array, suffix))):
        kind = "float samples" if array.dtype.kind == "f" else "16-bit samples of this kind"
        raise DipError(f"{suffix} cannot hold {kind} without loss: write it as .tif.")
    kept = {"iccprofile": picture.profile} if tiff else {"icc_profile": picture.profile, "exif": picture.exif}
    options = {key: value for key, value in kept.items() if value is not None} | OPTIONS.get(suffix.lower(), {})
    try:
        data: bytes = iio.imwrite(
            "<bytes>", array, plugin="tifffile" if tiff else "pillow", extension=suffix.lower(), **options
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DipError(f"{suffix} cannot hold this picture ({_first_line(error)}): write it as .png.") from error
    return data


def write(picture: Picture, path: Path) -> None:
    """Write a picture whole or not at all, in the format of the path's suffix; `-` is PNG on standard output.

    Raises:
        DipError: when it cannot be written; a file that is there stays as it is.
    """
    if str(path) == "-":
        sys.stdout.buffer.write(encode(picture, ".png"))
        sys.stdout.buffer.flush()
    else:
        files.write(path, encode(picture, path.suffix))


def default_suffix(picture: Picture) -> str:
    """.png where PNG holds the picture without loss, else .tif."""
    array = picture.array()
    return ".png" if array.dtype == np.uint8 or _deep_png(array, ".png") else ".tif"


def _deep_png(array: NDArray[Any], suffix: str) -> bool:
    """Whether Pillow writes these 16-bit samples to PNG: only grey ones."""
    return suffix.lower() == ".png" and array.dtype == np.uint16 and array.ndim == 2  # noqa: PLR2004


def _upright(exif: bytes | None) -> bytes | None:
    """The EXIF block saying that the picture is already the right way up."""
    if not exif:
        return None
    tags = PIL.Image.Exif()
    tags.load(exif)
    if ORIENTATION in tags:
        tags[ORIENTATION] = 1
    return tags.tobytes()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")
