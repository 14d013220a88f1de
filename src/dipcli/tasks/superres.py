"""`dip superres`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from dipcli.errors import DipError, UsageError
from dipcli.problem import Problem, losses
from dipcli.tasks import LossOption, registry
from dipcli.tasks.case import Case
from dipcli.tasks.registry import Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image
    from dipcli.tasks.baselines.baseline import Baseline

PUBLISHED = {
    **registry.PUBLISHED,
    "network": "skip:channels=128x5:skips=4x5",
    "reg_noise": 0.03,
    "iterations": 2000,
}
# Narrow networks with no skip at full resolution, tuned at a factor of 4 on butterfly (256x256) and bird (288x288) of
# Set5, shrunk by lanczos3. Luma, 4 pixels of border left out, bf16: balanced 26.6 and 31.2 dB; published 26.2 and 31.8;
# bicubic 22.4 and 30.6. There is next to no noise to take up: less perturbation than for denoising is enough, and
# nearest upsampling, the first to fit noise, here is only the first to be done (butterfly, 800 iterations: 26.4 for
# 25.9 dB). At full resolution it leaves a grid on grass and the like: there it is bilinear.
PRESETS: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4:up=bilinear,nearest,nearest,nearest,nearest",
        "pad": "zero",
        "input_depth": 8,
        "rate": 0.03,
        "beta2": 0.99,
        "reg_noise": 0.01,
        "iterations": 800,
        "stop": "none",
    },
    "balanced": {
        "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4:up=bilinear,nearest,nearest,nearest,nearest",
        "pad": "zero",
        "input_depth": 32,
        "rate": 0.02,
        "beta2": 0.99,
        "reg_noise": 0.02,
        "ema": 0.995,  # at 1000 iterations bird is past its best single stretch: a longer mean gives it 0.1 dB back
        "iterations": 1000,
        "stop": "none",
    },
    # Nothing better is known yet than the published network for the published number of iterations.
    "best": PUBLISHED,
    "paper": PUBLISHED,
}
SMALLEST_SCALE, LARGEST_SCALE = 1.5, 8
# Published for factors of 4 and of 8, and for none in between: those above 4 take what was published for 8, which
# stands up to more freedom with more noise and takes longer for it.
PUBLISHED_TO = 4
BEYOND = {"iterations": 4000, "reg_noise": 0.05}


@task(presets=PRESETS, result="enlarged")
def superres(
    image: Image,
    scale: Annotated[
        float,
        typer.Option(help="How many times larger each side becomes: 1.5 to 8, fractions too.", metavar="FACTOR"),
    ] = 4.0,
    kernel: Annotated[
        str,
        typer.Option(
            help="How the small picture was made: lanczos3 (Pillow's LANCZOS, ImageMagick, most photo programs), "
            "lanczos2, bicubic (Pillow's BICUBIC, MATLAB's imresize: most published comparisons), box (plain means: "
            "OpenCV's INTER_AREA, binning in a camera) or gaussian:1.2 (a blur of so many large pixels, then sampled).",
            metavar="KERNEL",
        ),
    ] = "lanczos3",
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Take the picture as the truth: shrink it first, restore it, and measure how near it comes.",
        ),
    ] = False,
    loss: LossOption = "l2",
    *,
    sigma: str = "auto",
) -> Case:
    """Make a small picture larger.

    The large picture must shrink to the small one, by the kernel that made it;
    of all that do, the network finds a natural one. Name the kernel if you
    know how the small picture was made: with a wrong one edges come out soft
    or with halos. For a photograph that was never shrunk try box first.

    It runs as long as the preset says and returns the last average. With
    --stop holdout the end is left to a few held-out pixels of the small
    picture, which helps where that is noisy.

    With --simulate the bicubic and the nearest-pixel enlargement are measured
    beside the result. On smooth pictures bicubic can be nearer to the truth.
    --network pixels is the published comparison without a network: without
    --tv there is no prior at all, with it small total variation is the prior.

    Examples:

        dip superres small.png
        dip superres small.png --scale 2.5 --kernel bicubic -o large.png
        dip superres large.png --simulate
        dip superres large.png --simulate --network pixels --tv 0.01
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli.problem import operators
    from dipcli.problem.metrics import psnr
    from dipcli.tasks.baselines import enlarging

    if not isinstance(scale, int | float) or not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
        raise UsageError(f"--scale {scale} is out of range: use {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}.")
    chosen = operators.kernel(kernel)
    channels, *sides = image.pixels.shape
    if simulate:
        large = (sides[0], sides[1])
        small = _shrunk(large, scale)
        measured = image.rounded(operators.resample(image.pixels, small, chosen))
    else:
        small = (sides[0], sides[1])
        large = (round(scale * small[0]), round(scale * small[1]))
        measured = image.pixels

    def conclude(restored: NDArray[np.float32]) -> str:
        again = operators.resample(restored, small, chosen)
        return f"it shrinks back to the input with {psnr(again, measured):.1f} dB"

    def rivals() -> list[Baseline]:
        return enlarging.classical(measured, large)

    return Case(
        problem=Problem(
            measured=torch.from_numpy(measured),
            shape=(channels, *large),
            operator=operators.Resample(large, small, chosen),
            loss=losses.make_loss(loss, sigma),
        ),
        image=image,
        truth=image.pixels if simulate else None,
        damaged=measured if simulate else None,
        baseline_images={
            way: image.rounded(enlarging.enlarged(measured, large, way)) for way in ("bicubic", "nearest") if simulate
        },
        baselines=rivals,
        border=math.ceil(scale),
        presets=dict.fromkeys(("best", "paper"), BEYOND) if scale > PUBLISHED_TO else {},
        remarks=(f"{small[1]}x{small[0]} becomes {large[1]}x{large[0]}",),
        conclude=conclude,
    )


def _shrunk(large: tuple[int, int], scale: float) -> tuple[int, int]:
    """The size of the small picture, (h, w).

    Raises:
        DipError: when it is too small to be one.
    """
    from dipcli.images.image import SMALLEST

    height, width = (round(side / scale) for side in large)
    if min(height, width) < SMALLEST:
        raise DipError(
            f"Shrunk by {scale:g} the picture would be {width}x{height}, the smallest is {SMALLEST}x{SMALLEST}: "
            "choose a smaller --scale or a larger picture."
        )
    return height, width
