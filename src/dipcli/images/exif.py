"""EXIF blocks: what a camera says of its picture, carried from file to file without being understood.

An EXIF block is a small TIFF file: a header, then directories of entries whose values lie anywhere in it. Values are
moved as they are: a library that reads and writes them anew turns the ü of a name into a question mark.

Source:
    TIFF 6.0, section 2; Exif 2.3 (CIPA DC-008), 4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

MARK = b"Exif\0\0"
ORIENTATION = 0x0112
# By orientation, from the picture as it lies in the file to the upright one: whether rows and columns change places,
# then which are mirrored, 0 for the rows and 1 for the columns.
TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    1: (False, ()), 2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)),
    5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)), 8: (True, (0,)),
}  # fmt: skip
PHOTO, GPS, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # entries that are directories
BELOW: dict[int, tuple[int, ...]] = {0: (PHOTO, GPS), PHOTO: (INTEROPERABILITY,)}  # and where they belong
WIDTH, HEIGHT = 0xA002, 0xA003  # in that of the photograph
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}  # bytes, by kind of value
SHORT, LONG = 3, 4
INLINE = 4  # bytes of a value that lies in its entry
ENTRY = 12
# The entries of a TIFF file that speak of the picture and not of how it lies in the file: description, make, model,
# software, date, artist, computer, rating, copyright, and Windows' title, comment, author, keywords and subject.
SPEAKING = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, *range(0x9C9B, 0x9CA0), PHOTO, GPS)
SHAPE = b'{"shape":'  # of a description: tifffile's own note of the array, which another picture's would belie


class Entry(NamedTuple):
    """One value of a directory.

    Attributes:
        tag: its name.
        kind: 1 to 13, as TIFF numbers them.
        length: how many numbers or letters it has.
        value: its bytes.
        at: where they begin.
        below: the entries of the directory that it points to.
    """

    tag: int
    kind: int
    length: int
    value: bytes
    at: int = 0
    below: tuple[Entry, ...] = ()


def order(block: bytes) -> Literal["<", ">"]:
    """How a block, or a TIFF file, orders the bytes of its numbers, as `struct` has it: < or >.

    Raises:
        ValueError: when it is neither.
    """
    return _header(_bare(block))[0]


def orientation(block: bytes) -> int:
    """Which way is up, 1 to 8; 1, as the picture lies, where the block does not say or is broken."""
    data = _bare(block)
    try:
        sign, first = _header(data)
        told = [each for each in _entries(data, sign, first) if each.tag == ORIENTATION and each.kind == SHORT]
    except (ValueError, struct.error):
        return 1
    return int.from_bytes(told[0].value[:2], "little" if sign == "<" else "big") if told else 1


def upright(block: bytes) -> bytes | None:
    """A block that says that its picture is upright, without the thumbnail of the unrestored picture.

    All else stays where it is: what makers note of their own refers to its place in the block.

    Returns:
        None where the block is broken.
    """
    data = bytearray(_bare(block))
    try:
        sign, first = _header(data)
        for entry in _entries(data, sign, first):
            if entry.tag == ORIENTATION:
                _put(data, sign, entry, 1)
        end = first + 2 + ENTRY * struct.unpack_from(sign + "H", data, first)[0]
        if len(data) >= end + INLINE:
            struct.pack_into(sign + "I", data, end, 0)
    except (ValueError, struct.error):
        return None
    return MARK + bytes(data)


def sized(block: bytes, width: int, height: int) -> bytes:
    """A sound block that gives the picture's size as this, where it gives it at all."""
    data = bytearray(_bare(block))
    sign, first = _header(data)
    for photo in _directory(data, sign, first):
        for entry in photo.below if photo.tag == PHOTO else ():
            if entry.tag in (WIDTH, HEIGHT):
                _put(data, sign, entry, width if entry.tag == WIDTH else height)
    return MARK + bytes(data)


def from_tiff(file: bytes) -> bytes | None:
    """What a TIFF file says of its picture, as a block; None where it says nothing, or is a BigTIFF.

    Args:
        file: the whole of it.
    """
    try:
        sign, first = _header(file)
        told = [each for each in _directory(file, sign, first) if each.tag in SPEAKING]
    except (ValueError, struct.error):
        return None
    told = [each for each in told if not each.value.startswith(SHAPE)]
    data, first = _laid_out(told, sign, 8)
    return MARK + _head(sign, first) + data if told else None


