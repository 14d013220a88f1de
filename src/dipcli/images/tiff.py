"""TIFF through tifffile: any depth, floats, compressed or not. Kinds that it does not decode are read by Pillow."""

from __future__ import annotations

import io
import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from dipcli.errors import DipError
from dipcli.images import exif, pillow
from dipcli.images.raster import Raster, check_size, valid_resolution

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CODES = ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, XMP, ICC_PROFILE = (
    274, 282, 283, 296, 700, 34675,
)  # fmt: skip
UNITS_PER_INCH = {2: 1.0, 3: 2.54}  # by resolution unit
DEPTHS = (8, 16, 32, 64)
COLOURS = 3
PLAIN = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
# These do not embed a file with a header of its own, whose declared size would have to be trusted.
COMPRESSIONS = (
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS,
    COMPRESSION.LZMA, COMPRESSION.ZSTD,
)  # fmt: skip
REDUCED = 1  # sub-file type of a page that shows another one at a smaller size

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # errors are raised and reported once


def read(data: bytes) -> Raster:
    """Decode a file.

    Raises:
        DipError: if the image is too large, has several pages, is truncated, or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        check_size(page.imagewidth, page.imagelength, page.samplesperpixel * page.imagedepth)
        if page.is_tiled:
            check_size(page.tilewidth, page.tilelength, page.samplesperpixel * page.tiledepth)
        others: list[Any] = [other for other in file.pages if other is not page]
        if pages := sum(not other.subfiletype & REDUCED for other in others):
            raise DipError(f"The file has {1 + pages} pages: extract the one to restore.")
        _check_complete(page, len(data))
        tags = {code: tag.value for code in CODES if (tag := page.tags.get(code))}
        samples, orientation = _samples(page), tags.get(ORIENTATION, 1)
    profile = tags.get(ICC_PROFILE) if isinstance(tags.get(ICC_PROFILE), bytes) else None
    raster = Raster(samples, orientation, profile) if samples is not None else pillow.read(data, "TIFF")
    # Pillow may have applied orientation and profile.
    xmp = tags.get(XMP) if isinstance(tags.get(XMP), bytes) else None
    return replace(raster, exif=exif.from_tiff(data), resolution=_resolution(tags), xmp=xmp)


def write(raster: Raster) -> bytes:
    """Encode a file, uncompressed."""
    samples = raster.samples
    channels = samples.shape[2] if samples.ndim > 2 else 1  # noqa: PLR2004 - height, width, channels
    options: dict[str, Any] = {"metadata": None, "software": False, "iccprofile": raster.profile}
    options["photometric"] = "rgb" if channels in (COLOURS, COLOURS + 1) else "minisblack"
    options["byteorder"] = exif.byte_order(raster.exif) if raster.exif else "<"
    if channels > 1:
        options["planarconfig"] = "contig"
    if channels in (2, COLOURS + 1):
        options["extrasamples"] = ["unassalpha"]
    if raster.xmp:
        options["extratags"] = [(XMP, "B", len(raster.xmp), raster.xmp, True)]
    if raster.resolution:
        options |= {"resolution": raster.resolution, "resolutionunit": "inch"}
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return exif.to_tiff(file.getvalue(), raster.exif) if raster.exif else file.getvalue()


def _check_complete(page: Any, length: int) -> None:
    """Refuse a page whose strips or tiles do not all lie within the file; tifffile would read missing ones as black."""
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(pieces) < math.prod(page.chunked) or any(
        not (start > 0 and size > 0 and start + size <= length) for start, size in pieces
    ):
        raise DipError("The TIFF is truncated: get the whole file.")


def _samples(page: Any) -> NDArray[Any] | None:
    """Decode a page to (H, W) or (H, W, channels); None if Pillow has to read it: palettes, single bits, JPEG."""
    plain = page.photometric in PLAIN and page.compression in COMPRESSIONS
    if page.bitspersample <= 8 and page.samplesperpixel <= COLOURS + 1 and not (plain and page.bitspersample == 8):  # noqa: PLR2004
        return None
    if page.photometric not in PLAIN:
        raise DipError(f"{PHOTOMETRIC(page.photometric).name} images are not supported: convert it to RGB.")
    if page.compression not in COMPRESSIONS:
        raise DipError(f"Compression {page.compression} of a TIFF is not supported: save it with LZW or none.")
    if page.imagedepth > 1:
        raise DipError(f"The image is a volume with a depth of {page.imagedepth}: extract the layer to restore.")
    if page.bitspersample not in DEPTHS:
        raise DipError(f"Samples of {page.bitspersample} bits are not supported: convert them to 8 or 16 bits.")
    samples: NDArray[Any] = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and samples.ndim == 3:  # noqa: PLR2004 - channels first
        samples = np.moveaxis(samples, 0, -1)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        if samples.dtype.kind != "u":
            raise DipError("Floats whose smallest value is white are not supported: convert it to RGB.")
        samples = np.iinfo(samples.dtype).max - samples
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples and samples.shape[2:] in ((2,), (4,)):
        samples = _unpremultiply(samples)
    return samples


def _unpremultiply(samples: NDArray[Any]) -> NDArray[Any]:
    """Divide colours by alpha, with which they were multiplied."""
    full = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1.0
    alpha = samples[..., -1:].astype(np.float64)
    colours = np.divide(samples[..., :-1] * float(full), alpha, out=np.zeros(samples[..., :-1].shape), where=alpha > 0)
    if samples.dtype.kind == "u":
        colours = np.rint(colours.clip(0, full))
    return np.concatenate([colours.astype(samples.dtype), samples[..., -1:]], axis=2)


def _resolution(tags: dict[int, Any]) -> tuple[float, float] | None:
    scale = UNITS_PER_INCH.get(tags.get(RESOLUTION_UNIT, 2))
    if scale is None or not {X_RESOLUTION, Y_RESOLUTION} <= tags.keys():
        return None
    try:
        return valid_resolution(*(scale * above / below for above, below in (tags[X_RESOLUTION], tags[Y_RESOLUTION])))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
