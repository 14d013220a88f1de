"""What a job comes to, with everything found wrong that can be found before the fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError, UsageError
from dipcli.fitting import device as machine
from dipcli.fitting.control import Deadline
from dipcli.images.image import Image
from dipcli.records.job import Job
from dipcli.records.resume import InterruptedRun, find_matching_run
from dipcli.records.run_files import check_output, default_output, run_folder
from dipcli.runs.display import Display
from dipcli.runs.observers import pixels
from dipcli.runs.time_budget import choose_preset as fitting_preset
from dipcli.settings import Settings
from dipcli.tasks.case import Case
from dipcli.tasks.registry import DEFAULT_PRESET


class Plan(NamedTuple):
    """What a job comes to with a preset, checked."""

    case: Case
    settings: Settings
    output: Path
    folder: Path | None
    truth: NDArray[np.float32] | None


def make_plan(
    job: Job, picture: Image, resume: InterruptedRun | bool, display: Display
) -> tuple[str, Plan, InterruptedRun | None, Deadline]:
    """The preset, what the job comes to with it, the run to go on with, and when the time is up."""
    preset = job.preset or DEFAULT_PRESET
    plan = _laid_out(job, picture, preset)
    before = resume if isinstance(resume, InterruptedRun) else None
    if before:
        before.check(job)
    elif resume and plan.folder:
        before = find_matching_run(job, plan.output, plan.folder)
    deadline = Deadline(plan.settings.time_budget())
    if before and before.preset != preset:
        preset = before.preset
        plan = _laid_out(job, picture, preset)
    elif not before and plan.settings.time and job.preset is None:
        preset = fitting_preset(job.task, partial(_posed, job, picture), deadline)
        plan = _laid_out(job, picture, preset)
        display.note(f"{job.source}: a time of {plan.settings.time} goes best with the preset {preset}")
    return preset, plan, before, deadline


def _laid_out(job: Job, picture: Image, preset: str) -> Plan:
    """What the job comes to with this preset.

    Raises:
        DipError: when something is wrong with it.
    """
    case, settings = _posed(job, picture, preset)
    output = job.output or default_output(job, case.image)
    folder = run_folder(job.outputs, output)
    blank = pixels(case.problem.finish(torch.zeros(case.problem.shape)))
    check_output(job, case, output, folder, room=blank.size * case.image.dtype.itemsize)
    _check_format(case, blank, output)
    return Plan(case, settings, output, folder, _truth(job, case, blank.shape))


def _posed(job: Job, picture: Image, preset: str) -> tuple[Case, Settings]:
    """What the task makes of the picture with a preset."""
    with machine.translate_memory_errors(picture.pixels.shape):
        return job.task.case(picture, preset, job.arguments, job.given)


def suffix_of(output: Path) -> str:
    """Of the file that is written; on standard output it is PNG."""
    return ".png" if str(output) == "-" else output.suffix.lower()


def _check_format(case: Case, blank: NDArray[np.float32], output: Path) -> None:
    """Find now that a file of the output's suffix cannot hold the result, of which `blank` has the shape."""
    suffix = suffix_of(output)
    if case.render is None:
        images.check(case.image.with_pixels(blank), suffix)
    elif suffix != ".png":
        raise UsageError(f"-o {output} is to be a figure: name it .png; other formats are written beside it.")


def _truth(job: Job, case: Case, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The true picture, (C, H, W), of the size and channels of the one to restore, if there is one."""
    if job.reference is None:
        return case.truth
    if case.render:
        raise UsageError(f"--reference has nothing to be compared with: dip {job.task.name} writes a figure.")
    if case.truth is not None:
        raise UsageError("--reference is not needed where the damage is simulated: the input is the true picture.")
    truth = images.read(job.reference, span=case.image.span)[0].pixels
    if truth.shape != shape:
        have, want = (f"{w}x{h} with {c} channels" for c, h, w in (truth.shape, shape))
        raise DipError(f"--reference {job.reference} is {have}, the result will be {want}: give the matching picture.")
    return truth


def warnings_for(case: Case, output: Path) -> list[str]:
    """What the format of the output would spoil."""
    if suffix_of(output) == ".bmp" and (case.image.profile or case.image.exif):
        return ["BMP has no place for colour profile and EXIF: name the output .png to keep them."]
    if case.known is not None and suffix_of(output) in (".jpg", ".jpeg"):
        return ["JPEG changes the known pixels a little: name the output .png to have them bit for bit."]
    return []
