"""Images in memory and on disk: reading and writing any format, with metadata."""

from dipcli.images.coding import check, decode, encode, encode_preview, read, read_back, to_image, write
from dipcli.images.formats import (
    DEFAULT_SUFFIXES,
    Format,
    default_suffix,
    find_writable,
    formats,
    has_image_suffix,
    open_stack,
    register_format,
)
from dipcli.images.image import MIN_SIDE, Image, from_array
from dipcli.images.raster import Raster

__all__ = [
    "DEFAULT_SUFFIXES", "MIN_SIDE", "Format", "Image", "Raster", "check", "decode", "default_suffix", "encode",
    "encode_preview", "find_writable", "formats", "from_array", "has_image_suffix", "open_stack", "read", "read_back",
    "register_format", "to_image", "write",
]  # fmt: skip
