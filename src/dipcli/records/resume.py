"""Resume an interrupted run: find it, and check that nothing it depends on has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct

from dipcli.errors import DipError
from dipcli.fitting.solve import PreparedFit
from dipcli.fitting.started_rule import start_rule
from dipcli.fitting.state import RunsState, TilesState
from dipcli.records import checkpoints
from dipcli.records.checkpoints import SavedRun
from dipcli.records.job import WHERE, Job
from dipcli.records.run_files import CHECKPOINT
from dipcli.records.run_record import RunRecord, read_record
from dipcli.stopping.step import Place
from dipcli.text import quote_arguments

# Output options that do not make it another run; the run folder may have been moved.
WATCHING = ("run_dir", "log_every", "checkpoint_every", "keep_checkpoint", "no_report", "compare")


class RunHeader(Struct, frozen=True, kw_only=True):
    """Describes a run in its checkpoints, with full paths so that it can be resumed from anywhere."""

    job: dict[str, Any]  # its folder, stem and title are empty, because `output` says where the result goes
    preset: str  # the one that was chosen
    files: dict[str, str]  # SHA-256 of every input file, by its path

    @property
    def essence(self) -> tuple[Any, ...]:
        """The header without what does not make it another run: where it runs, and what is shown meanwhile."""
        given, outputs = (self.job.get(name, {}) for name in ("given", "outputs"))
        parts = {"given": _without(given, WHERE), "outputs": _without(outputs, WATCHING), "argv": ()}
        return self.preset, self.files, self.job | parts


@dataclass(frozen=True)
class InterruptedRun:
    """A run that was interrupted: what it was to do, with full paths, and its checkpoint."""

    job: Job
    header: RunHeader
    saved: SavedRun

    @property
    def preset(self) -> str:
        """The preset that it uses."""
        return self.header.preset

    def check_inputs(self, job: Job) -> None:
        """Check that the input files have not changed.

        Raises:
            DipError: if one has.
        """
        now = checkpoints.fingerprints(job.input_files())
        for path, before in self.header.files.items():
            if now.get(path) != before:
                again = quote_arguments(["dip", *self.job.argv[1:]])
                raise DipError(f"{path} has changed since the run started, or is missing: start again with {again}.")

    @property
    def places(self) -> tuple[Place, ...] | None:
        """The tiles, empty for a fit of the whole image; None if it was interrupted before that was decided."""
        progress = self.saved.progress
        if progress is None:
            return None
        return (*(tile.place for tile in progress.done), *progress.waiting) if isinstance(progress, TilesState) else ()

    def progress(self, prepared: PreparedFit) -> RunsState | TilesState | None:
        """How far it had come, on the device of the fit; None if it was interrupted before the first checkpoint.

        Raises:
            DipError: if the checkpoint does not belong to such a fit.
        """
        saved, started, device = self.saved.progress, prepared.started, torch.device(prepared.settings.device)
        if saved is None:
            return None
        try:
            if isinstance(saved, TilesState):
                place = saved.waiting[0]
                started = start_rule(started.rule, prepared.problem.window(place.rows, place.columns).to(device))
            _check_rule_state(saved, started.state)
            progress: RunsState | TilesState = checkpoints.to_device(saved, device, started.state)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, StopIteration) as error:
            raise DipError(f"The checkpoint is not one of dip {self.job.task.name}: start the run again.") from error
        return progress

    def seen(self, prepared: PreparedFit) -> list[Any]:
        """The saved states of the observers, on the device of the fit."""
        seen: list[Any] = checkpoints.to_device(self.saved.seen, torch.device(prepared.settings.device))
        return seen


def describe_run(job: Job, preset: str, output: Path, folder: Path) -> RunHeader:
    """Describe a run for the header of its checkpoints, with the preset that was chosen."""
    uncertainty = job.outputs.uncertainty and str(Path(job.outputs.uncertainty).absolute())
    full = replace(
        job,
        source=job.source if str(job.source) == "-" else job.source.absolute(),
        arguments={name: _absolute(value) for name, value in job.arguments.items()},
        output=output if str(output) == "-" else output.absolute(),
        folder=None,
        stem="",
        title="",
        outputs=replace(job.outputs, run_dir=str(folder.absolute()), uncertainty=uncertainty),
        reference=job.reference and job.reference.absolute(),
    )
    return RunHeader(job=full.to_json(), preset=preset, files=checkpoints.fingerprints(job.input_files()))


def find_run(run: Path) -> InterruptedRun:
    """Return an interrupted run, by its folder or its checkpoint.

    Raises:
        DipError: if there is none, or it cannot be read.
    """
    path = run / CHECKPOINT if run.is_dir() else run
    saved = checkpoints.load(path)
    try:
        header = msgspec.convert(saved.header, RunHeader)
        job = Job.from_json(header.job)
        job = replace(job, outputs=replace(job.outputs, run_dir=str(path.parent)))  # the folder may have been moved
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise DipError(f"The checkpoint of {run} cannot be read by this version: start the run again.") from error
    return InterruptedRun(job, header, saved)


def find_finished(run: Path) -> RunRecord | None:
    """Return the record of a finished run, by its folder; None if there is more to do, or nothing."""
    record = read_record(run)
    if record is None or (run / CHECKPOINT).exists() or not record.finished:
        return None
    return record if Path(record.output).is_file() else None


def find_matching_run(job: Job, output: Path, folder: Path) -> InterruptedRun | None:
    """Return the interrupted run of this very job, if there is one in its folder and nothing has changed."""
    if not (folder / CHECKPOINT).exists():
        return None
    try:
        before = find_run(folder)
    except DipError:
        return None
    now = describe_run(job, before.preset, output, folder)
    return before if now.essence == before.header.essence else None


def _check_rule_state(saved: RunsState | TilesState, fresh: Any) -> None:
    """Raise a TypeError unless the saved state of the rule is of the class of a fresh one."""
    guard = (saved.current.current if isinstance(saved, TilesState) else saved.current).guard
    for snapshot in (guard.trusted, guard.newest):
        if type(snapshot.reached.state) is not type(fresh):
            raise TypeError(snapshot.reached.state)


def _without(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _absolute(value: Any) -> Any:
    """A path, or a string that names a file, as a full path; everything else as it is."""
    if isinstance(value, str | Path) and value and Path(value).is_file():
        return type(value)(Path(value).absolute())
    return value
