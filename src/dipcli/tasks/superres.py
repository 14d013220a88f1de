"""`dip superres`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import DipError, UsageError
from dipcli.problem import Problem, losses
from dipcli.stopping import Auto, HoldOut, Plateau
from dipcli.tasks import LossOption, registry
from dipcli.tasks.case import Case
from dipcli.tasks.registry import Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

PUBLISHED = {**registry.PUBLISHED, "network": "skip:channels=128x5:skips=4x5", "reg_noise": 0.03, "iterations": 2000}
# A narrow network whose input is the companion, an image that agrees with the small one, and a bicubic enlargement. Its
# output is best after one or two hundred iterations: it has edges that the companion lacks, and the longer it learns,
# the more it copies it. Wider networks were worse (docs/notes/consistent.md).
BALANCED: dict[str, Any] = {
    "network": "skip:channels=8,16,32,64,128:skips=4,4,4,4,4",
    "pad": "zero",
    "input": "guide",
    "rate": 0.03,
    "beta2": 0.99,
    "reg_noise": 0.005,
    "stop": Plateau.name,
    "max_iterations": 200,
}
PRESETS: Presets = {
    "fast": {**BALANCED, "max_iterations": 150},
    "balanced": BALANCED,
    "best": {**BALANCED, "runs": 3},
    "paper": PUBLISHED,
}
# Without a companion the input is noise, and no skip is at full resolution. There is hardly any noise to fit: less
# input noise than for denoising is enough. Nearest upsampling converges sooner; at full resolution it leaves a grid in
# textures such as grass: there the upsampling is bilinear.
BALANCED_ALONE: dict[str, Any] = {
    "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4:up=bilinear,nearest,nearest,nearest,nearest",
    "input": "noise",
    "input_depth": 32,
    "rate": 0.02,
    "reg_noise": 0.02,
    "ema": 0.995,  # at 1000 iterations bird is past its best: a longer average recovers 0.1 dB
    "max_iterations": 1000,
}
ALONE: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4:up=bilinear,nearest,nearest,nearest,nearest",
        "input": "noise",
        "input_depth": 8,
        "reg_noise": 0.01,
        "max_iterations": 800,
    },
    "balanced": BALANCED_ALONE,
    "best": BALANCED_ALONE,
}
MIN_SCALE, MAX_SCALE = 1.5, 8
# Of the fit in the fusion with its companion, by the factor: the larger that is, the more edges the companion lacks.
# Factors in between, and beyond, are interpolated (docs/notes/consistent.md).
FIT_SHARES = {2: 0.2, 3: 0.5, 4: 0.8}
# Settings are published for factors of 4 and 8 only; factors above 4 use those for 8.
LARGE_SCALE = 4
LARGE_SCALE_SETTINGS = {"iterations": 4000, "reg_noise": 0.05}


@task(presets=PRESETS, result="enlarged", lengths={"fast": 150, "balanced": 200, "best": 200})
def superres(
    image: Image,
    scale: Annotated[
        float, typer.Option(help="Factor by which each side grows: 1.5 to 8, fractions allowed.", metavar="FACTOR")
    ] = 4.0,
    kernel: Annotated[
        str,
        typer.Option(
            help="Downsampling kernel of the small image: lanczos3 (most photo programs), lanczos2, bicubic (MATLAB, "
            "most papers), box (area means, camera binning) or gaussian:1.2 (blur by 1.2 large pixels, then sample).",
            metavar="KERNEL",
        ),
    ] = "lanczos3",
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="The input is the true image: downsample it, restore it, and measure the result against it.",
        ),
    ] = False,
    loss: LossOption = "l2",
    *,
    sigma: str = "auto",
    network: str = "skip",
    fusion: str = "auto",
    stop: str = Plateau.name,
) -> Case:
    """Enlarge a small image.

    Among the large images that downsample to the small one, the network finds
    a natural one. Name the kernel if you know how the small image was made:
    with the wrong one, edges become soft or get halos. For a photograph that
    was never downsampled, try box first.

    The fit starts from an image whose details resemble one another, and ends
    when its average hardly changes any more, at the latest after --max-iters.
    Four times larger, the result is four fifths of the fit and one of that
    image, twice larger the reverse. Shrunk, it gives the small image. With
    --stop holdout the fit is used alone, and held-out pixels of the small
    image decide when to stop, which helps if it is noisy.

    With --simulate, bicubic and nearest-pixel enlargements are measured
    beside the result. On smooth images bicubic can be closer to the truth.
    --network pixels is the published comparison without a network: without
    --tv there is no prior at all, with it the prior is small total variation.

    Examples:

        dip superres small.png
        dip superres small.png --scale 2.5 --kernel bicubic -o large.png
        dip superres large.png --simulate
        dip superres large.png --simulate --network pixels --tv 0.01
    """
    import numpy as np
    import torch  # imported late: `dip --help` must be fast

    from dipcli.images import MIN_SIDE
    from dipcli.problem import operators
    from dipcli.problem.consistent.enlarged import BackProjection, EnlargedCompanion
    from dipcli.problem.metrics import psnr
    from dipcli.tasks.baselines import enlarging

    if not isinstance(scale, int | float) or not MIN_SCALE <= scale <= MAX_SCALE:
        raise UsageError(f"--scale {scale} is out of range: use {MIN_SCALE:g} to {MAX_SCALE:g}.")
    resampling_kernel = operators.parse_kernel(kernel)
    channels, *sides = image.pixels.shape
    small = large = (sides[0], sides[1])
    measured = image.pixels
    if simulate:
        small = (round(large[0] / scale), round(large[1] / scale))
        if min(small) < MIN_SIDE:
            raise DipError(
                f"Downsampled by {scale:g} the image would be {small[1]}x{small[0]}, the smallest is "
                f"{MIN_SIDE}x{MIN_SIDE}: choose a smaller --scale or a larger image."
            )
        measured = image.quantize(operators.resample(image.pixels, small, resampling_kernel))
    else:
        large = (round(scale * small[0]), round(scale * small[1]))

    def conclude(restored: NDArray[np.float32]) -> str:
        downsampled = operators.resample(restored, small, resampling_kernel)
        counted = (slice(None), ... if simulate or image.valid is None else image.valid)
        return f"downsampled, it matches the input to {psnr(downsampled[counted], measured[counted]):.1f} dB"

    operator = operators.Resample(large, small, resampling_kernel)
    problem = Problem(
        measured=torch.from_numpy(measured),
        shape=(channels, *large),
        operator=operator,
        loss=losses.make_loss(loss, sigma),
        **({} if simulate else image.weights),
    )
    holds_out = stop.startswith((HoldOut.name, Auto.name))
    fused = fusion == "auto" and image.missing is None and not holds_out and not network.startswith("pixels")
    if fused:
        projection = BackProjection(operator, problem.measured)
        start = torch.from_numpy(operators.resample(measured, large, operators.KERNELS["bicubic"]))
        companion = EnlargedCompanion(projection, start)
        share = float(np.interp(scale, [*FIT_SHARES], [*FIT_SHARES.values()]))
        problem = replace(problem, guide=start.clamp(0, 1), companion=companion, share=share, finish=projection)
    return Case(
        problem=problem,
        image=image,
        truth=image.pixels if simulate else None,
        damaged=measured if simulate else None,
        baseline_images={
            name: image.quantize(enlarging.enlarge(measured, large, name))
            for name in ("bicubic", "nearest")
            if simulate
        },
        baselines=lambda: enlarging.make_baselines(measured, large),
        border=math.ceil(scale),
        presets={**({} if fused else ALONE), "paper": LARGE_SCALE_SETTINGS if scale > LARGE_SCALE else {}},
        remarks=(f"{small[1]}x{small[0]} becomes {large[1]}x{large[0]}",),
        conclude=conclude,
    )
