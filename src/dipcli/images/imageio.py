"""Every other format that imageio reads, with the plugins that are installed."""

from __future__ import annotations

import math
import re

import imageio.v3 as iio
import numpy as np

from dipcli.errors import DipError
from dipcli.images import exif, pillow
from dipcli.images.raster import Raster, check_size

# Samples of more than 8 bits that Pillow, beneath imageio, cuts to 8 without a warning: colours in PPM, JPEG 2000 (file
# and bare code stream) and AVIF, and everything in SGI.
CUT_BY_PILLOW = re.compile(
    rb"P[36](?:(?:\s|#[^\n]*\n)+\d+){2}(?:\s|#[^\n]*\n)+(?!(?:\d\d?|1\d\d|2[0-4]\d|25[0-5])\s)\d"
    rb"|.{0,99}ihdr.{8}\0[\x03\x04][\x08-\x25]"
    rb"|\xff\x4f\xff\x51.{36}\0[\x03\x04][\x08-\x25]"
    rb"|.{0,999}pixi\0{4}[\x03\x04][\x09-\x20]"
    rb"|\x01\xda.\x02",
    re.DOTALL,
)
UNKNOWN = "This is not an image of a known format: check the file."
MODES = {*pillow.MODES, "I", "I;16", "I;16B", "F", None}  # of Pillow; None: read by another plugin


def read(data: bytes) -> Raster:
    """Decode a file.

    Raises:
        DipError: if the format is unknown, the image is too large, has several frames or cannot be read without loss.
        Exception: of any type, if the file is damaged.
    """
    if CUT_BY_PILLOW.match(data):
        raise DipError("Samples of more than 8 bits are not supported in this format: convert it to a PNG of 16 bits.")
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):  # EPS is a program, which Pillow would run with Ghostscript
        raise DipError(UNKNOWN)
    with pillow.limit_size():
        try:
            file = iio.imopen(data, "r")
        except OSError as error:
            raise DipError(UNKNOWN) from error
        with file:
            properties = file.properties(index=...)  # type: ignore[arg-type]
            frames, height, width, *channels = (*properties.shape, 1, 1)
            if frames > 1:
                raise DipError(f"The file has {frames} frames: extract the one to restore.")
            check_size(width, height, math.prod(channels))
            samples, info = file.read(index=0), file.metadata(index=0, exclude_applied=False)
    if info.get("mode") not in MODES:
        raise DipError(f"{info['mode']} images are not supported: convert it to RGB.")
    if samples.dtype.kind == "i" and samples.min() >= 0 and samples.max() <= np.iinfo(np.uint16).max:
        samples = samples.astype(np.uint16)  # Pillow reads a PGM of 16 bits as 32
    return pillow.make_raster(samples, exif.orientation(info.get("exif") or b""), info)
