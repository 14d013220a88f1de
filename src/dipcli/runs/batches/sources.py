"""Which pictures the arguments name, and what their results are called."""

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
RUN = ".dip"  # what a run's folder is called


@dataclass(frozen=True)
class Source:
    """One picture, or what stands in its place.

    Attributes:
        path: the file.
        inside: the sub-folder, of the folder that was named, in which it lies: its result lies in the same.
        wrong: why it cannot be restored, where that is known already.
        named: whether it was asked for by its own name.
    """

    path: Path
    inside: Path = Path()
    wrong: DipError | None = None
    named: bool = False


@dataclass(frozen=True)
class Sources:
    """What there is to restore.

    Attributes:
        pictures: in the order of the arguments; those of a folder by their names.
        several: whether more than one was asked for: a folder is several, whatever is in it.
        passed: files that nobody asked for by name and that are not called what pictures are called.
    """

    pictures: tuple[Source, ...]
    several: bool
    passed: tuple[Path, ...]


def gather(arguments: Iterable[Path], task: str, output: Path | None = None) -> Sources:
    """The pictures that files, folders and patterns name, each once.

    A file that is called what the pattern says goes before what matches it. In a folder these are no pictures: hidden
    files and folders, run folders, the folder for the results, and what an earlier run of the task has made.

    Args:
        arguments: as they were given.
        task: its name.
        output: the folder for the results, where one was named.

    Raises:
        UsageError: when standard input is one of several.
    """
    named = [each for argument in arguments for each in _expanded(argument)]
    if len(named) > 1 and STDIN in [path for path, _ in named]:
        raise UsageError("Standard input is one picture by itself: name no other beside -.")
    pictures: list[Source] = []
    passed: list[Path] = []
    folders = 0
    for path, own in named:
        if not os.path.isdir(path):
            if own or _called_a_picture(path):
                pictures.append(Source(path, named=True))
            else:
                passed.append(path)
        elif path.suffix == RUN and ((path / LOG).exists() or (path / RECORD).exists()):
            passed.append(path)
        else:
            folders += 1
            pictures += list(_walked(path, task, output, passed)) or [Source(path, wrong=_nothing(path))]
    once: dict[str, Source] = {}
    for each in pictures:
        once.setdefault(os.path.abspath(each.path), each)
    return Sources(tuple(once.values()), bool(folders) or len(named) > 1, tuple(passed))


def stems(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """What each result is called, without its suffix: as its source without the suffix.

    Where two sources differ in nothing else, they keep it: a.png and a.jpg become a.png.png and a.jpg.png. Capital and
    small letters are the same here, as they are on many disks.

    Args:
        paths: the sources.
        folders: where each one's result goes.

    Raises:
        UsageError: when two of them would be written to one file in any case.
    """
    whole: set[int] = set()
    while True:
        names = [path.name if each in whole else path.stem for each, path in enumerate(paths)]
        places = [(folder, name.casefold()) for folder, name in zip(folders, names, strict=True)]
        count = Counter(places)
        more = {each for each, place in enumerate(places) if count[place] > 1} - whole
        if not more:
            break
        whole |= more
    taken: dict[tuple[Path, str], Path] = {}
    for path, folder, name in zip(paths, folders, names, strict=True):
        if (first := taken.setdefault((folder, name), path)) is not path:
            raise UsageError(
                f"{first} and {path} would be written to one file: restore them one at a time, each with its own -o."
            )
    return names


def _expanded(argument: Path) -> list[tuple[Path, bool]]:
    """What an argument names: paths, each with whether it was named itself.

    Shells do the same, but not that of Windows, nor where the pattern is quoted. As much of it as is there in these
    very letters is no pattern.
    """
    if argument == STDIN or os.path.lexists(argument):
        return [(argument, True)]
    there = Path()
    for part in argument.parts:
        if not os.path.lexists(there / part):
            break
        there /= part
    rest = argument.parts[len(there.parts) :]
    matching = sorted(glob.glob(os.path.join(glob.escape(str(there)), *rest), recursive=True))
    return [(Path(each), False) for each in matching] or [(argument, True)]


def _walked(root: Path, task: str, output: Path | None, passed: list[Path]) -> Iterator[Source]:
    """The pictures in a folder and those below; what is passed over is added to `passed`.

    Links to folders are not followed: they may lead round in circles.
    """
    unread: list[OSError] = []
    results = None if output is None else os.path.realpath(output)
    for name, folders, names in os.walk(root, onerror=unread.append):
        here = Path(name)
        inside = here.relative_to(root)
        below = [here / each for each in sorted(folders) if not each.startswith(".")]
        below = [each for each in below if each.suffix != RUN and os.path.realpath(each) != results]
        passed += [each for each in below if each.is_symlink()]
        below = [each for each in below if not each.is_symlink()]
        folders[:] = [each.name for each in below]
        for folder in below:
            if _called_a_picture(folder):
                yield Source(folder, inside, DipError(f"{folder} is a folder with the name of a picture: rename it."))
        for path in (here / each for each in sorted(names) if not each.startswith(".")):
            special = os.path.exists(path) and not os.path.isfile(path)  # to read from a pipe may take for ever
            if special or not _called_a_picture(path):
                passed.append(path)
            elif not _result(path, task):
                yield Source(path, inside)
    for error in unread:
        sentence = f"Cannot read the folder {error.filename}: {error.strerror}. Check its permissions."
        yield Source(Path(error.filename), wrong=DipError(sentence))


def _called_a_picture(path: Path) -> bool:
    return has_image_suffix(path)


def _result(path: Path, task: str) -> bool:
    """Whether it was made by this task, as the run folder beside it says."""
    record = read_record(path.with_suffix(RUN))
    return record is not None and record.task == task and Path(record.output).name == path.name


def _nothing(folder: Path) -> DipError:
    return DipError(
        f"There is no picture to restore in {folder}: check the name. To restore what an earlier run has made, "
        "name the files."
    )
