"""What the command line prints about each image: sentences, paths, JSON, and the exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from signal import SIG_DFL, SIG_IGN, SIGINT, SIGTERM, default_int_handler, getsignal, signal
from typing import TYPE_CHECKING, Any

from dipcli.errors import DipError, describe_failure
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.text import escape_controls

if TYPE_CHECKING:
    from dipcli.records.resume import InterruptedRun
    from dipcli.runs.batches.batch import Batch, BatchSize, Outcome
    from dipcli.runs.display import Display
    from dipcli.runs.plan import Plan
    from dipcli.settings.scheduler import Scheduler

FAILED, SOME_FAILED = 1, 3  # exit codes


def restore(
    batch: Batch,
    *,
    quiet: bool = False,
    verbose: bool = False,
    as_json: bool = False,
    resume: InterruptedRun | None = None,
    scheduler: Scheduler | None = None,
    batch_size: BatchSize = None,
) -> int:
    """Restore the images of a batch, print what happened, and return the exit code; a failure does not end the batch.

    The scheduler restores several images at a time in place of this process.
    """
    from dipcli.cli.progress import displays
    from dipcli.runs.batches.stacks import join_stacks

    display = displays.choose(quiet=quiet)
    explain = display.note if verbose else lambda _text: None
    for remark in batch.remarks:
        display.note(remark)
    if getsignal(SIGINT) not in (SIG_DFL, SIG_IGN, default_int_handler):  # everything is imported, see `__main__`
        signal(SIGINT, default_int_handler)
    fates = ["not started"] * len(batch.entries)
    outcomes: list[Outcome] = []
    for outcome in join_stacks(batch, _restore(batch, resume, scheduler, batch_size, display, explain)):
        outcomes.append(outcome)
        if outcome.error or fates[outcome.number - 1] == "not started":  # a stack has the number of its last page
            fates[outcome.number - 1] = outcome.fate
        display.show_failures(fates.count("failed"))
        _report(outcome, display, explain)
        if outcome.started and not outcome.part and (as_json or not (outcome.error or outcome.skipped)):
            print_result(outcome.output, outcome.to_json(), as_json=as_json)
    if batch.several:
        _write_index(batch, outcomes, display)
        display.note(count_fates(fates))
    if ended_by := next((outcome.ended_by for outcome in outcomes if outcome.ended_by), None):
        return 128 + ended_by
    if not batch.several and outcomes[-1].error:
        return outcomes[-1].error.exit_code
    if "failed" not in fates:
        return 0
    return FAILED if set(fates) == {"failed"} else SOME_FAILED


def print_result(output: str, record: dict[str, Any], *, as_json: bool) -> None:
    """Print the path of the result, or its record as JSON; nothing if the image itself went to standard output."""
    if output == "-":
        return
    print_line(json.dumps(record, default=str).encode() if as_json else os.fsencode(output))


def print_line(line: bytes) -> None:
    """Print a line of data, unless standard output is closed."""
    if sys.stdout is not None:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.flush()


def print_error(sentence: str, error: DipError | None = None) -> None:
    """Print an error to standard error, with its traceback if DIP_DEBUG=1."""
    if sys.stderr is None:
        return
    if error and os.environ.get("DIP_DEBUG"):
        traceback.print_exception(error)
    print(f"dip: {escape_controls(sentence)}", file=sys.stderr, flush=True)  # noqa: T201 - errors go here


def count_fates(fates: Sequence[str]) -> str:
    """Count the fates of the images of a batch, in order, and name those that failed."""
    counts = [f"{fates.count(fate)} {fate}" for fate in ("restored", "failed", "skipped")]
    counts += [f"{fates.count(fate)} {fate}" for fate in ("cut short", "not started") if fate in fates]
    failed = [f"{number}/{len(fates)}" for number, fate in enumerate(fates, start=1) if fate == "failed"]
    return ", ".join(counts) + (f"; failed: {', '.join(failed)}" if failed else "")


def _restore(
    batch: Batch,
    resume: InterruptedRun | None,
    scheduler: Scheduler | None,
    batch_size: BatchSize,
    display: Display,
    explain: Callable[[str], None],
) -> Iterator[Outcome]:
    """Restore the images by a scheduler, several in one pass, or one after the other."""
    how: dict[str, Any] = {"display": display, "signals": (SIGINT, SIGTERM)}
    if scheduler:
        from dipcli.cluster.dispatch import restore_by

        return restore_by(scheduler, batch, batch_size=batch_size, **how)
    from dipcli.runs.batches import throughput
    from dipcli.runs.batches.batch import restore_all
    from dipcli.runs.batches.joint import restore_together

    announce = partial(_explain_plan, explain=explain)
    together = batch.several and batch_size != 1
    if together and (batch_size is not None or throughput.is_default(batch.entries[0].job)):
        return restore_together(batch, None if batch_size == "auto" else batch_size, announce=announce, **how)
    return restore_all(batch, resume=resume, announce=announce, **how)


def _report(outcome: Outcome, display: Display, explain: Callable[[str], None]) -> None:
    """Print sentences about one image. An error is printed even with --quiet."""
    for note in outcome.notes:
        explain(note)
    if outcome.error and outcome.message:
        print_error(outcome.message, outcome.error)
    elif outcome.skipped:
        display.note(f"{outcome.source}: {outcome.skipped}")
    elif outcome.record and not outcome.error:
        from dipcli.records import summaries

        first, *others = [*summaries.describe_ending(outcome.record), *summaries.format_table(outcome.record)]
        for sentence in (f"{first} ({outcome.worker})" if outcome.worker else first, *others):
            display.note(sentence)
        if outcome.fate == "restored":
            explain(summaries.describe_machine(outcome.record))


def _write_index(batch: Batch, outcomes: Sequence[Outcome], display: Display) -> None:
    """Write the page of the folder of results. An error is reported and does not undo the results."""
    outputs = batch.entries[0].job.outputs
    if batch.output is None or not batch.output.is_dir() or outputs.no_report or outputs.no_run_dir:
        return
    from dipcli.report import index

    if (batch.output / index.INDEX).exists() and all(outcome.skipped for outcome in outcomes):
        return
    failed = [(outcome.source, str(outcome.error)) for outcome in outcomes if outcome.error]
    try:
        display.note(f"Overview of the results: {index.make(batch.output, failed)}")
    except Exception as error:  # noqa: BLE001 - the images are written: even a bug must not hide that
        display.note(f"Could not write {index.INDEX}: {describe_failure(error)}")


def _explain_plan(plan: Plan, explain: Callable[[str], None]) -> None:
    values = "  ".join(f"{field.flag[2:]}={getattr(plan.settings, field.name)}" for field in option_fields(Settings))
    explain(f"{plan.job.source}: preset {plan.preset}: {values}")
    if not plan.is_large:
        explain(f"{plan.job.source}: {plan.describe_estimate()}")
