"""JPEG, WebP, BMP and GIF, by Pillow, and the kinds of TIFF that it alone reads."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dipcli.errors import DipError
from dipcli.images.exif import ORIENTATION
from dipcli.images.raster import MOST_PIXELS, Raster, plausible

# Of all it knows, those whose samples it gives as they are: it cuts 16 bits of PNG, PPM, SGI or JPEG 2000 to 8.
READ = ("JPEG", "WEBP", "BMP", "GIF")
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {  # as little loss as the format allows
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".bmp": ("BMP", {}),
}
# What Pillow's modes are read as; others have no counterpart that would not lose something.
MODES = {
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA",
    "P": "RGB", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB",
}  # fmt: skip


def read(data: bytes, formats: tuple[str, ...] = READ) -> Raster:
    """Samples and what belongs to them.

    Args:
        data: the whole file.
        formats: by Pillow's names, which it may be of.

    Raises:
        DipError: when this is no such picture, is too large, has several pages, or not all of it can be kept.
        Exception: of any kind, where the file is broken.
    """
    with _limited(), PIL.Image.open(io.BytesIO(data), formats=formats) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format not in ("MPO", "TIFF"):  # a phone's JPEG with a preview in it; its caller knows
            raise DipError(f"The file has {frames} pictures or pages: extract the one to restore.")
        if image.mode not in MODES:
            raise DipError(f"{image.mode} pictures are not supported: convert it to RGB.")
        image.load()
        mode = MODES[image.mode]
        if "transparency" in image.info:
            mode = "LA" if mode == "L" else "RGBA"
        orientation = 1
        with contextlib.suppress(Exception):  # whatever is wrong with the EXIF block, the pixels are sound
            orientation = int(image.getexif().get(ORIENTATION, 1))
        return Raster(
            np.asarray(image.convert(mode)),
            orientation,
            profile=image.info.get("icc_profile") or None,
            exif=image.info.get("exif") or None,
            resolution=plausible(*image.info.get("dpi", (None, None))),
        )


def size(path: Path) -> tuple[int, int] | None:
    """Width and height that a file's head declares, of whatever format Pillow knows; None where there is none."""
    with contextlib.suppress(Exception), _limited(), PIL.Image.open(path) as image:
        return image.size
    return None


def write(raster: Raster, suffix: str) -> bytes:
    """The bytes of a file of the format that the suffix names.

    Raises:
        OSError: when the format cannot hold the picture; so do ValueError and TypeError.
    """
    beside = {"icc_profile": raster.profile, "exif": raster.exif, "dpi": raster.resolution}
    kind, options = WRITTEN[suffix]
    file = io.BytesIO()
    image = PIL.Image.fromarray(raster.samples)
    image.save(file, kind, **options, **{key: value for key, value in beside.items() if value})
    return file.getvalue()


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Pillow's own limit set to ours; it looks at every header, of tiles and frames too.

    Raises:
        DipError: when a picture is beyond it.
    """
    before = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # of twice as many it makes an error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PIL.Image.DecompressionBombError:
        raise DipError(
            f"The picture is larger than can be handled, which is {MOST_PIXELS // 10**6} megapixels: "
            "make it smaller first."
        ) from None
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = before
