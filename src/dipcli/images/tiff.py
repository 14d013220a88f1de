"""TIFF, by tifffile: any depth, floats, compressed or not; the kinds it has no samples for are Pillow's."""

from __future__ import annotations

import io
import logging
import math
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC

from dipcli.errors import DipError
from dipcli.images import exif, pillow
from dipcli.images.raster import Raster, check_size, plausible

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION, ACROSS, DOWN, UNIT, PROFILE = 274, 282, 283, 296, 34675  # tags
INCHES = {2: 1.0, 3: 2.54}  # by the unit of resolution: how many of it
DEPTHS = (8, 16, 32, 64)
COLOURS = 3
# Of these nobody has to believe what size a file inside the file says it has.
COMPRESSIONS = (
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS,
    COMPRESSION.LZMA, COMPRESSION.ZSTD,
)  # fmt: skip
REDUCED = 1  # of a page: it shows the same once more, smaller

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong with a file is said once, by us


def read(data: bytes) -> Raster:
    """Samples and what belongs to them.

    Raises:
        DipError: when the picture is too large, has several pages, is truncated, or not all of it can be kept.
        Exception: of any kind, where the file is broken.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        check_size(page.imagewidth, page.imagelength, page.samplesperpixel * page.imagedepth)
        if page.is_tiled:
            check_size(page.tilewidth, page.tilelength, page.samplesperpixel * page.tiledepth)
        others: list[Any] = [each for each in file.pages if each is not page]
        if pages := sum(not each.subfiletype & REDUCED for each in others):
            raise DipError(f"The file has {1 + pages} pages: extract the one to restore.")
        _check_whole(page, len(data))
        tags = {code: tag.value for code in (ORIENTATION, ACROSS, DOWN, UNIT, PROFILE) if (tag := page.tags.get(code))}
        samples, orientation = _samples(page), tags.get(ORIENTATION, 1)
    if samples is None:
        other = pillow.read(data, ("TIFF",))  # which may have turned it already
        samples, orientation = other.samples, other.orientation
    profile = tags.get(PROFILE)
    return Raster(
        samples,
        orientation,
        profile=profile if isinstance(profile, bytes) else None,  # numbers are none
        exif=exif.from_tiff(data),
        resolution=_resolution(tags),
    )


def write(raster: Raster, *, alpha: bool) -> bytes:
    """The bytes of a file.

    Args:
        raster: with as many channels as there may be.
        alpha: whether the last of them is transparency.
    """
    samples = raster.samples
    channels = samples.shape[2] if samples.ndim > 2 else 1  # noqa: PLR2004 - height, width, channels
    options: dict[str, Any] = {"photometric": "rgb" if channels - alpha == COLOURS else "minisblack"}
    if channels > 1:
        options |= {"planarconfig": "contig"}
    if alpha:
        options |= {"extrasamples": ["unassalpha"]}
    if raster.resolution:
        options |= {"resolution": raster.resolution, "resolutionunit": "inch"}
    file = io.BytesIO()
    order = exif.order(raster.exif) if raster.exif else "<"
    tifffile.imwrite(
        file, samples, byteorder=order, iccprofile=raster.profile, metadata=None, software=False, **options
    )
    return exif.to_tiff(file.getvalue(), raster.exif) if raster.exif else file.getvalue()


def _check_whole(page: Any, length: int) -> None:
    """Find out whether all that the page is made of lies within the file: what lies beyond would be taken for black.

    Raises:
        DipError: when it does not.
    """
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(pieces) < math.prod(page.chunked) or any(
        not (at > 0 and size > 0 and at + size <= length) for at, size in pieces
    ):
        raise DipError("The TIFF is truncated: get the whole file.")


def _samples(page: Any) -> NDArray[Any] | None:
    """The samples of a page, shape (H, W) or (H, W, channels); None where they are to be had from Pillow.

    Raises:
        DipError: when there is no way to have them without loss.
    """
    if page.bitspersample <= 8 and page.samplesperpixel <= COLOURS + 1 and not _plain(page):  # noqa: PLR2004
        return None
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB):
        raise DipError(f"{PHOTOMETRIC(page.photometric).name} pictures are not supported: convert it to RGB.")
    if page.compression not in COMPRESSIONS:
        raise DipError(f"Compression {page.compression} of a TIFF is not supported: save it with LZW or none.")
    if page.imagedepth > 1:
        raise DipError(f"The picture is a volume with a depth of {page.imagedepth}: extract the layer to restore.")
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
        samples = _straight(samples)
    return samples


def _plain(page: Any) -> bool:
    """Whether the samples are what the picture shows, and no palette, bits or JPEG."""
    return (
        page.bitspersample == 8  # noqa: PLR2004
        and page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
        and page.compression in COMPRESSIONS
    )


def _straight(samples: NDArray[Any]) -> NDArray[Any]:
    """Colours that were multiplied by the transparency, divided by it again."""
    most = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1.0
    alpha = samples[..., -1:].astype(np.float64)
    colours = np.divide(samples[..., :-1] * float(most), alpha, out=np.zeros(samples[..., :-1].shape), where=alpha > 0)
    if samples.dtype.kind == "u":
        colours = np.rint(colours.clip(0, most))
    return np.concatenate([colours.astype(samples.dtype), samples[..., -1:]], axis=2)


def _resolution(tags: dict[int, Any]) -> tuple[float, float] | None:
    """Pixels an inch, across and down, as far as the tags say so."""
    inches = INCHES.get(tags.get(UNIT, 2))
    if inches is None or not {ACROSS, DOWN} <= tags.keys():
        return None
    try:
        across, down = (inches * above / below for above, below in (tags[ACROSS], tags[DOWN]))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return plausible(across, down)
