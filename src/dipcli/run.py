"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli import account as accounts
from dipcli import device as machine
from dipcli import files, images, stopping
from dipcli.bench import Bench, let_go, prepare, solve
from dipcli.case import Case
from dipcli.checkpoints import Checkpoints
from dipcli.displays import Display, Silent
from dipcli.engine import Observer
from dipcli.errors import DipError
from dipcli.interrupt import heeded
from dipcli.job import CHECKPOINT, FILLED, LOG, RECORD, REPORT, Job, clear
from dipcli.mosaic import Course
from dipcli.observers import Log, Metrics, Row, Snapshots, pixels
from dipcli.picture import Picture, from_array
from dipcli.plan import planned, suffix_of, worries
from dipcli.report import page
from dipcli.restarts import Deadline, Progress, Runs
from dipcli.resume import HalfDone, described
from dipcli.settings import Settings
from dipcli.spread import Spread


def restore(
    job: Job,
    *,
    display: Display | None = None,
    signals: tuple[signal.Signals, ...] = (),
    announce: Callable[[str, Settings, str], None] = lambda *_: None,
    resume: HalfDone | bool = False,
) -> tuple[dict[str, Any], signal.Signals | None]:
    """Restore one picture and leave what the record asks for.

    Whatever can be found wrong is found before the fit and before anything is touched: a reference of another size, a
    format that cannot hold the result, a device that is not there. What goes wrong with log or snapshots during the
    fit is said and does not end it.

    Args:
        job: what to do.
        display: shows progress.
        signals: the first of these ends the fit and keeps the best picture so far.
        announce: told the preset, the settings as they will be used, and what they will take, unless that was said.
        resume: go on with this run; True for the one of this very job that was cut short, if there is one.

    Returns:
        The run's account, which is what `run.json` holds, and the signal that ended it, or None.

    Raises:
        DipError: when something is wrong that the user can put right.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    preset, plan, before, deadline = planned(job, picture, resume, display)
    case, settings, output, folder, truth = plan
    watched = Spread.pictures if job.record.uncertainty else 0
    bench = prepare(case.problem, settings, beside=case.size, watched=watched, places=before.places if before else None)
    for remark in (*case.remarks, *worries(case, output)):
        display.note(f"{job.source}: {remark}")
    stopping.chosen(settings).start(bench.first)  # what it refuses, it refuses before anything is touched
    rule = stopping.told(stopping.chosen(settings), bench.problem)
    if settings.stop.partition(":")[0] == stopping.Auto.name:
        display.note(f"{job.source}: {rule}")
    announce(preset, bench.settings, _foretold(job, preset, bench, display))
    progress = before.progress(bench) if before else None
    if progress:
        display.note(f"{job.source}: {_standing(progress)}")
        deadline = Deadline(settings.budget(), spent=progress.seconds)

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best picture so far; once more to end at once.")

    spread = Spread()
    watching: list[Observer] = [*case.observers, *([spread] if job.record.uncertainty else [])]
    observers: list[Observer] = [display, *watching]
    told: list[Callable[[Row], None]] = [display.tell]
    with files.claimed(*_written(output, folder)), heeded(*signals, say=warn) as interrupt:
        files.sweep(output)
        kept = None
        if folder:
            log, snapshots = _recorded(job, picture, case, folder, progress)
            told.append(_unless_it_fails(log, display))
            observers.append(_unless_it_fails(snapshots, display))
            kept = Checkpoints(
                folder / CHECKPOINT,
                described(job, preset, output, folder),
                job.record.between_checkpoints(),
                lambda: job.record.keep_checkpoint or interrupt.received is not None,
                watching,
            )
            kept.begin(before.seen(bench) if before and progress else None)
        meter = Metrics(bench.problem, truth, job.record.log_every, told)
        with display.watching(job.title or job.source.name, settings.iterations):
            result = solve(
                bench,
                deadline=deadline,
                asked=interrupt.asked,
                observers=[meter, *observers],
                begin=progress,
                hold=_unless_it_fails(kept, display) if kept else let_go,
                say=lambda text: display.note(f"{job.source}: {text}"),
            )
        account = {"rule": rule, **accounts.account(job, preset, output, data, bench, result)}
        account["finished"] = interrupt.received is None
        delivered, written = _deliver(case, result, output, meter, truth)
        account |= delivered | {"peak_memory_bytes": machine.peak_memory(bench.prior.code.device)}
        given = {"input": data, "output": written}
        _keep(job, folder, output, account, given, lambda: spread.map(result, case.known))
        if kept and account["finished"] and not job.record.keep_checkpoint:
            kept.end()
        _report(job, folder, account, given, display)
    if kept and not account["finished"]:
        display.note(f"{job.source}: to go on: dip resume {shlex.quote(str(folder))}")
    return account, interrupt.received


def _recorded(
    job: Job, picture: Picture, case: Case, folder: Path, progress: Progress | Course | None
) -> tuple[Log, Snapshots]:
    """The run's folder, cleared of an earlier run and with what is written before the fit; who writes there later."""
    files.sweep(*(folder / name for name in (LOG, CHECKPOINT, RECORD)))
    if progress is None:
        clear(folder, spared=job.read())
    if case.damaged is not None:
        damaged = picture.showing(case.damaged)
        kind = images.default_suffix(damaged)
        images.write(images.encode(damaged, kind), folder / f"damaged{kind}")
    if case.known is not None:
        images.write(images.encode(from_array(~case.known), ".png"), folder / FILLED)
    every, at = job.record.snapshot_every, job.record.snapshots_asked()
    snapshots = Snapshots(folder / "snapshots", case.picture, every, at, case.problem.finish)
    return Log(folder / LOG, progress.reached if progress else None), snapshots


