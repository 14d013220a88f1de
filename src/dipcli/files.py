"""Atomic writes, and locks that keep two runs from writing to the same place."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from dipcli.errors import DipError, TakenError

MAX_NAME_BYTES = 255  # of a file name, on nearly all file systems
LOCK_SUFFIX = ".dip-lock"
CHUNK = bytes(2**20)
WRITE_BITS = 0o222  # of the permissions; root may write without them
HEAD_BYTES = 4096  # where `has_marker` looks
OUT_OF_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNSUPPORTED_ERRNOS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # a file system without locks


@contextmanager
def lock_paths(*paths: Path) -> Iterator[None]:
    """Lock files in existing folders, and folders, against other runs.

    The lock file is written beside a file or into a folder and removed at the end. The lock itself is the operating
    system's: it ends with the process, so a lock file left by a killed run does not block others.

    Raises:
        TakenError: if another run holds one of the locks.
    """
    with ExitStack() as locks:
        for path in paths:
            locks.callback(_lock_path(path))
        yield


def _lock_path(path: Path) -> Callable[[], None]:
    """Lock a path; return the function that releases it."""
    lock_file = _lock_file(path)
    lock = FileLock(lock_file, timeout=0, mode=0o666)  # other users can lock a file that one user left behind

    def release() -> None:
        with suppress(OSError):  # removed before the release: a waiting run must not lock a removed file
            lock_file.unlink()
        lock.release()

    try:
        lock.acquire()
    except Timeout:
        owner = ""
        with suppress(OSError, ValueError):
            owner = f" (process {int(lock_file.read_text())})"
        raise TakenError(
            f"Cannot write {path}: another run{owner} is writing there. Wait for it, or choose another place."
        ) from None
    except OSError as error:
        if error.errno in UNSUPPORTED_ERRNOS:
            return lambda: None
        raise write_error(f"Cannot write {lock_file}", error) from error
    with suppress(OSError):  # Windows does not allow writing to a locked file
        lock_file.write_text(str(os.getpid()))
    return release


def is_locked(path: Path) -> bool:
    """Check whether a run holds the lock of a file or folder."""
    if _lock_file(path).exists():
        try:
            _lock_path(path)()
        except TakenError:
            return True
        except DipError:  # a folder without write permission
            pass
    return False


def _lock_file(path: Path) -> Path:
    path = follow(path)
    fits = len(os.fsencode(f".{path.name}{LOCK_SUFFIX}")) <= MAX_NAME_BYTES
    name = path.name if fits else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path / LOCK_SUFFIX if path.is_dir() else path.with_name(f".{name}{LOCK_SUFFIX}")


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary file beside it, which is then renamed. See `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)


@contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing; it replaces `path` when the block ends without an exception.

    A link is followed, and the owner and the permissions of an existing file are kept.

    Raises:
        DipError: if it cannot be written; an existing file stays unchanged.
    """
    path = follow(path)
    check_replaceable(path)
    temporary = path.with_name(f"{_temporary_prefix(path)}{secrets.token_hex(8)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:  # unlike a file of `tempfile` with the usual permissions
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                before = path.stat()
                with suppress(OSError, AttributeError):  # only root may change the owner, which Windows has not
                    os.chown(temporary, before.st_uid, before.st_gid)
                temporary.chmod(stat.S_IMODE(before.st_mode))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(f"Cannot write {path}", error) from error


def remove_temporaries(*paths: Path) -> None:
    """Remove temporary files that a killed process left beside these files. No other process may be writing them."""
    for path in map(follow, paths):
        for temporary in path.parent.glob(f"{_temporary_prefix(path)}*.tmp"):
            with suppress(OSError):
                temporary.unlink()


def _temporary_prefix(path: Path) -> str:
    """Hash the name: a long one would be too long with more added to it."""
    return f".dip-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they do not exist.

    Raises:
        DipError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(f"Cannot make the folder {path}", error) from error


def has_marker(path: Path, marker: bytes) -> bool:
    """Check whether the first 4096 bytes of a file contain a marker that this program writes."""
    try:
        with path.open("rb") as file:
            return marker in file.read(HEAD_BYTES)
    except OSError:
        return False


def check_writable(folder: Path, size_bytes: int = 4096) -> None:
    """Check that a file of this size can be written to a folder.

    Zeros of that size are written to a temporary file: no other call knows of quotas and limits on the file size.

    Raises:
        DipError: if the folder does not exist or cannot be written to, or there is not enough space.
    """
    if not folder.is_dir():
        raise DipError(f"The folder {folder} does not exist: make it first.")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, size_bytes, len(CHUNK)):
                file.write(CHUNK[: size_bytes - start])
            file.flush()
    except OSError as error:
        raise write_error(f"Cannot write to {folder}", error) from error


def follow(path: Path) -> Path:
    """Return the file that a link leads to; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def check_replaceable(path: Path) -> None:
    """Check that a file may be replaced, if it exists. Renaming another file over it asks for no permission.

    Raises:
        DipError: if it is read-only, or a device or pipe.
    """
    if path.exists() and not path.is_file():
        raise DipError(f"Cannot write {path}: it is not a file. Choose another name.")
    if path.exists() and not (os.access(path, os.W_OK) and path.stat().st_mode & WRITE_BITS):
        raise DipError(f"Cannot write {path}: it is read-only. Choose another name, or make it writable.")


def check_name(path: Path) -> None:
    """Check that a file can have this name.

    Raises:
        DipError: if the name is too long, or one of its parents is a file.
    """
    try:
        with suppress(FileNotFoundError):
            path.lstat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DipError(f"Cannot write {path}: {reason}. Choose another name with -o.") from error


def write_error(action: str, error: OSError) -> DipError:
    """Return the error to raise when an action fails, with what to do."""
    advice = "Make room, or choose another place" if error.errno in OUT_OF_SPACE_ERRNOS else "Choose another place"
    return DipError(f"{action}: {error.strerror or error}. {advice}.")
