"""Many images: where the result of each goes, which are finished, and restoring them one after the other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from dipcli import files
from dipcli.errors import DipError, UsageError
from dipcli.images import find_writable, has_image_suffix, pillow
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun
from dipcli.records.run_record import RunRecord
from dipcli.runs.batches.masks import is_named, match_files
from dipcli.runs.batches.sources import STDIN, Source, find_earlier_result, find_owner, gather, stems
from dipcli.runs.batches.stack_job import StackJob
from dipcli.runs.interrupt import Interrupt, NotStartedError
from dipcli.runs.run import restore

MAX_NAMED_FILES = 5  # in a sentence
# Images of one size that are fitted together: a number; "auto" to measure it; None for "auto" on a GPU and 1 on a CPU.
BatchSize: TypeAlias = int | Literal["auto"] | None


class Entry(NamedTuple):
    """One image to restore, or why it cannot be restored."""

    job: Job
    wrong: DipError | None = None


@dataclass(frozen=True)
class Batch:
    """All images of one call."""

    entries: tuple[Entry, ...]
    several: bool  # whether more than one image was asked for: then finished ones are skipped
    output: Path | None = None  # the folder for the results; None for beside the images
    passed: tuple[Path, ...] = ()  # files that were found but whose names are not those of images
    results: tuple[Path, ...] = ()  # images that were named, but are where the result of another one goes
    stacks: tuple[StackJob, ...] = ()  # files of which several of the images are pages

    @property
    def remarks(self) -> list[str]:
        """What to say before the first image."""
        ignored = [(self.passed, "not images"), (self.results, "results of other images")]
        return [f"Ignored, {why}: {_list_names(paths)}" for paths, why in ignored if paths]

    def of_one_size(self) -> list[list[int]]:
        """The numbers of the images, grouped by size; those of unknown size form a group too."""
        sizes: dict[tuple[int, int] | None, list[int]] = {}
        for number, (job, wrong) in enumerate(self.entries, start=1):
            sizes.setdefault(None if wrong else pillow.read_size(job.source), []).append(number)
        return list(sizes.values())


@dataclass(frozen=True)
class Outcome:
    """What happened to one image."""

    source: str  # path of the image
    output: str = ""  # path of the result, if there is one
    record: RunRecord | None = None  # of the run, if there was one
    error: DipError | None = None  # why it failed; None if it did not
    message: str = ""  # the error as a sentence; empty if the same error of a folder was reported before
    skipped: str = ""  # why nothing was done; empty if something was
    ended_by: signal.Signals | None = None  # the signal that ended the run and the batch
    number: int = 1  # of the image in the batch, from 1
    part: bool = False  # whether it is a page of a stack
    started: bool = True  # False if a signal ended the batch before anything was known about the image
    worker: str = ""  # which of several workers restored it; empty for this process
    notes: tuple[str, ...] = ()  # messages of that worker

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON-able values."""
        known: dict[str, Any] = self.record.to_json() if self.record else {"input": self.source}
        error = self.error and str(self.error)
        extra = {"output": self.output, "error": error, "skipped": self.skipped, "worker": self.worker}
        return known | {name: value for name, value in extra.items() if value}

    @property
    def fate(self) -> str:
        """In a word: restored, failed, skipped, not started or cut short."""
        if self.error or self.skipped:
            return "failed" if self.error else "skipped"
        if not self.started:
            return "not started"
        return "cut short" if self.ended_by else "restored"


def lay_out(like: Job, arguments: list[Path], output: str | None) -> Batch:
    """Make a job like `like` for each image that the arguments name, with a destination of its own.

    Raises:
        UsageError: if two results would go to one file, or `-o` cannot take several results.
        DipError: if there is no image.
    """
    if like.outputs.format:
        find_writable(f".{like.outputs.format.lstrip('.')}")
    place = None if output is None else Path(output)
    found = gather(arguments, like.task.name, place)
    if found.several:  # a mask or guide among the images is none of them
        inputs = [image.path for image in found.images if is_named(image.path, like)]
        images = tuple(image for image in found.images if image.path not in inputs)
        found = replace(found, images=images, passed=(*found.passed, *inputs))
    if not found.images:
        raise DipError(f"There is no image among {_list_names(found.passed)}: name one.")
    folder = place if found.several or (output or "").endswith(("/", os.sep)) else None
    source = found.images[0].path
    if source == STDIN and place and (folder or place.is_dir()):
        raise UsageError(f"-o {output} is a folder, and standard input has no name: use -o {place / 'restored.png'}.")
    if not found.several and ((place and not folder) or source == STDIN):
        return Batch((_make_entry(replace(like, source=source, output=place), Path(), None),), several=False)
    if found.several:
        _check_folder(like, arguments, output, len(found.images))
    entries = _make_entries(like, found.images, folder)
    sources = {
        os.path.abspath(f"{job.output_stem()}{suffix}"): job.source
        for job, _ in entries
        for suffix in job.result_suffixes()
    }

    def is_result(path: Path) -> bool:
        return sources.get(os.path.abspath(path), path) != path

    if any(is_result(image.path) for image in found.images):
        entries = _make_entries(like, [image for image in found.images if not is_result(image.path)], folder)
    named = tuple(image.path for image in found.images if image.named and is_result(image.path))
    return Batch(tuple(entries), found.several, folder, found.passed, named)


