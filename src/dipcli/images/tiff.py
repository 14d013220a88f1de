"""TIFF through tifffile: any depth, floats, compressed or not. Kinds that it does not decode are read by Pillow."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC

from dipcli.errors import DipError
from dipcli.images import camera_raw, exif, pillow
from dipcli.images.calibration import DESCRIPTION, KEPT, Tags, forget_name
from dipcli.images.raster import Raster, check_size, valid_resolution

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CODES = ORIENTATION, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, XMP, ICC_PROFILE = (
    274, 282, 283, 296, 700, 34675,
)  # fmt: skip
INCH = 2
UNITS_PER_INCH = {INCH: 1.0, 3: 2.54}  # by resolution unit
DEPTHS = (8, 16, 32, 64)
DTYPES = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
COLOURS = 3
PLAIN = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
# These do not embed a file with a header of its own, whose declared size would have to be trusted.
COMPRESSIONS = (
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS,
    COMPRESSION.LZMA, COMPRESSION.ZSTD,
)  # fmt: skip
ALPHAS = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)  # other samples beyond the colours are channels
REDUCED = 1  # sub-file type of a page that shows another one at a smaller size

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # errors are raised and reported once


def read(data: bytes) -> Raster:
    """Decode a file of one page.

    Raises:
        DipError: if the image is too large, has several pages, is truncated, or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        if camera_raw.is_raw(file):
            return camera_raw.read(data)
        if (count := len(list_pages(file)) * count_planes(file)) > 1:
            raise DipError(f"The file has {count} pages: dip restores them from a file that is named; or extract one.")
        raster = read_page(file.pages.first, len(data))
        if raster is None:
            tags = read_tags(file.pages.first)
            raster = replace(pillow.read(data, "TIFF"), resolution=_resolution(tags), tags=tags)
    return replace(
        raster, exif=exif.from_tiff(data), tags=raster.tags.of_one_page() if raster.tags is not None else None
    )


def list_pages(file: tifffile.TiffFile) -> list[Any]:
    """The pages but those that show another one at a smaller size."""
    return [page for number, page in enumerate(file.pages) if not number or not page.subfiletype & REDUCED]  # type: ignore[union-attr]


def count_planes(file: tifffile.TiffFile) -> int:
    """The number of images that a page holds: more than one in files of ImageJ and tifffile without further pages."""
    if len(file.pages) > 1 or not (file.is_imagej or file.is_shaped):
        return 1
    return math.prod(file.series[0].shape) // math.prod(file.pages.first.shape)


def read_page(page: Any, size: int, samples: NDArray[Any] | None = None) -> Raster | None:
    """Decode a page of a file of this many bytes; None if Pillow has to. The samples may be known already.

    Raises:
        DipError: if it is too large, truncated, or cannot be read without loss.
    """
    check_size(page.imagewidth, page.imagelength, page.samplesperpixel * page.imagedepth)
    if page.is_tiled:
        check_size(page.tilewidth, page.tilelength, page.samplesperpixel * page.tiledepth)
    if samples is None:
        _check_complete(page, size)
        samples = _samples(page)
    if samples is None:
        return None
    values = {code: tag.value for code in CODES if (tag := page.tags.get(code))}
    profile, xmp = (value if isinstance(value := values.get(code), bytes) else None for code in (ICC_PROFILE, XMP))
    tags = read_tags(page)
    alpha = any(kind in ALPHAS for kind in page.extrasamples)
    orientation, resolution = values.get(ORIENTATION, 1), _resolution(tags)
    return Raster(samples, orientation, alpha, profile=profile, resolution=resolution, xmp=xmp, tags=tags)


def read_tags(page: Any) -> Tags:
    """Read what the page says about the image."""
    entries = []
    for tag in page.tags:
        if tag.code not in KEPT or tag.code in (exif.PHOTO, exif.GPS):
            continue
        with contextlib.suppress(Exception):  # a damaged tag does not matter to the pixels
            code, kind, count, value, *_ = tag.astuple()
            numbers = tag.value if isinstance(tag.value, tuple) else None
            if code == DESCRIPTION:
                value = forget_name(value)
                count = len(value)
            entries.append((code, int(kind), count, numbers or value))
    resolution, unit = None, INCH
    with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        (x, per_x), (y, per_y) = (page.tags[code].value for code in (X_RESOLUTION, Y_RESOLUTION))
        resolution = (x / per_x, y / per_y)
        unit = int(page.tags[RESOLUTION_UNIT].value)
    return Tags(page.parent.byteorder, tuple(entries), None if resolution == (1, 1) else resolution, unit)


def write(raster: Raster) -> bytes:
    """Encode a file, uncompressed."""
    file = io.BytesIO()
    tifffile.imwrite(file, raster.samples, byteorder=byte_order(raster), **list_options(raster))
    return exif.to_tiff(file.getvalue(), raster.exif) if raster.exif else file.getvalue()


def byte_order(raster: Raster) -> Literal["<", ">"]:
    """The byte order that the metadata need."""
    if raster.exif:
        return exif.byte_order(raster.exif)
    return ">" if raster.tags is not None and raster.tags.order == ">" else "<"


def list_options(raster: Raster) -> dict[str, Any]:
    """How tifffile is to write a page."""
    samples, tags = raster.samples, raster.tags
    channels = samples.shape[2] if samples.ndim > 2 else 1  # noqa: PLR2004 - height, width, channels
    options: dict[str, Any] = {"metadata": None, "software": False, "iccprofile": raster.profile}
    options["photometric"] = "rgb" if channels in (COLOURS, COLOURS + 1) else "minisblack"
    if channels > 1:
        options["planarconfig"] = "contig"
    if channels in (2, COLOURS + 1):
        options["extrasamples"] = ["unassalpha" if raster.alpha else "unspecified"]
    extra: list[Any] = [(XMP, "B", len(raster.xmp), raster.xmp, True)] if raster.xmp else []
    if tags is not None and tags.order == byte_order(raster):
        extra += [(*entry, True) for entry in tags.entries if entry[0] != DESCRIPTION]
        options["description"] = tags.description.rstrip(b"\0") or None
    options["extratags"] = extra
    if tags is not None and tags.resolution:
        options |= {"resolution": tags.resolution, "resolutionunit": tags.unit}
    elif raster.resolution:
        options |= {"resolution": raster.resolution, "resolutionunit": "inch"}
    return options


def is_bilevel(data: bytes) -> bool:
    """Whether a file has single bits of which 0 is white, as programs write arrays of booleans."""
    if not data.startswith(SIGNATURES):
        return False
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        return bool(page.bitspersample == 1 and page.photometric == PHOTOMETRIC.MINISWHITE)


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
            raise DipError("Signed values whose smallest value is white are not supported: convert it to RGB.")
        samples = np.iinfo(samples.dtype).max - samples
    if EXTRASAMPLE.ASSOCALPHA in page.extrasamples and samples.shape[2:] in ((2,), (4,)):
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


def _resolution(tags: Tags) -> tuple[float, float] | None:
    """The resolution in pixels per inch; None if it is in other units, or there is none."""
    scale = UNITS_PER_INCH.get(tags.unit)
    if scale is None or not tags.resolution:
        return None
    return valid_resolution(scale * tags.resolution[0], scale * tags.resolution[1])
