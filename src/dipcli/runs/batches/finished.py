"""Find the result of an earlier call, and decide whether it leaves anything to do."""

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
from dipcli.runs.batches.sources import RUN_SUFFIX

SAME_OPTIONS = "already restored"
OTHER_OPTIONS = "already restored with other options: --overwrite restores it again"
NO_RECORD = "its result exists, without a run record: --overwrite restores it again"


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
    for output in (stem.with_name(stem.name + suffix) for suffix in DEFAULT_SUFFIXES):
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
        with job.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        written = (folder / RECORD).stat().st_mtime
        others = [path for path in job.input_files() if path != job.source]
        return digest != record.input_sha256 or any(path.stat().st_mtime > written for path in others)
    except OSError:
        return True  # reading it will report what is wrong
