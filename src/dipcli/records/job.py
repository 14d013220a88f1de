"""A job: one image to restore, and everything that was asked for."""

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

WHERE = ("device", "threads")  # settings that say where a job runs, not what it computes


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image to restore, and everything that was asked for.

    Attributes:
        task: the kind of damage.
        source: path of the damaged image; `-` is standard input.
        preset: its name; None for the default one or, with a time budget, the one that fits in it.
        given: settings that override those of the preset.
        arguments: the task's own arguments that override those of the preset.
        output: path of the result; `-` is PNG on standard output; None for the default.
        folder: folder of the result if `output` is None; None for the folder of the source.
        stem: file name of the result there, without the suffix; that of the source if empty.
        title: name of the image in displays; that of the source if empty.
        outputs: what to write beside the image.
        reference: path of the true image, for the figures only.
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
        """The existing files that the job reads, which it must not overwrite."""
        named = [Path(value) for value in self.arguments.values() if isinstance(value, str | Path)]
        return [path for path in (self.source, self.reference, *named) if path is not None and os.path.isfile(path)]

    def images(self) -> dict[str, Path]:
        """The images that it reads besides its source, by role: `reference`, or the task's argument that names it."""
        named = {"reference": self.reference, **self.arguments}
        paths = {name: Path(value) for name, value in named.items() if isinstance(value, str | Path)}
        return {name: path for name, path in paths.items() if images.has_image_suffix(path)}

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
        request = {"preset": self.preset, **settings, **snapshots, **compare, "arguments": dict(self.arguments)}
        plain: dict[str, Any] = json.loads(json.dumps(request, default=str))
        return plain
