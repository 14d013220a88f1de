"""What a run writes into its folder while it is at work: log, snapshots, checkpoints, and pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.fitting.control import CheckpointHook, Observer, no_checkpoint
from dipcli.fitting.solve import PreparedFit
from dipcli.fitting.state import RunsState, TilesState
from dipcli.images import png
from dipcli.images.image import Image, from_array
from dipcli.records.checkpoints import Checkpoints
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun, describe_run
from dipcli.records.run_files import CHECKPOINT, FILLED, FRAMES, LOG, PREVIEW, RECORD, clear
from dipcli.runs.display import Display
from dipcli.runs.observers import Log, Row, Snapshots
from dipcli.runs.plan import Plan
from dipcli.runs.preview import Frames, Preview
from dipcli.tasks.case import Case


@dataclass(frozen=True)
class Recording:
    """Who writes while a run is at work; nobody, where it has no folder.

    What goes wrong with one of them is said once, and does not end the fit.

    Attributes:
        told: takes each row of numbers.
        observers: watch each iteration.
        hold: takes checkpoints.
        preview: shows the picture so far.
        checkpoints: the last of which stays where the run was cut short.
    """

    log: tuple[Callable[[Row], None], ...] = ()
    observers: tuple[Observer, ...] = ()
    checkpoint: CheckpointHook = no_checkpoint
    preview: Preview | None = None
    checkpoints: Checkpoints | None = None

    def close_preview(self) -> None:
        """The picture is written: there is something better to look at."""
        if self.preview:
            self.preview.end()

    def drop_checkpoint(self) -> None:
        """The run is done: there is nothing to go on with."""
        if self.checkpoints:
            self.checkpoints.end()


def open_recording(
    job: Job,
    picture: Image,
    preset: str,
    plan: Plan,
    bench: PreparedFit,
    *,
    before: InterruptedRun | None,
    progress: RunsState | TilesState | None,
    watching: Sequence[Observer],
    interrupted: Callable[[], bool],
    display: Display,
) -> Recording:
    """Clear the run's folder of an earlier run, and begin to write.

    Args:
        job: what is to be done.
        picture: as it was read.
        preset: the one that was chosen.
        plan: what the job comes to.
        bench: the fit, laid out.
        before: the run to go on with,
        progress: and how far that had come.
        watching: observers whose memory belongs into a checkpoint.
        interrupted: whether the run is being cut short.
        display: is told what cannot be written.
    """
    case, folder = plan.case, plan.folder
    if folder is None:
        return Recording()
    files.remove_temporaries(*(folder / name for name in (LOG, CHECKPOINT, RECORD, PREVIEW)))
    if progress is None:
        clear(folder, spared=job.input_files())
    _write_damage(picture, case, folder)
    every, at = job.outputs.snapshot_every, job.outputs.snapshot_iterations()
    observers: list[Callable[..., None]] = [Snapshots(folder / "snapshots", case.image, every, at, case.problem.finish)]
    if not job.outputs.no_report:
        observers.append(Frames(folder / FRAMES, case.image, bench.problem))
    if preview := _preview(job, plan, bench, folder, progress):
        observers.append(preview)
    checkpoints = Checkpoints(
        folder / CHECKPOINT,
        describe_run(job, preset, plan.output, folder),
        job.outputs.checkpoint_interval(),
        lambda: job.outputs.keep_checkpoint or interrupted(),
        watching,
    )
    checkpoints.begin(before.seen(bench) if before and progress else None)
    log = Log(folder / LOG, progress.reached if progress else None)
    return Recording(
        (ignore_write_errors(log, display),),
        tuple(ignore_write_errors(each, display) for each in observers),
        ignore_write_errors(checkpoints, display),
        preview,
        checkpoints,
    )


def _write_damage(picture: Image, case: Case, folder: Path) -> None:
    """What was made of a picture whose damage is simulated, and what is to be filled."""
    if case.damaged is not None:
        damaged = picture.with_pixels(case.damaged)
        kind = images.default_suffix(damaged)
        images.write(images.encode(damaged, kind), folder / f"damaged{kind}")
    if case.known is not None:
        images.write(images.encode(from_array(~case.known), ".png"), folder / FILLED)


def _preview(
    job: Job, plan: Plan, bench: PreparedFit, folder: Path, progress: RunsState | TilesState | None
) -> Preview | None:
    """Who shows the picture while it is at work; nobody where something of somebody else's would be in the way."""
    path = folder / PREVIEW
    others = [each.resolve() for each in (plan.output, *job.input_files())]
    if path.resolve() in others or (path.exists() and not png.is_marked(path)):
        return None
    return Preview(path, plan.case.image, bench.problem, progress if isinstance(progress, TilesState) else None)


def ignore_write_errors(observer: Callable[..., None], display: Display) -> Callable[..., None]:
    """The same observer, silenced when it fails to write: a full disk must not cost the picture."""
    failed = False

    def guarded(*seen: Any) -> None:
        nonlocal failed
        if failed:
            return
        try:
            observer(*seen)
        except (OSError, DipError) as error:
            failed = True
            display.note(f"{error} ({type(observer).__name__.lower()} ends here, the fit goes on)")

    return guarded
