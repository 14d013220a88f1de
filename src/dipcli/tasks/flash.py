"""`dip flash`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipcli.errors import DipError
from dipcli.problem import Problem, losses
from dipcli.tasks import LossOption
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

LAYOUT = "skips=4x5:up=nearest,nearest,bilinear,bilinear,bilinear"
NETWORK = f"skip:channels=128x5:{LAYOUT}"  # 2,184,307 parameters
GUIDED = {"input": "guide", "reg_noise": 0.0}
TUNED = {**GUIDED, "pad": "zero", "rate": 0.02, "beta2": 0.99}
PRESETS: Presets = {
    "fast": {**TUNED, "network": "skip:channels=16,32,64,64:skips=4x4:up=nearest", "iterations": 200},
    "balanced": {**TUNED, "network": f"skip:channels=16,32,64,128,128:{LAYOUT}", "iterations": 500},
    "best": {**GUIDED, "network": NETWORK, "rate": 0.01, "iterations": 600},
    # Ulyanov et al., CVPR 2018, and the settings published with it. The learning rate is high: it is halved if the fit
    # collapses.
    "paper": {**PUBLISHED, **GUIDED, "input_depth": None, "network": NETWORK, "rate": 0.1, "iterations": 600},
}
MAX_SHIFT = 1.5  # pixels between images from a tripod, with the error of the estimate


@task(presets=PRESETS, result="relit")
def flash(
    image: Image,
    guide: Annotated[str, typer.Option(metavar="FLASH", help="Image of the same scene and size, taken with a flash.")],
    loss: LossOption = "l2",
    *,
    sigma: str = "auto",
) -> Case:
    """Restore a dark noisy image, guided by an image taken with a flash.

    The flash image is the network's input: its structure passes into the
    result, its light does not.

    Examples:

        dip flash dark.jpg --guide flash.jpg
        dip flash dark.jpg --guide flash.jpg -o clean.png --iters 600
    """
    import torch  # imported late: `dip --help` must be fast

    from dipcli import images

    lit = images.to_image(guide).pixels
    if lit.shape[1:] != image.pixels.shape[1:]:
        (height, width), (own_height, own_width) = lit.shape[1:], image.pixels.shape[1:]
        raise DipError(
            f"The flash image is {width}x{height}, the dark one {own_width}x{own_height}: give a --guide of its size."
        )
    down, right = estimate_shift(image.pixels, lit)
    remark = (
        f"the flash image seems to lie {abs(down):.0f} pixels {'lower' if down > 0 else 'higher'} and "
        f"{abs(right):.0f} further {'right' if right > 0 else 'left'}: align the two for a sharp result"
    )
    problem = Problem(
        measured=torch.from_numpy(image.pixels),
        shape=image.pixels.shape,
        guide=torch.from_numpy(lit),
        loss=losses.make_loss(loss, sigma),
        **image.weights,
    )
    return Case(problem=problem, image=image, remarks=(remark,) if max(abs(down), abs(right)) > MAX_SHIFT else ())


def estimate_shift(dark: NDArray[np.float32], lit: NDArray[np.float32]) -> tuple[float, float]:
    """Estimate how far the second image lies below and to the right of the first, in pixels; both are (any C, H, W).

    The estimate is the peak of the phase correlation of their edges, which differ less than their light and shade.

    Source:
        Kuglin, Hines, "The phase correlation image alignment method", 1975, as implemented in scikit-image.
    """
    from skimage.filters import gaussian, sobel
    from skimage.registration import phase_cross_correlation

    edges = [sobel(gaussian(pixels.mean(axis=0), 1.5)) for pixels in (dark, lit)]
    if not all(edge.any() for edge in edges):
        return 0.0, 0.0  # nothing to align
    (down, right), _, _ = phase_cross_correlation(*(edge / edge.max() for edge in edges), normalization=None)
    return -float(down), -float(right)
