"""What a container may have: Linux's control groups, of either version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")  # where they are mounted
OWN = Path("/proc/self/cgroup")  # the file that says which are this process's, a line each: number:controllers:path
UNLIMITED = 2**60  # version 1 says so by a number as large as this


def limits(root: Path = ROOT, own: Path = OWN) -> tuple[float | None, int | None]:
    """The processors and the bytes that are allowed; None where no limit is set.

    Args:
        root: where the groups are mounted.
        own: the file that names those of this process.
    """
    cpus, sizes = [], []
    for folder in _folders(root, own):
        quota = describe_limits(folder / "cpu.max") or describe_limits(folder / "cpu.cfs_quota_us") + describe_limits(
            folder / "cpu.cfs_period_us"
        )
        if len(quota) == 2 and quota[0].isdecimal() and float(quota[1]):  # noqa: PLR2004 - of how much, how often
            cpus.append(float(quota[0]) / float(quota[1]))
        if (size := _memory(folder)) is not None:
            sizes.append(size)
    return min(cpus, default=None), min(sizes, default=None)


def left(root: Path = ROOT, own: Path = OWN) -> list[int]:
    """Bytes left below each limit; what is only kept of files as long as nobody wants the room is left too.

    Args:
        root: where the groups are mounted.
        own: the file that names those of this process.
    """
    rooms = []
    for folder in _folders(root, own):
        most = _memory(folder)
        used = describe_limits(folder / "memory.current") or describe_limits(folder / "memory.usage_in_bytes")
        if most is None or not used:
            continue
        told = describe_limits(folder / "memory.stat")
        spare = dict(zip(told[::2], told[1::2], strict=False))
        rooms.append(most - int(used[0]) + int(spare.get("total_inactive_file", spare.get("inactive_file", 0))))
    return rooms


def describe_limits(path: Path) -> list[str]:
    """What stands in a file; nothing where there is none."""
    try:
        return path.read_text(errors="replace").split()
    except OSError:
        return []


def _memory(folder: Path) -> int | None:
    """The bytes that a group may have; None where it sets no limit."""
    size = describe_limits(folder / "memory.max") or describe_limits(folder / "memory.limit_in_bytes")
    return int(size[0]) if size and size[0].isdecimal() and int(size[0]) < UNLIMITED else None


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Those of this process's groups and of the groups above them, as far as they can be seen."""
    try:
        lines = own.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        tops = [root / "unified", root] if not kinds else [root / kind for kind in kinds.split(",")]
        for top in tops:
            folder = top / path.lstrip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(top))
