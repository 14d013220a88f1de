"""Files of several images: pages of a TIFF, slices, channels and times of ImageJ and OME, planes of a FITS cube."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tifffile

from dipcli import files
from dipcli.errors import DipError
from dipcli.images import camera_raw, fits, tiff
from dipcli.images.raster import Raster

BIG_BYTES = 2**32 - 2**25  # from here TIFF needs positions of 64 bits


@dataclass(frozen=True)
class Stack:
    """A file of several images of any sizes.

    Attributes:
        count: how many.
        suffix: of a file of this format.
        read: returns one of them, from 0.
        write: writes the restored images, in a file of this format and with its metadata; the last argument tells
            whether they are all of them, in their order.
    """

    count: int
    suffix: str
    read: Callable[[int], Raster]
    write: Callable[[Path, Iterator[Raster], int, bool], None]

    def read_page(self, number: int) -> Raster:
        """Read an image, from 0, upright.

        Raises:
            DipError: if it is damaged or cannot be read without loss.
        """
        try:
            return self.read(number).upright()
        except DipError as error:
            raise DipError(f"page {number + 1}: {error}") from error
        except Exception as error:
            raise DipError(f"page {number + 1} cannot be read ({error}): check the file.") from error


def open_fits(path: Path) -> Stack | None:
    """Open a FITS cube; None for a single image."""
    count = fits.count_planes(path)
    return Stack(count, ".fits", fits.Planes(path), fits.write_planes) if count > 1 else None


def open_tiff(path: Path) -> Stack | None:
    """Open a TIFF file of several pages, or of one that holds several images; None for a single image."""
    with tifffile.TiffFile(path) as file:
        if camera_raw.is_raw(file):
            return None
        count = len(tiff.list_pages(file))
        planes = tiff.count_planes(file)
    if max(count, planes) == 1:
        return None
    return Stack(max(count, planes), ".tif", TiffPages(path, planes), write_tiff)


@dataclass(frozen=True)
class TiffPages:
    """Reads single pages of a TIFF file."""

    path: Path
    planes: int  # that its only page holds; 1 if there are others

    def __call__(self, number: int) -> Raster:
        """Read a page, from 0."""
        with tifffile.TiffFile(self.path) as file:
            page: Any = tiff.list_pages(file)[0 if self.planes > 1 else number].aspage()
            plane = None
            if self.planes > 1:
                every = tifffile.memmap(self.path, series=0, mode="r")
                plane = every.reshape(self.planes, *page.shape)[number].copy()
            raster = tiff.read_page(page, self.path.stat().st_size, plane)
            if raster is None:
                raise DipError("Its kind is not supported in a stack: save it uncompressed, in grey or RGB.")
            if number and self.planes > 1:  # the file's description belongs to the first
                raster = replace(raster, tags=None if raster.tags is None else replace(raster.tags, entries=()))
            return raster


def write_tiff(path: Path, rasters: Iterator[Raster], count: int, whole: bool) -> None:
    """Write pages with their own metadata."""
    with files.open_atomically(path) as file:
        writer = None
        for raster in rasters:
            if writer is None:
                big = count * raster.samples.nbytes > BIG_BYTES
                writer = tifffile.TiffWriter(file, bigtiff=big, byteorder=tiff.byte_order(raster))
            if not whole and raster.tags is not None:
                height, width = raster.samples.shape[:2]
                raster = replace(raster, tags=raster.tags.adapt((1, 1), (width, height), count))  # noqa: PLW2901
            writer.write(raster.samples, contiguous=False, **tiff.list_options(raster))
        if writer:
            writer.close()
