"""Writing so that nothing is ever half-written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dipcli.errors import DipError


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: into a temporary file beside it, then renamed.

    Args:
        path: where to; its folder must exist. A file that is there is replaced.
        data: what.

    Raises:
        DipError: when it cannot be written; what was there is untouched.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dip.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
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


def check_name(path: Path) -> None:
    """Find out now whether a file can have this name, whether or not there is one.

    Raises:
        DipError: when it is too long, or not one that this system knows.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise DipError(f"Cannot write {path}: {told}. Choose another name with -o.") from error


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
