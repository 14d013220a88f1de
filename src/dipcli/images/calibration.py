"""What TIFF and FITS files say about the image beside its samples, and what of it changes with the image's size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from dipcli.images import exif

PIXEL_SCALE, TIEPOINTS, TRANSFORMATION = 33550, 33922, 34264  # GeoTIFF: pixel to map coordinates
GEOGRAPHIC = (PIXEL_SCALE, TIEPOINTS, TRANSFORMATION, 34735, 34736, 34737, 42112, 42113)  # the last two are GDAL's
IMAGEJ_PARTS = (50838, 50839)  # labels, lookup tables, overlays
MICROSCOPES = (51123, 34680, 34682)  # Micro-Manager, FEI
DESCRIPTION, DOCUMENT_NAME, PAGE_NAME = 270, 269, 285
KEPT = (*exif.DESCRIPTIVE, DOCUMENT_NAME, PAGE_NAME, *GEOGRAPHIC, *IMAGEJ_PARTS, *MICROSCOPES)
IMAGEJ, OME, SHAPE = b"ImageJ=", b"<OME", exif.TIFFFILE_SHAPE
FILE_NAME = re.compile(rb' FileName="[^"]*"')  # in the element UUID of each plane
NO_UNIT = 1  # resolution unit


@dataclass(frozen=True)
class Tags:
    """Tags of a TIFF page.

    Attributes:
        order: byte order of the values that are bytes, "<" or ">".
        entries: code, type, count and value of each: numbers, or bytes as they are in the file.
        resolution: in pixels per unit, horizontal and vertical; None for none.
        unit: of the resolution: 1 none, or what the description says; 2 inch, 3 centimetre.
    """

    order: str
    entries: tuple[tuple[int, int, int, Any], ...] = ()
    resolution: tuple[float, float] | None = None
    unit: int = NO_UNIT

    @property
    def description(self) -> bytes:
        """The description of the image; of OME-TIFF the XML."""
        return next((value for code, _, _, value in self.entries if code == DESCRIPTION), b"")

    def __bool__(self) -> bool:
        """Whether they say more than other formats can."""
        named = self.description.startswith(IMAGEJ) or OME in self.description
        return named or any(code in GEOGRAPHIC + MICROSCOPES for code, *_ in self.entries)

    def of_one_page(self) -> Tags:
        """Return the tags without the shape of a stack that tifffile notes."""
        kept = [entry for entry in self.entries if not (entry[0] == DESCRIPTION and entry[3].startswith(SHAPE))]
        return replace(self, entries=tuple(kept))

    def adapt(self, factors: tuple[float, float], size: tuple[int, int], pages: int | None = None) -> Tags:
        """Return the tags for an image whose width and height have grown by factors to a size.

        With `pages`, a stack has that many pages left. Overlays of ImageJ do not grow: they are left out.
        """
        if factors == (1, 1) and pages is None:
            return self
        entries = []
        for code, kind, count, value in self.entries:
            changed = _scale(code, value, factors)
            if code == DESCRIPTION:
                changed = _describe(value, factors, size, pages)
            if changed and not (code in IMAGEJ_PARTS and factors != (1, 1)):
                entries.append((code, kind, len(changed) if code == DESCRIPTION else count, changed))
        resolution = self.resolution and (self.resolution[0] * factors[0], self.resolution[1] * factors[1])
        return replace(self, entries=tuple(entries), resolution=resolution)


def _scale(code: int, value: Any, factors: tuple[float, float]) -> Any:
    """Scale the map coordinates of pixels.

    Source:
        OGC GeoTIFF 1.1, 7.4.
    """
    if code == PIXEL_SCALE:
        return (value[0] / factors[0], value[1] / factors[1], *value[2:])
    if code == TIEPOINTS:
        return tuple(number * factors[place % 6] if place % 6 < 2 else number for place, number in enumerate(value))  # noqa: PLR2004
    if code == TRANSFORMATION:
        return tuple(number / factors[place % 4] if place % 4 < 2 else number for place, number in enumerate(value))  # noqa: PLR2004
    return value


def _describe(text: bytes, factors: tuple[float, float], size: tuple[int, int], pages: int | None) -> bytes:
    """Adapt the description of ImageJ or OME; of OME none is left if pages are missing, of tifffile never."""
    if text.startswith(IMAGEJ) and pages is not None:
        text = re.sub(rb"(?m)^(?:channels|slices|frames|hyperstack|mode)=.*\n?", b"", text)
        return re.sub(rb"(?m)^images=.*$", b"images=%d\nslices=%d" % (pages, pages), text)
    if OME in text:
        for axis, factor, side in zip((b"X", b"Y"), factors, size, strict=True):
            text = re.sub(rb'(\bSize%s=")[^"]*' % axis, rb"\g<1>%d" % side, text)
            for length in set(re.findall(rb'\bPhysicalSize%s="([^"]*)"' % axis, text)):
                before, after = (
                    b'PhysicalSize%s="%s"' % (axis, value) for value in (length, b"%r" % (float(length) / factor))
                )
                text = text.replace(before, after)
    if text.startswith(SHAPE):
        return b""
    return b"" if pages is not None and OME in text else text


def forget_name(text: bytes) -> bytes:
    """Remove the name of its own file from the XML of OME: programs would read the samples of that file."""
    return FILE_NAME.sub(b"", text) if len(set(FILE_NAME.findall(text))) == 1 else text


def scale_header(header: bytes, factors: tuple[float, float]) -> bytes:
    """Scale the world coordinates of a FITS header, and pixel sizes, to an image that has grown by factors.

    The centre of the first pixel is 1, its edge 1/2.

    Source:
        Greisen & Calabretta 2002, Representations of world coordinates in FITS.
    """
    if factors == (1, 1) or not header:
        return header
    from astropy.io.fits import Header  # noqa: PLC0415 - an extra; there is no header without it

    changed = Header.fromstring(header.decode())
    for axis, factor in enumerate(factors, start=1):
        for card in [card for card in changed.cards if isinstance(card.value, int | float)]:
            if re.fullmatch(rf"CRPIX{axis}[A-Z]?", card.keyword):
                changed[card.keyword] = (card.value - 0.5) * factor + 0.5
            elif re.fullmatch(rf"(CDELT{axis}|CD\d_{axis})[A-Z]?|{'XY'[axis - 1]}PIXSZ", card.keyword):
                changed[card.keyword] = card.value / factor
    scaled: bytes = changed.tostring().encode()
    return scaled
