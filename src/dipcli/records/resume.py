"""Going on with a run that was cut short: what a run is, written down, and whether it still is the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dipcli.errors import DipError
from dipcli.fitting.solve import PreparedFit
from dipcli.fitting.started_rule import start_rule
from dipcli.fitting.state import RunsState, TilesState
from dipcli.records import checkpoints
from dipcli.records import job_json as manifest
from dipcli.records import run_record as accounts
from dipcli.records.job import WHERE, Job
from dipcli.records.run_files import CHECKPOINT
from dipcli.stopping.step import Place

# What `described` says of a run: no more of where its output goes than `output` does.
PLACED = ("folder", "stem", "title")
HEAD = {name: hint for name, hint in manifest.HEAD.items() if name not in PLACED} | {
    "preset": str,
    "output": Path,
    "files": dict[str, str],
}
WATCHING = ("log_every", "checkpoint_every", "keep_checkpoint", "no_report", "compare")


@dataclass(frozen=True)
class InterruptedRun:
    """A run that was cut short.

    Attributes:
        job: what it was to do; its paths are full ones.
        preset: the one it uses.
        files: the SHA-256 of every file that it reads, by its path.
        argv: its command line.
        content: the rest of its checkpoint.
    """

    job: Job
    preset: str
    files: Mapping[str, str]
    argv: tuple[str, ...]
    content: Mapping[str, Any]

    def check(self, job: Job) -> None:
        """See that the files that were read are as they were.

        Raises:
            DipError: when one has changed.
        """
        now = checkpoints.fingerprints(job.input_files())
        for path, before in self.files.items():
            if now.get(path) != before:
                raise DipError(
                    f"{path} has changed since the run began, or is gone: begin anew with {shlex.join(self.argv)}."
                )

    @property
    def places(self) -> tuple[Place, ...] | None:
        """Where its tiles are, none where the whole was fitted; None when it was cut short before that was settled."""
        begun = self.content["progress"]
        if not isinstance(begun, dict) or begun.get("kind") != TilesState.__name__:
            return None if begun is None else ()
        try:
            done, waiting = (begun["fields"][name] for name in ("done", "waiting"))
            places = [each["fields"]["place"] for each in done["fields"].values()]
            return tuple(checkpoints.restored(each) for each in (*places, *waiting["fields"].values()))
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            raise DipError(f"The checkpoint is not one of dip {self.job.task.name}: begin anew.") from error

    def progress(self, bench: PreparedFit) -> RunsState | TilesState | None:
        """How far it had come, on the bench's device; None when it was cut short before the first checkpoint.

        Raises:
            DipError: when the checkpoint is not one of such a fit.
        """
        begun = self.content["progress"]
        if begun is None:
            return None
        device = torch.device(bench.settings.device)
        try:
            state = bench.started.state
            if bench.estimate.places:
                place = checkpoints.restored(begun["fields"]["waiting"]["fields"][0])
                part = bench.problem.window(place.rows, place.columns).to(device)
                state = start_rule(bench.started.rule, part).state
            progress = checkpoints.restored(begun, state, device)
        except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
            raise DipError(f"The checkpoint is not one of dip {self.job.task.name}: begin anew.") from error
        if not isinstance(progress, RunsState | TilesState):
            raise DipError("The checkpoint holds no progress: begin anew.")
        return progress

    def seen(self, bench: PreparedFit) -> Any:
        """What its observers had seen, on the bench's device."""
        return checkpoints.restored(self.content["seen"], device=torch.device(bench.settings.device))


def describe_run(job: Job, preset: str, output: Path, folder: Path) -> dict[str, Any]:
    """What a run is, for the head of its checkpoints: with full paths, so that it can be gone on with from anywhere.

    Args:
        job: what it is to do.
        preset: the one that was chosen.
        output: where the picture goes.
        folder: where the record goes.
    """
    uncertainty = job.outputs.uncertainty and str(Path(job.outputs.uncertainty).absolute())
    full = replace(
        job,
        source=job.source if str(job.source) == "-" else job.source.absolute(),
        arguments={name: _full(value) for name, value in job.arguments.items()},
        output=output if str(output) == "-" else output.absolute(),
        outputs=replace(job.outputs, run_dir=str(folder.absolute()), uncertainty=uncertainty),
        reference=job.reference and job.reference.absolute(),
    )
    told = {name: value for name, value in manifest.to_json(full).items() if name not in PLACED}
    return told | {"preset": preset, "files": checkpoints.fingerprints(job.input_files())}


def find_run(run: Path) -> InterruptedRun:
    """A run that was cut short, by its folder or its checkpoint.

    Raises:
        DipError: when there is none, or it cannot be read.
    """
    path = run / CHECKPOINT if run.is_dir() else run
    content = checkpoints.load(path)
    try:
        head = checkpoints.restored(content["header"])
        job = manifest.from_json(head, HEAD)
        job = replace(job, outputs=replace(job.outputs, run_dir=str(path.parent)))  # the folder may have been moved
        return InterruptedRun(job, head["preset"], head["files"], job.argv, content)
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise DipError(f"The checkpoint of {run} is not one of this version's: begin the run anew.") from error


def find_finished(run: Path) -> dict[str, Any] | None:
    """The account of a run that came to its end, by its folder; None when there is more to do, or none."""
    account = accounts.read(run)
    if account is None or (run / CHECKPOINT).exists() or not account.get("finished"):
        return None
    return account if Path(account.get("output", "")).is_file() else None


def find_matching_run(job: Job, output: Path, folder: Path) -> InterruptedRun | None:
    """The run of this very job that was cut short, if there is one in its folder and nothing has changed.

    Args:
        job: what is to be done now.
        output: where the picture is to go.
        folder: where the record is.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    try:
        before = find_run(folder)
        there = describe_run(before.job, before.preset, before.job.output or output, folder)
        if _asked(describe_run(job, before.preset, output, folder)) != _asked(there):
            return None
        before.check(job)
    except DipError:
        return None
    return before


def _asked(told: Mapping[str, Any]) -> dict[str, Any]:
    """Of what `described` says, all that makes it another run: where it runs, and who watches, is no matter."""
    given = {name: value for name, value in told["given"].items() if name not in WHERE}
    record = {name: value for name, value in told["record"].items() if name not in WATCHING}
    return {**told, "argv": None, "given": given, "record": record}


def _full(value: Any) -> Any:
    """A path, or a word that is one of a file, from the root on; all else as it is."""
    if isinstance(value, str | Path) and value and Path(value).is_file():
        return type(value)(Path(value).absolute())
    return value
