"""Find the images that the arguments name, and name their results."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dipcli.errors import DipError, UsageError
from dipcli.images import has_image_suffix
from dipcli.records.run_files import LOG, RECORD
from dipcli.records.run_record import read_record

STDIN = Path("-")
RUN_SUFFIX = ".dip"  # of run folders


@dataclass(frozen=True)
class Source:
    """An image, or a folder that cannot be used."""

    path: Path  # of the file
    inside: Path = Path()  # its sub-folder within the folder that was named; its result goes to the same sub-folder
    wrong: DipError | None = None  # why it cannot be restored, if that is known already
    named: bool = False  # whether the argument was this file


@dataclass(frozen=True)
class Sources:
    """The images to restore."""

    images: tuple[Source, ...]  # in the order of the arguments, within a folder by name
    several: bool  # whether more than one was asked for; a folder counts as several, whatever is in it
    passed: tuple[Path, ...]  # files that were found but whose names are not those of images


def gather(arguments: Iterable[Path], task: str, output: Path | None = None) -> Sources:
    """Find the images that files, folders and patterns name, each once.

    A file whose name equals the pattern takes precedence over those that match it. In a folder these are left out:
    hidden files and folders, run folders, the folder for the results, and results of earlier runs of the task.

    Raises:
        UsageError: if standard input is one of several.
    """
    named = [found for argument in arguments for found in _expand(argument)]
    if len(named) > 1 and STDIN in [path for path, _ in named]:
        raise UsageError("Standard input is a single image: name no other beside -.")
    images: list[Source] = []
    passed: list[Path] = []
    folders = 0
    for path, exact in named:
        if not os.path.isdir(path):
            if exact or has_image_suffix(path):
                images.append(Source(path, named=True))
            else:
                passed.append(path)
        elif path.suffix == RUN_SUFFIX and ((path / LOG).exists() or (path / RECORD).exists()):
            passed.append(path)
        else:
            folders += 1
            nothing = (
                f"There is no image to restore in {path}: check the name. To restore the results of an earlier run, "
                "name the files."
            )
            images += list(_walk(path, task, output, passed)) or [Source(path, wrong=DipError(nothing))]
    unique = {os.path.abspath(image.path): image for image in reversed(images)}  # the first of each path
    return Sources(tuple(reversed(unique.values())), bool(folders) or len(named) > 1, tuple(passed))


def stems(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Name each result, without its suffix: like its source without the suffix.

    Sources that differ in the suffix only keep it: a.png and a.jpg become a.png.png and a.jpg.png. Upper and lower
    case are the same here, as they are on many disks.

    Args:
        paths: the sources.
        folders: the folder of each result.

    Raises:
        UsageError: if two results would still have one name.
    """
    with_suffix: set[int] = set()
    while True:
        names = [path.name if number in with_suffix else path.stem for number, path in enumerate(paths)]
        places = [(folder, name.casefold()) for folder, name in zip(folders, names, strict=True)]
        counts = Counter(places)
        clashing = {number for number, place in enumerate(places) if counts[place] > 1} - with_suffix
        if not clashing:
            break
        with_suffix |= clashing
    taken: dict[tuple[Path, str], Path] = {}
    for path, folder, name in zip(paths, folders, names, strict=True):
        if (first := taken.setdefault((folder, name), path)) is not path:
            raise UsageError(
                f"{first} and {path} would be written to one file: restore them one at a time, each with its own -o."
            )
    return names


def _expand(argument: Path) -> list[tuple[Path, bool]]:
    """The paths that an argument names, each with whether it is the argument itself.

    Shells expand patterns, but not that of Windows, nor quoted ones. The leading part of the argument that exists
    literally is not a pattern.
    """
    if argument == STDIN or os.path.lexists(argument):
        return [(argument, True)]
    literal = Path()
    for part in argument.parts:
        if not os.path.lexists(literal / part):
            break
        literal /= part
    pattern = argument.parts[len(literal.parts) :]
    matching = sorted(glob.glob(os.path.join(glob.escape(str(literal)), *pattern), recursive=True))
    return [(Path(path), False) for path in matching] or [(argument, True)]


def _walk(root: Path, task: str, output: Path | None, passed: list[Path]) -> Iterator[Source]:
    """The images in a folder and its sub-folders. Files that are ignored are added to `passed`.

    Links to folders are not followed: they may form cycles.
    """
    unreadable: list[OSError] = []
    results = None if output is None else os.path.realpath(output)
    for name, folders, names in os.walk(root, onerror=unreadable.append):
        here = Path(name)
        inside = here.relative_to(root)
        below = [here / folder for folder in sorted(folders) if not folder.startswith(".")]
        below = [folder for folder in below if folder.suffix != RUN_SUFFIX and os.path.realpath(folder) != results]
        passed += filter(Path.is_symlink, below)
        folders[:] = [folder.name for folder in below if not folder.is_symlink()]
        for folder in map(here.joinpath, folders):
            if has_image_suffix(folder):
                yield Source(folder, inside, DipError(f"{folder} is a folder with the name of an image: rename it."))
        for path in (here / file for file in sorted(names) if not file.startswith(".")):
            special = os.path.exists(path) and not os.path.isfile(path)  # reading from a pipe may never end
            if special or not has_image_suffix(path):
                passed.append(path)
            elif not _is_result(path, task):
                yield Source(path, inside)
    for error in unreadable:
        message = f"Cannot read the folder {error.filename}: {error.strerror}. Check its permissions."
        yield Source(Path(error.filename), wrong=DipError(message))


def _is_result(path: Path, task: str) -> bool:
    """Whether this task made the image, according to the run folder beside it."""
    record = read_record(path.with_suffix(RUN_SUFFIX))
    return record is not None and record.task == task and Path(record.output).name == path.name
