"""Limits of a container: Linux control groups, version 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")  # where the groups are mounted
OWN = Path("/proc/self/cgroup")  # names the group of this process, in the line 0::path


def read_limits(root: Path = ROOT, own: Path = OWN) -> tuple[float | None, int | None]:
    """Return the allowed processors and bytes of memory, each None if not limited.

    Args:
        root: where the groups are mounted.
        own: the file that names the group of this process.
    """
    processors, sizes = [], []
    for folder in _find_groups(root, own):
        quota, period, *_ = *read_words(folder / "cpu.max"), "", ""
        if quota.isdecimal() and period.isdecimal() and int(period):
            processors.append(int(quota) / int(period))
        if (size := _read_limit(folder)) is not None:
            sizes.append(size)
    return min(processors, default=None), min(sizes, default=None)


def read_free_memory(root: Path = ROOT, own: Path = OWN) -> list[int]:
    """Return the bytes left below each memory limit; inactive file cache counts as free.

    Args:
        root: where the groups are mounted.
        own: the file that names the group of this process.
    """
    free = []
    for folder in _find_groups(root, own):
        limit, used = _read_limit(folder), read_words(folder / "memory.current")
        if limit is None or not used:
            continue
        words = read_words(folder / "memory.stat")
        statistics = dict(zip(words[::2], words[1::2], strict=False))
        free.append(limit - int(used[0]) + int(statistics.get("inactive_file", 0)))
    return free


def read_words(path: Path) -> list[str]:
    """Return the words in a file; none if it cannot be read."""
    try:
        return path.read_text(errors="replace").split()
    except OSError:
        return []


def _read_limit(folder: Path) -> int | None:
    """Return the memory limit of a group in bytes; None if it sets none."""
    size = read_words(folder / "memory.max")
    return int(size[0]) if size and size[0].isdecimal() else None


def _find_groups(root: Path, own: Path) -> Iterator[Path]:
    """Yield the folder of this process's group and of its parents."""
    for word in read_words(own):
        if word.startswith("0::"):
            folder = root / word.removeprefix("0::").lstrip("/")
            yield from (group for group in (folder, *folder.parents) if group.is_relative_to(root))
