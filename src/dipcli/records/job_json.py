"""A job as plain values, and back: what travels to another process, and what the head of a checkpoint says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from dipcli.records import checkpoints
from dipcli.records.job import Job
from dipcli.settings.outputs import Outputs
from dipcli.tasks.registry import SETTING_NAMES, tasks

# What `told` says of a job.
HEAD = {
    "task": str,
    "source": Path,
    "asked": str | None,
    "given": dict[str, Any],
    "arguments": dict[str, Any],
    "output": Path | None,
    "folder": Path | None,
    "stem": str | None,
    "title": str | None,
    "record": dict[str, Any],
    "reference": Path | None,
    "argv": list[str],
}


def to_json(job: Job) -> dict[str, Any]:
    """A job as paths, numbers, words, lists and dicts; `checkpoints.plain` makes JSON of the paths too."""
    return {
        "task": job.task.name,
        "source": job.source,
        "asked": job.preset,
        "given": dict(job.given),
        "arguments": dict(job.arguments),
        "output": job.output,
        "folder": job.folder,
        "stem": job.stem,
        "title": job.title,
        "record": asdict(job.outputs),
        "reference": job.reference,
        "argv": list(job.argv),
    }


def from_json(head: Any, hints: dict[str, Any] = HEAD) -> Job:
    """The job that `told` said this of: folder, stem and title may be missing.

    Args:
        head: what was said, and perhaps more.
        hints: what it has to say, of which types.

    Raises:
        TypeError: when it is something else: a file may say anything.
        DipError: when a value is out of its range.
    """
    head = _checked(head, hints)
    return Job(
        task=tasks()[head["task"]],
        source=head["source"],
        preset=head["asked"],
        given=head["given"],
        arguments=head["arguments"],
        output=head["output"],
        folder=head.get("folder"),
        stem=head.get("stem") or "",
        title=head.get("title") or "",
        outputs=Outputs(**head["record"]),
        reference=head["reference"],
        argv=tuple(head["argv"]),
    )


def _checked(head: Any, hints: dict[str, Any]) -> dict[str, Any]:
    """The same, if it is what `told` gives.

    Raises:
        TypeError: when it is not.
    """
    said: list[tuple[Any, Any]] = [(head, dict[str, Any])]
    if checkpoints.suits(*said[0]):
        said += [(head.get(name), hint) for name, hint in hints.items()]
    if all(checkpoints.suits(value, hint) for value, hint in said):
        takes = {each.name: get_args(each.annotation)[0] for each in tasks()[head["task"]].arguments()}
        said += [(value, takes[name]) for name, value in head["arguments"].items()]
        said += [(name in SETTING_NAMES or None, bool) for name in head["given"]]
    if not all(checkpoints.suits(value, hint) for value, hint in said):
        raise TypeError(head)
    checked: dict[str, Any] = head
    return checked
