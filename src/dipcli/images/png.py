"""PNG, by libpng: all its depths, 16 bits in colour and with transparency included, which Pillow cuts to 8.

Of libpng comes but the decoding of samples. What stands beside them, profile, EXIF and resolution, lies in chunks of
their own, which are read and written here.

Source:
    Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np

from dipcli import files
from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.raster import Raster, check_size, plausible

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # what libpng has to see; it is spared the rest
COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
CHANNELS = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}  # by the header's kind of colour
INCH = 0.0254  # metres
LARGEST_PROFILE = 2**25  # bytes; the largest in use have a tenth of them


def read(data: bytes) -> Raster:
    """Samples and what belongs to them; a palette becomes its colours, a transparent colour transparency.

    Raises:
        DipError: when the picture is too large, moves, or does not come to its end.
    """
    chunks = list(_chunks(data))
    kind, header = chunks[0]
    if kind != b"IHDR" or len(header) != 13:  # noqa: PLR2004 - two sides and five bytes
        raise DipError("The PNG does not begin with a header: check the file.")
    width, height, _, colour = struct.unpack(">IIBB", header[:10])
    check_size(width, height, CHANNELS.get(colour, 1))
    named: dict[bytes, memoryview] = {}
    for kind, content in chunks:
        named.setdefault(kind, content)
    if b"acTL" in named and bytes(named[b"acTL"][:4]) > b"\0\0\0\1":
        raise DipError("The PNG is animated: extract the picture to restore.")
    shown = b"".join(_chunk(kind, content) for kind, content in chunks if kind in SAMPLES)
    try:
        samples = imagecodecs.png_decode(SIGNATURE + shown)
    except (imagecodecs.PngError, ValueError) as error:
        raise DipError(f"The PNG cannot be read to its end ({error}): check the file.") from error
    block = bytes(named.get(b"eXIf", b""))
    return Raster(
        samples,
        exif.orientation(block),
        profile=_profile(named.get(b"iCCP")),
        exif=block or None,
        resolution=_resolution(named.get(b"pHYs")),
        colour=b"".join(_chunk(kind, named[kind]) for kind in COLOUR if kind in named),
    )


def write(raster: Raster, level: int | None = None) -> bytes:
    """The bytes of a file: grey, grey with transparency, RGB or RGBA by the channels, of 8 or 16 bits by their type.

    Args:
        raster: what is in it.
        level: how hard to try to make it small, 1 to 9; 6 when not given.
    """
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(raster.samples), level=level))
    beside = raster.colour
    if raster.profile:
        beside += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(raster.profile))
    if raster.resolution:
        beside += _chunk(b"pHYs", struct.pack(">IIB", *(round(each / INCH) for each in raster.resolution), 1))
    if raster.exif:
        beside += _chunk(b"eXIf", raster.exif.removeprefix(exif.MARK))
    pixels = len(SIGNATURE) + 25  # where the header ends
    return data[:pixels] + beside + data[pixels:]


def is_ours(path: Path) -> bool:
    """Whether a file says at its beginning that it is `OURS`."""
    return files.bears(path, OURS)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each, to the last.

    Raises:
        DipError: when there is no last one or one is damaged.
    """
    view, at, kind = memoryview(data), len(SIGNATURE), b""
    while kind != b"IEND":
        if len(data) < at + 8:
            raise DipError("The PNG is truncated: get the whole file.")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if len(data) < end + 4:
            raise DipError("The PNG is truncated: get the whole file.")
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DipError("The PNG is damaged, a checksum in it is wrong: get the file anew.")
        yield kind, view[at + 8 : end]
        at = end + 4


def _chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    whole = kind + bytes(content)
    return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))


def _profile(content: memoryview | None) -> bytes | None:
    """The ICC profile, unpacked; None where it is broken, as a picture without one is shown all the same."""
    _, _, packed = bytes(content or b"").partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if unpacking.eof else None


def _resolution(content: memoryview | None) -> tuple[float, float] | None:
    across, down, unit = struct.unpack(">IIB", content) if content and len(content) == 9 else (0, 0, 0)  # noqa: PLR2004
    return plausible(round(across * INCH, 2), round(down * INCH, 2)) if unit == 1 else None


OURS = _chunk(b"tEXt", b"Software\0dipcli")  # beside the pixels of what may be replaced and removed without asking
