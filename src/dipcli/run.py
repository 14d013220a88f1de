"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli import account as accounts
from dipcli import device as machine
from dipcli import files, images, memory, png, stopping
from dipcli.bench import Bench, prepare, solve
from dipcli.case import Case
from dipcli.checkpoints import Checkpoints
from dipcli.contest import Contest
from dipcli.displays import Display, Silent
from dipcli.engine import Observer, let_go
from dipcli.errors import DipError
from dipcli.interrupt import heeded
from dipcli.job import CHECKPOINT, FRAMES, LOG, PREVIEW, RECORD, Job, clear
from dipcli.mosaic import Course
from dipcli.observers import Log, Metrics, Row, Snapshots, pixels
from dipcli.picture import Picture
from dipcli.plan import Plan, planned, suffix_of, worries
from dipcli.preview import Frames, Preview
from dipcli.restarts import Deadline, Progress, Runs
from dipcli.resume import HalfDone, described
from dipcli.settings import Settings
from dipcli.spread import Spread
from dipcli.standing import Ahead
from dipcli.warmup import due


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
        kept, over = None, _nothing
        if folder:
            log, watchers, over = _recorded(job, picture, case, bench, output, folder, progress)
            told.append(_unless_it_fails(log, display))
            observers += [_unless_it_fails(each, display) for each in watchers]
            kept = Checkpoints(
                folder / CHECKPOINT,
                described(job, preset, output, folder),
                job.record.between_checkpoints(),
                lambda: job.record.keep_checkpoint or interrupt.received is not None,
                watching,
            )
            kept.begin(before.seen(bench) if before and progress else None)
        meter = Metrics(bench.problem, truth, job.record.log_every, told)
        ahead = _ahead(job, preset, bench, deadline, begun=progress is not None)
        with display.watching(job.title or job.source.name, ahead):
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
        account |= _deliver(case, result, output, meter, truth)
        over()
        account["peak_memory_bytes"] = machine.peak_memory(bench.prior.code.device)
        record = folder / RECORD if folder else None
        accounts.write(record, account)
        if job.record.uncertainty:
            account |= accounts.written_spread(spread.map(result, case.known), Path(job.record.uncertainty))
            accounts.write(record, account)
        if kept and interrupt.received is None and not job.record.keep_checkpoint:
            kept.end()
        ended_by = interrupt.received or _compared(job, plan, account, record, display, signals)
    if kept and interrupt.received is not None:
        display.note(f"{job.source}: to go on: dip resume {shlex.quote(str(folder))}")
    return account, ended_by


def _nothing() -> None:
    """There is nothing to clear away."""


def _recorded(
    job: Job,
    picture: Picture,
    case: Case,
    bench: Bench,
    output: Path,
    folder: Path,
    progress: Progress | Course | None,
) -> tuple[Log, list[Observer], Callable[[], None]]:
    """The run's folder, cleared of an earlier run and with what is written before the fit.

    Returns:
        The log; who else writes there during the fit; what is to be done once the picture is written.
    """
    files.sweep(*(folder / name for name in (LOG, CHECKPOINT, RECORD, PREVIEW)))
    if progress is None:
        clear(folder, spared=job.read())
    if case.damaged is not None:
        damaged = picture.showing(case.damaged)
        kind = images.default_suffix(damaged)
        images.write(images.encode(damaged, kind), folder / f"damaged{kind}")
    every, at = job.record.snapshot_every, job.record.snapshots_asked()
    watchers: list[Observer] = [Snapshots(folder / "snapshots", case.picture, every, at, case.problem.finish)]
    if not job.record.no_report:
        watchers.append(Frames(folder / FRAMES, case.picture, bench.problem))
    preview = _previewed(job, case, bench, output, folder, progress)
    watchers += [preview] if preview else []
    log = Log(folder / LOG, progress.reached if progress else None)
    return log, watchers, preview.end if preview else _nothing


def _previewed(
    job: Job, case: Case, bench: Bench, output: Path, folder: Path, progress: Progress | Course | None
) -> Preview | None:
    """Who shows the picture while it is at work; nobody where something of somebody else's would be in the way."""
    path = folder / PREVIEW
    others = [each.resolve() for each in (output, *job.read())]
    if path.resolve() in others or (path.exists() and not png.signed(path)):
        return None
    return Preview(path, case.picture, bench.problem, progress if isinstance(progress, Course) else None)


def _ahead(job: Job, preset: str, bench: Bench, deadline: Deadline, *, begun: bool) -> Ahead:
    """What there is to say to a display before the fit."""
    settings = bench.settings
    usual = job.task.lengths.get(preset)
    return Ahead(
        iterations=settings.iterations,
        usual=usual and min(usual, settings.max_iterations),
        most=settings.max_iterations,
        runs=settings.runs or (None if settings.time else 1),
        warmup=not begun and due(bench.first, bench.prior.window, settings),
        left=deadline.left,
    )


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
) -> dict[str, Any]:
    """Write the picture, or the figures in its place; what is to be said of it."""
    restored = pixels(result.image)
    if case.render:
        conclusion = case.conclude(restored) if case.conclude else None
        for suffix, file in case.render().items():
            if str(output) != "-":
                images.write(file, output if suffix == ".png" else output.with_suffix(suffix))
            elif suffix == ".png":
                images.write(file, output)
        return {"conclusion": conclusion}
    file = images.encode(case.picture.showing(restored, case.known), suffix_of(output))
    images.write(file, output)
    # What is measured is what is in the file, rounded as it is there; some formats make three channels of one.
    written = images.decode(file, span=case.picture.span).pixels[: len(restored)]
    return accounts.measured(case, meter, written, truth)


def _compared(
    job: Job,
    plan: Plan,
    account: dict[str, Any],
    record: Path | None,
    display: Display,
    signals: tuple[signal.Signals, ...],
) -> signal.Signals | None:
    """Hold classical methods beside the result, if that was asked for, and add it to the account; what cut it short."""
    if not job.record.compare:
        return None
    display.note(f"{job.source}: written; now the classical methods")
    machine.release_memory(torch.device("cpu"))
    most = memory.limit(replace(plan.settings, device="cpu"))
    contest = Contest(plan.case, plan.truth, suffix_of(plan.output), plan.folder, most)
    told, ended_by = contest.hold(account, signals)
    account |= told
    accounts.write(record, account)
    return ended_by


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
