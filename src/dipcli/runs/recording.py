"""What a run writes into its folder while it is at work: log, snapshots, checkpoints, and pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.fitting.engine import Observer, let_go
from dipcli.fitting.restarts import Progress
from dipcli.fitting.solve import Bench, Hold
from dipcli.fitting.tiled import Course
from dipcli.images import png
from dipcli.images.image import Picture, from_array
from dipcli.records.checkpoints import Checkpoints
from dipcli.records.job import Job
from dipcli.records.resume import HalfDone, described
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

    told: tuple[Callable[[Row], None], ...] = ()
    observers: tuple[Observer, ...] = ()
    hold: Hold = let_go
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


def begun(
    job: Job,
    picture: Picture,
    preset: str,
    plan: Plan,
    bench: Bench,
    *,
    before: HalfDone | None,
    progress: Progress | Course | None,
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
    files.sweep(*(folder / name for name in (LOG, CHECKPOINT, RECORD, PREVIEW)))
    if progress is None:
        clear(folder, spared=job.read())
    _write_damage(picture, case, folder)
    every, at = job.record.snapshot_every, job.record.snapshots_asked()
    observers: list[Callable[..., None]] = [
        Snapshots(folder / "snapshots", case.picture, every, at, case.problem.finish)
    ]
    if not job.record.no_report:
        observers.append(Frames(folder / FRAMES, case.picture, bench.problem))
    if preview := _preview(job, plan, bench, folder, progress):
        observers.append(preview)
    checkpoints = Checkpoints(
        folder / CHECKPOINT,
        described(job, preset, plan.output, folder),
        job.record.between_checkpoints(),
        lambda: job.record.keep_checkpoint or interrupted(),
        watching,
    )
    checkpoints.begin(before.seen(bench) if before and progress else None)
    log = Log(folder / LOG, progress.reached if progress else None)
    return Recording(
        (unless_it_fails(log, display),),
        tuple(unless_it_fails(each, display) for each in observers),
        unless_it_fails(checkpoints, display),
        preview,
        checkpoints,
    )


def _write_damage(picture: Picture, case: Case, folder: Path) -> None:
    """What was made of a picture whose damage is simulated, and what is to be filled."""
    if case.damaged is not None:
        damaged = picture.showing(case.damaged)
        kind = images.default_suffix(damaged)
        images.write(images.encode(damaged, kind), folder / f"damaged{kind}")
    if case.known is not None:
        images.write(images.encode(from_array(~case.known), ".png"), folder / FILLED)


def _preview(job: Job, plan: Plan, bench: Bench, folder: Path, progress: Progress | Course | None) -> Preview | None:
    """Who shows the picture while it is at work; nobody where something of somebody else's would be in the way."""
    path = folder / PREVIEW
    others = [each.resolve() for each in (plan.output, *job.read())]
    if path.resolve() in others or (path.exists() and not png.signed(path)):
        return None
    return Preview(path, plan.case.picture, bench.problem, progress if isinstance(progress, Course) else None)


def unless_it_fails(observer: Callable[..., None], display: Display) -> Callable[..., None]:
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
