"""PNG: libpng (imagecodecs) for the samples at any bit depth, where Pillow cuts 16-bit colour to 8 bits.

libpng handles the samples only. ICC profile, EXIF and resolution are chunks of their own, read and written here.

Source:
    Portable Network Graphics (PNG) Specification, third edition, W3C.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dipcli import files
from dipcli.errors import DipError
from dipcli.images import exif
from dipcli.images.raster import Raster, check_size, refuse_animation, valid_resolution

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = len(SIGNATURE) + 25
SAMPLE_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the only ones passed to libpng
COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
PALETTE = 3
CHANNELS = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}  # by the header's colour type
XMP = b"XML:com.adobe.xmp\0\0\0\0\0"  # keyword of the text chunk that holds it, not compressed
SRGB_GAMMA = b"gAMA" + (45455).to_bytes(4)
# First row, step, first column and step of the passes of an interlaced file (Adam7).
PASSES = (
    (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1),
)  # fmt: skip
METRES_PER_INCH = 0.0254
MAX_PROFILE_BYTES = 2**25  # ten times the largest in use
PREVIEW_LEVEL = 1  # zlib: a third of the time of level 6, for slightly larger files


def read(data: bytes) -> Raster:
    """Decode a file; a palette becomes its colours, a transparent colour becomes alpha.

    Raises:
        DipError: if the image is too large, animated, truncated or damaged.
    """
    chunks = list(_chunks(data))
    kind, header = chunks[0]
    if kind != b"IHDR" or len(header) != 13:  # noqa: PLR2004 - two sides and five bytes
        raise DipError("The PNG does not begin with a header: check the file.")
    width, height, _, colour_type = struct.unpack(">IIBB", header[:10])
    check_size(width, height, CHANNELS.get(colour_type, 1))
    # The first of each kind; of the texts the one with XMP.
    first = {kind: content for kind, content in reversed(chunks) if kind != b"iTXt" or content[: len(XMP)] == XMP}
    if b"acTL" in first and (frames := int.from_bytes(first[b"acTL"][:4])) > 1:
        raise refuse_animation("PNG", frames)
    parts = {kind: b"".join(bytes(content) for also, content in chunks if also == kind) for kind in SAMPLE_CHUNKS}
    try:
        samples = _decode_interlaced(parts) if header[12] else _decode_samples(parts)
    except (imagecodecs.PngError, ValueError, zlib.error) as error:
        raise DipError(f"The PNG cannot be read to its end ({error}): check the file.") from error
    block = bytes(first.get(b"eXIf", b""))
    return Raster(
        samples,
        exif.orientation(block),
        profile=_decode_profile(first.get(b"iCCP")),
        exif=block or None,
        resolution=_decode_resolution(first.get(b"pHYs")),
        png_colour=b"".join(_encode_chunk(kind, first[kind]) for kind in COLOUR_CHUNKS if kind in first),
        xmp=bytes(first.get(b"iTXt", b"")).partition(XMP)[2] or None,
    )


def write(raster: Raster, *, preview: bool = False) -> bytes:
    """Encode a file of 8 or 16 bits: grey, grey with alpha, RGB or RGBA.

    A preview is compressed quickly, and has a marker by which `is_marked` knows a file that may be replaced.
    """
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(raster.samples), level=PREVIEW_LEVEL if preview else None))
    metadata = raster.png_colour + (MARKER if preview else b"")
    if raster.profile:
        metadata += _encode_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(raster.profile))
    if raster.resolution:
        per_metre = (round(per_inch / METRES_PER_INCH) for per_inch in raster.resolution)
        metadata += _encode_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if raster.exif:
        metadata += _encode_chunk(b"eXIf", raster.exif.removeprefix(exif.HEADER))
    if raster.xmp:
        metadata += _encode_chunk(b"iTXt", XMP + raster.xmp)
    return data[:HEADER_END] + metadata + data[HEADER_END:]


def has_own_colours(chunks: bytes) -> bool:
    """Whether the colour chunks say something else than sRGB, which is assumed where there are none."""
    return b"cICP" in chunks or bool(chunks and b"sRGB" not in chunks and SRGB_GAMMA not in chunks)


def is_marked(path: Path) -> bool:
    """Check whether a file was written as a preview."""
    return files.has_marker(path, MARKER)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield type and content of each chunk up to IEND; refuse a file without IEND, or with a wrong checksum."""
    view, start, kind = memoryview(data), len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, start) if len(data) >= start + 8 else (len(data), b"")
        end = start + 8 + length
        if len(data) < end + 4:
            raise DipError("The PNG is truncated: get the whole file.")
        if zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DipError("The PNG is damaged, a checksum in it is wrong: get the file again.")
        yield kind, view[start + 8 : end]
        start = end + 4


def _decode_samples(parts: Mapping[bytes, bytes]) -> NDArray[Any]:
    samples: NDArray[Any] = imagecodecs.png_decode(
        SIGNATURE
        + b"".join(_encode_chunk(kind, content) for kind, content in parts.items() if content or kind == b"IEND")
    )
    return samples


def _decode_interlaced(parts: Mapping[bytes, bytes]) -> NDArray[Any]:
    """Decode the seven passes of an interlaced file as images of their own: libpng warns of it on standard error."""
    width, height, depth, colour_type = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    pixel_bits = depth * (1 if colour_type == PALETTE else CHANNELS[colour_type])
    inflate, samples = zlib.decompressobj(), None
    for top, row_step, left, column_step in PASSES:
        rows, columns = len(range(top, height, row_step)), len(range(left, width, column_step))
        if not rows or not columns:
            continue
        size = rows * (1 + (columns * pixel_bits + 7) // 8)
        packed = inflate.decompress(inflate.unconsumed_tail if samples is not None else parts[b"IDAT"], size)
        header = struct.pack(">IIBBBBB", columns, rows, depth, colour_type, 0, 0, 0)
        found = _decode_samples({**parts, b"IHDR": header, b"IDAT": zlib.compress(packed, PREVIEW_LEVEL)})
        if samples is None:
            samples = np.zeros((height, width, *found.shape[2:]), found.dtype)
        samples[top::row_step, left::column_step] = found
    if samples is None:
        raise ValueError("no pixels")
    return samples


def _encode_chunk(kind: bytes, content: bytes | memoryview) -> bytes:
    body = kind + bytes(content)
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _decode_profile(content: memoryview | None) -> bytes | None:
    """Decompress the ICC profile; None if it is damaged."""
    _, _, packed = bytes(content or b"").partition(b"\0")
    decompressor = zlib.decompressobj()
    try:
        profile = decompressor.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if decompressor.eof else None


def _decode_resolution(content: memoryview | None) -> tuple[float, float] | None:
    horizontal, vertical, unit = struct.unpack(">IIB", content) if content and len(content) == 9 else (0, 0, 0)  # noqa: PLR2004
    inches = (round(per_metre * METRES_PER_INCH, 2) for per_metre in (horizontal, vertical))
    return valid_resolution(*inches) if unit == 1 else None


MARKER = _encode_chunk(b"tEXt", b"Software\0dipcli")
