"""Writing so that nothing is ever half-written, and by one run at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from dipcli.errors import DipError, TakenError

LONGEST = 255  # bytes in a file's name, nearly everywhere
LOCK = ".dip-lock"
PIECE = bytes(2**20)
NEAR = 4096  # bytes from the beginning of a file, in which a mark of ours stands
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # a file system may have none


@contextmanager
def claimed(*paths: Path) -> Iterator[None]:
    """Inside, no other run writes to these files and folders.

    A lock file lies beside a file, or in a folder, as long as the run lasts. The lock itself is the operating system's
    and goes with the process, however that ends: what a dead one left behind is no hindrance.

    Args:
        paths: files whose folders exist, and folders.

    Raises:
        TakenError: when another run has one of them.
    """
    with ExitStack() as held:
        for path in paths:
            held.enter_context(_claimed(path))
        yield


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    place = _lock(path)
    lock = FileLock(place, timeout=0, mode=0o666)  # what one user left behind is no hindrance to another
    try:
        lock.acquire()
    except Timeout:
        raise TakenError(
            f"Cannot write {path}: another run{_number(place)} is writing there. Wait for it, or choose another place."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise _refused(f"Cannot write {place}", error) from error
        yield
        return
    try:
        with suppress(OSError):  # Windows lets nobody write what is locked: no number is told then
            place.write_text(str(os.getpid()))
        yield
    finally:
        with suppress(OSError):  # gone before it is released: who waits for it would have a lock on nothing
            place.unlink()
        lock.release()


def held(path: Path) -> bool:
    """Whether a run is writing to a file or folder just now.

    Args:
        path: a file or folder as it would be given to `claimed`.
    """
    place = _lock(path)
    if not place.exists():
        return False
    lock = FileLock(place, timeout=0, mode=0o666)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # a place that nobody can write to
        return False
    lock.release()
    return False


def _lock(path: Path) -> Path:
    """The lock of a file lies beside it, that of a folder in it."""
    fits = len(os.fsencode(f".{path.name}{LOCK}")) <= LONGEST
    name = path.name if fits else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path / LOCK if path.is_dir() else path.with_name(f".{name}{LOCK}")


def _number(lock: Path) -> str:
    """Whose lock it is, in words, where that can be read."""
    try:
        return f" (process {int(lock.read_text())})"
    except (OSError, ValueError):
        return ""


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
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_temporary(path), suffix=".tmp")
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
        raise _refused(f"Cannot write {path}", error) from error


def sweep(*paths: Path) -> None:
    """Remove what a process that was killed while it wrote these files left beside them.

    Args:
        paths: files that nobody else is writing now.
    """
    for path in paths:
        for left in path.parent.glob(f"{_temporary(path)}*.tmp"):
            with suppress(OSError):
                left.unlink()


def _temporary(path: Path) -> str:
    """How the names of files begin that are to take this one's place: its own name may be too long for more."""
    return f".dip-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        DipError: when it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(f"Cannot make the folder {path}", error) from error


def bears(path: Path, mark: bytes) -> bool:
    """Whether a file has a mark of ours near its beginning: any other is somebody's own."""
    try:
        with path.open("rb") as file:
            return mark in file.read(NEAR)
    except OSError:
        return False


def check_writable(folder: Path, room: int = 4096) -> None:
    """Find out now whether a file can be written to a folder.

    Args:
        folder: where.
        room: bytes that it will have; so many are written, for nothing else knows of quotas and limits.

    Raises:
        DipError: when there is no such folder or it cannot be written to, or there is no room.
    """
    if not folder.is_dir():
        raise DipError(f"There is no folder {folder} to write to: make it first.")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start in range(0, room, len(PIECE)):
                file.write(PIECE[: room - start])
            file.flush()
    except OSError as error:
        raise _refused(f"Cannot write to {folder}", error) from error


def check_name(path: Path) -> None:
    """Find out now whether a file may be called so.

    Raises:
        DipError: when the name is too long, or a part of it is no folder.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise DipError(f"Cannot write {path}: {told}. Choose another name with -o.") from error


def _refused(what: str, error: OSError) -> DipError:
    """What the system would not do, and a way out."""
    way_out = "Make room, or choose another place" if error.errno in FULL else "Choose another place"
    return DipError(f"{what}: {error.strerror or error}. {way_out}.")


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
