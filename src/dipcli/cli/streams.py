"""Standard streams that are closed, on a full disk, or a pipe that nobody reads."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class LossyFile(io.FileIO):
    """A stream that may be written to although it fails: what cannot be written is lost.

    Attributes:
        error: why; None if nothing was lost.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes, as long as that works."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(data)


def protect_streams() -> None:
    """Keep standard output and error from raising exceptions, so that neither ends a run or costs an image.

    A closed stream stays None, and its number is taken: the next file that is opened would get it, and with it all
    that libraries write to the stream.
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or not isinstance(_raw(stream), io.FileIO):  # the console of Windows is none
            continue
        file: Any = io.BufferedWriter(LossyFile(stream.fileno(), "w", closefd=False))
        by_line = stream.line_buffering or stream.write_through
        setattr(sys, name, io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=by_line))


def find_lost_output() -> OSError | None:
    """Flush standard output, and return why some of it was lost; None if nothing was."""
    if sys.stdout is None:
        return None
    sys.stdout.flush()
    error: OSError | None = getattr(_raw(sys.stdout), "error", None)
    return error


def _raw(stream: Any) -> object:
    """The unbuffered file beneath a text stream; with PYTHONUNBUFFERED there is no buffer between."""
    return getattr(stream.buffer, "raw", stream.buffer)