def _standing(progress: Progress | Course) -> str:
    """Where a run goes on from, in words."""
    tile, run, iteration = progress.reached
    told = [f"tile {tile}"] if tile else []
    told += [f"run {run}"] if run > 1 else []
    return f"going on from {', '.join([*told, f'iteration {iteration}'])}"


def _foretold(job: Job, preset: str, bench: Bench, display: Display) -> str:
    """What memory and time it will take, in words; of a large picture or tiles it is said now, and nothing is left."""
    outlook = bench.outlook
    iterations = job.task.usual(preset, bench.settings) * (bench.settings.runs or 1)
    words = outlook.told(iterations, bench.settings.budget())
    if outlook.pace is None and not outlook.places:
        return words
    display.note(f"{job.source}: {words}")
    return ""


def _written(output: Path, folder: Path | None) -> list[Path]:
    """What no other run may write to at the same time; the run's folder is made for that."""
    if folder:
        files.make_folder(folder)
    return [*([] if str(output) == "-" else [output]), *([folder] if folder else [])]


def _deliver(
    case: Case, result: Runs, output: Path, meter: Metrics, truth: NDArray[np.float32] | None
) -> tuple[dict[str, Any], bytes]:
    """Write the picture, or the figures in its place; what is to be said of it, and the bytes of its file."""
    restored = pixels(result.image)
    if case.render:
        conclusion = case.conclude(restored) if case.conclude else None
        figures = case.render()
        for suffix, file in figures.items():
            if str(output) != "-":
                images.write(file, output if suffix == ".png" else output.with_suffix(suffix))
            elif suffix == ".png":
                images.write(file, output)
        return {"conclusion": conclusion, "figures": list(figures)}, figures[".png"]
    file = images.encode(case.picture.showing(restored, case.known), suffix_of(output))
    images.write(file, output)
    # What is measured is what is in the file, rounded as it is there; some formats make three channels of one.
    written = images.decode(file, span=case.picture.span).pixels[: len(restored)]
    return accounts.measured(case, meter, written, truth), file


def _keep(
    job: Job,
    folder: Path | None,
    output: Path,
    account: dict[str, Any],
    known: dict[str, bytes],
    spread: Callable[[], NDArray[np.float32]],
) -> None:
    """Write the record, the map of the spread if one is wanted, and the record again with what there is to say then."""
    record = folder / RECORD if folder else None
    accounts.write(record, account)
    if job.record.uncertainty:
        account |= accounts.written_spread(spread(), Path(job.record.uncertainty))
    if folder:
        account["files"] = accounts.whereabouts(job, folder, output, known)
    accounts.write(record, account)


def _report(job: Job, folder: Path | None, account: dict[str, Any], given: dict[str, bytes], display: Display) -> None:
    """Make the run's page, if it has one; whatever is wrong with it must not cost what was done before."""
    if folder is None or job.record.no_report:
        return
    try:
        page.make(folder, account=account, given=given)
    except Exception as error:  # noqa: BLE001 - picture and record are written: not even a bug may look as if they were not
        told = str(error) if isinstance(error, DipError) else f"{type(error).__name__}: {error}"
        display.note(f"{account['input']}: there is no new {REPORT}: {told}")


def _unless_it_fails(observer: Callable[..., None], display: Display) -> Callable[..., None]:
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
