"""Samples in a file's own layout, with the file's metadata: the value between readers, writers and `Image`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.calibration import Tags, scale_header

# The same limit for every format, so that a small file that declares a huge image takes no memory. It is ten times
# the size of a good camera's photographs.
MAX_PIXELS = 250_000_000
MAX_SAMPLES = 4 * MAX_PIXELS  # colours and alpha
MAX_PIXELS_PER_INCH = 65535
XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:>|\s*=\s*[\"']))\d")
TOO_LARGE = f"is larger than the limit of {MAX_PIXELS // 10**6} megapixels: make it smaller first."


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a file has beside its samples.

    Attributes:
        profile: ICC colour profile.
        exif: EXIF block.
        resolution: horizontal and vertical, in pixels per inch.
        png_colour: the gAMA, cHRM, sRGB and cICP chunks of a PNG file.
        xmp: XMP packet.
        tags: tags of a TIFF file.
        fits_header: the cards of a FITS file.
        develop: turns restored samples into those that are written, of another size, if they are a camera's raw ones.
        remarks: sentences for the user about what was not read as it is in the file.
    """

    profile: bytes | None = None
    exif: bytes | None = None
    resolution: tuple[float, float] | None = None
    png_colour: bytes = b""
    xmp: bytes | None = None
    tags: Tags | None = None
    fits_header: bytes = b""
    develop: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    remarks: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict[str, Any]:
        """All of it by name, without the remarks."""
        return {field.name: getattr(self, field.name) for field in fields(Metadata) if field.name != "remarks"}


@dataclass(frozen=True)
class Raster(Metadata):
    """Samples and metadata as a file has them.

    Attributes:
        samples: shape (H, W) or (H, W, channels).
        orientation: of the samples, 1 to 8 as in EXIF; any other value means 1.
        alpha: whether the last of 2 or 4 channels is alpha.
    """

    samples: NDArray[Any]
    orientation: int = 1
    alpha: bool = True

    def upright(self) -> Raster:
        """Apply the orientation to samples and resolution, and reset it in the EXIF block and the XMP packet."""
        transposed, flipped = exif.TRANSFORMS.get(self.orientation, exif.TRANSFORMS[1])
        resolution = self.resolution[::-1] if transposed and self.resolution else self.resolution
        block = exif.upright(self.exif) if self.exif else None
        samples = np.flip(self.samples.swapaxes(0, 1) if transposed else self.samples, flipped)
        xmp = XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp) if self.xmp else None
        return replace(self, samples=samples, orientation=1, exif=block, resolution=resolution, xmp=xmp)

    def resized(self, factors: tuple[float, float]) -> Raster:
        """Adapt the metadata to samples whose width and height have grown by factors."""
        height, width = self.samples.shape[:2]
        block = exif.upright(self.exif, (width, height)) if self.exif else None
        tags = None if self.tags is None else self.tags.adapt(factors, (width, height))
        resolution = self.resolution and (self.resolution[0] * factors[0], self.resolution[1] * factors[1])
        header = scale_header(self.fits_header, factors)
        return replace(self, exif=block, resolution=resolution, tags=tags, fits_header=header)


def check_size(width: int, height: int, channels: int = 1) -> None:
    """Check that an image is within the size limit, from its header or before it is written.

    Raises:
        DipError: if it is larger than 250 megapixels or a billion samples.
    """
    if width * height > MAX_PIXELS or width * height * channels > MAX_SAMPLES:
        size = f"{width}x{height}" + (f" with {channels} channels" if width * height <= MAX_PIXELS else "")
        raise DipError(f"An image of {size} {TOO_LARGE}")


def stretch(samples: NDArray[Any], most: int) -> NDArray[Any]:
    """Map unsigned samples up to `most` to all values of 8 or 16 bits; each value of the file remains distinct."""
    dtype, full = (np.uint8, 2**8 - 1) if most < 2**8 else (np.uint16, 2**16 - 1)
    return samples if most == full else np.rint(samples * (full / most)).astype(dtype)


def valid_resolution(horizontal: Any, vertical: Any) -> tuple[float, float] | None:
    """Return a resolution in pixels per inch, or None if a file's values are not between 1 and 65535."""
    try:
        horizontal, vertical = float(horizontal), float(vertical)
    except (TypeError, ValueError, ArithmeticError):
        return None
    valid = all(1 <= value <= MAX_PIXELS_PER_INCH for value in (horizontal, vertical))  # false for NaN
    return (horizontal, vertical) if valid else None


def refuse_animation(kind: str, frames: int) -> DipError:
    """Return the error for an animation in a format of this name."""
    return DipError(
        f"This is an animated {kind} with {frames} frames: extract the one to restore, with ImageMagick: "
        "magick 'IMAGE[0]' frame.png."
    )
