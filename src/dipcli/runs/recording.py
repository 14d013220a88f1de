"""What a run writes into its folder during the fit: log, snapshots, checkpoints and a preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.fitting.control import CheckpointHook, Observer, no_checkpoint
from dipcli.fitting.state import TilesState
from dipcli.images import from_array, png
from dipcli.records.checkpoints import Checkpoints
from dipcli.records.resume import describe_run
from dipcli.records.run_files import CHECKPOINT, FILLED, FRAMES, LOG, PREVIEW, RECORD, clear
from dipcli.runs.display import Display
from dipcli.runs.observers import Log, Row, Snapshots
from dipcli.runs.plan import Plan
from dipcli.runs.preview import Frames, Preview


@dataclass(frozen=True)
class Recording:
    """The writers that are active during a run; none if the run has no folder.

    If one of them fails, that is reported once and does not end the fit.
    """

    log: tuple[Callable[[Row], None], ...] = ()  # receive each row of numbers
    observers: tuple[Observer, ...] = ()  # see each iteration
    checkpoint: CheckpointHook = no_checkpoint  # writes checkpoints
    preview: Preview | None = None  # to be ended once the result is written
    checkpoints: Checkpoints | None = None  # to be ended unless the run was interrupted


def open_recording(
    plan: Plan, *, stateful: Sequence[Observer], interrupted: Callable[[], bool], display: Display
) -> Recording:
    """Clear the run folder of an earlier run, and open the writers. The display reports what cannot be written.

    The states of the `stateful` observers belong in a checkpoint.
    """
    case, folder, job, progress = plan.case, plan.folder, plan.job, plan.progress
    if folder is None:
        return Recording()
    files.remove_temporaries(*(folder / name for name in (LOG, CHECKPOINT, RECORD, PREVIEW)))
    if progress is None:
        clear(folder, spared=job.input_files())
    log = Log(folder / LOG, progress.reached if progress else None)  # first: it marks the folder as that of a run
    if case.damaged is not None:  # it is simulated
        damaged = plan.image.with_pixels(case.damaged)
        suffix = images.default_suffix(damaged)
        images.write(images.encode(damaged, suffix), folder / f"damaged{suffix}")
    if case.known is not None:
        images.write(images.encode(from_array(~case.known), ".png"), folder / FILLED)
    every, at = job.outputs.snapshot_every, job.outputs.snapshot_iterations()
    observers: list[Callable[..., None]] = [Snapshots(folder / "snapshots", case.image, every, at, case.problem.finish)]
    if not job.outputs.no_report:
        observers.append(Frames(folder / FRAMES, case.image, plan.prepared.problem))
    if preview := _open_preview(plan, folder):
        observers.append(preview)
    checkpoints = Checkpoints(
        folder / CHECKPOINT,
        msgspec.to_builtins(describe_run(job, plan.preset, plan.output, folder)),
        job.outputs.checkpoint_interval(),
        lambda: job.outputs.keep_checkpoint or interrupted(),
        stateful,
    )
    before = plan.interrupted_run
    checkpoints.begin(before.seen(plan.prepared) if before and progress else None)
    return Recording(
        (ignore_write_errors(log, display),),
        tuple(ignore_write_errors(observer, display) for observer in observers),
        ignore_write_errors(checkpoints, display),
        preview,
        checkpoints,
    )


def ignore_write_errors(observer: Callable[..., None], display: Display) -> Callable[..., None]:
    """Wrap an observer so that it is disabled when it fails to write: a full disk must not cost the image."""
    failed = False

    def guarded(*arguments: Any) -> None:
        nonlocal failed
        if failed:
            return
        try:
            observer(*arguments)
        except (OSError, DipError) as error:
            failed = True
            display.note(f"{error} ({type(observer).__name__.lower()} is disabled, the fit goes on)")

    return guarded


def _open_preview(plan: Plan, folder: Path) -> Preview | None:
    """The preview writer, or None if preview.png belongs to the user."""
    path = folder / PREVIEW
    others = [other.resolve() for other in (plan.output, *plan.job.input_files())]
    if path.resolve() in others or (path.exists() and not png.is_marked(path)):
        return None
    progress = plan.progress if isinstance(plan.progress, TilesState) else None
    return Preview(path, plan.case.image, plan.prepared.problem, progress)
