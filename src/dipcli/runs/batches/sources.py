"""Find the images that the arguments name, name their results, and find those of earlier calls."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from dipcli.errors import DipError, UsageError
from dipcli.images import has_image_suffix
from dipcli.records.job import Job
from dipcli.records.resume import find_run
from dipcli.records.run_files import CHECKPOINT, LOG, RECORD, is_run_folder
from dipcli.records.run_record import FileRecord, RunRecord, read_record

STDIN = Path("-")
RUN_SUFFIX = ".dip"  # of run folders
SAME_OPTIONS = "already restored"
OTHER_OPTIONS = "already restored with other options: --overwrite restores it again"
NO_RECORD = "its result exists, without a run record: --overwrite restores it again"


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
        elif is_run_folder(path):
            passed.append(path)
        else:
            folders += 1
            nothing = (
                f"There is no image to restore in {path}: check the name. To restore the results of an earlier run, "
                "name the files."
            )
            images += list(_walk(path, task, output, passed)) or [Source(path, wrong=DipError(nothing))]
    unique: dict[str, Source] = {}
    for image in images:
        unique.setdefault(os.path.abspath(image.path), image)
    return Sources(tuple(unique.values()), bool(folders) or len(named) > 1, tuple(passed))


def stems(paths: Sequence[Path], folders: Sequence[Path], occupied: Iterable[int] = ()) -> list[str]:
    """Name each result, without its suffix: like its source without the suffix.

    Sources that differ in the suffix only keep it: a.png and a.jpg become a.png.png and a.jpg.png. Upper and lower
    case are the same here, as they are on many disks. `folders` are those of the results. `occupied` are the numbers of
    those whose name is that of another image's result, of an earlier call: they keep their suffix too.

    Raises:
        UsageError: if two results would still have one name.
    """
    with_suffix = set(occupied)
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


def find_owner(job: Job) -> Path | None:
    """Return the other image whose result, or interrupted run, has the name that this job would use; None if none has.

    An image is the same if it has the same path or the same content. A result without a run record may be that of any
    image beside this one that differs in the suffix only.
    """
    stem = job.output_stem()
    folder = stem.with_name(stem.name + RUN_SUFFIX)
    record = read_record(folder)
    suffixes = [*job.result_suffixes(), *([Path(record.output).suffix] if record else [])]
    is_written = any(os.path.isfile(stem.with_name(stem.name + suffix)) for suffix in suffixes)
    owners: list[Path] = []
    if record:
        file = record.files.get("input") or FileRecord(path=record.input)
        owners = [Path(file.path), folder / file.near]
    elif os.path.isfile(folder / CHECKPOINT):
        with suppress(DipError):
            owners = [find_run(folder).job.source]
    elif is_written:
        name = job.stem or job.source.stem
        beside = sorted(job.source.parent.glob(f"{glob.escape(name)}.*"))
        others = (path for path in beside if path != job.source and path.stem == name and has_image_suffix(path))
        return next(others, None)
    is_used = is_written or os.path.isfile(folder / CHECKPOINT)
    if not owners or not is_used or os.path.realpath(job.source) in map(os.path.realpath, owners):
        return None
    return None if record and record.input_sha256 == _hash(job.source) else owners[0]


class EarlierResult(NamedTuple):
    """A result that is kept."""

    output: str  # its path
    record: RunRecord | None  # of its run; None if there is none
    reason: str  # why it is kept


def find_earlier_result(job: Job) -> EarlierResult | None:
    """Return the result of an earlier run if it leaves nothing to do; None if the image is to be restored.

    A finished run whose output exists is not repeated while the image, and the other files that were read, are the
    same. With other options it is not repeated either, because it may have taken hours; the reason says so.
    Without a run record an output that is not older than the image counts.

    Raises:
        DipError: if an output exists that is not from a run.
    """
    if job.outputs.overwrite:
        return None
    stem = job.output_stem()
    folder = stem.with_name(stem.name + RUN_SUFFIX)
    record = read_record(folder)
    if record is not None:
        output = stem.with_name(stem.name + Path(record.output).suffix)
        if not record.finished or not os.path.isfile(output) or _has_changed(job, record, folder):
            return None
        same = (record.task, record.request) == (job.task.name, job.describe_request())
        record = replace(record, input=str(job.source), output=str(output))
        return EarlierResult(record.output, record, SAME_OPTIONS if same else OTHER_OPTIONS)
    if (folder / LOG).exists() and not job.outputs.no_run_dir:  # the run was killed
        return None
    for output in (stem.with_name(stem.name + suffix) for suffix in job.result_suffixes()):
        if not os.path.isfile(output):
            continue
        if all(path.stat().st_mtime <= output.stat().st_mtime for path in job.input_files()):
            return EarlierResult(str(output), None, SAME_OPTIONS if job.outputs.no_run_dir else NO_RECORD)
        if not job.outputs.no_run_dir:
            raise DipError(f"{output} exists and is not from a run: --overwrite replaces it.")
    return None


def _has_changed(job: Job, record: RunRecord, folder: Path) -> bool:
    """Whether the image differs from that of an earlier run, or another input file is newer than its record."""
    if not os.path.isfile(job.source):  # it may be a pipe
        return True
    try:
        written = (folder / RECORD).stat().st_mtime
        others = [path for path in job.input_files() if path != job.source]
        return _hash(job.source) != record.input_sha256 or any(path.stat().st_mtime > written for path in others)
    except OSError:
        return True  # reading it will report what is wrong


def _hash(path: Path) -> str:
    """SHA-256 of a file; empty if it cannot be read or is a pipe."""
    with suppress(OSError):
        if os.path.isfile(path):
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


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
    known = {literal, *literal.parents}
    found = [path for path in map(Path, matching) if not any(map(is_run_folder, {*path.parents} - known))]
    return [(path, False) for path in found] or [(argument, True)]


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
        below = [folder for folder in below if not is_run_folder(folder) and os.path.realpath(folder) != results]
        passed += filter(Path.is_symlink, below)
        folders[:] = [folder.name for folder in below if not folder.is_symlink()]
        for folder in map(here.joinpath, folders):
            if has_image_suffix(folder):
                yield Source(folder, inside, DipError(f"{folder} is a folder with the name of an image: rename it."))
        for path in (here / file for file in sorted(names) if not file.startswith(".")):
            special = os.path.exists(path) and not os.path.isfile(path)  # reading from a pipe may never end
            if special or not has_image_suffix(path):
                passed.append(path)
                continue
            record = read_record(path.with_suffix(RUN_SUFFIX))
            if record is None or (record.task, Path(record.output).name) != (task, path.name):
                yield Source(path, inside)
    for error in unreadable:
        message = f"Cannot read the folder {error.filename}: {error.strerror}. Check its permissions."
        yield Source(Path(error.filename), wrong=DipError(message))