def _check_folder(like: Job, arguments: list[Path], output: str | None, count: int) -> None:
    """Check that `-o` is a folder for several images, and not the one they are in."""
    if output is None:
        return
    is_folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    if output == "-" or os.path.isfile(output) or (not is_folder and has_image_suffix(Path(output))):
        raise UsageError(f"-o {output} cannot take {count} images: name a folder.")
    place = os.path.realpath(output)
    same = any(os.path.isdir(argument) and os.path.realpath(argument) == place for argument in arguments)
    if same and not like.outputs.overwrite:
        raise UsageError(f"-o {output} is the folder of the images: leave it out to write the results beside them.")


def _make_entries(like: Job, images: Sequence[Source], output: Path | None) -> list[Entry]:
    """Give each image its number and its result a name that no other has."""
    sound = [image for image in images if image.wrong is None]
    folders = [image.path.parent if output is None else output / image.inside for image in sound]
    jobs = [
        replace(like, source=image.path, folder=None if output is None else folder)
        for image, folder in zip(sound, folders, strict=True)
    ]
    taken = [number for number, job in enumerate(jobs) if find_owner(job)]
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    names = iter(stems([image.path for image in sound], paths, taken))
    entries = []
    for number, image in enumerate(images, start=1):
        count = f"{number}/{len(images)} " if len(images) > 1 else ""
        job = replace(like, source=image.path, title=count + image.path.name)
        if image.wrong is None:
            job = replace(job, folder=None if output is None else output / image.inside, stem=next(names))
        wrong = image.wrong
        if wrong is None and not like.outputs.overwrite and (owner := find_owner(job)):
            wrong = UsageError(f"{job.output_stem()} is the result of {owner}: use another -o, or --overwrite.")
        entries.append(_make_entry(job, image.inside, wrong))
    return entries


def _make_entry(job: Job, inside: Path, wrong: DipError | None) -> Entry:
    """Give a job its mask or guide, if a folder of them was named."""
    try:
        return Entry(job if wrong else match_files(job, inside), wrong)
    except DipError as error:
        return Entry(job, error)


def restore_all(batch: Batch, *, resume: InterruptedRun | None = None, **how: Any) -> Iterator[Outcome]:
    """Restore one image after the other, continue after failures, and yield each outcome as soon as it is known.

    With `resume` a single image resumes that run; of several images those that were interrupted are resumed. `how` are
    further arguments of `run.restore`; a signal ends the batch too.
    """
    shut: dict[Path, DipError] = {}
    for number in range(1, len(batch.entries) + 1):
        known = decide_without_fit(batch, number, shut)
        yield (outcome := known or restore_entry(batch, number, resume=resume or batch.several, **how))
        if outcome.ended_by:
            return


def restore_entry(batch: Batch, number: int, *, interrupt: Interrupt | None = None, **how: Any) -> Outcome:
    """Restore one image of a batch; `how` are further arguments of `run.restore`."""
    try:
        record, ended_by = restore(batch.entries[number - 1].job, interrupt=interrupt, **how)
    except DipError as error:
        return failed(batch, number, error)
    except NotStartedError:
        return not_started(batch, number, (interrupt and interrupt.received) or signal.SIGTERM)
    return Outcome(record.input, record.output, record, ended_by=ended_by, number=number)


def decide_without_fit(batch: Batch, number: int, shut: dict[Path, DipError]) -> Outcome | None:
    """Return the outcome of an image that needs no fit; None if a fit is due.

    `shut` has the folders that could not be written to when last tried; keep it from image to image.
    """
    job, wrong = batch.entries[number - 1]
    if wrong or not batch.several:
        return failed(batch, number, wrong) if wrong else None
    try:
        if earlier := find_earlier_result(job):
            return Outcome(str(job.source), earlier.output, earlier.record, skipped=earlier.reason, number=number)
    except DipError as error:
        return failed(batch, number, error)
    place = batch.output or job.source.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    known = shut.pop(place, None)
    try:
        files.check_writable(place)
    except DipError as error:  # the folder is wrong and not the image
        shut[place] = error
        message = "" if str(error) == str(known) else f"{number}/{len(batch.entries)}: {error}"
        return Outcome(str(job.source), error=error, message=message, number=number)
    return None


def not_started(batch: Batch, number: int, by: signal.Signals) -> Outcome:
    """The outcome of an image that was not started because of a signal."""
    job = batch.entries[number - 1].job
    return Outcome(str(job.source), ended_by=by, number=number, started=False)


def failed(batch: Batch, number: int, error: DipError) -> Outcome:
    """The outcome of an image that failed."""
    job, message = batch.entries[number - 1].job, str(error)
    if batch.several:
        name = "" if str(job.source) in message else f"{job.source}: "
        message = f"{number}/{len(batch.entries)}: {name}{message}"
    return Outcome(str(job.source), error=error, message=message, number=number)


def _list_names(paths: Sequence[Path]) -> str:
    """The first few paths, and how many more there are."""
    more = len(paths) - MAX_NAMED_FILES
    return ", ".join(map(str, paths[:MAX_NAMED_FILES])) + (f" and {more} more" if more > 0 else "")
