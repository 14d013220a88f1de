"""`dip denoise`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import UsageError
from dipcli.problem import Problem, losses
from dipcli.problem.noise import FULL_SCALE, Noise, measure_noise
from dipcli.problem.prefilter import PrefilteredGuide
from dipcli.tasks import LossOption
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image
    from dipcli.tasks.baselines.baseline import Baseline

LOUD = 50  # from here on more input noise was published: 1/20 in place of 1/30
LOUDEST = 1000  # of 255 grey levels: nothing is left of the picture
CLEAN, FAINT = 3, 20  # grey levels: noise that nobody sees; what texture can be taken for
MANY, FAR = 0.02, 0.3  # impulse noise: so many values are so far from their neighbours
STRIP = 256  # rows that are looked at together

# Narrow networks that see the sketches of `problem/prefilter.py`, with more input noise than was published: measured on
# 256x256 pictures with noise of sigma 25, docs/performance.md.
BALANCED: dict[str, Any] = {
    "network": "skip:channels=16,32,64,128,128:skips=4,4,4,4,4",
    "pad": "zero",
    "input": "guide",
    "rate": 0.02,
    "beta2": 0.99,
    "reg_noise": 0.07,
    "warmup": 200,
}
PRESETS: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=4,4,4,4,4",
        "pad": "zero",
        "input": "guide",
        "rate": 0.03,
        "beta2": 0.99,
        "reg_noise": 0.03,
        "warmup": 200,
        "stop": "auto:patience=100",
    },
    "balanced": BALANCED,
    # Wider networks came to no more in more time; the mean of several fits does.
    "best": {**BALANCED, "runs": 3},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 2,217,831 parameters for a colour picture.
    "paper": {
        **PUBLISHED,
        "network": "skip:channels=128x5:skips=4x5",
        "reg_noise": 1 / 30,
        "iterations": 1800,
    },
}

# Input noise for each of 255 grey levels of the picture's noise: what the sketches leave of it grows with it.
REG = {"fast": 0.0012, "balanced": 0.0028, "best": 0.0028}
LEAST, MOST = 0.02, 0.2  # of it

# Where a sketch is of no use: from noise, with no skip at full resolution, where most of the work would be.
BALANCED_WITHOUT: dict[str, Any] = {
    "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4",
    "input": "noise",
    "reg_noise": 1 / 30,
}
WITHOUT_SKETCH: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4:up=nearest",
        "input": "noise",
        "input_depth": 8,
        "reg_noise": 0.03,
    },
    "balanced": BALANCED_WITHOUT,
    "best": BALANCED_WITHOUT,
}


@task(presets=PRESETS, result="denoised", lengths={"fast": 450, "balanced": 950, "best": 950})
def denoise(
    image: Image,
    simulate_noise: Annotated[
        float | None,
        typer.Option(
            help="The input is a clean picture: add Gaussian noise of this standard deviation (0-255) first, and "
            "measure the result against the clean one."
        ),
    ] = None,
    loss: LossOption = "l2",
    *,
    sigma: str = "auto",
    input: str = "guide",  # noqa: A002 - the setting's name
) -> Case:
    """Remove noise of unknown strength.

    The network sees nothing but this one picture. It is stopped when it has
    learned the structure and before it has learned the noise: where the noise
    is independent from pixel to pixel, a few held-out pixels tell; where
    neighbours share it, as after JPEG or demosaicing, its level does, which
    --sigma gives or the picture itself.

    Examples:

        dip denoise noisy.png
        dip denoise noisy.png --runs 3
        dip denoise noisy.png --time 90s --uncertainty doubt.png
        dip denoise noisy.png -o clean.png --iters 1800
        dip denoise folder/ -o restored/
        cat noisy.png | dip denoise - -o - > clean.png
        dip denoise clean.png --simulate-noise 25 --snapshot-at 1,10,100,400,500
    """
    import numpy as np  # here, not above: `dip --help` must not pay for them
    import torch

    if simulate_noise is None:
        pixels = image.pixels
    elif not 0 < simulate_noise <= LOUDEST:
        raise UsageError(f"--simulate-noise {simulate_noise} is out of range: use a number above 0, up to {LOUDEST}.")
    else:
        # Always the same noise, clipped and rounded as in a file: the run can be repeated from what is written.
        generator = np.random.default_rng(0)
        added = [
            (each + generator.normal(0, simulate_noise / FULL_SCALE, each.shape)).astype(np.float32)
            for each in image.pixels
        ]
        pixels = image.rounded(np.stack(added))
    seen = measure_noise(pixels)
    level = str(FULL_SCALE * seen.level) if seen and seen.level and sigma == "auto" else sigma
    strongest = float(sigma) if sigma != "auto" else FULL_SCALE * seen.strongest if seen else 0.0
    problem = Problem(
        measured=torch.from_numpy(pixels),
        shape=pixels.shape,
        loss=losses.make_loss(loss, level),
        guide=PrefilteredGuide(pixels, strongest / FULL_SCALE) if strongest else None,
    )
    # The sketches keep impulses, and noise that neighbours share.
    plain = input != "guide" or not strongest or loss == "l1" or (seen is not None and seen.dependent)
    presets = dict(WITHOUT_SKETCH) if plain else _sketched(strongest)
    if simulate_noise is not None and simulate_noise >= LOUD:
        presets["paper"] = {"reg_noise": 1 / 20}
    remarks = warnings_for(pixels, seen, loss)

    def rivals() -> list[Baseline]:
        from dipcli.tasks.baselines.denoising import classical

        stated = None if level == "auto" else float(level) / FULL_SCALE
        return classical(pixels, stated, impulses=loss == "l1")

    if simulate_noise is None:
        return Case(problem=problem, image=image, baselines=rivals, remarks=remarks, presets=presets)
    return Case(
        problem=problem,
        image=image,
        truth=image.pixels,
        damaged=pixels,
        baseline_images={"noisy": pixels},
        baselines=rivals,
        remarks=remarks,
        presets=presets,
    )


def _sketched(level: float) -> dict[str, dict[str, float]]:
    """What the presets that begin from sketches ask for where the noise is of this level, of 255."""
    return {preset: {"reg_noise": min(max(share * level, LEAST), MOST)} for preset, share in REG.items()}


def warnings_for(pixels: NDArray[np.float32], seen: Noise | None, loss: str) -> tuple[str, ...]:
    """What the user should know before the fit.

    Args:
        pixels: the noisy picture, (C, H, W), values 0..1.
        seen: what a look at its noise told.
        loss: the data term.
    """
    if pixels.min() == pixels.max():
        return ("the picture is of one colour: there is nothing to remove",)
    if seen and seen.level < CLEAN / FULL_SCALE:
        level = f"{FULL_SCALE * seen.level:.1f} of {FULL_SCALE}"
        return (f"the image looks nearly noise-free (sigma {level}): denoising will probably degrade it",)
    if seen and seen.dependent and seen.level < FAINT / FULL_SCALE:
        faint = (
            f"what looks like noise is faint ({FULL_SCALE * seen.level:.0f} of {FULL_SCALE}) and may be fine texture"
        )
        return (f"{faint}: a clean picture can only lose",)
    wild = fraction_of_outliers(pixels)
    if wild > MANY and loss == "l2":
        return (f"{100 * wild:.0f} % of the values are black or white among others: for such noise try --loss l1",)
    return ()


def fraction_of_outliers(pixels: NDArray[np.float32]) -> float:
    """Share of the values, of (C, H, W) in 0..1, that are at an end of the range and far from their neighbours."""
    from scipy.ndimage import median_filter

    wild, rows = 0, pixels.shape[1]
    for begin in range(0, rows, STRIP):  # a strip at a time: of a large picture copies are large too
        before, end = max(0, begin - 1), min(begin + STRIP, rows)
        strip = pixels[:, before : end + 1]
        near = median_filter(strip, size=(1, 3, 3))[:, begin - before : end - before]
        own = pixels[:, begin:end]
        wild += int((((own <= 0) | (own >= 1)) & (abs(own - near) > FAR)).sum())
    return wild / pixels.size
