"""Windows of an image, with a margin that an estimate sees around them. Slices have start and stop."""

from __future__ import annotations

from typing import TypeAlias

Window: TypeAlias = tuple[slice, slice]


def surround(rows: slice, columns: slice, margin: int) -> tuple[Window, Window]:
    """Return a window with a margin around it, and the window itself as counted from the start of that.

    The margin starts at 0 or later; it may reach beyond the end of the image.
    """
    outer_rows, outer_columns = (slice(max(0, part.start - margin), part.stop + margin) for part in (rows, columns))
    inside = shift(rows, -outer_rows.start), shift(columns, -outer_columns.start)
    return (outer_rows, outer_columns), inside


def shift(part: slice, offset: int) -> slice:
    """Return a slice that lies so much further."""
    return slice(part.start + offset, part.stop + offset)
