"""Images in memory and on disk: reading and writing any format, with metadata."""

from dipcli.images.formats import FORMATS, check, decode, default_suffix, encode, obtain, read, write
from dipcli.images.image import SMALLEST, Picture, from_array

__all__ = [
    "FORMATS",
    "SMALLEST",
    "Picture",
    "check",
    "decode",
    "default_suffix",
    "encode",
    "from_array",
    "obtain",
    "read",
    "write",
]
