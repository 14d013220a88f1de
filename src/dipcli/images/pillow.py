"""JPEG, WebP, BMP, GIF, and kinds of TIFF that tifffile does not decode, through Pillow; the rest through imageio."""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.raster import MAX_PIXELS, TOO_LARGE, Raster, check_size, refuse_animation, valid_resolution

# What Pillow's modes are read as. Other modes have no lossless counterpart.
MODES = {
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA",
    "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
}  # fmt: skip
OTHER_MODES = (*MODES, "I", "I;16", "I;16B", "F", None)  # which imageio reads; None: by another plugin than Pillow's
DEEP_SGI = re.compile(rb"\x01\xda.\x02", re.DOTALL)  # of 16 bits, which Pillow, beneath imageio, cuts to 8
NAMES = {"WEBP": "WebP"}  # where the usual name is not Pillow's
GAIN_MAP = re.compile(rb"hdrgm:|HDRGainMap|Semantic=.GainMap")  # in the XMP of an Ultra HDR or Apple JPEG
TO_RGB = "convert it to RGB, with ImageMagick: magick IMAGE -colorspace sRGB rgb.png"
UNKNOWN = "This is not an image of a known format: check the file."


def read(data: bytes, kind: str) -> Raster:
    """Decode a file of the format that Pillow calls `kind`.

    Raises:
        DipError: if it is too large, has several frames, or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    with _open(data, kind) as image:
        image.load()
        profile = image.info.get("icc_profile")
        if image.mode == "LAB" or (image.mode == "CMYK" and profile):
            info = {name: value for name, value in image.info.items() if name != "icc_profile"}
            raster = make_raster(np.asarray(_to_srgb(image, profile)), _orientation(image), info)
            return replace(raster, remarks=(f"its {image.mode} colours are converted to sRGB",))
        if image.mode not in MODES:
            raise DipError(f"{image.mode} images are not supported: {TO_RGB}")
        mode = MODES[image.mode]
        if "transparency" in image.info:
            mode = "LA" if mode == "L" else "RGBA"
        return make_raster(np.asarray(image.convert(mode)), _orientation(image), image.info)


def read_header(data: bytes, kind: str) -> Raster:
    """Read metadata alone; there are no samples. The errors are those of `read`."""
    with _open(data, kind) as image:
        if image.mode not in OTHER_MODES:
            raise DipError(f"{image.mode} images are not supported: {TO_RGB}")
        return make_raster(np.empty(0), _orientation(image), image.info)


@contextlib.contextmanager
def _open(data: bytes, kind: str) -> Iterator[PIL.Image.Image]:
    """Open a file that holds one image."""
    with limit_size(), PIL.Image.open(io.BytesIO(data), formats=(kind,)) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in ("MPO", "TIFF"):  # a JPEG with previews; checked by the TIFF reader
            raise refuse_animation(NAMES.get(kind, kind), frames)
        yield image


def _orientation(image: PIL.Image.Image) -> int:
    with contextlib.suppress(Exception):  # a damaged EXIF block does not matter to the pixels
        return int(image.getexif().get(exif.ORIENTATION, 1))
    return 1


def read_other(data: bytes) -> Raster:
    """Decode a file of any other format that imageio reads, with the plugins that are installed.

    Raises:
        DipError: if the format is unknown, the image is too large, has several frames or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    if DEEP_SGI.match(data):
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
                raise refuse_animation("image", frames)
            check_size(width, height, math.prod(channels))
            samples, info = file.read(index=0), file.metadata(index=0, exclude_applied=False)
    if info.get("mode") not in OTHER_MODES:
        raise DipError(f"{info['mode']} images are not supported: {TO_RGB}")
    if samples.dtype.kind == "i" and samples.min() >= 0 and samples.max() <= np.iinfo(np.uint16).max:
        samples = samples.astype(np.uint16)  # Pillow reads a PGM of 16 bits as 32
    return make_raster(samples, exif.orientation(info.get("exif") or b""), info)


def make_raster(samples: NDArray[Any], orientation: int, info: Mapping[Any, Any]) -> Raster:
    """Combine samples with Pillow's metadata."""
    resolution = valid_resolution(*info.get("dpi", (None, None)))
    profile, block, xmp = (info.get(name) or None for name in ("icc_profile", "exif", "xmp"))
    remarks: tuple[str, ...] = ()
    if xmp and GAIN_MAP.search(xmp):  # without the map the packet would be wrong
        xmp, remarks = None, ("its gain map for bright displays is lost, and the XMP that describes it",)
    return Raster(samples, orientation, profile=profile, exif=block, resolution=resolution, xmp=xmp, remarks=remarks)


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
    image, profile = PIL.Image.fromarray(raster.samples), raster.profile
    if kind == "WEBP" and image.mode == "L" and profile:  # WebP is RGB, for which a profile of greys is not valid
        image, profile = _to_srgb(image, profile), None
    metadata = {"icc_profile": profile, "exif": raster.exif, "dpi": raster.resolution, "xmp": raster.xmp}
    options |= {name: value for name, value in metadata.items() if value}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """Convert an image, of grey, CMYK or Lab, to sRGB; its colour profile is needed unless it is Lab.

    Raises:
        DipError: if the profile is damaged, or not for such an image.
    """
    from PIL import ImageCms  # noqa: PLC0415 - few images need it

    source = io.BytesIO(profile) if profile and image.mode != "LAB" else ImageCms.createProfile("LAB")
    try:
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError) as error:
        raise DipError(f"The colour profile cannot be applied: {TO_RGB}") from error
    assert converted  # noqa: S101 - for the type checker: a new image
    return converted


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
