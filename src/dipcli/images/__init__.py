"""Images in memory and on disk: reading and writing any format, with metadata."""

from dipcli.images.formats import FORMATS, check, decode, default_suffix, encode, read, to_image, write
from dipcli.images.image import SMALLEST, Image, from_array

__all__ = [
    "FORMATS",
    "SMALLEST",
    "Image",
    "check",
    "decode",
    "default_suffix",
    "encode",
    "from_array",
    "read",
    "to_image",
    "write",
]
