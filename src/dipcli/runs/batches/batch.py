"""Many pictures: where each goes, which are finished, and one after the other past those that fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from dipcli import files
from dipcli.errors import DipError, UsageError
from dipcli.images import DEFAULT_SUFFIXES, has_image_suffix, pillow
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun
from dipcli.records.run_record import RunRecord
from dipcli.runs.batches.finished import find_earlier_result
from dipcli.runs.batches.sources import Source, gather, stems
from dipcli.runs.display import Display
from dipcli.runs.run import Announce, restore

NAMED = 5  # of many files in a sentence
# Pictures of one size that are fitted together: so many, as many as are found to be best, or, None, that on a GPU and
# on a CPU one.
BatchSize: TypeAlias = int | Literal["auto"] | None


class Entry(NamedTuple):
    """One picture to restore, or why it cannot be."""

    job: Job
    wrong: DipError | None = None


@dataclass(frozen=True)
class Batch:
    """All that one call is to restore.

    Attributes:
        entries: in their order.
        several: whether more than one was asked for: then what is finished is not done again.
        output: the folder for the results; None for beside the pictures.
        passed: files that nobody asked for by name and that are not called what pictures are called.
        results: pictures that were named, but lie where the result of another one goes.
    """

    entries: tuple[Entry, ...]
    several: bool
    output: Path | None = None
    passed: tuple[Path, ...] = ()
    results: tuple[Path, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """What there is to say of it before the first picture."""
        told = [(self.passed, "no pictures"), (self.results, "results of other pictures")]
        return [f"Passed over, {why}: {_listed(paths)}" for paths, why in told if paths]

    def of_one_size(self) -> list[list[int]]:
        """The numbers of the pictures, those of one size together; of those of which none is known too."""
        sizes: dict[tuple[int, int] | None, list[int]] = {}
        for number, (job, wrong) in enumerate(self.entries, start=1):
            sizes.setdefault(None if wrong else pillow.read_size(job.source), []).append(number)
        return list(sizes.values())


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Attributes:
        source: path of the image.
        output: path of the result, if there is one.
        record: of the run, if there was one.
        error: why it failed; None where it did not.
        said: the sentence on that; empty where it is the folder that is wrong and it has been said.
        skipped: why there was nothing to do; empty where there was.
        ended_by: the signal that ended the run, and with it the batch.
        number: its place among the pictures of the batch, from 1.
        begun: whether a fit was begun, or there was anything else to tell, before a signal ended the batch.
        worker: which of several was at it; empty where there is but this process.
        notes: what was said meanwhile by another process.
    """

    source: str
    output: str = ""
    record: RunRecord | None = None
    error: DipError | None = None
    said: str = ""
    skipped: str = ""
    ended_by: signal.Signals | None = None
    number: int = 1
    begun: bool = True
    worker: str = ""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON-able values."""
        known: dict[str, Any] = self.record.to_json() if self.record else {"input": self.source}
        extra = {"output": self.output, "error": self.error and str(self.error), "skipped": self.skipped}
        return known | {name: value for name, value in (extra | {"worker": self.worker}).items() if value}

    @property
    def fate(self) -> str:
        """In a word: restored, failed, skipped, not begun or cut short."""
        fates = {
            "failed": self.error,
            "skipped": self.skipped,
            "not begun": not self.begun,
            "cut short": self.ended_by,
        }
        return next((word for word, so in fates.items() if so), "restored")


def lay_out(like: Job, arguments: list[Path], output: str | None) -> Batch:
    """One job a picture, each with a place of its own for the result.

    Args:
        like: what is to be done with each of them.
        arguments: files, folders, patterns; `-` is standard input.
        output: what `-o` says: a file for one picture, else a folder.

    Raises:
        UsageError: when two pictures would go to one place, or one of several to where it must not.
    """
    place = None if output is None else Path(output)
    found = gather(arguments, like.task.name, place)
    if not found.pictures:
        raise DipError(f"There is no picture among {_listed(found.passed)}: name one.")
    folder = place if found.several or (output or "").endswith(("/", os.sep)) else None
    if folder is None and not found.several:
        return Batch((Entry(replace(like, source=found.pictures[0].path, output=place)),), several=False)
    if found.several:
        _check_folder(like, arguments, output, len(found.pictures))
    entries = _placed(like, found.pictures, folder)
    taken = {
        os.path.abspath(f"{job.output_stem()}{kind}"): job.source for job, _ in entries for kind in DEFAULT_SUFFIXES
    }
    results = [each for each in found.pictures if taken.get(os.path.abspath(each.path), each.path) != each.path]
    if results:
        others = {each.path for each in found.pictures} - {each.path for each in results}
        entries = _placed(like, [each for each in found.pictures if each.path in others], folder)
    named = tuple(each.path for each in results if each.named)
    return Batch(tuple(entries), found.several, folder, found.passed, named)


def _check_folder(like: Job, arguments: list[Path], output: str | None, count: int) -> None:
    """What `-o` says must be a folder for several pictures, and not the one they are in."""
    if output is None:
        return
    meant = output.endswith(("/", os.sep)) or os.path.isdir(output)
    if output == "-" or os.path.isfile(output) or (not meant and has_image_suffix(Path(output))):
        raise UsageError(f"-o {output} cannot take {count} pictures: name a folder.")
    same = [each for each in arguments if os.path.isdir(each) and os.path.realpath(each) == os.path.realpath(output)]
    if same and not like.outputs.overwrite:
        raise UsageError(f"-o {output} is where the pictures are: leave it out to have the results beside them.")


def _placed(like: Job, pictures: Sequence[Source], output: Path | None) -> list[Entry]:
    """The pictures with their names among the others, and numbered."""
    sound = [each for each in pictures if each.wrong is None]
    folders = [each.path.parent if output is None else output / each.inside for each in sound]
    names = iter(stems([each.path for each in sound], [Path(os.path.abspath(each)) for each in folders]))
    entries = []
    for number, each in enumerate(pictures, start=1):
        of = f"{number}/{len(pictures)} " if len(pictures) > 1 else ""
        job = replace(like, source=each.path, title=of + each.path.name)
        if each.wrong is None:
            job = replace(job, folder=None if output is None else output / each.inside, stem=next(names))
        entries.append(Entry(job, each.wrong))
    return entries


def restore_all(
    batch: Batch,
    *,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
    announce: Announce = lambda _plan: None,
    resume: InterruptedRun | None = None,
) -> Iterator[Outcome]:
    """Restore one picture after the other, past those that fail.

    Args:
        batch: which.
        display: shows progress.
        signals: the first of these ends the fit, keeps its best picture so far and ends the batch.
        announce: receives each plan before its fit.
        resume: the run to go on with, of the one picture; of several, those that were cut short are gone on with.

    Yields:
        What became of each, as soon as it is known.
    """
    shut: dict[Path, DipError] = {}
    for number, (job, _) in enumerate(batch.entries, start=1):
        if known := decide_without_fit(batch, number, shut):
            yield known
            continue
        try:
            record, ended_by = restore(
                job,
                display=display,
                signals=signals,
                announce=announce,
                resume=resume or batch.several,
            )
        except DipError as error:
            yield failed(batch, number, error)
        else:
            yield Outcome(record.input, record.output, record, ended_by=ended_by, number=number)
            if ended_by:
                return


def decide_without_fit(batch: Batch, number: int, shut: dict[Path, DipError]) -> Outcome | None:
    """What becomes of a picture for which no fit is begun; None where one is to be.

    Args:
        batch: all pictures.
        number: which, from 1.
        shut: folders that took nothing when they were last tried; kept from picture to picture.
    """
    job, wrong = batch.entries[number - 1]
    place = _nearest(batch.output or job.source.parent)
    known = shut.pop(place, None)
    try:
        if wrong:
            raise wrong
        if batch.several:
            if earlier := find_earlier_result(job):
                return Outcome(str(job.source), earlier.output, earlier.record, skipped=earlier.word, number=number)
            _check_place(place, shut)
    except DipError as error:
        if error is not shut.get(place):
            return failed(batch, number, error)
        said = "" if str(error) == str(known) else f"{number}/{len(batch.entries)}: {error}"
        return Outcome(str(job.source), error=error, said=said, number=number)
    return None


def not_started(batch: Batch, number: int, by: signal.Signals) -> Outcome:
    """The outcome of a picture that a signal came before."""
    job = batch.entries[number - 1].job
    return Outcome(str(job.source), ended_by=by, number=number, begun=False)


def failed(batch: Batch, number: int, error: DipError) -> Outcome:
    """What there is to say of a picture with which something is wrong."""
    job, said = batch.entries[number - 1].job, str(error)
    if batch.several:
        said = f"{number}/{len(batch.entries)}: {'' if str(job.source) in said else f'{job.source}: '}{said}"
    return Outcome(str(job.source), error=error, said=said, number=number)


def _nearest(folder: Path) -> Path:
    """The folder, or of those above it the first that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _check_place(place: Path, shut: dict[Path, DipError]) -> None:
    """Find out before each picture whether its result can be written: what is wrong is not wrong with the picture."""
    try:
        files.check_writable(place)
    except DipError as error:
        shut[place] = error
        raise


def _listed(paths: Sequence[Path]) -> str:
    """The first few by name."""
    more = len(paths) - NAMED
    return ", ".join(map(str, paths[:NAMED])) + (f" and {more} more" if more > 0 else "")
