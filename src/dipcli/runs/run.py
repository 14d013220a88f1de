"""One run from a job to files: plan, fit, write the results."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext

from dipcli import files, images
from dipcli.fitting.control import Control, Observer
from dipcli.fitting.passes.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.solve import solve
from dipcli.fitting.warmup import will_run
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun
from dipcli.records.run_record import RunRecord
from dipcli.runs.display import Display, Expected
from dipcli.runs.interrupt import Interrupt, NotStartedError, handle_signals
from dipcli.runs.observers import Metrics
from dipcli.runs.plan import Plan, make_plan
from dipcli.runs.recording import open_recording
from dipcli.runs.results import Results, make_record
from dipcli.runs.uncertainty import Uncertainty
from dipcli.text import quote_path

Announce = Callable[[Plan], None]


def restore(
    job: Job,
    *,
    display: Display,
    signals: tuple[signal.Signals, ...] = (),
    announce: Announce = lambda _plan: None,
    resume: InterruptedRun | bool = False,
    interrupt: Interrupt | None = None,
    evaluate: Evaluate = evaluate_alone,
) -> tuple[RunRecord, signal.Signals | None]:
    """Restore one image and write what the job asks for.

    Everything that can be found wrong is found before the fit and before any file is touched: a reference of another
    size, a format that cannot hold the result, a missing device. If writing the log or a snapshot fails during the
    fit, that is reported and the fit goes on.

    Args:
        job: what to do.
        display: shows progress.
        signals: the first of these ends the fit, which keeps the best image so far.
        announce: receives the plan before the fit.
        resume: the run to resume; True for the interrupted run of this very job, if there is one.
        interrupt: ends the fit in place of signals, if another part of the program handles these; the signals still
            interrupt what comes after the fit.
        evaluate: computes the network, as in `Control.evaluate`.

    Returns:
        The run record, and the signal that ended the run, or None.

    Raises:
        DipError: if something is wrong that the user can put right.
        NotStartedError: if the given interrupt came before the fit.
    """
    image, data = images.read(job.source, missing=True)
    plan = make_plan(job, image, resume)
    for remark in plan.remarks:
        display.note(f"{job.source}: {remark}")
    if plan.is_large:
        display.note(f"{job.source}: {plan.describe_estimate()}")
    announce(plan)

    def say_stopping() -> None:
        display.note(
            "Stopping after this iteration and keeping the best image so far. Press Ctrl-C again to stop immediately."
        )

    uncertainty = Uncertainty()
    stateful: list[Observer] = [*plan.case.observers, *([uncertainty] if job.outputs.uncertainty else [])]
    handling = nullcontext(interrupt) if interrupt else handle_signals(*signals, say=say_stopping)
    if plan.folder:
        files.make_folder(plan.folder)
    places = [path for path in (plan.output, plan.folder) if path and str(path) != "-"]
    with files.lock_paths(*places), handling as ending:
        if ending.received:
            raise NotStartedError
        files.remove_temporaries(plan.output)
        recording = open_recording(
            plan, stateful=stateful, interrupted=lambda: ending.received is not None, display=display
        )
        meter = Metrics(plan.prepared.problem, plan.truth, job.outputs.log_every, [display.show_row, *recording.log])
        with display.watching(job.title or job.source.name, _expect(plan)):
            result = solve(
                plan.prepared,
                control=Control(
                    deadline=plan.deadline,
                    interrupted=ending.reason,
                    observers=(meter, display, *stateful, *recording.observers),
                    checkpoint=recording.checkpoint,
                    resume_from=plan.progress,
                    evaluate=evaluate,
                    notify=lambda text: display.note(f"{job.source}: {text}"),
                ),
            )
        ended_by = ending.received
        results = Results(plan, display)
        found, written = results.write_image(result, meter)
        if recording.preview:
            recording.preview.end()
        record = make_record(plan, data, result, found, finished=ended_by is None)
        results.write_record(record)
        record = results.write_uncertainty(record, lambda: uncertainty.map(result, plan.case.known, plan.case.origin))
        record = results.write_record(record, written)
        if recording.checkpoints and not ended_by and not job.outputs.keep_checkpoint:
            recording.checkpoints.end()
        record, comparison_ended_by = (record, None) if ended_by else results.compare(record, signals)
        results.write_page(record, {"input": data, "output": written})
    if plan.folder and ended_by:
        display.note(f"{job.source}: to resume: dip resume {quote_path(plan.folder)}")
    return record, ended_by or comparison_ended_by


def _expect(plan: Plan) -> Expected:
    """What a display can say before the fit."""
    settings = plan.settings
    usual = plan.job.task.lengths.get(plan.preset)
    return Expected(
        iterations=settings.iterations,
        usual=usual and min(usual, settings.max_iterations),
        most=settings.max_iterations,
        runs=settings.runs or (None if settings.time else 1),
        warmup=plan.progress is None and will_run(plan.prepared.first_problem, plan.prepared.prior.window, settings),
        left=plan.deadline.left,
    )
