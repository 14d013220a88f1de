"""`dip denoise` for impulse noise: isolated black and white pixels are missing ones, to be filled from the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dipcli.images.image import Image
from dipcli.problem import Problem
from dipcli.problem.correlated.restraint import take_unknown_from_fit
from dipcli.problem.independent.impulses import find_impulses
from dipcli.problem.independent.level import STRONG_LEVEL
from dipcli.problem.noise import FULL_SCALE, Noise, measure_noise
from dipcli.problem.prefilter import fill_unknown
from dipcli.tasks import inpaint
from dipcli.tasks.case import Case
from dipcli.tasks.denoising.correlated import FAINTEST_INDEPENDENT, MIN_OUTLIERS, is_drawing

MAX_IMPULSES = 0.9  # fraction of the pixels: hardly any are left to fill them from


def find(noise: Noise | None, pixels: NDArray[np.float32], outliers: float) -> NDArray[np.bool_] | None:
    """Return the pixels, (H, W), that are impulses; None if an image (C, H, W) has no impulse noise, or nothing else.

    Args:
        noise: as `measure_noise` found it.
        pixels: the image.
        outliers: fraction of its values that are isolated black or white.
    """
    strong = noise is not None and noise.level > STRONG_LEVEL
    if outliers <= MIN_OUTLIERS or strong or is_drawing(pixels):
        return None
    impulses = find_impulses(pixels)
    return impulses if 0 < impulses.mean() < MAX_IMPULSES else None


def pose(
    image: Image, impulses: NDArray[np.bool_], strength: float, denoise: Callable[[Image, str], Problem | Case]
) -> Case:
    """Return the case of an image without its impulses.

    If the others have no noise, or noise that neighbouring pixels share, they stay as they are.

    Args:
        image: with impulse noise.
        impulses: the pixels with it, shape (H, W).
        strength: 1 to remove the noise of the others, 0 to keep it.
        denoise: returns the case of an image with missing pixels and noise of a level, on the 0-255 scale.
    """
    fraction = float(impulses.mean())
    found = f"{100 * fraction:.0f} % of the pixels are isolated black or white: they are filled from the others"
    rest = measure_noise(fill_unknown(image.pixels, ~impulses), image.valid)
    # Filled pixels have less noise than the others.
    level = 0.0 if rest is None or rest.correlated else rest.level / (1 - fraction) ** 0.5
    if level < FAINTEST_INDEPENDENT or not strength:
        filled = inpaint.inpaint(image, cast("str", impulses), damage="scattered")  # an array is as good as a name
        case = cast("Case", filled)
        presets = {
            name: {"input": "noise", "warmup": 0, **preset, **case.presets[name]}
            for name, preset in inpaint.PRESETS.items()
            if name != "paper"
        }
        return replace(case, presets=presets, remarks=(found,))
    case = cast("Case", denoise(image.leave_out(impulses), f"{FULL_SCALE * level:.1f}"))
    problem = replace(case.problem, hidden=False)
    problem = take_unknown_from_fit(problem) if strength < 1 else problem
    return replace(case, problem=problem, remarks=(f"{found}, whose noise has sigma {FULL_SCALE * level:.1f}",))
