"""Decide everything about a run before it starts, and find everything that can be found wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError, UsageError
from dipcli.fitting.control import Deadline
from dipcli.fitting.machine import memory
from dipcli.fitting.solve import PreparedFit, prepare
from dipcli.fitting.state import RunsState, TilesState
from dipcli.images import Image
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun, find_matching_run
from dipcli.records.run_files import check_output, default_output, run_folder
from dipcli.runs.observers import pixels
from dipcli.runs.time_budget import choose_preset
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings
from dipcli.stopping import Auto
from dipcli.tasks.case import Case
from dipcli.tasks.registry import DEFAULT_PRESET


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything decided about a run."""

    job: Job  # what was asked for
    image: Image  # the input, as it was read
    preset: str
    case: Case  # what the task makes of the image
    prepared: PreparedFit  # final settings, device, precision, prior, the rule with its started state, the estimate
    rule: str  # the stopping rule, in words
    output: Path  # where the result goes
    folder: Path | None  # the run folder; None for none
    truth: NDArray[np.float32] | None  # the true image, (C, H, W), for the figures; None if it is not known
    interrupted_run: InterruptedRun | None  # the run to resume; None for a new one
    progress: RunsState | TilesState | None  # how far that had come; None if it starts from scratch
    deadline: Deadline  # the time budget
    remarks: tuple[str, ...]  # messages to the user

    @property
    def settings(self) -> Settings:
        """The settings as they are used."""
        return self.prepared.settings

    def describe_estimate(self) -> str:
        """The memory and time that the run will take, in words."""
        iterations = self.job.task.usual(self.preset, self.settings) * (self.settings.runs or 1)
        return self.prepared.estimate.describe(iterations, self.settings.time_budget())

    @property
    def is_large(self) -> bool:
        """Whether the user should know the estimate before the fit: its time was measured, or it runs in tiles."""
        estimate = self.prepared.estimate
        return estimate.seconds_per_iteration is not None or bool(estimate.places)


def make_plan(job: Job, image: Image, resume: InterruptedRun | bool) -> Plan:
    """Decide everything about a run; `resume` is True for the interrupted run of this very job, if there is one.

    Raises:
        DipError: if something is wrong that the user can put right.
    """

    @lru_cache(maxsize=1)
    def pose(preset: str) -> tuple[Case, Settings]:
        with memory.translate_memory_errors(image.pixels.shape):
            return job.task.case(image, preset, job.arguments, job.given)

    remarks: list[str] = []
    preset = job.preset or DEFAULT_PRESET
    case, settings = pose(preset)
    output, folder, truth = _check_destination(job, case)
    before = resume if isinstance(resume, InterruptedRun) else None
    if before:
        before.check_inputs(job)
    elif resume and folder:
        before = find_matching_run(job, output, folder)
    deadline = Deadline(settings.time_budget())
    if before:
        preset = before.preset
    elif settings.time and job.preset is None:
        preset = choose_preset(job.task, pose, deadline)
        remarks.append(f"with --time {settings.time}, using preset {preset}")
    if pose(preset)[0] is not case:
        case, settings = pose(preset)
        output, folder, truth = _check_destination(job, case)
    job.outputs.check_end(settings.iterations or settings.max_iterations)
    stop = settings.rule()
    prepared = prepare(
        case.problem,
        settings,
        stop=stop,
        other_bytes=case.bytes_in_memory,
        observer_images=Uncertainty.images_held if job.outputs.uncertainty else 0,
        places=before.places if before else None,
    )
    rule = stop.describe(prepared.problem)
    remarks += [*prepared.remarks, *case.remarks, *_warn_of_losses(case, output)]
    if settings.stop.partition(":")[0] == Auto.name:
        remarks.append(rule)
    progress = before.progress(prepared) if before else None
    if progress:
        tile, run, iteration = progress.reached
        place = (f"tile {tile}, " if tile else "") + (f"run {run}, " if run > 1 else "")
        remarks.append(f"resuming from {place}iteration {iteration}")
        deadline = Deadline(settings.time_budget(), spent=progress.seconds)
    return Plan(
        job=job,
        image=image,
        preset=preset,
        case=case,
        prepared=prepared,
        rule=rule,
        output=output,
        folder=folder,
        truth=truth,
        interrupted_run=before,
        progress=progress,
        deadline=deadline,
        remarks=tuple(remarks),
    )


def suffix_of(output: Path) -> str:
    """The suffix of the output file; PNG on standard output."""
    return ".png" if str(output) == "-" else output.suffix.lower()


def _check_destination(job: Job, case: Case) -> tuple[Path, Path | None, NDArray[np.float32] | None]:
    """Return the output, the run folder and the true image.

    Raises:
        DipError: if the result cannot be written there, or the reference does not match.
    """
    output = job.output or default_output(job, case.image)
    folder = run_folder(job.outputs, output)
    blank_fit, finish = torch.zeros(case.problem.shape), case.problem.finish
    blank = pixels(blank_fit if getattr(finish, "keeps_shape", False) else finish(blank_fit))
    check_output(job, case, output, folder, size_bytes=blank.size * case.image.dtype.itemsize)
    suffix = suffix_of(output)
    if case.render is None:
        images.check(case.image.with_pixels(blank), suffix)
    elif suffix != ".png":
        raise UsageError(f"-o {output}: the result is a figure; name it .png. Other formats are written beside it.")
    return output, folder, _read_truth(job, case, blank.shape)


def _read_truth(job: Job, case: Case, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The true image, (C, H, W), of the size and channels of the one to restore, if there is one."""
    if job.reference is None:
        return case.truth
    if case.render:
        raise UsageError(f"--reference does not apply: dip {job.task.name} writes a figure. Leave it out.")
    if case.truth is not None:
        raise UsageError("--reference is not needed: the damage is simulated, so the input is the true image.")
    reference = images.read(job.reference)[0]
    truth = reference.match(case.image).pixels
    if truth.shape != shape:
        have, want = (f"{w}x{h} with {c} channels" for c, h, w in (truth.shape, shape))
        raise DipError(f"--reference {job.reference} is {have}, the result will be {want}: give the matching image.")
    return truth


def _warn_of_losses(case: Case, output: Path) -> list[str]:
    """What the format of the output cannot keep."""
    written, remarks = images.find_writable(suffix_of(output)), list(case.image.remarks)
    if not case.render and (lost := written.list_losses(case.image)):
        remarks.append(
            f"{written.name} cannot hold the image's {', '.join(lost)}: name the output .png or .tif to keep more."
        )
    if case.known is not None and not written.lossless:
        remarks.append(
            f"{written.name} changes the known pixels a little: name the output .png to keep them bit for bit."
        )
    return remarks
