"""One picture to restore, and where everything goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.registry import DEFAULT_PRESET, Task
from dipcli.settings import Record

if TYPE_CHECKING:
    from dipcli.picture import Picture


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to restore, and all that was asked for.

    Attributes:
        task: the kind of damage.
        source: the damaged picture; `-` is standard input.
        preset: its name.
        given: settings that go before the preset's.
        arguments: the task's own that go before the preset's.
        output: where the restored one goes; `-` is PNG on standard output.
        folder: where it goes under the source's name when `output` is None; beside the source when both are.
        record: what to write beside the picture.
        reference: the true picture, for the log alone.
        argv: the command line, for the record.
    """

    task: Task
    source: Path
    preset: str = DEFAULT_PRESET
    given: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None
    folder: Path | None = None
    record: Record = field(default_factory=Record)
    reference: Path | None = None
    argv: tuple[str, ...] = ()


def default_output(job: Job, picture: Picture) -> Path:
    """noisy.png becomes noisy.denoised.png beside it, or noisy.png in a folder; - stays -."""
    if str(job.source) == "-":
        return job.source
    suffix = images.default_suffix(picture)
    if job.folder is None:
        return job.source.with_name(f"{job.source.stem}.{job.task.result}{suffix}")
    files.make_folder(job.folder)
    return job.folder / f"{job.source.stem}{suffix}"


def run_folder(record: Record, output: Path) -> Path | None:
    """Where log, snapshots and run record go: <output stem>.dip beside the output; None where none are wanted."""
    if record.run_dir:
        return Path(record.run_dir)
    return None if record.no_run_dir or str(output) == "-" else output.parent / f"{output.stem}.dip"


def clear(folder: Path) -> None:
    """Make the run's folder, without what an earlier run left there; other files in it stay.

    Raises:
        DipError: when the folder cannot be made or emptied.
    """
    files.make_folder(folder)
    try:
        for old in (
            folder / "run.json",
            *folder.glob("damaged.*"),
            *(folder / "snapshots").glob(6 * "[0-9]" + "*.png"),
        ):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise DipError(f"Cannot clear the run folder {folder} ({error.strerror}): choose another --run-dir.") from error


def check_output(job: Job, output: Path, folder: Path | None) -> None:
    """Find now what would go wrong when hours of work are to be written."""
    if str(output) == "-":
        return
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file in it, as {output / job.source.name}.")
    files.check_writable(output.parent)
    itself = str(job.source) != "-" and output.exists() and output.samefile(job.source)
    if itself and not job.record.overwrite:
        raise UsageError(f"-o {output} is the input itself: choose another name, or say --overwrite.")
    if folder and folder.resolve() == output.resolve():
        raise UsageError(f"--run-dir {folder} is the output itself: choose another folder.")
