"""Camera RAW through rawpy (extra `raw`): the counts of the sensor, before demosaicing makes neighbours share noise."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.raster import Raster, check_size

# Of files that are not TIFF, or TIFF with a mark of their own: Canon's CR3 and CR2, Fuji, Olympus, Panasonic.
SIGNATURES = (
    *(length.to_bytes(4) + b"ftypcrx " for length in range(16, 64, 4)),
    b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0",
)  # fmt: skip
MAX_DIRECTORIES = 8  # in which the raw image is looked for
CR2_PLACE = 8  # of its mark
DNG_VERSION, PHOTOMETRIC = 50706, 262
RAW_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw
PLANES = (0, 1, 2, 3)  # red, green, blue, and the green of the blue rows, as LibRaw numbers them


def is_raw(file: tifffile.TiffFile) -> bool:
    """Whether a file of TIFF's kind is a camera's raw file: DNG, CR2, NEF, ARW, PEF.

    Raises:
        DipError: if it is, and is truncated: LibRaw would read a part of it.
    """
    pages: list[Any] = [page.aspage() for page in file.pages[:MAX_DIRECTORIES]]
    pages += [inner for page in pages if page.pages for inner in page.pages]
    mosaics = [page for page in pages if (tag := page.tags.get(PHOTOMETRIC)) and tag.value in RAW_PHOTOMETRICS]
    for page in mosaics:
        ends = (start + size for start, size in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > file.filehandle.size:
            raise DipError("The RAW file is truncated: get the whole file.")
    file.filehandle.seek(CR2_PLACE)
    return bool(mosaics) or file.filehandle.read(2) == b"CR" or DNG_VERSION in pages[0].tags


def read(data: bytes) -> Raster:
    """Read the mosaic as four planes of half the size: red, green, blue, and the other green.

    Raises:
        DipError: if rawpy is not installed, or the sensor has no Bayer pattern.
        Exception: of any type, if the file is damaged.
    """
    with _open(data) as raw:
        mosaic, places = raw.raw_image_visible, _find_planes(raw)
        check_size(*mosaic.shape)
        height, width = (side // 2 for side in mosaic.shape)
        planes = [mosaic[y : 2 * height : 2, x : 2 * width : 2] for y, x in places]
        samples = np.stack(planes, axis=2)
    remark = "the sensor's mosaic is restored, then demosaiced: the result is linear, with the camera's white balance"
    return Raster(samples, exif=exif.from_tiff(data), alpha=False, develop=partial(develop, data), remarks=(remark,))


def develop(data: bytes, samples: NDArray[Any]) -> NDArray[np.uint16]:
    """Put restored planes, (H/2, W/2, 4), in the place of the file's own, and demosaic them.

    Returns:
        Shape (H, W, 3): sRGB's colours without its gamma, upright.
    """
    with _open(data) as raw:
        mosaic = raw.raw_image_visible
        height, width, _ = samples.shape
        for plane, (y, x) in enumerate(_find_planes(raw)):
            mosaic[y : 2 * height : 2, x : 2 * width : 2] = samples[..., plane]
        developed: NDArray[np.uint16] = raw.postprocess(
            gamma=(1, 1), no_auto_bright=True, output_bps=16, use_camera_wb=True
        )
    return developed


def _open(data: bytes) -> Any:
    try:
        import rawpy  # noqa: PLC0415 - an extra
    except ImportError:
        raise DipError('Camera RAW files need rawpy: pip install "dipcli[raw]".') from None
    try:
        return rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawError as error:
        raise DipError(f"The RAW file cannot be read ({error}): develop it to a TIFF of 16 bits.") from error


def _find_planes(raw: Any) -> list[tuple[int, int]]:
    """The first row and column of each plane."""
    pattern = raw.raw_pattern
    if pattern is None or pattern.shape != (2, 2) or sorted(pattern.flat) != list(PLANES):
        raise DipError("The sensor has no Bayer pattern: develop the file to a TIFF of 16 bits.")
    return [(int(y), int(x)) for plane in PLANES for y, x in [np.argwhere(pattern == plane)[0]]]
