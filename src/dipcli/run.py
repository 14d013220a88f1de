"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli import account as accounts
from dipcli import device as machine
from dipcli import images, stopping
from dipcli.bench import Bench, planned, prepare, solve
from dipcli.case import Case
from dipcli.displays import Display, Silent
from dipcli.engine import Observer
from dipcli.errors import DipError, UsageError
from dipcli.interrupt import heeded
from dipcli.job import LOG, Job, check_output, clear, default_output, run_folder
from dipcli.observers import Log, Metrics, Row, Snapshots, Spread, pixels
from dipcli.picture import Picture
from dipcli.registry import DEFAULT_PRESET
from dipcli.restarts import Deadline, Runs
from dipcli.settings import Settings


def restore(
    job: Job,
    *,
    display: Display | None = None,
    signals: tuple[signal.Signals, ...] = (),
    announce: Callable[[str, Settings, str], None] = lambda *_: None,
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

    Returns:
        The run's account, which is what `run.json` holds, and the signal that ended it, or None.

    Raises:
        DipError: when something is wrong that the user can put right.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    preset = job.preset or DEFAULT_PRESET
    plan = _laid_out(job, picture, preset)
    deadline = Deadline(plan.settings.budget())
    if plan.settings.time and job.preset is None:
        preset = planned(job.task, partial(_posed, job, picture), deadline)
        plan = _laid_out(job, picture, preset)
        display.note(f"{job.source}: a time of {plan.settings.time} goes best with the preset {preset}")
    case, settings, output, folder, truth = plan
    bench = prepare(case.problem, settings, beside=case.size, watched=Spread.pictures if job.record.uncertainty else 0)
    for remark in (*case.remarks, *_worries(case, output)):
        display.note(f"{job.source}: {remark}")
    stopping.chosen(settings).start(bench.first)  # what it refuses, it refuses before anything is touched
    rule = stopping.told(stopping.chosen(settings), bench.problem)
    if settings.stop.partition(":")[0] == stopping.Auto.name:
        display.note(f"{job.source}: {rule}")
    announce(preset, bench.settings, _foretold(job, preset, bench, display))

    told: list[Callable[[Row], None]] = [display.tell]
    observers: list[Observer] = [*case.observers, display]
    if folder:
        clear(folder, spared=job.read())
        if case.damaged is not None:
            damaged = picture.showing(case.damaged)
            kind = images.default_suffix(damaged)
            images.write(images.encode(damaged, kind), folder / f"damaged{kind}")
        told.append(_unless_it_fails(Log(folder / LOG), display))
        every, at = job.record.snapshot_every, job.record.snapshots_asked()
        snapshots = Snapshots(folder / "snapshots", case.picture, every, at, case.problem.finish)
        observers.append(_unless_it_fails(snapshots, display))
    spread = Spread()
    if job.record.uncertainty:
        observers.append(spread)
    meter = Metrics(bench.problem, truth, job.record.log_every, told)

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best picture so far; once more to end at once.")

    with heeded(*signals, say=warn) as interrupt:
        with display.watching(job.source.name, settings.iterations):
            result = solve(
                bench,
                deadline=deadline,
                asked=interrupt.asked,
                observers=[meter, *observers],
                say=lambda text: display.note(f"{job.source}: {text}"),
            )
        account = {"rule": rule, **accounts.account(job, preset, output, data, bench, result)}
        account |= _deliver(case, result, output, meter, truth)
        account["peak_memory_bytes"] = machine.peak_memory(bench.prior.code.device)
        record = folder / "run.json" if folder else None
        accounts.write(record, account)
        if job.record.uncertainty:
            account |= accounts.written_spread(spread.map(result, case.known), Path(job.record.uncertainty))
            accounts.write(record, account)
    return account, interrupt.received


def _foretold(job: Job, preset: str, bench: Bench, display: Display) -> str:
    """What memory and time it will take, in words; of a large picture or tiles it is said now, and nothing is left."""
    outlook = bench.outlook
    iterations = job.task.usual(preset, bench.settings) * (bench.settings.runs or 1)
    words = outlook.told(iterations, bench.settings.budget())
    if outlook.pace is None and not outlook.places:
        return words
    display.note(f"{job.source}: {words}")
    return ""


def _posed(job: Job, picture: Picture, preset: str) -> tuple[Case, Settings]:
    """What the task makes of the picture with a preset."""
    with machine.enough_memory(picture.pixels.shape):
        return job.task.case(picture, preset, job.arguments, job.given)


class _Plan(NamedTuple):
    """What a job comes to with a preset, checked."""

    case: Case
    settings: Settings
    output: Path
    folder: Path | None
    truth: NDArray[np.float32] | None


def _laid_out(job: Job, picture: Picture, preset: str) -> _Plan:
    """What the job comes to with this preset.

    Raises:
        DipError: when something is wrong with it.
    """
    case, settings = _posed(job, picture, preset)
    output = job.output or default_output(job, case.picture)
    folder = run_folder(job.record, output)
    check_output(job, case, output, folder)
    blank = pixels(case.problem.finish(torch.zeros(case.problem.shape)))
    _check_format(case, blank, output)
    return _Plan(case, settings, output, folder, _truth(job, case, blank.shape))


def _suffix(output: Path) -> str:
    """Of the file that is written; on standard output it is PNG."""
    return ".png" if str(output) == "-" else output.suffix.lower()


def _check_format(case: Case, blank: NDArray[np.float32], output: Path) -> None:
    """Find now that a file of the output's suffix cannot hold the result, of which `blank` has the shape."""
    suffix = _suffix(output)
    if case.render is None:
        images.encode(case.picture.showing(blank), suffix)
    elif suffix != ".png":
        raise UsageError(f"-o {output} is to be a figure: name it .png; other formats are written beside it.")


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
    file = images.encode(case.picture.showing(restored, case.known), _suffix(output))
    images.write(file, output)
    # What is measured is what is in the file, rounded as it is there; some formats make three channels of one.
    written = images.decode(file, span=case.picture.span).pixels[: len(restored)]
    return accounts.measured(case, meter, written, truth)


def _truth(job: Job, case: Case, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The true picture, (C, H, W), of the size and channels of the one to restore, if there is one."""
    if job.reference is None:
        return case.truth
    if case.render:
        raise UsageError(f"--reference has nothing to be compared with: dip {job.task.name} writes a figure.")
    if case.truth is not None:
        raise UsageError("--reference is not needed where the damage is simulated: the input is the true picture.")
    truth = images.read(job.reference, span=case.picture.span)[0].pixels
    if truth.shape != shape:
        have, want = (f"{w}x{h} with {c} channels" for c, h, w in (truth.shape, shape))
        raise DipError(f"--reference {job.reference} is {have}, the result will be {want}: give the matching picture.")
    return truth


def _worries(case: Case, output: Path) -> list[str]:
    """What the format of the output would spoil."""
    if case.known is not None and _suffix(output) in (".jpg", ".jpeg"):
        return ["JPEG changes the known pixels a little: name the output .png to have them bit for bit."]
    return []


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
