"""Outliers among several runs of one fit: runs that make the mean worse."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from dipcli.errors import DipError
from dipcli.fitting.results import Run
from dipcli.problem import Problem

OUTLIER_Z = 2.0  # standard errors by which an outlier increases the error of the mean,
OUTLIER_MIN_EXCESS = 0.01  # and the least increase, as a fraction of the error
MIN_HELDOUT = 16  # positions; fewer say nothing about a run
MAX_ERROR_RATIO = 10**0.5  # to the error of the best run, 5 dB: above it a run is an outlier if nothing is held out


def mark_outliers(problem: Problem, fitted: Problem, runs: list[Run]) -> list[Run]:
    """Return the runs with `outlier` set.

    With held-out pixels, which no run has seen, runs are added to the mean from the best to the worst. A run is an
    outlier if with it the mean predicts these pixels clearly worse. Without them, a run with a smaller error may just
    have fitted more of the noise. Then a run is an outlier if its error is 5 dB above that of the best.

    Args:
        problem: the whole measurement.
        fitted: the same without the pixels that the stopping rule holds out.
        runs: at least one.

    Raises:
        DipError: if the measurement of no run is finite.
    """
    heldout = find_heldout(problem, fitted)
    images = [run.fit.average for run in runs]
    if heldout is None:
        errors = [float(((problem.operator(image) - problem.measured) ** 2).mean()) for image in images]
        finite = [error for error in errors if math.isfinite(error)]
        if not finite:
            raise DipError("The measurement of the fitted image has values that are not finite: try a smaller --lr.")
        agreeing = {number for number, error in enumerate(errors) if error <= MAX_ERROR_RATIO * min(finite)}
    else:
        agreeing = _find_agreeing(problem, heldout, images)
    return [replace(run, outlier=number not in agreeing) for number, run in enumerate(runs)]


def find_heldout(problem: Problem, fitted: Problem) -> Tensor | None:
    """Return the mask of the held-out values of the measurement; None if there are none."""
    ones = torch.ones_like(problem.measured)
    full, reduced = (ones if part.weight is None else part.weight.expand_as(ones) for part in (problem, fitted))
    heldout = full > reduced
    return heldout if heldout.any() else None


def _find_agreeing(problem: Problem, heldout: Tensor, images: list[Tensor]) -> set[int]:
    """Return the numbers of the images whose mean predicts the held-out values best."""

    def errors(image: Tensor) -> Tensor:
        """Squared error at each held-out position, averaged over the channels: their errors are not independent."""
        weight = heldout.to(problem.measured)
        error = weight * (problem.operator(image) - problem.measured) ** 2
        if error.ndim > 2:  # noqa: PLR2004 - (C, H, W)
            error, weight = (values.flatten(0, -3).sum(dim=0) for values in (error, weight))
            error = error / weight.clamp(min=1)
        return error[weight > 0]

    own_errors = [float(errors(image).mean()) for image in images]
    best, *others = sorted(range(len(images)), key=lambda number: own_errors[number])
    agreeing, total = {best}, images[best]
    for number in others:
        without = errors(total / len(agreeing))
        increase = errors((total + images[number]) / (len(agreeing) + 1)) - without
        uncertainty = OUTLIER_Z * float(increase.std(correction=0)) / len(increase) ** 0.5
        tolerance = max(uncertainty, OUTLIER_MIN_EXCESS * float(without.mean()))
        if len(increase) < MIN_HELDOUT or float(increase.mean()) <= tolerance:
            agreeing.add(number)
            total = total + images[number]
    return agreeing
