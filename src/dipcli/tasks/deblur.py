"""`dip deblur`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.problem import Problem, losses
from dipcli.problem.noise import FULL_SCALE
from dipcli.tasks import LossOption, denoise
from dipcli.tasks.baselines.baseline import Baseline
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

BALANCED: dict[str, Any] = {**denoise.BALANCED, "reg_noise": 0.02, "warmup": 0, "stop": "auto:patience=50"}
PRESETS: Presets = {
    "fast": {**BALANCED, "network": denoise.PRESETS["fast"]["network"], "rate": 0.03},
    "balanced": BALANCED,
    "best": {**BALANCED, "runs": 3},
    # The paper does not deblur: its network and settings for super-resolution by 4, whose data term is of this kind.
    "paper": {**PUBLISHED, "network": "skip:channels=128x5:skips=4x5", "reg_noise": 0.03, "iterations": 2000},
}


@task(presets=PRESETS, result="deblurred", lengths={"fast": 250, "balanced": 350, "best": 350})
def deblur(
    image: Image,
    kernel: Annotated[
        str,
        typer.Option(
            help="The blur: an image of the kernel (of a point of light), gaussian:1.5 (sigma in pixels) or "
            "motion:9:30 (length in pixels, degrees counter-clockwise from a row).",
            metavar="KERNEL",
        ),
    ],
    loss: LossOption = "l2",
    *,
    sigma: str = "auto",
    fusion: str = "auto",
) -> Case:
    """Undo a known blur.

    Name the kernel: the image that a point of light would make. It may be a
    file, as a star or a bead cut out of a measurement and cleaned, in grey,
    with the point in the middle. Brightness of the kernel does not matter.

    The fitted image is larger than the input by the radius of the kernel,
    because light from beyond the border has reached it; that margin is cut
    off at the end. The fit is fused with a non-local estimate by held-out
    pixels. Noise is measured, or given as --sigma.

    The paper has no deblurring: --preset paper is its network and settings
    for super-resolution.

    Examples:

        dip deblur blurred.png --kernel gaussian:1.5
        dip deblur shaken.png --kernel motion:9:30 --compare
        dip deblur stars.tif --kernel psf.png -o sharp.tif
    """
    import torch  # imported late: `dip --help` must be fast

    from dipcli.problem.blur.estimates import MIN_LEVEL, Inverses, PlugAndPlay
    from dipcli.problem.blur.kernels import read_kernel
    from dipcli.problem.blur.operator import Blur, Crop

    pixels = image.pixels
    channels, height, width = pixels.shape
    taps = read_kernel(kernel, (height, width))
    down, across = (side // 2 for side in taps.shape)
    level = float(sigma) / FULL_SCALE if sigma != "auto" else measure_level(pixels)
    measured, blur = torch.from_numpy(pixels), Blur(torch.from_numpy(taps))
    estimate = (blur, measured, max(level, MIN_LEVEL))

    def baselines() -> list[Baseline]:
        from dipcli.tasks.baselines.deblurring import make_baselines

        ridge = Baseline("plug-and-play", "plug-and-play", lambda _: problem.finish(PlugAndPlay(*estimate)()).numpy())
        return [ridge, *make_baselines(pixels, taps)]

    problem = Problem(
        measured=measured,
        shape=(channels, height + 2 * down, width + 2 * across),
        operator=blur,
        loss=losses.make_loss(loss, sigma),
        guide=Inverses(*estimate),
        companion=PlugAndPlay(*estimate) if fusion == "auto" else None,
        finish=Crop(slice(down, down + height), slice(across, across + width)),
    )
    return Case(
        problem=problem,
        image=image,
        baselines=baselines,
        origin=(down, across),
        remarks=(f"the kernel has {taps.shape[1]}x{taps.shape[0]} pixels",),
    )


def measure_level(pixels: NDArray[np.float32]) -> float:
    """Return the standard deviation of the noise, 0..1, of a blurred image (C, H, W): of its finest details.

    A blurred image has hardly any of its own. `problem/noise.py` takes what is left for noise that neighbours share: on
    the blurred peppers without noise it found 9 of 255, and 7 dB were lost.
    """
    import numpy as np
    from skimage.restoration import estimate_sigma

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where there are no details at all
        return float(np.nan_to_num(estimate_sigma(pixels, average_sigmas=True, channel_axis=0)))
