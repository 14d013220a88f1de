"""The table of image formats: one row per format.

A format that is not in the table is added with `register_format`, from outside too:

    from dipcli import Format, Raster, register_format
    register_format(Format(name="Toy", suffixes=(".toy",), signatures=(b"TOY",), read=read_toy, write=write_toy))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dipcli.errors import DipError
from dipcli.images import camera_raw, codecs, fits, pillow, png, stacks, tiff
from dipcli.images.image import Image
from dipcli.images.raster import Raster
from dipcli.images.stacks import Stack


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to recognise, read and write files of a format, and what it can hold.

    Attributes:
        name: for messages, as "PNG".
        suffixes: of file names, in lower case, with the dot; the first is the usual one.
        signatures: what files begin with, one of them.
        read: decodes a whole file. Any exception means that the file is damaged; the message of a `DipError` is shown.
        write: encodes a file; None if the format is only read.
        dtypes: names of the sample types that it can hold.
        max_channels: without alpha; None for no limit.
        alpha: whether it can hold transparency.
        lossless: whether samples are read back bit for bit.
        keeps: the metadata that it can hold: names of attributes of `Image`, of `METADATA`.
        max_side: in pixels; None for no limit.
        max_exif_bytes: None for no limit.
        open_stack: opens a file of several images; returns None for a file of one.
        default: whether results without a given name are written in it: in the first such format that can hold them.
    """

    name: str
    suffixes: tuple[str, ...]
    signatures: tuple[bytes, ...]
    read: Callable[[bytes], Raster]
    write: Callable[[Raster], bytes] | None = None
    dtypes: tuple[str, ...] = ("uint8",)
    max_channels: int | None = 3
    alpha: bool = False
    lossless: bool = True
    keeps: tuple[str, ...] = ()
    max_side: int | None = None
    max_exif_bytes: int | None = None
    open_stack: Callable[[Path], Stack | None] | None = None
    default: bool = False

    def find_obstacle(self, image: Image) -> str | None:
        """Name what the format cannot hold of an image, for a message; None if it can hold all of it."""
        channels, height, width = image.pixels.shape
        channels = 3 if image.develop else channels
        if self.max_channels is not None and (channels > self.max_channels or channels == 2):  # noqa: PLR2004
            return f"{channels} channels"
        if image.dtype.name not in self.dtypes:
            return f"{image.dtype} samples without loss"
        if image.alpha is not None and not self.alpha:
            return "transparency"
        if self.max_exif_bytes is not None and len(image.exif or b"") > self.max_exif_bytes:
            return "as much EXIF as the image has"
        if self.max_side is not None and max(height, width) > self.max_side:
            return f"an image of {width}x{height}"
        return None

    def list_losses(self, image: Image) -> list[str]:
        """Name the metadata of an image that the format cannot hold."""
        return [
            name
            for attribute, name in METADATA.items()
            if getattr(image, attribute)
            and attribute not in self.keeps
            and (attribute != "png_colour" or png.has_own_colours(image.png_colour))
        ]


def _recognise(name: str, advice: str, *signatures: bytes, suffixes: tuple[str, ...] = ()) -> Format:
    """Return the row of a format that is recognised and not read."""

    def refuse(_data: bytes) -> Raster:
        raise DipError(f"{name} files are not supported: {advice}.")

    return Format(name=name, suffixes=suffixes, signatures=signatures, read=refuse)


def _boxes(*brands: bytes) -> tuple[bytes, ...]:
    """What a file of boxes (ISO 14496-12) begins with, of these brands: the length of the first box, and its kind."""
    return tuple(length.to_bytes(4) + b"ftyp" + brand for length in range(16, 100, 4) for brand in brands)


