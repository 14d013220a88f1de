"""One picture to restore, and where everything goes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dipcli import images
from dipcli.settings.outputs import Outputs
from dipcli.tasks.registry import Task

WHERE = ("device", "threads")  # settings that say where it runs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to restore, and all that was asked for.

    Attributes:
        task: the kind of damage.
        source: the damaged picture; `-` is standard input.
        preset: its name; None for the usual one, or, with a time budget, the one that fits in it.
        given: settings that go before the preset's.
        arguments: the task's own that go before the preset's.
        output: where the restored one goes; `-` is PNG on standard output.
        folder: where it goes under the source's name when `output` is None; beside the source when both are.
        stem: its name there without the suffix, where that is not the source's.
        title: what it is called while it is at work; the source's name when not given.
        record: what to write beside the picture.
        reference: the true picture, for the log alone.
        argv: the command line, for the record.
    """

    task: Task
    source: Path
    preset: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    folder: Path | None = None
    stem: str = ""
    title: str = ""
    outputs: Outputs = field(default_factory=Outputs)
    reference: Path | None = None
    argv: tuple[str, ...] = ()

    def input_files(self) -> list[Path]:
        """The files that the run reads: none of them may be lost to it."""
        named = [Path(each) for each in self.arguments.values() if isinstance(each, str | Path)]
        return [each for each in (self.source, self.reference, *named) if each is not None and os.path.isfile(each)]

    def images(self) -> dict[str, Path]:
        """The pictures that it reads beside its source: `reference`, and those that an argument of the task names."""
        named = {"reference": self.reference, **self.arguments}
        paths = {name: Path(each) for name, each in named.items() if isinstance(each, str | Path)}
        return {name: each for name, each in paths.items() if each.suffix.lower() in images.FORMATS}

    def output_stem(self) -> Path:
        """Where the restored picture goes when `output` is None, without the suffix: that depends on the picture."""
        stem = self.stem or self.source.stem
        return self.folder / stem if self.folder else self.source.with_name(f"{stem}.{self.task.result}")

    def describe_request(self) -> dict[str, Any]:
        """What was asked for, as JSON has it: an earlier result of the same is this job's too.

        Where it runs (device, threads) is no matter, nor what is told of it.
        """
        settings = {name: value for name, value in self.given.items() if name not in WHERE}
        snapshots = {"snapshot_every": self.outputs.snapshot_every, "snapshot_at": self.outputs.snapshot_at}
        compare = {"compare": True} if self.outputs.compare else {}
        asked = {"preset": self.preset, **settings, **snapshots, **compare, "arguments": dict(self.arguments)}
        told: dict[str, Any] = json.loads(json.dumps(asked, default=str))
        return told
