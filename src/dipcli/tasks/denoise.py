"""`dip denoise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipcli.case import Case
from dipcli.errors import UsageError
from dipcli.problem import Problem
from dipcli.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    from dipcli.picture import Picture

LOUD = 50  # from here on more input noise was published: 1/20 in place of 1/30
LOUDEST = 1000  # of 255 grey levels: nothing is left of the picture

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
        **PUBLISHED,
        "network": "skip:channels=128x5:skips=4x5",
        "reg_noise": 1 / 30,
        "iterations": 1800,
    },
}


@task(presets=PRESETS, result="denoised")
def denoise(
    image: Picture,
    simulate_noise: Annotated[
        float | None,
        typer.Option(
            help="The input is a clean picture: add Gaussian noise of this standard deviation (0-255) first, and "
            "measure the result against the clean one."
        ),
    ] = None,
) -> Problem | Case:
    """Remove noise of unknown strength.

    The network sees nothing but this one picture. It is stopped when it has
    learned the structure and before it has learned the noise.

    Examples:

        dip denoise noisy.png
        dip denoise noisy.png -o clean.png --iters 1800
        dip denoise *.png -o restored/
        cat noisy.png | dip denoise - -o - > clean.png
        dip denoise clean.png --simulate-noise 25 --snapshot-at 1,10,100,400,500
    """
    import torch  # here, not above: `dip --help` must not pay for it

    if simulate_noise is None:
        return Problem(measured=torch.from_numpy(image.pixels), shape=image.pixels.shape)
    if not 0 < simulate_noise <= LOUDEST:
        raise UsageError(f"--simulate-noise {simulate_noise} is out of range: use a number above 0, up to {LOUDEST}.")
    import numpy as np

    # Always the same noise, clipped and rounded as in a file: the run can be repeated from what is written.
    noise = np.random.default_rng(0).normal(0, simulate_noise / 255, image.pixels.shape)
    noisy = image.rounded((image.pixels + noise).astype(np.float32))
    return Case(
        problem=Problem(measured=torch.from_numpy(noisy), shape=noisy.shape),
        picture=image,
        truth=image.pixels,
        damaged=noisy,
        baselines={"noisy": noisy},
        presets={"paper": {"reg_noise": 1 / 20}} if simulate_noise >= LOUD else {},
    )
