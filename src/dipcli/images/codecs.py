"""Formats, and depths of a format, that Pillow does not read or cuts to 8 bits: through imagecodecs and netpbmfile.

imagecodecs decodes samples only. Colour profile, EXIF and resolution come from Pillow where it can read the header.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import imagecodecs
import netpbmfile
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from dipcli.errors import DipError
from dipcli.images import exif, pillow
from dipcli.images.raster import Raster, check_size, refuse_animation, stretch

FRAMES = range(0xC0, 0xC4)  # segments of a JPEG that start the image: baseline, extended, progressive, lossless
# Bits of a component less one in JPEG 2000, file and bare code stream, and their number in AVIF.
JPEG2000_BITS = re.compile(rb"(?:.{0,99}ihdr.{10}|\xff\x4f\xff\x51.{38})(.)", re.DOTALL)
AVIF_BITS = re.compile(rb".{0,999}pixi\0{4}.(.)", re.DOTALL)
HDR_SIZE = re.compile(rb"[-+]Y +(\d+) +[-+]X +(\d+)\n")
BYTE = 8  # bits
GREY_AXES = 2


def read_jpeg(data: bytes) -> Raster:
    """Decode a JPEG; samples of 12 bits become 16."""
    place = _find_frame(data)
    bits = data[place] if place else BYTE
    if not place or bits <= BYTE:
        return pillow.read(data, "JPEG")
    if b"\xff\xd9" not in data[-100:]:
        raise DipError("The JPEG is truncated: get the whole file.")
    header = bytearray(data)
    header[place] = BYTE  # Pillow refuses other depths even where only the metadata are wanted
    samples = stretch(imagecodecs.jpeg8_decode(data), 2**bits - 1)
    return replace(pillow.read_header(bytes(header), "JPEG"), samples=samples)


def read_jpeg2000(data: bytes) -> Raster:
    """Decode a JPEG 2000 file or code stream."""
    bits = 1 + (found[1][0] & 127 if (found := JPEG2000_BITS.match(data)) else 0)
    if bits <= BYTE:
        return pillow.read_other(data)
    return replace(pillow.read_header(data, "JPEG2000"), samples=stretch(imagecodecs.jpeg2k_decode(data), 2**bits - 1))


def write_jpeg2000(raster: Raster) -> bytes:
    """Encode a JPEG 2000 file, losslessly."""
    samples = np.ascontiguousarray(raster.samples)
    return bytes(imagecodecs.jpeg2k_encode(samples, codecformat="jp2", level=0, reversible=True))


def read_avif(data: bytes) -> Raster:
    """Decode an AVIF file; samples of 10 and 12 bits become 16."""
    bits = found[1][0] if (found := AVIF_BITS.match(data)) else 0
    if bits <= BYTE:
        return pillow.read(data, "AVIF")
    return replace(pillow.read_header(data, "AVIF"), samples=stretch(imagecodecs.avif_decode(data), 2**bits - 1))


def read_heic(data: bytes) -> Raster:
    """Decode the main image of a HEIC file, upright; samples of 10 and 12 bits become 16."""
    try:
        import pillow_heif  # noqa: PLC0415 - an extra
    except ImportError:
        raise DipError('HEIC files need pillow-heif: pip install "dipcli[heic]".') from None
    image = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    channels = len(image.mode.partition(";")[0])
    width, height = image.size
    check_size(width, height, channels)
    described = pillow.make_raster(np.asarray(image).copy(), 1, image.info)  # libheif applies the orientation
    return replace(described, exif=described.exif and exif.upright(described.exif))


def read_jpeg_xl(data: bytes) -> Raster:
    """Decode a JPEG XL file."""
    check_size(*_jpeg_xl_size(data))
    samples = imagecodecs.jpegxl_decode(data)
    if samples.ndim > 3:  # noqa: PLR2004 - frames
        raise refuse_animation("JPEG XL", len(samples))
    return Raster(samples, remarks=("of a JPEG XL file only the samples are read: no colour profile, EXIF or XMP",))


def write_jpeg_xl(raster: Raster) -> bytes:
    """Encode a JPEG XL file, losslessly."""
    return bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(raster.samples), lossless=True))


def write_qoi(raster: Raster) -> bytes:
    """Encode a QOI file; grey becomes RGB."""
    image = PIL.Image.fromarray(raster.samples)
    return bytes(imagecodecs.qoi_encode(np.asarray(image.convert("RGBA" if "A" in image.mode else "RGB"))))


def read_hdr(data: bytes) -> Raster:
    """Decode a Radiance file: floats, linear, 1 = its white."""
    height, width = (int(side) for side in HDR_SIZE.search(data).groups())  # type: ignore[union-attr]
    check_size(width, height, 3)
    return Raster(imagecodecs.rgbe_decode(data))


def read_netpbm(data: bytes) -> Raster:
    """Decode PBM, PGM, PPM, PAM and PFM files; samples are scaled from the file's own maximum to 8 or 16 bits."""
    with netpbmfile.NetpbmFile(io.BytesIO(data)) as file:
        check_size(file.width, file.height, max(1, file.depth))
        if file.frames > 1:
            raise DipError(f"The file has {file.frames} images: extract the one to restore.")
        samples: NDArray[Any] = file.asarray()
        if file.magicnumber in ("P1", "P4"):
            return Raster(np.where(samples, np.uint8(0), np.uint8(255)))  # 1 is black
        if samples.dtype.kind == "f":
            return Raster(np.flipud(samples))  # rows are stored from bottom to top
        return Raster(stretch(samples, file.maxval))


def write_netpbm(raster: Raster) -> bytes:
    """Encode grey as PGM, RGB as PPM."""
    samples = raster.samples
    kind, full = "P5" if samples.ndim == GREY_AXES else "P6", np.iinfo(samples.dtype).max
    header = f"{kind}\n{samples.shape[1]} {samples.shape[0]}\n{full}\n"
    return header.encode() + samples.astype(samples.dtype.newbyteorder(">")).tobytes()


def write_pfm(raster: Raster) -> bytes:
    """Encode floats as PFM, from bottom to top, little endian."""
    samples = raster.samples
    header = f"{'Pf' if samples.ndim == GREY_AXES else 'PF'}\n{samples.shape[1]} {samples.shape[0]}\n-1.0\n"
    return header.encode() + np.flipud(samples).astype("<f4").tobytes()


def _find_frame(data: bytes) -> int:
    """Return the position of a JPEG's bits per sample; 0 if it has none."""
    place = 2
    while data[place : place + 1] == b"\xff" and len(data) > place + 4:
        if data[place + 1] in FRAMES:
            return place + 4
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return 0


def _jpeg_xl_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the start of the code stream.

    Source:
        ISO/IEC 18181-1, SizeHeader.
    """
    start = max(data.find(b"jxlc"), data.find(b"jxlp")) if data[:2] != b"\xff\n" else 0
    start = data.index(b"\xff\n", start) + 2
    bits = int.from_bytes(data[start : start + 12], "little")

    def take(count: int) -> int:
        nonlocal bits
        value: int = bits & (2**count - 1)
        bits >>= count
        return value

    def take_side() -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    height = take_side()
    above, below = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[take(3)]
    return height * above // below or take_side(), height
