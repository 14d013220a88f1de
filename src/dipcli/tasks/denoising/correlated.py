"""`dip denoise` for noise that neighbouring pixels share, as in photographs, scans and film."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dipcli.images.image import Image
from dipcli.problem import Problem
from dipcli.problem.correlated.estimate import CorrelatedEstimate, CorrelatedFinish, CorrelatedGuide
from dipcli.problem.correlated.noise import CorrelatedNoise, measure_correlated_noise
from dipcli.problem.correlated.restraint import TowardsInput
from dipcli.problem.independent.blocks import split_blocks
from dipcli.problem.losses import absolute_error
from dipcli.problem.noise import FULL_SCALE, Noise
from dipcli.tasks.registry import Presets

FAINTEST_INDEPENDENT = 3 / FULL_SCALE  # white noise below it is not visible, and may be what JPEG left of other noise
MIN_OUTLIERS = 0.02  # fraction of the values that are isolated black or white: from it on they are impulse noise
MIN_LEVEL = 0.5 / FULL_SCALE  # there is nothing to remove
FIT_WEIGHT = 0.5  # of the fitted image, for strong noise
MAX_MOSAIC = 3
DRAWING_BLOCK, DRAWING_FRACTION = 8, 0.25  # pixels; fraction of such blocks that are of one colour
# Standard deviation of the input noise per level of the image's noise, and its range.
INPUT_NOISE_PER_LEVEL, MIN_INPUT_NOISE, MAX_INPUT_NOISE = 1.75, 0.03, 0.1
# Measured on camera images of 256x256: benchmarks/real.py. The fit is only one of two estimates whose mean is kept, and
# that changes little from 75 to 150 iterations, so no rule ends it.
FIT: dict[str, Any] = {
    "network": "skip:channels=8,16,32,64,128:skips=4,4,4,4,4",
    "rate": 0.02,
    "warmup": 0,
    "stop": "none",
    "ema": 0.99,
}
ITERATIONS = {"fast": 75, "balanced": 100, "best": 100}
# For an image that the fit does not change: an iteration, as a formality.
NO_FIT = {name: {"iterations": 1, "runs": 1, "warmup": 0, "stop": "none", "input": "noise"} for name in ITERATIONS}


def applies(noise: Noise | None, pixels: NDArray[np.float32], outliers: float, known: NDArray[np.bool_] | None) -> bool:
    """Return whether an image is restored as one whose noise neighbouring pixels share, or that has next to none.

    Args:
        noise: as `measure_noise` found it.
        pixels: the image, shape (C, H, W).
        outliers: fraction of the values that are isolated black or white.
        known: the pixels to use, shape (H, W); all when None.
    """
    if noise is None:
        return is_drawing(pixels, known)
    if not (noise.correlated or noise.level < FAINTEST_INDEPENDENT):
        return False
    return outliers <= MIN_OUTLIERS or not noise.level  # impulses do not count in a drawing


def finds_nothing(noise: Noise | None, pixels: NDArray[np.float32], known: NDArray[np.bool_] | None) -> bool:
    """Return whether there is no noise at all, with the arguments of `applies`: no method has anything to remove."""
    return is_drawing(pixels, known) if noise is None else not noise.level


def is_drawing(pixels: NDArray[np.float32], known: NDArray[np.bool_] | None = None) -> bool:
    """Return whether much of an image (C, H, W) is of constant colours, as in drawings, screenshots and line scans."""
    blocks = split_blocks(pixels, DRAWING_BLOCK).reshape(-1, len(pixels), DRAWING_BLOCK**2)
    if known is not None:
        blocks = blocks[split_blocks(known[None], DRAWING_BLOCK).all(axis=1)]
    return len(blocks) > 0 and bool((np.ptp(blocks, axis=2) == 0).all(axis=1).mean() > DRAWING_FRACTION)


def pose(
    image: Image, pixels: NDArray[np.float32], found: Noise | None, sigma: float | None, strength: float
) -> tuple[Problem, Presets, tuple[str, ...]]:
    """Decide how much to remove, and how; return the problem, settings by preset name, and a remark for the user.

    Mild noise is removed by non-local Bayes alone: of a fit that is stopped early too much detail is missing. Strong
    noise is removed by the mean of that estimate and a fit to the mosaic of the image's phases.

    Args:
        image: gives the weights and valid pixels.
        pixels: the noisy image, shape (C, H, W), values 0..1.
        found: the noise that `measure_noise` found.
        sigma: the noise level if the user gave it, 0..1.
        strength: 1 for the restored image, 0 for the noisy one.
    """
    measured = torch.from_numpy(pixels)
    problem = Problem(measured=measured, shape=pixels.shape, loss=absolute_error, **image.weights)
    noise = measure_correlated_noise(pixels, image.valid) if found and found.level else None
    reason = _find_nothing_to_remove(noise, sigma)
    if noise is None or reason:
        return replace(problem, finish=TowardsInput(measured, 0.0)), NO_FIT, (f"{reason}: the input is kept as it is",)
    if sigma:
        noise = replace(noise, covariance=noise.covariance * (sigma / noise.level) ** 2)
    estimate, fit_weight = CorrelatedEstimate(pixels, noise), FIT_WEIGHT * noise.strength
    rows, columns = (slice(0, side) for side in pixels.shape[1:])
    guide = CorrelatedGuide(estimate, rows, columns)
    problem = replace(problem, guide=guide, finish=CorrelatedFinish(estimate, rows, columns, fit_weight, strength))
    level, length = FULL_SCALE * noise.level, noise.correlation_length
    reason = f"the noise where the image is flat has sigma {level:.1f} of 255"
    reason += f" and is correlated over {length} pixels" if length > 1 else ""
    if not fit_weight:
        return problem, NO_FIT, (f"{reason}: removed by non-local Bayes without a fit",)
    input_noise = min(max(INPUT_NOISE_PER_LEVEL * noise.level, MIN_INPUT_NOISE), MAX_INPUT_NOISE)
    adapted = {**FIT, "mosaic": min(max(length, 2), MAX_MOSAIC), "reg_noise": input_noise}
    presets = {name: {**adapted, "iterations": iterations} for name, iterations in ITERATIONS.items()}
    return problem, presets, (f"{reason}: removed by the mean of non-local Bayes and a fit",)


def _find_nothing_to_remove(noise: CorrelatedNoise | None, sigma: float | None) -> str:
    """Return why nothing is to be removed; empty if something is."""
    if noise is None:
        return "no noise was found, all that varies may be structure"
    if noise.regular and not sigma:
        return "the image has a regular pattern such as a halftone, not noise"
    if noise.level < MIN_LEVEL and not sigma:
        return f"no noise was found (sigma {FULL_SCALE * noise.level:.1f} of 255)"
    return ""
