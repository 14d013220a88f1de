"""FITS through astropy (extra `fits`): samples as they are, linear; the header is kept, and scaled with the image."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError
from dipcli.images.raster import Raster, check_size

SIGNATURES = (b"SIMPLE  =",)
DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64")
PLANE_AXES = 2
STORAGE = ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME")  # of the samples as they were stored


def read(data: bytes) -> Raster:
    """Decode the first image of a file.

    Raises:
        DipError: if there is none, it has several planes, is too large, or astropy is not installed.
        Exception: of any type, if the file is damaged.
    """
    with _open(io.BytesIO(data)) as image:
        if (count := _count(image)) > 1:
            raise DipError(f"The file has {count} planes: dip restores them from a file that is named; or extract one.")
        return _read_plane(image, 0)


def write(raster: Raster) -> bytes:
    """Encode a file."""
    return _encode(raster.samples, raster.fits_header)


def count_planes(path: Path) -> int:
    """The number of planes of a file's first image."""
    with _open(path) as image:
        return _count(image)


@dataclass(frozen=True)
class Planes:
    """Reads single planes of a file."""

    path: Path

    def __call__(self, number: int) -> Raster:
        """Read a plane, from 0."""
        with _open(self.path) as image:
            return _read_plane(image, number)


def write_planes(path: Path, rasters: Iterator[Raster], _count: int, whole: bool) -> None:
    """Write planes as a cube; all of them with the axes that the header tells."""
    planes = list(rasters)
    cube = np.stack([plane.samples for plane in planes])
    if whole:
        axes = dict(re.findall(r"NAXIS([1-9]) *= *(\d+)", planes[0].fits_header.decode()))
        cube = cube.reshape(*(int(axes[axis]) for axis in sorted(axes, reverse=True)[:-PLANE_AXES]), *cube.shape[1:])
    files.write(path, _encode(cube, planes[0].fits_header))


def _import_fits() -> Any:
    try:
        from astropy.io import fits  # noqa: PLC0415 - an extra
    except ImportError:
        raise DipError('FITS files need astropy: pip install "dipcli[fits]".') from None
    return fits


@contextmanager
def _open(source: Any) -> Iterator[Any]:
    """Open a file at its first image."""
    fits = _import_fits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(source, memmap=False) as units:
            image = next((unit for unit in units if unit.is_image and len(unit.shape) >= PLANE_AXES), None)
            if image is None:
                raise DipError("The FITS file has no image, only tables: name another file.")
            image.header.extend(units[0].header, unique=True, strip=True)
            yield image


def _count(image: Any) -> int:
    return int(np.prod(image.shape[:-PLANE_AXES]))


def _read_plane(image: Any, number: int) -> Raster:
    height, width = image.shape[-PLANE_AXES:]
    check_size(width, height)
    check_size(width, height * _count(image))  # astropy reads all planes
    samples: NDArray[Any] = image.data.reshape(-1, height, width)[number]
    return Raster(samples.copy(), fits_header=image.header.tostring().encode())


def _encode(samples: NDArray[Any], cards: bytes) -> bytes:
    fits = _import_fits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = fits.Header.fromstring(cards.decode())
        axes = header.get("NAXIS", PLANE_AXES)
        header.strip()
        for name in STORAGE:
            header.remove(name, ignore_missing=True)
        if samples.ndim == PLANE_AXES < axes:  # axes of length one, which world coordinates may need
            samples = samples.reshape(*(1,) * (axes - PLANE_AXES), *samples.shape)
        file = io.BytesIO()
        fits.PrimaryHDU(samples, header).writeto(file)
    return file.getvalue()
