"""A job: one image to restore, and everything that was asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from dipcli import images
from dipcli.settings.outputs import Outputs
from dipcli.tasks.registry import SETTING_NAMES, Task, tasks

WHERE = ("device", "threads")  # settings that say where a job runs, not what it computes


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to restore, and everything that was asked for."""

    task: Task
    source: Path  # of the damaged image; `-` is standard input
    preset: str | None = None  # None for the default one or, with a time budget, the one that fits in it
    given: Mapping[str, Any] = field(default_factory=dict)  # settings that override those of the preset
    arguments: Mapping[str, Any] = field(default_factory=dict)  # the task's own; they override those of the preset
    output: Path | None = None  # path of the result; `-` is PNG on standard output; None for the default
    folder: Path | None = None  # of the result if `output` is None; None for the folder of the source
    stem: str = ""  # file name of the result there, without the suffix; that of the source if empty
    title: str = ""  # name of the image in displays; that of the source if empty
    outputs: Outputs = field(default_factory=Outputs)  # what to write beside the image
    reference: Path | None = None  # the true image, for the figures only
    argv: tuple[str, ...] = ()  # the command line, for the record

    def input_files(self) -> list[Path]:
        """The existing files that the job reads, which it must not overwrite."""
        named = [Path(value) for value in self.arguments.values() if isinstance(value, str | Path)]
        return [path for path in (self.source, self.reference, *named) if path is not None and os.path.isfile(path)]

    def images(self) -> dict[str, Path]:
        """The images that it reads besides its source, by role: `reference`, or the task's argument that names it."""
        named = {"reference": self.reference, **self.arguments}
        paths = {name: Path(value) for name, value in named.items() if isinstance(value, str | Path)}
        return {name: path for name, path in paths.items() if images.has_image_suffix(path)}

    def result_suffixes(self) -> tuple[str, ...]:
        """The suffixes that a result without a given name may have."""
        return (f".{self.outputs.format.lstrip('.').lower()}",) if self.outputs.format else images.DEFAULT_SUFFIXES

    def output_stem(self) -> Path:
        """The default path of the result without the suffix, which depends on the image."""
        stem = self.stem or self.source.stem
        return self.folder / stem if self.folder else self.source.with_name(f"{stem}.{self.task.result}")

    def describe_request(self) -> dict[str, Any]:
        """What was asked for, as JSON-able values: two jobs with equal values have the same result.

        Where it runs (device, threads) and what is shown meanwhile are left out.
        """
        settings = {name: value for name, value in self.given.items() if name not in WHERE}
        snapshots = {"snapshot_every": self.outputs.snapshot_every, "snapshot_at": self.outputs.snapshot_at}
        compare = {"compare": True} if self.outputs.compare else {}
        named = {name: value for name in ("pages", "format") if (value := getattr(self.outputs, name))}
        request = {
            "preset": self.preset,
            **settings,
            **snapshots,
            **compare,
            **named,
            "arguments": dict(self.arguments),
        }
        plain: dict[str, Any] = json.loads(json.dumps(request, default=str))
        return plain

    def to_json(self) -> dict[str, Any]:
        """The job as strings, numbers, lists and dicts: for another process, and for checkpoints."""
        plain: dict[str, Any] = msgspec.to_builtins({**vars(self), "task": self.task.name}, enc_hook=str)
        return plain

    @classmethod
    def from_json(cls, data: object) -> Job:
        """The job that `to_json` gave.

        Raises:
            ValueError, LookupError, TypeError: if the data are not a job; a file may hold anything.
            DipError: if a value is out of range.
        """
        plain = msgspec.convert(data, dict[str, Any])
        task = tasks()[msgspec.convert(plain.pop("task"), str)]
        hints = get_type_hints(cls)
        values = {name: _convert(value, hints[name]) for name, value in plain.items()}
        if unknown := set(values["given"]) - SETTING_NAMES:
            raise ValueError(unknown)
        hints = {argument.name: get_args(argument.annotation)[0] for argument in task.arguments()}
        values["arguments"] = {name: _convert(value, hints[name]) for name, value in values["arguments"].items()}
        return cls(task=task, **values)


def _convert(value: object, wanted: Any) -> Any:
    """A plain value as one of a type; msgspec does not know paths."""
    return msgspec.convert(value, wanted, dec_hook=lambda cls, given: cls(given))
