"""Samples as they lie in a file, with what the file says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif

# A limit of our own, the same for every format, so that a few bytes that declare a giant picture take no memory. Ten
# times what a good camera has today; the fit of so large a picture is another matter.
MOST_PIXELS = 250_000_000
MOST_SAMPLES = 4 * MOST_PIXELS  # colours and transparency
FINEST = 65535  # pixels an inch; what says more is mistaken


@dataclass(frozen=True)
class Raster:
    """Samples as they lie in a file, with what the file says of them.

    Attributes:
        samples: shape (H, W) or (H, W, channels).
        orientation: 1 to 8, as in EXIF: how the samples have to be turned; anything else is taken for 1.
        profile: ICC colour profile.
        exif: EXIF block.
        resolution: pixels an inch, across and down.
        colour: what a PNG file says of its colours beside the profile: its gAMA, cHRM, sRGB and cICP chunks.
    """

    samples: NDArray[Any]
    orientation: int = 1
    profile: bytes | None = None
    exif: bytes | None = None
    resolution: tuple[float, float] | None = None
    colour: bytes = b""

    def upright(self) -> Raster:
        """The same with its orientation applied; the EXIF block says so."""
        turned, mirrored = exif.TURNS.get(self.orientation, exif.TURNS[1])
        resolution = self.resolution[::-1] if turned and self.resolution else self.resolution
        block = exif.upright(self.exif) if self.exif else None
        samples = np.flip(self.samples.swapaxes(0, 1) if turned else self.samples, mirrored)
        return replace(self, samples=samples, orientation=1, exif=block, resolution=resolution)


def check_size(width: int, height: int, channels: int = 1) -> None:
    """Refuse a picture that is larger than can be handled, by its header or before it is written.

    Raises:
        DipError: when it is.
    """
    if width * height > MOST_PIXELS or width * height * channels > MOST_SAMPLES:
        size = f"{width}x{height}" + (f" with {channels} channels" if width * height <= MOST_PIXELS else "")
        raise DipError(
            f"A picture of {size} is larger than can be handled, which is {MOST_PIXELS // 10**6} megapixels: "
            "make it smaller first."
        )


def plausible(across: Any, down: Any) -> tuple[float, float] | None:
    """A resolution in pixels an inch; None where a file says nonsense."""
    try:
        across, down = float(across), float(down)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if all(np.isfinite(each) and 1 <= each <= FINEST for each in (across, down)) else None
