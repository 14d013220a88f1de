"""A job as plain values and back: what goes to another process and into a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Struct

from dipcli.records.job import Job
from dipcli.settings.outputs import Outputs
from dipcli.tasks.registry import SETTING_NAMES, tasks


class JobDescription(Struct, frozen=True, kw_only=True):
    """A `Job` as strings, numbers, lists and dicts; its attributes are those of the job, paths as strings."""

    task: str
    source: str
    preset: str | None
    given: dict[str, Any]
    arguments: dict[str, Any]
    output: str | None
    folder: str | None = None
    stem: str = ""
    title: str = ""
    outputs: dict[str, Any]
    reference: str | None
    argv: tuple[str, ...]


def describe_job(job: Job) -> JobDescription:
    """Return the job as plain values."""
    return JobDescription(
        task=job.task.name,
        source=str(job.source),
        preset=job.preset,
        given=msgspec.to_builtins(dict(job.given)),
        arguments=msgspec.to_builtins(dict(job.arguments), enc_hook=str),
        output=_text(job.output),
        folder=_text(job.folder),
        stem=job.stem,
        title=job.title,
        outputs=asdict(job.outputs),
        reference=_text(job.reference),
        argv=job.argv,
    )


def to_json(job: Job) -> dict[str, Any]:
    """Return the job as JSON-able values."""
    plain: dict[str, Any] = msgspec.to_builtins(describe_job(job))
    return plain


def from_json(data: object) -> Job:
    """Return the job that `to_json` gave.

    Raises:
        ValueError, LookupError, TypeError: if the data are not a job; a file may hold anything.
        DipError: if a value is out of range.
    """
    return make_job(msgspec.convert(data, JobDescription))


def make_job(described: JobDescription) -> Job:
    """Return the job that `describe_job` described.

    Raises:
        ValueError, LookupError, TypeError: if an argument or a setting is not one of the task.
        DipError: if a value is out of range.
    """
    task = tasks()[described.task]
    types = {argument.name: _plain_type(argument.annotation) for argument in task.arguments()}
    if unknown := set(described.given) - SETTING_NAMES:
        raise ValueError(unknown)
    return Job(
        task=task,
        source=Path(described.source),
        preset=described.preset,
        given=described.given,
        arguments={
            name: msgspec.convert(value, types[name], dec_hook=_construct)
            for name, value in described.arguments.items()
        },
        output=_path(described.output),
        folder=_path(described.folder),
        stem=described.stem,
        title=described.title,
        outputs=Outputs(**described.outputs),
        reference=_path(described.reference),
        argv=described.argv,
    )


def _plain_type(annotation: Any) -> Any:
    """`X` of `Annotated[X, ...]`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _construct(wanted: type[Any], value: Any) -> Any:
    """Types that msgspec does not know: a path."""
    return wanted(value)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
