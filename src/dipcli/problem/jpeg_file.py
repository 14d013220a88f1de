"""The contents of a JPEG file: its rounded coefficients k and steps q, without decoding pixels."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipcli.errors import DipError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_SIDE = 8  # samples


@dataclass(frozen=True)
class Plane:
    """One of the components Y, Cb and Cr of a file.

    Attributes:
        levels: k, integers, shape (rows, columns, 8, 8) of blocks.
        steps: q, in grey levels, shape (8, 8).
        sampling: image pixels per sample, (down, across).
    """

    levels: NDArray[Any]
    steps: NDArray[Any]
    sampling: tuple[int, int]

    @property
    def extent(self) -> tuple[int, int]:
        """Image pixels that its blocks cover, (down, across)."""
        (rows, columns), (down, across) = self.levels.shape[:2], self.sampling
        return rows * BLOCK_SIDE * down, columns * BLOCK_SIDE * across

    def find_inside(self, height: int, width: int) -> NDArray[np.bool_]:
        """Return whether the block of each coefficient lies inside an image of this size, in the shape of `levels`."""
        import numpy as np

        inside = np.zeros(self.levels.shape, np.bool_)
        inside[: height // (BLOCK_SIDE * self.sampling[0]), : width // (BLOCK_SIDE * self.sampling[1])] = True
        return inside


@dataclass(frozen=True)
class JpegCoefficients:
    """The contents of a JPEG file.

    Attributes:
        height: of the coded image, in pixels.
        width: likewise.
        orientation: 1 to 8, how the coded image has to be turned, as in EXIF.
        planes: Y, or Y, Cb and Cr.
    """

    height: int
    width: int
    orientation: int
    planes: tuple[Plane, ...]


def read_coefficients(data: bytes) -> JpegCoefficients:
    """Read the tables and the rounded coefficients of a JPEG file, without decoding pixels.

    Raises:
        DipError: when it is not a JPEG file, or one of an unsupported kind.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise DipError("The image is not from a JPEG file: give the JPEG it came from.")
    jpeg = _load_jpeglib(data)
    colours = jpeg.jpeg_color_space.name
    if colours not in ("JCS_GRAYSCALE", "JCS_YCbCr"):
        raise DipError(f"The JPEG is in {colours.removeprefix('JCS_')}, not in YCbCr or grey: convert it first.")
    pixels_per_sample = (jpeg.samp_factor.max(axis=0) // jpeg.samp_factor).tolist()  # jpeglib has refused fractions
    levels = [plane for plane in (jpeg.Y, jpeg.Cb, jpeg.Cr) if plane is not None]
    planes = tuple(
        Plane(level, jpeg.get_component_qt(number), tuple(pixels_per_sample[number]))
        for number, level in enumerate(levels)
    )
    return JpegCoefficients(jpeg.height, jpeg.width, _read_orientation(data), planes)


def _read_orientation(data: bytes) -> int:
    """Return the EXIF orientation; 1, as it is coded, where it is missing or invalid."""
    import PIL.Image

    from dipcli.images.exif import ORIENTATION, TRANSFORMS

    orientation = 1
    with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in TRANSFORMS else 1


def _load_jpeglib(data: bytes) -> Any:
    """Return jpeglib's object for the file, read completely."""
    import jpeglib

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints when it fails
        path = Path(folder) / "image.jpg"
        path.write_bytes(data)
        try:
            jpeg = jpeglib.read_dct(str(path))
            jpeg.load()
        except (OSError, ValueError) as error:
            raise DipError("The JPEG's coefficients cannot be read: save it again as a plain JPEG.") from error
    return jpeg
