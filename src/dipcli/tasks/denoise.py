"""`dip denoise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dipcli.problem import Problem
from dipcli.registry import Presets, task

if TYPE_CHECKING:
    from dipcli.picture import Picture

# Narrow networks with no skip at full resolution, where most of the work would be. Measured on 256x256 pictures with
# noise of sigma 25: docs/results.md.
PRESETS: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4:up=nearest",
        "pad": "zero",
        "input_depth": 8,
        "rate": 0.03,
        "beta2": 0.99,
        "reg_noise": 0.03,
        "stop": "holdout:patience=200",
    },
    "balanced": {
        "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4",
        "pad": "zero",
        "input_depth": 32,
        "rate": 0.02,
        "beta2": 0.99,
    },
    # The published network with a rule to stop it.
    "best": {
        "network": "skip:channels=128x5:skips=4x5",
    },
    # Ulyanov et al., CVPR 2018, and the settings published with it: 2,217,831 parameters for a colour picture.
    "paper": {
        "network": "skip:channels=128x5:skips=4x5",
        "pad": "reflection",
        "input": "noise",
        "input_depth": 32,
        "optimize": "net",
        "optimizer": "adam",
        "rate": 0.01,
        "beta2": 0.999,
        "reg_noise": 1 / 30,
        "ema": 0.99,
        "tv": 0.0,
        "iterations": 1800,
        "stop": "none",
    },
}


@task(presets=PRESETS, result="denoised")
def denoise(image: Picture) -> Problem:
    """Remove noise of unknown strength.

    The network sees nothing but this one picture. It is stopped when it has
    learned the structure and before it has learned the noise.

    Examples:

        dip denoise noisy.png
        dip denoise noisy.png -o clean.png --iters 1800
        dip denoise *.png -o restored/
        cat noisy.png | dip denoise - -o - > clean.png
    """
    import torch  # here, not above: `dip --help` must not pay for it

    return Problem(measured=torch.from_numpy(image.pixels), shape=image.pixels.shape)
