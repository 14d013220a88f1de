"""`dip impedance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipcli.errors import UsageError
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.tasks import registry
from dipcli.tasks.case import Case
from dipcli.tasks.registry import Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli.images.image import Image

MAX_NOISE = 1000  # of 255: nothing is left of the image

# Ulyanov et al., CVPR 2018, figure 2, and the settings published with it: 572,827 parameters for a colour image.
# In fp32: in bf16 the error on noise rose again after 1800 iterations.
PUBLISHED = {
    **registry.PUBLISHED,
    "precision": "fp32",
    "network": "skip:channels=8,16,32,64,128:skips=0,0,0,4,4",
    "input_depth": 3,
    "reg_noise": 0.0,
    "runs": 1,
}
# All presets use the published method; they save time by a smaller image and fewer iterations.
PRESETS: Presets = {
    "fast": {**PUBLISHED, "iterations": 500, "size": 128},
    "balanced": {**PUBLISHED, "iterations": 1000, "size": 256},
    "best": {**PUBLISHED, "iterations": 2400, "size": 512},
    "paper": {**PUBLISHED, "iterations": 2400},
}


@task(presets=PRESETS, result="impedance")
def impedance(
    image: Image,
    size: Annotated[
        int | None,
        typer.Option(
            help="Downsample the image to this many pixels on its longer side. Default: 128 (fast), 256 (balanced), "
            "512 (best), the whole image (paper)."
        ),
    ] = None,
    noise: Annotated[float, typer.Option(help="Standard deviation (0-255) of the noise in image + noise.")] = 25.0,
    error: Annotated[
        float | None,
        typer.Option(
            help="Mean squared error (values 0-1) at which a target counts as fitted. Default: the geometric mean of "
            "the variances of noise and image."
        ),
    ] = None,
    *,
    seed: int,
    optimize: str = "net",
    tv: float = 0.0,
    runs: int | None = 1,
) -> Case:
    """Show that the network fits an image fast and noise slowly.

    Four networks start from the same weights. One fits the image, one the
    image with noise, one its pixels in random order, one uniform noise. The
    result is a chart of their errors as PNG and SVG, with the numbers as CSV.

    Examples:

        dip impedance photo.jpg
        dip impedance photo.jpg -o curves.png --preset fast
        dip impedance photo.jpg --preset paper --size 256 --noise 50
    """
    import torch  # imported late: `dip --help` must be fast

    from dipcli.tasks.figures.learning_curves import TARGETS, Curves

    if optimize != "net" or tv or runs != 1:
        raise UsageError(
            "dip impedance compares single plain fits of four networks with one input: leave --optimize, --tv and "
            "--runs out."
        )
    if not 0 < noise <= MAX_NOISE:
        raise UsageError(f"--noise {noise:g} is out of range: use a number above 0, up to {MAX_NOISE}.")
    if error is not None and not 0 < error < 1:
        raise UsageError(f"--error {error:g} is out of range: use a number above 0 and below 1.")
    pixels = image.pixels if size is None else downsample(image.pixels, size)
    stacked = make_targets(pixels, noise / 255, seed)
    measured = torch.from_numpy(stacked)
    error = choose_threshold(stacked) if error is None else error
    curves, remarks = Curves(measured, error), []
    if pixels is not image.pixels:
        remarks.append(f"fitting a copy of {pixels.shape[2]}x{pixels.shape[1]} pixels")
    variance = float(pixels.var(axis=(1, 2)).mean())
    if variance <= error:
        remarks.append(f"a single colour has a mean squared error of only {variance:.2g}: try a smaller --error")
    return Case(
        problem=Problem(
            measured=measured, shape=stacked.shape, loss=summed_squared_error, members=len(TARGETS), finish=side_by_side
        ),
        image=image.to_8_bits(pixels),
        remarks=tuple(remarks),
        observers=(curves,),
        conclude=lambda _: curves.conclude(),
        render=curves.render,
        suffixes=(".png", ".svg", ".csv"),
    )


def downsample(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return a copy of (C, H, W), 0..1, antialiased, with `size` pixels on the longer side, or itself if no larger.

    Raises:
        UsageError: if a side would be shorter than the smallest allowed.
    """
    import numpy as np
    import PIL.Image

    from dipcli.images.image import MIN_SIDE

    height, width = pixels.shape[1:]
    if size < MIN_SIDE:
        raise UsageError(f"--size {size} is too small: use {MIN_SIDE} or more.")
    if size >= max(height, width):
        return pixels
    high, wide = (round(side * size / max(height, width)) for side in (height, width))
    if min(high, wide) < MIN_SIDE:
        least = -(-MIN_SIDE * max(height, width) // min(height, width))
        raise UsageError(f"--size {size} makes {wide}x{high} of an image of {width}x{height}: use {least} or more.")
    planes = [PIL.Image.fromarray(plane).resize((wide, high), PIL.Image.Resampling.LANCZOS) for plane in pixels]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)  # Lanczos overshoots at edges


def make_targets(pixels: NDArray[np.float32], sigma: float, seed: int) -> NDArray[np.float32]:
    """Return the targets of the fit: image, image + noise, shuffled pixels, uniform noise.

        y_1 = x,    y_2 = clip(x + n),    y_3(p) = x(pi(p)),    y_4(p) ~ U(0, 1)

    n is normal noise of standard deviation sigma, drawn for each colour; pi permutes the positions of the pixels, whose
    colours stay together. The noisy image is clipped to 0..1, as published. The same seed gives the same targets.

    From (C, H, W) to the four targets along the channels, (4C, H, W), values 0..1.
    """
    import numpy as np

    channels, height, width = pixels.shape
    generator = np.random.default_rng(seed)
    noisy = np.clip(pixels + generator.normal(0, sigma, pixels.shape), 0, 1)
    places = generator.permutation(height * width)
    shuffled = pixels.reshape(channels, -1)[:, places].reshape(pixels.shape)
    uniform = generator.random(pixels.shape)
    return np.concatenate([pixels, noisy, shuffled, uniform]).astype(np.float32)


def choose_threshold(measured: NDArray[np.float32]) -> float:
    """Choose the mean squared error that separates fitted targets from the others.

        sqrt( mean(n^2) var(x) ),    n = y_2 - x

    A network that fits the image but not the noise has the first factor as its error on image + noise; one that fits
    only the mean colour has the second as its error on the shuffled pixels. If the noise varies more than the image, no
    error separates them.

    From the targets, (4C, H, W), to the error, rounded to two digits; at least 0.0001 (40 dB).
    """
    clean, noisy, *_ = measured.reshape(4, -1, measured.shape[1] * measured.shape[2]).astype(float)
    product = ((noisy - clean) ** 2).mean() * clean.var(axis=1).mean()
    return max(float(f"{product**0.5:.2g}"), 1e-4)


def summed_squared_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the sum of the four mean squared errors: each network's gradient is as in a fit of its own.

    Prediction and measurement have shape (4C, H, W); the weight is as for `losses.squared_error`.
    """
    return 4 * squared_error(prediction, measured, weight)


def side_by_side(image: Tensor) -> Tensor:
    """Place the four images in a row: (4C, H, W) to (C, H, 4W)."""
    return image.reshape(4, -1, *image.shape[1:]).permute(1, 2, 0, 3).flatten(2)
