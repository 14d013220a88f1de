"""What an earlier call has left of a picture, and whether that leaves anything to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from dipcli.errors import DipError
from dipcli.images import DEFAULT_SUFFIXES
from dipcli.records.job import Job
from dipcli.records.run_files import LOG, RECORD
from dipcli.records.run_record import RunRecord, read_record
from dipcli.runs.batches.sources import RUN

ALREADY = "already restored"
OTHERWISE = "already restored with other options: --overwrite restores it anew"
UNRECORDED = "its result is there already, without a record of the run: --overwrite restores it anew"


class EarlierResult(NamedTuple):
    """What an earlier run told of its result, and a word on why that will do."""

    output: str
    record: RunRecord | None
    word: str


def find_earlier_result(job: Job) -> EarlierResult | None:
    """What an earlier run has left, where it leaves nothing to do; None where the picture is to be restored.

    A run that came to its end and whose output is there is not repeated while the picture, and what else was read, is
    the same. With other options it is not repeated either, for it may have taken hours; but it is said.
    Without a record of the run an output that is not older than the picture counts.

    Args:
        job: one of several, with a place that does not depend on the others.

    Raises:
        DipError: when a file is there of which nobody knows where it comes from.
    """
    if job.outputs.overwrite:
        return None
    place, folder = job.output_stem(), _run_folder(job)
    record = read_record(folder)
    if record is not None:
        output = place.with_name(place.name + Path(record.output).suffix)
        if not record.finished or not os.path.isfile(output) or _changed(job, record, folder):
            return None
        same = (record.task, record.request) == (job.task.name, job.describe_request())
        record = replace(record, input=str(job.source), output=str(output))
        return EarlierResult(record.output, record, ALREADY if same else OTHERWISE)
    if (folder / LOG).exists() and not job.outputs.no_run_dir:  # it was killed
        return None
    for output in (place.with_name(place.name + kind) for kind in DEFAULT_SUFFIXES):
        if not os.path.isfile(output):
            continue
        if not any(each.stat().st_mtime > output.stat().st_mtime for each in job.input_files()):
            return EarlierResult(str(output), None, ALREADY if job.outputs.no_run_dir else UNRECORDED)
        if not job.outputs.no_run_dir:
            raise DipError(f"{output} is there already, not from a run: say --overwrite to replace it.")
    return None


def _run_folder(job: Job) -> Path:
    """Of one of several pictures, before it is known what kind of file its result will be."""
    place = job.output_stem()
    return place.with_name(place.name + RUN)


def _changed(job: Job, record: RunRecord, folder: Path) -> bool:
    """Whether the picture is another one than in an earlier run, or what else is read is newer than its record."""
    if not os.path.isfile(job.source):
        return True
    try:
        with job.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        written = (folder / RECORD).stat().st_mtime
        others = [each for each in job.input_files() if each != job.source]
        return digest != record.input_sha256 or any(each.stat().st_mtime > written for each in others)
    except OSError:
        return True  # reading it will tell what is wrong
