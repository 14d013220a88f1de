"""Problem + Settings -> files on disk: the composition root."""

from __future__ import annotations

import hashlib
import json
import platform
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
from dipcli.engine import Fit, Observer, fit
from dipcli.errors import DipError, UsageError
from dipcli.observers import Log, Metrics, Row, Snapshots, pixels
from dipcli.problem import Problem
from dipcli.registry import Task
from dipcli.settings import Precision, Record, Settings


@dataclass(frozen=True)
class Solution:
    """A fit, and the machine and prior that it took.

    Attributes:
        fit: the result.
        settings: as they were used: precision and device resolved.
        device: the device's own name.
        parameters: variables fitted.
        input_depth: channels of z.
        threads: CPU threads used.
        peak_memory: bytes; None where it is not known.
    """

    fit: Fit
    settings: Settings
    device: str
    parameters: int
    input_depth: int
    threads: int
    peak_memory: int | None


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


def solve(
    problem: Problem,
    settings: Settings,
    *,
    stop: stopping.Rule | None = None,
    observers: Iterable[Observer] = (),
) -> Solution:
    """Fit a fresh prior to a problem on the device that the settings ask for.

    Raises:
        DipError: when the device is not there, memory runs out or the fit runs away.
    """
    device = machine.choose(settings.device)
    # A variable pixel is stored, not computed: rounding it to bf16 would only lose grey levels.
    wanted: Precision = "fp32" if settings.network == networks.Pixels.name else settings.precision
    settings = replace(settings, device=str(device), precision=machine.precision(wanted, device))
    with _threads(settings.threads) as threads, machine.enough_memory(problem.shape):
        prior = networks.build(settings, problem.shape).to(device)
        result = fit(problem.to(device), prior, settings, stop=stop, observers=observers)
    return Solution(
        fit=result,
        settings=settings,
        device=machine.name(device),
        parameters=sum(each.numel() for each in prior.network.parameters()),
        input_depth=prior.code.shape[1],
        threads=threads,
        peak_memory=machine.peak_memory(device),
    )


def restore(
    job: Job, *, display: Display | None = None, asked: Callable[[], str | None] = lambda: None
) -> dict[str, Any]:
    """Restore one picture and leave what the record asks for.

    Whatever can be found wrong is found before the fit: a reference of another size, a format that cannot hold the
    result, a folder that cannot be made.

    Args:
        job: what to do.
        display: shows progress.
        asked: answers why the run should end now, or None; the best picture so far is written then too.

    Returns:
        The run's account: what `run.json` holds.

    Raises:
        DipError: when something is wrong that the user can put right.
    """
    display = display or Silent()
    picture, data = images.read(job.source)
    problem = job.task.pose(picture, **job.arguments)
    output = job.output or default_output(job, picture)
    reference = None if job.reference is None else _reference(job.reference, problem.shape)
    _check_output(job, output, picture.showing(np.zeros(problem.shape, dtype=np.float32)))
    folder = run_folder(job.record, output)

    told: list[Callable[[Row], None]] = [display.tell]
    observers: list[Observer] = [display]
    if folder:
        _clear(folder)
        told.append(Log(folder / "log.csv"))
        every, at = job.record.snapshot_every, job.record.snapshots_asked()
        observers.append(Snapshots(folder / "snapshots", picture, every, at, problem.finish))
    meter = Metrics(problem, reference, job.record.log_every, told)
    rule = stopping.unless(stopping.chosen(job.settings), asked)
    display.begin(job.source.name, job.settings.iterations)
    solution = solve(problem, job.settings, stop=rule, observers=[meter, *observers])

    restored = picture.showing(pixels(solution.fit.image))
    images.write(restored, output)
    account = _account(job, output, data, solution) | meter.of(restored.written())
    if folder:
        files.write(folder / "run.json", (json.dumps(account, indent=2, default=str) + "\n").encode())
    return account


def default_output(job: Job, picture: images.Picture) -> Path:
    """noisy.png becomes noisy.denoised.png beside it, or noisy.png in a folder; - stays -."""
    if str(job.source) == "-":
        return job.source
    suffix = images.default_suffix(picture)
    if job.folder is None:
        return job.source.with_name(f"{job.source.stem}.{job.task.done}{suffix}")
    files.make_folder(job.folder)
    return job.folder / f"{job.source.stem}{suffix}"


def run_folder(record: Record, output: Path) -> Path | None:
    """Where log, snapshots and run record go: <output stem>.dip beside the output; None where none are wanted."""
    if record.run_dir:
        return Path(record.run_dir)
    return None if record.no_run_dir or str(output) == "-" else output.with_suffix(".dip")


def _reference(path: Path, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """The true picture, (C, H, W), of the size and channels of the one to restore."""
    truth = images.read(path)[0].pixels
    if truth.shape != shape:
        have, want = (f"{w}x{h} with {c} channels" for c, h, w in (truth.shape, shape))
        raise DipError(f"--reference {path} is {have}, the result will be {want}: give the matching picture.")
    return truth


def _check_output(job: Job, output: Path, blank: images.Picture) -> None:
    """Find now what would go wrong when hours of work are to be written."""
    if str(output) == "-":
        images.encode(blank, ".png")
        return
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file in it, as {output / job.source.name}.")
    if not output.parent.is_dir():
        raise DipError(f"There is no folder {output.parent} to write {output.name} to: make it first.")
    images.encode(blank, output.suffix)
    itself = str(job.source) != "-" and output.exists() and output.samefile(job.source)
    if itself and not job.record.overwrite:
        raise UsageError(f"-o {output} is the input itself: choose another name, or say --overwrite.")


def _clear(folder: Path) -> None:
    """Make the run's folder, without what an earlier run left there; other files in it stay."""
    files.make_folder(folder)
    snapshots = (folder / "snapshots").glob(6 * "[0-9]" + "*.png")
    for old in (folder / "run.json", *snapshots):
        old.unlink(missing_ok=True)


def _account(job: Job, output: Path, data: bytes, solution: Solution) -> dict[str, Any]:
    """Everything that is needed to do the run again and to know how it went."""
    return {
        "version": dipcli.__version__,
        "argv": list(job.argv),
        "task": job.task.name,
        "arguments": dict(job.arguments),
        "input": str(job.source),
        "input_sha256": hashlib.sha256(data).hexdigest(),
        "output": str(output),
        "preset": job.preset,
        "settings": asdict(solution.settings),
        "parameters": solution.parameters,
        "input_depth": solution.input_depth,
        "seed": solution.settings.seed,
        "device": solution.device,
        "precision": solution.settings.precision,
        "threads": solution.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iterations": solution.fit.steps,
        "kept": solution.fit.kept,
        "reason": solution.fit.reason,
        "seconds": round(solution.fit.seconds, 3),
        "peak_memory_bytes": solution.peak_memory,
    }


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """So many CPU threads inside, as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield wanted or before
    finally:
        torch.set_num_threads(before)
