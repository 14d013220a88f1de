"""`dip denoise`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import UsageError
from dipcli.problem import Problem, identity, losses
from dipcli.problem.noise import FULL_SCALE, Noise, measure_noise
from dipcli.stopping import Auto
from dipcli.tasks import LossOption
from dipcli.tasks.baselines.baseline import Baseline
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

STRONG_NOISE = 50  # of 255: from here the published input noise is 1/20 instead of 1/30
MAX_NOISE = 1000  # of 255: nothing is left of the image
INVISIBLE_NOISE = 3  # of 255

# Narrow networks with the filtered images of `problem/prefilter.py` as input, and more input noise than was published:
# measured on 256x256 images with noise of sigma 25, docs/performance.md. Fused with the companion, the result gains
# little after some hundred iterations, but on smooth images it first takes 50 to begin (docs/notes/fusion.md).
BALANCED: dict[str, Any] = {
    "network": "skip:channels=16,32,64,128,128:skips=4,4,4,4,4",
    "pad": "zero",
    "input": "guide",
    "rate": 0.02,
    "beta2": 0.99,
    "reg_noise": 0.07,
    "warmup": 200,
    "stop": "auto:patience=100",
}
PRESETS: Presets = {
    "fast": {
        **BALANCED,
        "network": "skip:channels=8,16,32,64,128:skips=4,4,4,4,4",
        "rate": 0.03,
        "reg_noise": 0.03,
        "stop": "auto:patience=75",
    },
    "balanced": BALANCED,
    # A wider network takes longer and is no better; the average of several fits is better.
    "best": {**BALANCED, "runs": 3},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 2,217,831 parameters for a colour image.
    "paper": {**PUBLISHED, "network": "skip:channels=128x5:skips=4x5", "reg_noise": 1 / 30, "iterations": 1800},
}

# The patience of a fit without a companion.
STOP_ALONE = {"fast": "auto:patience=100", "balanced": "auto", "best": "auto"}

# Standard deviation of the input noise per grey level (of 255) of the image's noise, part of which the filters leave:
# with a companion, and without, by preset.
INPUT_NOISE_PER_LEVEL, INPUT_NOISE_ALONE = 0.0028, {"fast": 0.0012, "balanced": 0.0028, "best": 0.0028}
MIN_INPUT_NOISE, MAX_INPUT_NOISE = 0.02, 0.2

# For noise that the filters keep: noise as input, no skip at full resolution, where most of the work would be.
BALANCED_UNGUIDED: dict[str, Any] = {
    "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4",
    "input": "noise",
    "reg_noise": 1 / 30,
}
UNGUIDED: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4:up=nearest",
        "input": "noise",
        "input_depth": 8,
        "reg_noise": 0.03,
    },
    "balanced": BALANCED_UNGUIDED,
    "best": BALANCED_UNGUIDED,
}


@task(presets=PRESETS, result="denoised", lengths={"fast": 230, "balanced": 360, "best": 450})
def denoise(
    image: Image,
    simulate_noise: Annotated[
        float | None,
        typer.Option(
            help="The input is a clean image: add Gaussian noise of this standard deviation (0-255), restore it, and "
            "measure the result against the clean image."
        ),
    ] = None,
    loss: LossOption = "l2",
    strength: Annotated[float, typer.Option(help="How much of the noise to remove: 1 all of it, 0 nothing.")] = 1.0,
    *,
    sigma: str = "auto",
    input: str = "guide",  # noqa: A002 - the setting's name
    fusion: str = "auto",
    stop: str = Auto.name,
) -> Case:
    """Remove noise of unknown strength.

    The network sees only this one image. It is stopped when it has learned
    the structure and before it learns the noise. If the noise is independent
    from pixel to pixel, a few held-out pixels decide when, and how much of the
    result is of the network and how much of a non-local filter. If neighbouring
    pixels share it, as in photographs, scans and film, the noise is measured,
    and a non-local estimate removes as much as it explains; where the noise is
    strong, the mean of that and a fit is kept. An image without noise comes
    back as it is. --strength 0.5 keeps half of the grain.

    Examples:

        dip denoise noisy.png
        dip denoise noisy.png --runs 3
        dip denoise photo.jpg --strength 0.7
        dip denoise noisy.png --time 90s --uncertainty doubt.png
        dip denoise noisy.png -o clean.png --iters 1800
        dip denoise folder/ -o restored/
        cat noisy.png | dip denoise - -o - > clean.png
        dip denoise clean.png --simulate-noise 25 --snapshot-at 1,10,100,400,500
    """
    # Imported late: `dip --help` must be fast.
    from dipcli.problem.correlated.restraint import take_unknown_from_fit
    from dipcli.problem.independent.impulses import measure_outlier_fraction
    from dipcli.tasks.denoising import correlated, impulses

    if not 0 <= strength <= 1:
        raise UsageError(f"--strength {strength} is out of range: use a number from 0 to 1.")
    pixels = image.pixels if simulate_noise is None else _add_noise(image, simulate_noise)
    noise, outliers = measure_noise(pixels, image.valid), measure_outlier_fraction(pixels)
    plain = input == "guide" and loss == "l2" and (sigma == "auto" or (noise is not None and noise.correlated))
    level = str(FULL_SCALE * noise.level) if noise and noise.level and sigma == "auto" else sigma
    if fusion == "auto" and (
        (sigma == "auto" and correlated.finds_nothing(noise, pixels, image.valid))
        or (plain and correlated.applies(noise, pixels, outliers, image.valid))
    ):
        given = None if sigma == "auto" else float(sigma) / FULL_SCALE
        problem, presets, remarks = correlated.pose(image, pixels, noise, given, strength)
        if image.missing is not None:  # whatever is done about the noise, a fit fills the missing pixels
            problem = take_unknown_from_fit(problem)
            presets = {name: {"stop": STOP_ALONE[name], **preset} for name, preset in UNGUIDED.items()}
        elif not stop.startswith(Auto.name):  # a rule was asked for: it ends the fit
            presets = {name: {**preset, "stop": stop, "iterations": None} for name, preset in presets.items()}
    else:
        found = impulses.find(noise, pixels, outliers) if loss == "l2" else None
        if found is not None and plain and fusion == "auto" and simulate_noise is None:
            return impulses.pose(image, found, strength, lambda rest, own: denoise(rest, strength=strength, sigma=own))
        problem, presets = _pose_independent(
            image, pixels, noise, sigma, loss, level, strength, fused=fusion == "auto", guided=input == "guide"
        )
        if simulate_noise is not None and simulate_noise >= STRONG_NOISE:
            presets = {**presets, "paper": {"reg_noise": 1 / 20}}
        remarks = make_remarks(pixels, noise, 0.0 if found is None else outliers)

    def baselines() -> list[Baseline]:
        from dipcli.tasks.baselines.denoising import make_baselines

        known_level = None if level == "auto" else float(level) / FULL_SCALE
        methods = make_baselines(pixels, known_level, impulses=loss == "l1")
        companion = problem.companion
        if not callable(companion):
            return methods
        return [Baseline("non-local ridge", "ridge", lambda _: problem.finish(companion(None)).numpy()), *methods]

    case = Case(problem=problem, image=image, baselines=baselines, remarks=remarks, presets=presets)
    if simulate_noise is None:
        return case
    return replace(case, truth=image.pixels, damaged=pixels, baseline_images={"noisy": pixels})


def _pose_independent(
    image: Image,
    pixels: NDArray[np.float32],
    noise: Noise | None,
    sigma: str,
    loss: str,
    level: str,
    strength: float,
    *,
    fused: bool,
    guided: bool,
) -> tuple[Problem, Presets]:
    """Return the problem of an image with independent noise, and its settings by preset name."""
    import torch

    from dipcli.problem.correlated.restraint import TowardsInput, take_unknown_from_fit
    from dipcli.problem.independent.companion import MIN_SIDE, NonLocalCompanion, is_predictable
    from dipcli.problem.independent.noise_model import UndoClipping, fit_noise_model
    from dipcli.problem.prefilter import PrefilteredGuide

    max_level = float(sigma) if sigma != "auto" else FULL_SCALE * noise.max_level if noise else 0.0
    # The filters of the guide, and the companion, keep impulses, and noise that neighbouring pixels share.
    filterable = max_level > 0 and loss != "l1" and not (noise and noise.correlated)
    companion, finish = None, identity
    if fused and filterable and min(pixels.shape[1:]) >= MIN_SIDE and is_predictable(image.missing):
        known_level = noise.level if noise and sigma == "auto" else max_level / FULL_SCALE
        model = fit_noise_model(pixels, known_level, image.valid)
        companion = NonLocalCompanion(pixels=pixels, known=image.valid, noise=model)
        finish = UndoClipping(model)
    problem = Problem(
        measured=torch.from_numpy(pixels),
        shape=pixels.shape,
        loss=losses.make_loss(loss, level),
        guide=PrefilteredGuide(pixels, max_level / FULL_SCALE) if max_level else None,
        companion=companion,
        finish=finish,
        **image.weights,
    )
    if strength < 1:
        problem = replace(problem, finish=TowardsInput(problem.measured, strength, finish))
        if image.missing is not None:
            problem = take_unknown_from_fit(problem)
    presets = UNGUIDED
    if filterable and guided:
        factors = INPUT_NOISE_ALONE if companion is None else dict.fromkeys(INPUT_NOISE_ALONE, INPUT_NOISE_PER_LEVEL)
        presets = {
            preset: {"reg_noise": min(max(factor * max_level, MIN_INPUT_NOISE), MAX_INPUT_NOISE)}
            for preset, factor in factors.items()
        }
    if companion is None:
        presets = {preset: {"stop": STOP_ALONE[preset], **values} for preset, values in presets.items()}
    return problem, presets


def _add_noise(image: Image, level: float) -> NDArray[np.float32]:
    """Return pixels with Gaussian noise, clipped and rounded as in a file; the level is on the 0-255 scale.

    It is always the same noise: the run can be repeated from the files it writes.
    """
    import numpy as np

    if not 0 < level <= MAX_NOISE:
        raise UsageError(f"--simulate-noise {level} is out of range: use a number above 0, up to {MAX_NOISE}.")
    generator = np.random.default_rng(0)
    noisy = [
        (channel + generator.normal(0, level / FULL_SCALE, channel.shape)).astype(np.float32)
        for channel in image.pixels
    ]
    return image.quantize(np.stack(noisy))


def make_remarks(pixels: NDArray[np.float32], noise: Noise | None, impulses: float) -> tuple[str, ...]:
    """Return warnings to the user before the fit.

    Args:
        pixels: the noisy image, (C, H, W), values 0..1.
        noise: its measured noise.
        impulses: fraction of the values that are isolated black or white; 0 if they are no impulse noise, or if the
            data term allows for it.
    """
    if pixels.min() == pixels.max():
        return ("the image is of one colour: there is nothing to remove",)
    if noise and noise.level < INVISIBLE_NOISE / FULL_SCALE:
        level = f"{FULL_SCALE * noise.level:.1f} of {FULL_SCALE}"
        return (f"the image looks nearly noise-free (sigma {level}): denoising will probably degrade it",)
    if noise and noise.correlated:
        return ("neighbouring pixels share the noise: the defaults of --fusion, --input and --loss allow for that",)
    if impulses:
        return (f"{100 * impulses:.0f} % of the values are isolated black or white: for such noise try --loss l1",)
    return ()
