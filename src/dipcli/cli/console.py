"""What the command line says of each picture, and hands out: sentences, paths, JSON and the exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any

from dipcli.errors import DipError
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.text import escape_controls

if TYPE_CHECKING:
    from dipcli.records.job import Job
    from dipcli.records.resume import InterruptedRun
    from dipcli.runs.batches.batch import Batch, BatchSize, Outcome
    from dipcli.runs.display import Display
    from dipcli.settings.scheduler import Scheduler

FAILED, SOME_FAILED = 1, 3


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
    """Restore one picture after the other, past those that fail, and tell of it.

    Args:
        batch: which.
        quiet: say nothing but errors.
        verbose: say which settings are used, and what it ran on.
        as_json: print an object for each picture in the place of its path.
        resume: the run to go on with.
        scheduler: what else than this process is to restore them, several at a time.
        batch_size: how many of one size to fit together.

    Returns:
        The exit code.
    """
    from dipcli.cli.progress import displays
    from dipcli.runs.batches.batch import restore_all

    display = displays.choose(quiet=quiet)
    tell = display.note if verbose else lambda _: None
    for remark in batch.remarks:
        display.note(remark)
    seen: list[Outcome] = []
    failed = 0
    how: dict[str, Any] = {"display": display, "signals": (SIGINT, SIGTERM)}
    if scheduler:
        from dipcli.cluster.dispatch import restore_by

        outcomes = restore_by(scheduler, batch, batch_size=batch_size, **how)
    else:
        how["announce"] = partial(_tell_settings, tell)
        outcomes = _together(batch, batch_size, how) or restore_all(batch, resume=resume, **how)
    for outcome in outcomes:
        seen.append(outcome)
        failed += outcome.fate == "failed"
        display.show_failures(failed)
        _tell(outcome, display, tell, as_json=as_json)
    fates = ["not begun"] * len(batch.entries)
    for each in seen:
        fates[each.number - 1] = each.fate
    if batch.several:
        _index(batch, seen, display)
        display.note(summary(fates, len(batch.entries)))
    if ended_by := next((each.ended_by for each in seen if each.ended_by), None):
        return 128 + ended_by
    if not batch.several and outcome.error:
        return outcome.error.exit_code
    if not failed:
        return 0
    return FAILED if set(fates) == {"failed"} else SOME_FAILED


def _together(batch: Batch, batch_size: BatchSize, how: dict[str, Any]) -> Iterator[Outcome] | None:
    """The outcomes of pictures that are fitted together; None where they are not to be."""
    if not batch.several or batch_size == 1:
        return None
    from dipcli.runs.batches import throughput as pace
    from dipcli.runs.batches.joint import restore_together

    if batch_size is None and not pace.usual(batch.entries[0].job):
        return None
    return restore_together(batch, None if batch_size == "auto" else batch_size, **how)


def _tell(outcome: Outcome, display: Display, tell: Callable[[str], None], *, as_json: bool) -> None:
    """Say what became of one picture, and hand out its path or account."""
    for note in outcome.notes:
        tell(note)
    for sentence in _sentences(outcome):
        display.note(sentence)
    if outcome.fate == "restored":
        from dipcli.records import summaries

        tell(summaries.describe_machine(outcome.account))
    if outcome.begun and (as_json or not (outcome.error or outcome.skipped)):
        hand_out(outcome.account | ({"skipped": outcome.skipped} if outcome.skipped else {}), as_json=as_json)


def hand_out(account: dict[str, Any], *, as_json: bool) -> None:
    """Standard output: the path written, or the account as JSON; nothing beside a picture that went there."""
    if account.get("output") == "-":
        return
    line = json.dumps(account, default=str).encode() if as_json else os.fsencode(account["output"])
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


def complain(sentence: str, error: DipError | None = None) -> None:
    """Standard error: what is wrong; with `DIP_DEBUG=1` where it came from too."""
    if sys.stderr is None:
        return
    if error and os.environ.get("DIP_DEBUG"):
        traceback.print_exception(error)
    print(f"dip: {escape_controls(sentence)}", file=sys.stderr, flush=True)  # noqa: T201 - this is where complaints go


def _sentences(outcome: Outcome) -> list[str]:
    """What there is to say of one picture; a complaint is made here, for it comes with --quiet too."""
    if outcome.error:
        if outcome.said:
            complain(outcome.said, outcome.error)
        return []
    if outcome.skipped:
        return [f"{outcome.account['input']}: {outcome.skipped}"]
    if not outcome.begun:
        return []
    from dipcli.records import ranking, summaries

    first, *others = [*summaries.describe_ending(outcome.account), *ranking.table(outcome.account)]
    return [f"{first} ({outcome.worker})" if outcome.worker else first, *others]


def _index(batch: Batch, seen: list[Outcome], display: Display) -> None:
    """Make the page of the folder that the results are in; what is wrong with it is said and costs nothing."""
    record = batch.entries[0].job.outputs
    if batch.output is None or not batch.output.is_dir() or record.no_report or record.no_run_dir:
        return
    from dipcli.report import index

    if (batch.output / index.INDEX).exists() and all(each.skipped for each in seen):
        return
    failed = [(each.account["input"], str(each.error)) for each in seen if each.error]
    try:
        display.note(f"All of them at a glance: {index.make(batch.output, failed)}")
    except Exception as error:  # noqa: BLE001 - the pictures are written: not even a bug may look as if they were not
        told = str(error) if isinstance(error, DipError) else f"{type(error).__name__}: {error}"
        display.note(f"There is no new {index.INDEX}: {told}")


def _tell_settings(tell: Callable[[str], None], job: Job, preset: str, settings: Settings, outlook: str) -> None:
    told = "  ".join(f"{knob.flag[2:]}={getattr(settings, knob.name)}" for knob in option_fields(Settings))
    tell(f"{job.source}: preset {preset}: {told}")
    if outlook:
        tell(f"{job.source}: {outlook}")


def summary(fates: Sequence[str], total: int) -> str:
    """What became of many pictures, and which of them failed.

    Args:
        fates: of each in their order, restored, failed, skipped, cut short or not begun; those at the end that were
            not begun may be left out.
        total: pictures there were.
    """
    told = [f"{fates.count(word)} {word}" for word in ("restored", "failed", "skipped")]
    others = {"cut short": fates.count("cut short"), "not begun": total - len(fates) + fates.count("not begun")}
    told += [f"{count} {word}" for word, count in others.items() if count]
    failed = [f"{number}/{total}" for number, fate in enumerate(fates, start=1) if fate == "failed"]
    return ", ".join(told) + (f"; failed: {', '.join(failed)}" if failed else "")
