"""What a run leaves when it is over: the picture, its account, the answers of others, the page."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError
from dipcli.fitting import device as machine
from dipcli.fitting import memory
from dipcli.fitting.results import Runs
from dipcli.records import run_record as accounts
from dipcli.records.job import Job
from dipcli.records.run_files import RECORD, REPORT
from dipcli.report import page
from dipcli.runs.comparison import Comparison
from dipcli.runs.display import Display
from dipcli.runs.measures import measure_result, write_uncertainty
from dipcli.runs.observers import Metrics, pixels
from dipcli.runs.plan import Plan, suffix_of


def write_picture(plan: Plan, result: Runs, meter: Metrics) -> tuple[dict[str, Any], bytes]:
    """Write the picture, or the figures in its place.

    Returns:
        What is to be said of it, and the file's bytes.
    """
    case, output = plan.case, plan.output
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
    file = images.encode(case.image.with_pixels(restored, case.known), suffix_of(output))
    images.write(file, output)
    # What is measured is what is in the file, rounded as it is there; some formats make three channels of one.
    written = images.decode(file, span=case.image.span).pixels[: len(restored)]
    return measure_result(case, meter, written, plan.truth), file


def write_account(
    job: Job, plan: Plan, account: dict[str, Any], given: dict[str, bytes], spread: Callable[[], NDArray[np.float32]]
) -> None:
    """Write the record, the map of the spread if one is wanted, and the record again with what there is to say then.

    Args:
        job: what was done.
        plan: what it came to.
        account: what there is to say; more is added.
        given: the bytes of what was read and written, by what it was for.
        spread: gives the map.
    """
    _write(plan, account)
    if job.outputs.uncertainty:
        account |= write_uncertainty(spread(), Path(job.outputs.uncertainty))
    if plan.folder:
        account["files"] = accounts.whereabouts(job, plan.folder, plan.output, given)
    _write(plan, account)


def compare(
    job: Job, plan: Plan, account: dict[str, Any], display: Display, signals: tuple[signal.Signals, ...]
) -> signal.Signals | None:
    """Hold classical methods beside the result, if that was asked for, and add it to the account; what cut it short."""
    if not job.outputs.compare:
        return None
    display.note(f"{job.source}: written; now the classical methods")
    machine.release_memory(torch.device("cpu"))
    most = memory.limit(replace(plan.settings, device="cpu"))
    contest = Comparison(plan.case, plan.truth, suffix_of(plan.output), plan.folder, most)
    told, ended_by = contest.run(account, signals)
    account |= told
    _write(plan, account)
    return ended_by


def write_page(job: Job, plan: Plan, account: dict[str, Any], given: dict[str, bytes], display: Display) -> None:
    """Make the run's page, if it has one; whatever is wrong with it must not cost what was done before."""
    if plan.folder is None or job.outputs.no_report:
        return
    try:
        page.make(plan.folder, account=account, given=given)
    except Exception as error:  # noqa: BLE001 - picture and record are written: not even a bug may look as if they were not
        told = str(error) if isinstance(error, DipError) else f"{type(error).__name__}: {error}"
        display.note(f"{account['input']}: there is no new {REPORT}: {told}")


def _write(plan: Plan, account: dict[str, Any]) -> None:
    accounts.write(plan.folder / RECORD if plan.folder else None, account)
