"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import hashlib
import json
import platform
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import dipcli
from dipcli import device as machine
from dipcli import files, images, networks, stopping
from dipcli.displays import Display, Silent
from dipcli.engine import Fit, Observer, Prior, fit
from dipcli.errors import DipError, UsageError
from dipcli.interrupt import heeded
from dipcli.observers import Log, Metrics, Row, Snapshots, pixels
from dipcli.picture import Picture
from dipcli.problem import Problem
from dipcli.registry import Task
from dipcli.settings import Record, Settings


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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to restore, and all that was asked for.

    Attributes:
        task: the kind of damage.
        source: the damaged picture; `-` is standard input.
        output: where the restored one goes; `-` is PNG on standard output.
        folder: where it goes under the source's name when `output` is None; beside the source when both are.
        preset: its name, for the record.
        settings: how to fit.
        record: what to write beside the picture.
        arguments: the task's own.
        reference: the true picture, for the log alone.
        argv: the command line, for the record.
    """

    task: Task
    source: Path
    settings: Settings
    output: Path | None = None
    folder: Path | None = None
    preset: str = ""
    record: Record = field(default_factory=Record)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    reference: Path | None = None
    argv: tuple[str, ...] = ()


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
        return Bench(problem.to(device), networks.build(settings, problem.shape).to(device), settings)


def solve(bench: Bench, *, stop: stopping.Rule | None = None, observers: Iterable[Observer] = ()) -> Fit:
    """Fit, with as many threads as the settings ask for. The bench's network is fitted in place: use it once.

    Raises:
        DipError: when memory runs out or the fit runs away.
    """
    with _threads(bench.settings.threads), machine.enough_memory(bench.problem.shape):
        return fit(bench.problem, bench.prior, bench.settings, stop=stop, observers=observers)


def restore(
    job: Job, *, display: Display | None = None, signals: tuple[signal.Signals, ...] = ()
) -> tuple[dict[str, Any], signal.Signals | None]:
    """Restore one picture and leave what the record asks for.

    Whatever can be found wrong is found before the fit and before anything is touched: a reference of another size, a
    format that cannot hold the result, a device that is not there. What goes wrong with log or snapshots during the
    fit is said and does not end it.

    Args:
        job: what to do.
        display: shows progress.
        signals: the first of these ends the fit and keeps the best picture so far.

    Returns:
        The run's account, which is what `run.json` holds, and the signal that ended it, or None.

    Raises:
        DipError: when something is wrong that the user can put right.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    problem = job.task.pose(picture, **job.arguments)
    output = job.output or default_output(job, picture)
    suffix = ".png" if str(output) == "-" else output.suffix
    folder = run_folder(job.record, output)
    _check_output(job, output, folder)
    images.encode(picture.showing(np.zeros(problem.shape, dtype=np.float32)), suffix)
    reference = None if job.reference is None else _reference(job.reference, problem.shape, picture.span)
    bench = prepare(problem, job.settings)

    told: list[Callable[[Row], None]] = [display.tell]
    observers: list[Observer] = [display]
    if folder:
        clear(folder)
        told.append(_unless_it_fails(Log(folder / "log.csv"), display))
        every, at = job.record.snapshot_every, job.record.snapshots_asked()
        snapshots = Snapshots(folder / "snapshots", picture, every, at, problem.finish)
        observers.append(_unless_it_fails(snapshots, display))
    meter = Metrics(bench.problem, reference, job.record.log_every, told)

    def warn() -> None:
        display.note("Ending after this iteration, keeping the best picture so far; once more to end at once.")

    with heeded(*signals, say=warn) as interrupt:
        rule = stopping.unless(stopping.chosen(job.settings), interrupt.asked)
        with display.watching(job.source.name, job.settings.iterations):
            result = solve(bench, stop=rule, observers=[meter, *observers])
        file = images.encode(picture.showing(pixels(result.image)), suffix)
        images.write(file, output)
        written = images.decode(file, span=picture.span).pixels
        account = _account(job, output, data, bench, result) | meter.of(written)
        if folder:
            files.write(folder / "run.json", (json.dumps(account, indent=2, default=str) + "\n").encode())
    return account, interrupt.received


def default_output(job: Job, picture: Picture) -> Path:
    """noisy.png becomes noisy.denoised.png beside it, or noisy.png in a folder; - stays -."""
    if str(job.source) == "-":
        return job.source
    suffix = images.default_suffix(picture)
    if job.folder is None:
        return job.source.with_name(f"{job.source.stem}.{job.task.result}{suffix}")
    files.make_folder(job.folder)
    return job.folder / f"{job.source.stem}{suffix}"


def run_folder(record: Record, output: Path) -> Path | None:
    """Where log, snapshots and run record go: <output stem>.dip beside the output; None where none are wanted."""
    if record.run_dir:
        return Path(record.run_dir)
    return None if record.no_run_dir or str(output) == "-" else output.parent / f"{output.stem}.dip"


def clear(folder: Path) -> None:
    """Make the run's folder, without what an earlier run left there; other files in it stay.

    Raises:
        DipError: when the folder cannot be made or emptied.
    """
    files.make_folder(folder)
    try:
        for old in (folder / "run.json", *(folder / "snapshots").glob(6 * "[0-9]" + "*.png")):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise DipError(f"Cannot clear the run folder {folder} ({error.strerror}): choose another --run-dir.") from error


def _reference(path: Path, shape: tuple[int, int, int], span: tuple[float, float]) -> NDArray[np.float32]:
    """The true picture, (C, H, W), of the size and channels of the one to restore."""
    truth = images.read(path, span=span)[0].pixels
    if truth.shape != shape:
        have, want = (f"{w}x{h} with {c} channels" for c, h, w in (truth.shape, shape))
        raise DipError(f"--reference {path} is {have}, the result will be {want}: give the matching picture.")
    return truth


def _check_output(job: Job, output: Path, folder: Path | None) -> None:
    """Find now what would go wrong when hours of work are to be written."""
    if str(output) == "-":
        return
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file in it, as {output / job.source.name}.")
    files.check_writable(output.parent)
    itself = str(job.source) != "-" and output.exists() and output.samefile(job.source)
    if itself and not job.record.overwrite:
        raise UsageError(f"-o {output} is the input itself: choose another name, or say --overwrite.")
    if folder and folder.resolve() == output.resolve():
        raise UsageError(f"--run-dir {folder} is the output itself: choose another folder.")


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
