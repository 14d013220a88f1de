"""Choose the preset that fits into a time budget."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dipcli.errors import DipError
from dipcli.fitting.control import Deadline
from dipcli.fitting.cost import measure_cost
from dipcli.fitting.estimate import estimate_resources
from dipcli.fitting.machine import memory
from dipcli.fitting.solve import LARGE_IMAGE_PIXELS, TRIAL_ITERATIONS, TRIAL_WINDOW, resolve_settings, use_threads
from dipcli.settings import Settings
from dipcli.tasks.case import Case
from dipcli.tasks.registry import Task

BY_SPEED = ("fast", "balanced", "best")


def choose_preset(task: Task, pose: Callable[[str], tuple[Case, Settings]], deadline: Deadline) -> str:
    """Return the best preset whose usual number of iterations fits into the time left.

    The time is extrapolated from a few iterations, which are part of the budget. A slower preset is tried only if the
    faster one fits. `pose` returns what the task makes of the image with a preset.

    Raises:
        DipError: if not even the fastest preset can be tried.
    """
    chosen = ""
    for preset in (name for name in BY_SPEED if name in task.presets):
        try:
            case, settings = pose(preset)
            seconds = _seconds_per_iteration(case, settings) * task.usual(preset, settings) * (settings.runs or 1)
        except DipError:
            if chosen:
                break  # too large for this machine; the faster preset fits
            raise
        if chosen and not deadline.has_room(seconds):
            break
        chosen = preset
        if not deadline.has_room(seconds):
            break
    return chosen


def _seconds_per_iteration(case: Case, settings: Settings) -> float:
    """Measure the time of an iteration; for a large image, that of a window is scaled."""
    problem, settings = case.problem, resolve_settings(settings)
    size = problem.shape[1:]
    side = TRIAL_WINDOW if size[0] * size[1] >= LARGE_IMAGE_PIXELS else max(size)
    memory.keep_freed(torch.device(settings.device))
    with use_threads(settings.threads), memory.translate_memory_errors(problem.shape):
        cost, _ = measure_cost(problem, settings, side=side, trials=TRIAL_ITERATIONS)
        return estimate_resources(problem, settings, cost, case.bytes_in_memory).seconds_per_iteration or 0.0
