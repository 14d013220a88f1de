"""Windows of an image, with a margin that an estimate sees around them. Slices have start and stop."""

from __future__ import annotations


def widen(part: slice, margin: int) -> slice:
    """Return a slice with a margin at both ends, starting at 0 or later."""
    return slice(max(0, part.start - margin), part.stop + margin)


def shift(part: slice, outer: slice) -> slice:
    """Return a slice counted from the start of an outer one."""
    return shift_by(part, -outer.start)


def shift_by(part: slice, offset: int) -> slice:
    """Return a slice that lies so much further."""
    return slice(part.start + offset, part.stop + offset)
