"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dipcli import files, images, stopping
from dipcli.fitting import device as machine
from dipcli.fitting.control import Control, Deadline, Observer
from dipcli.fitting.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.fitting.state import RunsState, TilesState
from dipcli.fitting.warmup import will_run
from dipcli.records import run_record as accounts
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun
from dipcli.runs import recording
from dipcli.runs import results as delivery
from dipcli.runs.display import Display, Expected, Silent
from dipcli.runs.interrupt import Interrupt, NotStartedError, handle_signals
from dipcli.runs.observers import Metrics
from dipcli.runs.plan import make_plan, warnings_for
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings


def restore(
    job: Job,
    *,
    display: Display | None = None,
    signals: tuple[signal.Signals, ...] = (),
    announce: Callable[[str, Settings, str], None] = lambda *_: None,
    resume: InterruptedRun | bool = False,
    interrupt: Interrupt | None = None,
    descend: Evaluate = evaluate_alone,
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
        interrupt: what ends the fit in the place of signals, where somebody else heeds these; they cut short what comes
            after it.
        descend: computes the network, as that of `engine.fit`.

    Returns:
        The run's account, which is what `run.json` holds, and the signal that ended it, or None.

    Raises:
        DipError: when something is wrong that the user can put right.
        NotBegunError: when the interrupt that was given had come before the fit.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    preset, plan, before, deadline = make_plan(job, picture, resume, display)
    case, settings, output, folder, truth = plan
    watched = Uncertainty.pictures if job.outputs.uncertainty else 0
    bench = prepare(
        case.problem, settings, beside=case.bytes_in_memory, watched=watched, places=before.places if before else None
    )
    for remark in (*case.remarks, *warnings_for(case, output)):
        display.note(f"{job.source}: {remark}")
    rule = settings.rule().describe(bench.problem)
    if settings.stop.partition(":")[0] == stopping.Auto.name:
        display.note(f"{job.source}: {rule}")
    announce(preset, bench.settings, _foretold(job, preset, bench, display))
    progress = before.progress(bench) if before else None
    if progress:
        display.note(f"{job.source}: {_standing(progress)}")
        deadline = Deadline(settings.time_budget(), spent=progress.seconds)

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best picture so far; once more to end at once.")

    spread = Uncertainty()
    watching: list[Observer] = [*case.observers, *([spread] if job.outputs.uncertainty else [])]
    heeding = nullcontext(interrupt) if interrupt else handle_signals(*signals, say=warn)
    with files.lock_paths(*_written(output, folder)), heeding as ending:
        if ending.received:
            raise NotStartedError
        files.remove_temporaries(output)
        record = recording.open_recording(
            job,
            picture,
            preset,
            plan,
            bench,
            before=before,
            progress=progress,
            watching=watching,
            interrupted=lambda: ending.received is not None,
            display=display,
        )
        meter = Metrics(bench.problem, truth, job.outputs.log_every, [display.show_row, *record.log])
        ahead = _ahead(job, preset, bench, deadline, begun=progress is not None)
        with display.watching(job.title or job.source.name, ahead):
            result = solve(
                bench,
                control=Control(
                    deadline=deadline,
                    interrupted=ending.reason,
                    observers=(meter, display, *watching, *record.observers),
                    resume_from=progress,
                    checkpoint=record.checkpoint,
                    notify=lambda text: display.note(f"{job.source}: {text}"),
                    evaluate=descend,
                ),
            )
        ended_by = ending.received
        account = {"rule": rule, **accounts.account(job, preset, output, data, bench, result)}
        account["finished"] = ended_by is None
        told, written = delivery.write_picture(plan, result, meter)
        record.close_preview()
        account |= told | {"peak_memory_bytes": machine.peak_memory(bench.prior.code.device)}
        given = {"input": data, "output": written}
        delivery.write_account(job, plan, account, given, lambda: spread.map(result, case.known))
        if ended_by is None and not job.outputs.keep_checkpoint:
            record.drop_checkpoint()
        stopped_by = ended_by or delivery.compare(job, plan, account, display, signals)
        delivery.write_page(job, plan, account, given, display)
    if folder and ended_by:
        display.note(f"{job.source}: to go on: dip resume {shlex.quote(str(folder))}")
    return account, stopped_by


def _ahead(job: Job, preset: str, bench: PreparedFit, deadline: Deadline, *, begun: bool) -> Expected:
    """What there is to say to a display before the fit."""
    settings = bench.settings
    usual = job.task.lengths.get(preset)
    return Expected(
        iterations=settings.iterations,
        usual=usual and min(usual, settings.max_iterations),
        most=settings.max_iterations,
        runs=settings.runs or (None if settings.time else 1),
        warmup=not begun and will_run(bench.first_problem, bench.prior.window, settings),
        left=deadline.left,
    )


def _standing(progress: RunsState | TilesState) -> str:
    """Where a run goes on from, in words."""
    tile, run, iteration = progress.reached
    told = [f"tile {tile}"] if tile else []
    told += [f"run {run}"] if run > 1 else []
    return f"going on from {', '.join([*told, f'iteration {iteration}'])}"


def _foretold(job: Job, preset: str, bench: PreparedFit, display: Display) -> str:
    """What memory and time it will take, in words; of a large picture or tiles it is said now, and nothing is left."""
    outlook = bench.estimate
    iterations = job.task.usual(preset, bench.settings) * (bench.settings.runs or 1)
    words = outlook.describe(iterations, bench.settings.time_budget())
    if outlook.seconds_per_iteration is None and not outlook.places:
        return words
    display.note(f"{job.source}: {words}")
    return ""


def _written(output: Path, folder: Path | None) -> list[Path]:
    """What no other run may write to at the same time; the run's folder is made for that."""
    if folder:
        files.make_folder(folder)
    return [*([] if str(output) == "-" else [output]), *([folder] if folder else [])]
