"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dipcli
from dipcli import device as machine
from dipcli import files, images, metrics, networks, stopping
from dipcli.case import Case
from dipcli.displays import Display, Silent
from dipcli.engine import Fit, Observer, Prior, fit
from dipcli.errors import DipError, UsageError
from dipcli.interrupt import heeded
from dipcli.job import LOG, Job, check_output, clear, default_output, run_folder
from dipcli.observers import Log, Metrics, Row, Snapshots, pixels, tensor
from dipcli.problem import Problem
from dipcli.settings import Settings


@dataclass(frozen=True)
class Bench:
    """Everything laid out for a fit: what can be found wrong with problem and settings has been found.

    Attributes:
        problem: on the device.
        prior: on the device, as it was made.
        settings: as they will be used: device and precision resolved.
    """

    problem: Problem
    prior: Prior
    settings: Settings


def prepare(problem: Problem, settings: Settings) -> Bench:
    """Choose device and precision, and make a fresh prior there.

    Raises:
        DipError: when the device is not there, memory runs out, or the settings do not go together.
    """
    device = machine.choose(settings.device)
    precision = settings.precision
    if precision == "auto":
        free = networks.architecture(settings.network).free
        precision = "fp32" if free else machine.precision(device)
    settings = replace(settings, device=str(device), precision=precision)
    machine.forget_peak_memory(device)
    with machine.enough_memory(problem.shape):
        prior = networks.build(settings, problem.shape, problem.guide, problem.members)
        return Bench(problem.to(device), prior.to(device), settings)


def solve(bench: Bench, *, stop: stopping.Rule | None = None, observers: Iterable[Observer] = ()) -> Fit:
    """Fit, with as many threads as the settings ask for. The bench's network is fitted in place: use it once.

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    with _threads(bench.settings.threads), machine.enough_memory(bench.problem.shape):
        return fit(bench.problem, bench.prior, bench.settings, stop=stop, observers=observers)


def restore(
    job: Job,
    *,
    display: Display | None = None,
    signals: tuple[signal.Signals, ...] = (),
    announce: Callable[[Settings], None] = lambda _: None,
) -> tuple[dict[str, Any], signal.Signals | None]:
    """Restore one picture and leave what the record asks for.

    Whatever can be found wrong is found before the fit and before anything is touched: a reference of another size, a
    format that cannot hold the result, a device that is not there. What goes wrong with log or snapshots during the
    fit is said and does not end it.

    Args:
        job: what to do.
        display: shows progress.
        signals: the first of these ends the fit and keeps the best picture so far.
        announce: told the settings as they will be used.

    Returns:
        The run's account, which is what `run.json` holds, and the signal that ended it, or None.

    Raises:
        DipError: when something is wrong that the user can put right.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    with machine.enough_memory(picture.pixels.shape):
        case, settings = job.task.case(picture, job.preset, job.arguments, job.given)
    problem, carrier = case.problem, case.picture
    output = job.output or default_output(job, carrier)
    suffix = ".png" if str(output) == "-" else output.suffix.lower()
    folder = run_folder(job.record, output)
    check_output(job, case, output, folder)
    blank = pixels(problem.finish(torch.zeros(problem.shape)))
    if case.render is None:
        images.encode(carrier.showing(blank), suffix)
    elif suffix != ".png":
        raise UsageError(f"-o {output} is to be a figure: name it .png; other formats are written beside it.")
    truth = _truth(job, case, blank.shape)
    bench = prepare(problem, settings)
    for remark in (*case.remarks, *_worries(case, suffix)):
        display.note(f"{job.source}: {remark}")
    announce(bench.settings)

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
        snapshots = Snapshots(folder / "snapshots", carrier, every, at, problem.finish)
        observers.append(_unless_it_fails(snapshots, display))
    meter = Metrics(bench.problem, truth, job.record.log_every, told)

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best picture so far; once more to end at once.")

    with heeded(*signals, say=warn) as interrupt:
        rule = stopping.unless(stopping.chosen(settings), interrupt.asked)
        with display.watching(job.source.name, settings.iterations):
            result = solve(bench, stop=rule, observers=[meter, *observers])
        account = _account(job, output, data, bench, result) | _deliver(case, result, output, meter, truth)
        if folder:
            files.write(folder / "run.json", (json.dumps(account, indent=2, default=str) + "\n").encode())
    return account, interrupt.received


def _deliver(
    case: Case, result: Fit, output: Path, meter: Metrics, truth: NDArray[np.float32] | None
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
    file = images.encode(case.picture.showing(restored, case.known), ".png" if str(output) == "-" else output.suffix)
    images.write(file, output)
    # What is measured is what is in the file, rounded as it is there; some formats make three channels of one.
    written = images.decode(file, span=case.picture.span).pixels[: len(restored)]
    return measured(case, meter, written, truth)


def measured(
    case: Case, meter: Metrics, restored: NDArray[np.float32], truth: NDArray[np.float32] | None
) -> dict[str, Any]:
    """How near a restored picture, (C, H, W), is to the measurement, and to the truth where that is known.

    Returns:
        psnr_noisy; psnr_ref, psnr_ref_y, psnr_ref_unknown, ssim_ref and the baselines' own, where there is a truth;
        None for infinite; the task's conclusion.
    """
    measures = {"psnr_noisy": meter.agreement(tensor(restored, meter.problem.measured.device))}
    told: dict[str, Any] = {}
    if truth is not None:
        compare = partial(metrics.likeness, reference=truth, border=case.border, known=case.known)
        measures |= {name.replace("psnr", "psnr_ref", 1): value for name, value in compare(restored).items()}
        measures["ssim_ref"] = measures.pop("ssim")
        told["baselines"] = {name: _finite(compare(baseline)) for name, baseline in case.baselines.items()}
    conclusion = case.conclude(restored) if case.conclude else None
    return _finite(measures) | told | {"conclusion": conclusion}


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


def _worries(case: Case, suffix: str) -> list[str]:
    """What the format of the output would spoil."""
    if case.known is not None and suffix.lower() in (".jpg", ".jpeg"):
        return ["JPEG changes the known pixels a little: name the output .png to have them bit for bit."]
    return []


def _finite(measures: Mapping[str, float]) -> dict[str, float | None]:
    """The same with None for infinite, which JSON cannot say."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}


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


def _account(job: Job, output: Path, data: bytes, bench: Bench, result: Fit) -> dict[str, Any]:
    """Everything that is needed to do the run again and to know how it went."""
    device = bench.prior.code.device
    return {
        "version": dipcli.__version__,
        "argv": list(job.argv),
        "task": job.task.name,
        "arguments": dict(job.arguments),
        "input": str(job.source),
        "input_sha256": hashlib.sha256(data).hexdigest(),
        "output": str(output),
        "preset": job.preset,
        "settings": asdict(bench.settings),
        "parameters": sum(each.numel() for each in bench.prior.network.parameters()),
        "input_depth": bench.prior.code.shape[1],
        "seed": bench.settings.seed,
        "device": machine.name(device),
        "precision": bench.settings.precision,
        "threads": bench.settings.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iterations": result.steps,
        "kept": result.kept,
        "reason": result.reason,
        "events": list(result.events),
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": machine.peak_memory(device),
    }


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