METADATA = {
    "profile": "colour profile", "exif": "EXIF", "xmp": "XMP", "resolution": "resolution",
    "png_colour": "colour chunks (cICP, gAMA, cHRM)", "tags": "calibration (ImageJ, OME, GeoTIFF)",
    "fits_header": "FITS header",
}  # fmt: skip
USUAL = ("profile", "exif", "xmp", "resolution")
EXPORT = "export it as TIFF or PNG"
# Recognised from top to bottom, and in this order preferred for results.
FORMATS = (
    Format(
        name="PNG", suffixes=(".png",), signatures=(png.SIGNATURE,), read=png.read, write=png.write,
        dtypes=("uint8", "uint16"), alpha=True, keeps=(*USUAL, "png_colour"), max_side=1_000_000, default=True,
    ),
    Format(
        name="Camera RAW", signatures=camera_raw.SIGNATURES, read=camera_raw.read,
        suffixes=(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"),
    ),
    Format(
        name="TIFF", suffixes=(".tif", ".tiff"), signatures=tiff.SIGNATURES, read=tiff.read, write=tiff.write,
        dtypes=tiff.DTYPES, max_channels=None, alpha=True,
        keeps=(*USUAL, "tags"), open_stack=stacks.open_tiff, default=True,
    ),
    Format(
        name="FITS", suffixes=(".fits", ".fit", ".fts"), signatures=fits.SIGNATURES, read=fits.read, write=fits.write,
        dtypes=fits.DTYPES, max_channels=1, keeps=("fits_header",), open_stack=stacks.open_fits,
        default=True,
    ),
    Format(
        name="JPEG", suffixes=(".jpg", ".jpeg"), signatures=(b"\xff\xd8\xff",), read=codecs.read_jpeg,
        write=partial(pillow.write, kind="JPEG", quality=95, subsampling=0),
        lossless=False, keeps=USUAL, max_side=65_500, max_exif_bytes=65_533,
    ),
    Format(
        name="WebP", suffixes=(".webp",), signatures=(b"RIFF",), read=partial(pillow.read, kind="WEBP"),
        write=partial(pillow.write, kind="WEBP", lossless=True, exact=True), alpha=True,
        keeps=("profile", "exif", "xmp"), max_side=16_383,
    ),
    Format(
        name="BMP", suffixes=(".bmp",), signatures=(b"BM",), read=partial(pillow.read, kind="BMP"),
        write=partial(pillow.write, kind="BMP"), keeps=("resolution",),
    ),
    Format(name="GIF", suffixes=(".gif",), signatures=(b"GIF8",), read=partial(pillow.read, kind="GIF")),
    Format(
        name="JPEG 2000", suffixes=(".jp2", ".j2k"), signatures=(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
        read=codecs.read_jpeg2000, write=codecs.write_jpeg2000, dtypes=("uint8", "uint16"), alpha=True,
    ),
    Format(
        name="JPEG XL", suffixes=(".jxl",), signatures=(b"\xff\n", b"\0\0\0\x0cJXL \r\n\x87\n"),
        read=codecs.read_jpeg_xl, write=codecs.write_jpeg_xl, dtypes=("uint8", "uint16", "float32"), alpha=True,
    ),
    Format(name="AVIF", suffixes=(".avif",), signatures=_boxes(b"avif", b"avis"), read=codecs.read_avif),
    Format(
        name="HEIC", suffixes=(".heic", ".heif"), read=codecs.read_heic,
        signatures=_boxes(b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"),
    ),
    Format(
        name="QOI", suffixes=(".qoi",), signatures=(b"qoif",), read=partial(pillow.read, kind="QOI"),
        write=codecs.write_qoi, alpha=True,
    ),
    Format(
        name="PPM, PGM", suffixes=(".ppm", ".pgm", ".pnm"), signatures=tuple(b"P%d" % kind for kind in range(1, 8)),
        read=codecs.read_netpbm, write=codecs.write_netpbm, dtypes=("uint8", "uint16"),
    ),
    Format(
        name="PFM", suffixes=(".pfm",), signatures=(b"PF", b"Pf"), read=codecs.read_netpbm, write=codecs.write_pfm,
        dtypes=("float32",),
    ),
    Format(name="Radiance", suffixes=(".hdr",), signatures=(b"#?RADIANCE", b"#?RGBE"), read=codecs.read_hdr),
    _recognise("OpenEXR", EXPORT + " with 32-bit floats", b"v/1\x01"),
    _recognise("Photoshop", EXPORT, b"8BPS"),
    _recognise("GIMP", EXPORT, b"gimp xcf"),
    _recognise("JPEG XR", EXPORT, b"II\xbc"),
    _recognise("DICOM", "convert it with dcm2pnm (DCMTK) or to TIFF with Fiji", bytes(128) + b"DICM"),
    _recognise("HDF5", "write one of its arrays as TIFF with tifffile", b"\x89HDF\r\n\x1a\n"),
    _recognise("NumPy", "pass the array to dipcli.denoise, or write it with tifffile", b"\x93NUMPY"),
    _recognise("PDF", "extract its images with pdfimages -all", b"%PDF"),
    _recognise("SVG", "it has no pixels; " + EXPORT, b"<svg"),
    _recognise("Video", "extract frames with ffmpeg -i VIDEO frames/%04d.png", b"\x1a\x45\xdf\xa3", *_boxes(b"")),
    Format(
        name="others that imageio reads", signatures=(b"",), read=pillow.read_other,
        suffixes=(".pbm", ".pam", ".tga", ".sgi", ".pcx"),
    ),
)  # fmt: skip
DEFAULT_SUFFIXES = tuple(row.suffixes[0] for row in FORMATS if row.default)  # of results without a given name
SIGNATURE_BYTES = 256  # more than any has
_registered: dict[str, Format] = {}


def register_format(new: Format) -> None:
    """Add a format to the table of this process. It goes before the others, and replaces one of the same name.

    Raises:
        ValueError: if it has no signature by which to recognise its files.
    """
    if not all(new.signatures) or not new.signatures:
        raise ValueError(f"{new.name} has no signature: say what its files begin with.")
    _registered[new.name] = new


def formats() -> tuple[Format, ...]:
    """Return the table, registered formats first."""
    return (*_registered.values(), *FORMATS)


def find_writable(suffix: str, image: Image | None = None) -> Format:
    """Find the format to write for a suffix as ".png", in capitals or not.

    Raises:
        DipError: if there is no such format, or it cannot hold the image that is to be written.
    """
    writable = [row for row in formats() if row.write]
    found = next((row for row in writable if suffix.lower() in row.suffixes), None)
    if found is None:
        problem = f"Images cannot be written as {suffix}" if suffix else "The output has no suffix"
        raise DipError(f"{problem}: use one of {' '.join(name for row in writable for name in row.suffixes)}.")
    if image and (obstacle := found.find_obstacle(image)):
        others = [row.suffixes[0] for row in writable if row.default and not row.find_obstacle(image)]
        raise DipError(f"{suffix.lower()} cannot hold {obstacle}: write it as {' or '.join(others)}.")
    return found


def default_suffix(image: Image) -> str:
    """Return the suffix of the default format that can hold the image: that of its file, else the first."""
    able = [row for row in formats() if row.default and not row.find_obstacle(image)]
    if image.develop:  # linear, which an image for display is not
        return ".tif"
    return next((row for row in able if (image.file or b"").startswith(row.signatures)), able[0]).suffixes[0]


def open_stack(path: Path) -> Stack | None:
    """Open a file as a stack; None if it holds one image, or is not of a format of stacks, or is damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(SIGNATURE_BYTES)
        row = next(row for row in formats() if head.startswith(row.signatures))
        return row.open_stack(path) if row.open_stack else None
    except Exception:  # noqa: BLE001 - reading the image will say what is wrong
        return None


def has_image_suffix(path: Path) -> bool:
    """Check whether a file is named as an image of a format in the table."""
    return any(path.suffix.lower() in row.suffixes for row in formats())