def to_tiff(file: bytes, block: bytes) -> bytes:
    """A TIFF file that says what a sound block says; the two order their bytes alike.

    Args:
        file: with one page. Its directory is written anew at its end.
        block: what it does not say itself is taken over.
    """
    data = _bare(block)
    sign, first = _header(data)
    told = {each.tag: each for each in _directory(data, sign, first) if each.tag in SPEAKING}
    told |= {each.tag: each for each in _directory(file, sign, _header(file)[1])}
    file += bytes(len(file) % 2)
    end, first = _laid_out(told.values(), sign, len(file))
    return _head(sign, first) + file[8:] + end


def _bare(block: bytes) -> bytes:
    while block.startswith(MARK):
        block = block[len(MARK) :]
    return block


def _header(data: bytes | bytearray) -> tuple[Literal["<", ">"], int]:
    """The order of bytes, and where the first directory is."""
    sign: Literal["<", ">"] = "<" if data[:1] == b"I" else ">"
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise ValueError("no header")
    return sign, struct.unpack_from(sign + "I", data, 4)[0]


def _head(sign: str, first: int) -> bytes:
    return (b"II" if sign == "<" else b"MM") + struct.pack(sign + "HI", 42, first)


def _entries(data: bytes | bytearray, sign: str, at: int) -> Iterator[Entry]:
    """Those of the directory that begins there.

    Left out are values of unknown kinds or beyond the end, and those that together are more than there is: they are
    said to lie on top of one another, and a small file could have them fill the memory.
    """
    (number,) = struct.unpack_from(sign + "H", data, at)
    left = len(data)
    for place in range(at + 2, at + 2 + ENTRY * number, ENTRY):
        tag, kind, count = struct.unpack_from(sign + "HHI", data, place)
        size = SIZES.get(kind, 0) * count
        start = place + 8 if size <= INLINE else struct.unpack_from(sign + "I", data, place + 8)[0]
        if 0 < size <= min(left, len(data) - start):
            left -= size
            yield Entry(tag, kind, count, bytes(data[start : start + size]), start)


def _directory(data: bytes | bytearray, sign: str, at: int, above: int = 0) -> list[Entry]:
    """Its entries with those of the directories below it; one below that is broken is left out."""
    found = []
    for entry in _entries(data, sign, at):
        if entry.tag not in (PHOTO, GPS, INTEROPERABILITY):
            found.append(entry)
        elif entry.tag in BELOW.get(above, ()) and len(entry.value) == INLINE:
            try:
                below = _directory(data, sign, struct.unpack(sign + "I", entry.value)[0], entry.tag)
            except struct.error:
                continue
            found.append(Entry(entry.tag, LONG, 1, entry.value, below=tuple(below)))
    return found


def _laid_out(entries: Iterable[Entry], sign: str, at: int) -> tuple[bytes, int]:
    """The values of a directory and then the directory, as they stand at this place of a file; where it begins.

    It comes last, so that of a file that is cut short nobody reads the half.
    """
    entries = sorted(entries, key=lambda each: each.tag)
    table, values = struct.pack(sign + "H", len(entries)), b""
    for entry in entries:
        value = entry.value
        if entry.tag in (PHOTO, GPS, INTEROPERABILITY):
            below, place = _laid_out(entry.below, sign, at + len(values))
            values += below
            value = struct.pack(sign + "I", place)
        elif len(value) > INLINE:
            place = at + len(values)
            values += value + bytes(len(value) % 2)
            value = struct.pack(sign + "I", place)
        table += struct.pack(sign + "HHI", entry.tag, entry.kind, entry.length) + value.ljust(INLINE, b"\0")
    return values + table + bytes(INLINE), at + len(values)


def _put(data: bytearray, sign: str, entry: Entry, number: int) -> None:
    """Write a number in the place of an entry's value."""
    if entry.kind in (SHORT, LONG) and entry.length == 1:
        kind = "H" if entry.kind == SHORT else "I"
        struct.pack_into(sign + kind, data, entry.at, min(number, 2 ** (8 * SIZES[entry.kind]) - 1))
