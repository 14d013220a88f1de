"""JPEG, WebP, BMP and GIF, and the kinds of TIFF that tifffile does not decode, through Pillow."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images.exif import ORIENTATION
from dipcli.images.raster import MAX_PIXELS, Raster, size_error, valid_resolution

# What Pillow's modes are read as. Other modes have no lossless counterpart.
MODES = {
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA",
    "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
}  # fmt: skip


def read(data: bytes, kind: str) -> Raster:
    """Decode a file.

    Args:
        data: the whole file.
        kind: Pillow's name of the format.

    Raises:
        DipError: if it is too large, has several frames, or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    with limit_size(), PIL.Image.open(io.BytesIO(data), formats=(kind,)) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in ("MPO", "TIFF"):  # a JPEG with previews; checked by the TIFF reader
            raise DipError(f"The file has {frames} frames: extract the one to restore.")
        if image.mode not in MODES:
            raise DipError(f"{image.mode} images are not supported: convert it to RGB.")
        image.load()
        mode = MODES[image.mode]
        if "transparency" in image.info:
            mode = "LA" if mode == "L" else "RGBA"
        orientation = 1
        with contextlib.suppress(Exception):  # a damaged EXIF block does not matter to the pixels
            orientation = int(image.getexif().get(ORIENTATION, 1))
        return make_raster(np.asarray(image.convert(mode)), orientation, image.info)


def make_raster(samples: NDArray[Any], orientation: int, info: Mapping[Any, Any]) -> Raster:
    """Combine samples with Pillow's metadata."""
    return Raster(
        samples,
        orientation,
        profile=info.get("icc_profile") or None,
        exif=info.get("exif") or None,
        resolution=valid_resolution(*info.get("dpi", (None, None))),
    )


def read_size(path: Path) -> tuple[int, int] | None:
    """Read width and height from the header of a file of any format that Pillow knows; None if there is none."""
    with contextlib.suppress(Exception), limit_size(), PIL.Image.open(path) as image:
        return image.size
    return None


def write(raster: Raster, kind: str, **options: Any) -> bytes:
    """Encode a file.

    Args:
        raster: samples and metadata.
        kind: Pillow's name of the format.
        options: of Pillow for this format.

    Raises:
        OSError: if the format cannot hold the image; so do ValueError and TypeError.
    """
    metadata = {"icc_profile": raster.profile, "exif": raster.exif, "dpi": raster.resolution}
    file = io.BytesIO()
    image = PIL.Image.fromarray(raster.samples)
    image.save(file, kind, **options, **{key: value for key, value in metadata.items() if value})
    return file.getvalue()


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
        raise size_error("The image") from None
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = previous
