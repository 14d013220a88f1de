"""EXIF blocks, copied from file to file without decoding their values.

An EXIF block is a small TIFF file: a header, then directories of entries whose values lie anywhere in it. The values
are copied as bytes: a library that decodes and encodes them (Pillow) replaces the ü of a name by a question mark.

Source:
    TIFF 6.0, section 2; Exif 2.3 (CIPA DC-008), 4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

HEADER = b"Exif\0\0"
ORIENTATION = 0x0112
# By orientation, how to turn the stored samples upright: whether to swap rows and columns, then which axes to flip.
TRANSFORMS: dict[int, tuple[bool, tuple[int, ...]]] = {
    1: (False, ()), 2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)),
    5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)), 8: (True, (0,)),
}  # fmt: skip
PHOTO, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # entries that point to directories
SUBDIRECTORIES: dict[int, tuple[int, ...]] = {0: (PHOTO, GPS), PHOTO: (INTEROPERABILITY,)}  # by their parent
WIDTH, HEIGHT = 0xA002, 0xA003  # in the directory PHOTO
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SHORT, LONG = 3, 4
INLINE_BYTES = 4  # values up to this size are stored in the entry itself
ENTRY_BYTES = 12
# The entries of a TIFF file that describe the image, not its storage: description, make, model, software, date,
# artist, computer, rating, copyright, and Windows' title, comment, author, keywords and subject.
DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(0x9C9B, 0x9CA0), PHOTO, GPS)
TIFFFILE_SHAPE = b'{"shape":'  # a description in which tifffile notes the shape of this file's array


class Entry(NamedTuple):
    """One entry of a directory: its value as bytes, their position, and the entries of the directory it points to."""

    tag: int
    type: int
    length: int
    value: bytes
    position: int = 0
    children: tuple[Entry, ...] = ()


def byte_order(block: bytes) -> Literal["<", ">"]:
    """Return the byte order of a block or TIFF file, as `struct` writes it; a ValueError if it is neither."""
    return _parse_header(_strip(block))[0]


def orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8; 1 if the block has none or is damaged."""
    data = _strip(block)
    try:
        order, first = _parse_header(data)
        values = [entry.value for entry in _entries(data, order, first) if entry[:2] == (ORIENTATION, SHORT)]
    except (ValueError, struct.error):
        return 1
    return int.from_bytes(values[0][:2], "little" if order == "<" else "big") if values else 1


def upright(block: bytes, size: tuple[int, int] | None = None) -> bytes | None:
    """Set the orientation to 1 and, where the block has it, the size; unlink the thumbnail of the unrestored image.

    Everything else keeps its position, because a camera's maker note refers to positions in the block.

    Returns:
        None if the block is damaged.
    """
    data = bytearray(_strip(block))
    try:
        order, first = _parse_header(data)
        numbers = dict(zip((WIDTH, HEIGHT), size, strict=True)) if size else {}
        for entry in _directory(data, order, first):
            if entry.tag == ORIENTATION:
                _replace_number(data, order, entry, 1)
            for child in entry.children:
                if entry.tag == PHOTO and child.tag in numbers:
                    _replace_number(data, order, child, numbers[child.tag])
        end = first + 2 + ENTRY_BYTES * struct.unpack_from(order + "H", data, first)[0]
        if len(data) >= end + INLINE_BYTES:
            struct.pack_into(order + "I", data, end, 0)
    except (ValueError, struct.error):
        return None
    return HEADER + bytes(data)


def from_tiff(file: bytes) -> bytes | None:
    """Collect the descriptive entries of a TIFF file in a block; None if there are none, or for a BigTIFF."""
    try:
        order, first = _parse_header(file)
        entries = [entry for entry in _directory(file, order, first) if entry.tag in DESCRIPTIVE]
    except (ValueError, struct.error):
        return None
    entries = [entry for entry in entries if not entry.value.startswith(TIFFFILE_SHAPE)]
    data, first = _encode_directory(entries, order, 8)
    return HEADER + _encode_header(order, first) + data if entries else None


