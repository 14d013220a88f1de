"""Writing so that nothing is ever half-written."""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dipcli.errors import DipError


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then renamed.

    Args:
        path: where to; its folder must exist. A file that is there is replaced.
        data: what.

    Raises:
        DipError: when it cannot be written; what was there is untouched.
    """
    with opened(path) as file:
        file.write(data)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place whole when all went well, or not at all.

    Raises:
        DipError: when it cannot be written; what was there is untouched.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise DipError(
            f"Cannot write {path}: {error.strerror or error}. Make room, or choose another place."
        ) from error


def sweep(*paths: Path) -> None:
    """Remove what a process that was killed while it wrote these files left beside them.

    Args:
        paths: files that nobody else is writing now.
    """
    for path in paths:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with suppress(OSError):
                left.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        DipError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DipError(f"Cannot make the folder {path}: {error.strerror or error}. Choose another place.") from error


def check_writable(folder: Path) -> None:
    """Find out now whether a file can be written to a folder.

    Raises:
        DipError: when there is no such folder or it cannot be written to.
    """
    if not folder.is_dir():
        raise DipError(f"There is no folder {folder} to write to: make it first.")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DipError(f"Cannot write to {folder}: {error.strerror or error}. Choose another place.") from error


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
