"""Stacks: each page is an image of its own in the run folder of the stack, and the restored pages become one file.

So a stack is restored like a folder: pages one after the other, or several in one pass, or on several workers; finished
pages are skipped, and one that was interrupted is resumed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from msgspec.structs import replace as updated

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.images.stacks import Stack
from dipcli.records.job import Job
from dipcli.records.run_files import RECORD, run_folder
from dipcli.records.run_record import write_record
from dipcli.runs.batches.batch import Batch, Entry, Outcome
from dipcli.runs.batches.sources import find_earlier_result
from dipcli.runs.batches.stack_job import StackJob


def unfold(batch: Batch) -> Batch:
    """Replace the stacks of a batch by their pages, which are written to their run folders."""
    entries: list[Entry] = []
    stacks: list[StackJob] = []
    found = False
    for entry in batch.entries:
        job = entry.job
        stack = None if entry.wrong or not os.path.isfile(job.source) else images.open_stack(job.source)
        found = found or stack is not None
        try:
            if stack is None:
                if job.outputs.pages and not entry.wrong:
                    raise UsageError(f"--pages is for stacks, and {job.source} is one image: leave it out.")
                entries.append(entry)
            elif job.output is None and find_earlier_result(job):
                entries.append(entry)
            else:
                planned = _plan(job, stack, len(entries) + 1)
                entries += [Entry(*page) for page in planned.split()]
                stacks.append(planned)
        except DipError as error:
            if not batch.several:
                raise
            entries.append(Entry(job, error))
    several = batch.several or found
    return replace(batch, entries=tuple(entries), several=several, stacks=tuple(stacks))


def join_stacks(batch: Batch, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Pass outcomes on, and write each stack when the last of its pages is restored."""
    pages: dict[int, Outcome] = {}
    for outcome in outcomes:
        stack = next((stack for stack in batch.stacks if outcome.number in stack.numbers), None)
        yield outcome if stack is None else replace(outcome, part=True)
        if stack is None or outcome.ended_by:
            continue
        pages[outcome.number] = outcome
        if all(number in pages for number in stack.numbers):
            yield _finish(stack, [pages[number] for number in stack.numbers])


def _plan(job: Job, stack: Stack, first: int) -> StackJob:
    """Decide where the results of a stack go.

    Raises:
        DipError: if it cannot be restored.
    """
    pages = job.outputs.page_numbers(stack.count)
    if not pages:
        raise UsageError(f"--pages {job.outputs.pages}: {job.source} has {stack.count} pages only.")
    if job.reference or job.outputs.uncertainty:
        raise UsageError(f"--reference and --uncertainty are for one image, and {job.source} has {stack.count} pages.")
    stem = job.output_stem()
    suffix = job.result_suffixes()[0] if job.outputs.format else stack.suffix
    output = job.output or stem.with_name(stem.name + suffix)
    if str(output) == "-" or stack.suffix not in images.find_writable(output.suffix).suffixes:
        raise UsageError(
            f"A stack of {stack.count} pages needs a file: name the output with -o, as {stem.name}{stack.suffix}."
        )
    if output.exists() and output.samefile(job.source) and not job.outputs.overwrite:
        raise UsageError(f"-o {output} is the input itself: choose another name, or use --overwrite.")
    files.make_folder(output.parent)
    files.check_writable(output.parent)
    folder = run_folder(job.outputs, output) or output.parent / f"{output.stem}.dip"
    return StackJob(replace(job, output=output), stack, tuple(pages), folder, range(first, first + len(pages)))


def _finish(stack: StackJob, pages: list[Outcome]) -> Outcome:
    """Write a stack whose pages are done, and its record; without --no-run-dir the pages remain."""
    source, number = str(stack.job.source), stack.numbers.stop - 1
    if missing := [page for page, outcome in zip(stack.pages, pages, strict=True) if outcome.error]:
        named = ", ".join(map(str, missing))
        error = DipError(f"{source}: {stack.output} is not written, because of page {named}. Repeat the command.")
        number = stack.numbers[stack.pages.index(missing[0])]  # which is counted as failed already
        return Outcome(source, error=error, message=str(error), number=number)
    try:
        stack.join()
    except DipError as error:
        return Outcome(source, error=error, message=str(error), number=number)
    if stack.job.outputs.no_run_dir:
        stack.remove_folder()
    records = [outcome.record for outcome in pages if outcome.record]
    record = None
    if records and not stack.job.outputs.no_run_dir:
        with stack.job.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = updated(
            records[0],
            argv=stack.job.argv,
            request=stack.job.describe_request(),
            input=source,
            input_sha256=digest,
            output=str(stack.output),
            iterations=sum(record.iterations for record in records),
            seconds=sum(record.seconds for record in records),
            reason=f"its {len(pages)} pages are restored",
            conclusion=None,
            files={},
        )
        write_record(stack.folder / RECORD, record)
    return Outcome(source, str(stack.output), record, number=number)