def to_tiff(file: bytes, block: bytes) -> bytes:
    """Add the descriptive entries of a valid block to a TIFF file of one page and the same byte order.

    The file's own entries take precedence. Its directory is written again at its end.
    """
    data = _strip(block)
    order, first = _parse_header(data)
    entries = {entry.tag: entry for entry in _directory(data, order, first) if entry.tag in DESCRIPTIVE}
    entries |= {entry.tag: entry for entry in _directory(file, order, _parse_header(file)[1])}
    file += bytes(len(file) % 2)
    end, first = _encode_directory(entries.values(), order, len(file))
    return _encode_header(order, first) + file[8:] + end


def _strip(block: bytes) -> bytes:
    while block.startswith(HEADER):
        block = block[len(HEADER) :]
    return block


def _parse_header(data: bytes | bytearray) -> tuple[Literal["<", ">"], int]:
    """Return the byte order and the position of the first directory."""
    order: Literal["<", ">"] = "<" if data[:1] == b"I" else ">"
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no TIFF header")
    return order, struct.unpack_from(order + "I", data, 4)[0]


def _encode_header(order: str, first: int) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, first)


def _entries(data: bytes | bytearray, order: str, position: int) -> Iterator[Entry]:
    """Yield the entries of the directory at this position.

    Values of unknown types or beyond the end are left out, and so are those that would add up to more than the data:
    a small file whose values overlap could otherwise fill the memory.
    """
    (count,) = struct.unpack_from(order + "H", data, position)
    bytes_left = len(data)
    for place in range(position + 2, position + 2 + ENTRY_BYTES * count, ENTRY_BYTES):
        tag, value_type, values = struct.unpack_from(order + "HHI", data, place)
        size = TYPE_BYTES.get(value_type, 0) * values
        start = place + 8 if size <= INLINE_BYTES else struct.unpack_from(order + "I", data, place + 8)[0]
        if 0 < size <= min(bytes_left, len(data) - start):
            bytes_left -= size
            yield Entry(tag, value_type, values, bytes(data[start : start + size]), start)


def _directory(data: bytes | bytearray, order: str, position: int, parent: int = 0) -> list[Entry]:
    """Return the entries of a directory and its sub-directories; a damaged sub-directory is left out."""
    entries = []
    for entry in _entries(data, order, position):
        if entry.tag not in (PHOTO, GPS, INTEROPERABILITY):
            entries.append(entry)
        elif entry.tag in SUBDIRECTORIES.get(parent, ()) and len(entry.value) == INLINE_BYTES:
            try:
                children = _directory(data, order, struct.unpack(order + "I", entry.value)[0], entry.tag)
            except struct.error:
                continue
            entries.append(Entry(entry.tag, LONG, 1, entry.value, children=tuple(children)))
    return entries


def _encode_directory(entries: Iterable[Entry], order: str, position: int) -> tuple[bytes, int]:
    """Encode values and directory for this position in a file; return them and the position of the directory.

    The directory comes after the values, so that a truncated file has none.
    """
    entries = sorted(entries, key=lambda entry: entry.tag)
    table, values = struct.pack(order + "H", len(entries)), b""
    for entry in entries:
        value, place = entry.value, position + len(values)
        if entry.tag in (PHOTO, GPS, INTEROPERABILITY):
            children, place = _encode_directory(entry.children, order, place)
            values += children
            value = struct.pack(order + "I", place)
        elif len(value) > INLINE_BYTES:
            values += value + bytes(len(value) % 2)
            value = struct.pack(order + "I", place)
        table += struct.pack(order + "HHI", entry.tag, entry.type, entry.length) + value.ljust(INLINE_BYTES, b"\0")
    return values + table + bytes(INLINE_BYTES), position + len(values)


def _replace_number(data: bytearray, order: str, entry: Entry, number: int) -> None:
    if entry.type in (SHORT, LONG) and entry.length == 1:
        code = "H" if entry.type == SHORT else "I"
        struct.pack_into(order + code, data, entry.position, min(number, 2 ** (8 * TYPE_BYTES[entry.type]) - 1))
