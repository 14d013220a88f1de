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

LOUDEST = 1000  # of 255 grey levels: nothing is left of the picture

# Ulyanov et al., CVPR 2018, figure 2, and the settings published with it: 572,827 parameters for a colour picture.
# In fp32, for what is shown is how a network learns: in bf16 the error on noise rose again after 1800 iterations.
PUBLISHED = {
    **registry.PUBLISHED,
    "precision": "fp32",
    "network": "skip:channels=8,16,32,64,128:skips=0,0,0,4,4",
    "input_depth": 3,
    "reg_noise": 0.0,
    "runs": 1,
}
# The method is the published one throughout, for it is the method that is shown; a smaller picture and fewer
# iterations save the time.
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
            help="Work on a smaller copy whose longer side has so many pixels; a picture that is no larger is taken "
            "as it is. Presets: 128 for fast, 256 for balanced, 512 for best, and the whole picture for paper."
        ),
    ] = None,
    noise: Annotated[
        float, typer.Option(help="Standard deviation (0-255) of the noise in picture + noise, which is clipped.")
    ] = 25.0,
    error: Annotated[
        float | None,
        typer.Option(
            help="The mean squared error (values 0-1) at which a target counts as fitted, for the last sentence and "
            "a line in the chart. When not given, the geometric mean of the noise's variance and the picture's."
        ),
    ] = None,
    *,
    seed: int,
    optimize: str = "net",
    tv: float = 0.0,
    runs: int | None = 1,
) -> Case:
    """Show that the network fits a picture fast and noise slowly.

    Four networks start from the same weights. One fits the picture, one the
    picture with noise, one the same pixels in random order, one uniform noise.
    The chart of their errors is what is written, as PNG and SVG, with the
    numbers as CSV.

    Examples:

        dip impedance photo.jpg
        dip impedance photo.jpg -o curves.png --preset fast
        dip impedance photo.jpg --preset paper --size 256 --noise 50
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli.tasks.figures.learning_curves import TARGETS, Curves

    if optimize != "net" or tv or runs != 1:
        raise UsageError(
            "The four networks share their input, and what is compared is the bare fit, once: "
            "leave --optimize, --tv and --runs out."
        )
    if not 0 < noise <= LOUDEST:
        raise UsageError(f"--noise {noise:g} is out of range: use a number above 0, up to {LOUDEST}.")
    if error is not None and not 0 < error < 1:
        raise UsageError(f"--error {error:g} is out of range: use a number above 0 and below 1.")
    pixels = image.pixels if size is None else reduced(image.pixels, size)
    stacked = targets(pixels, noise / 255, seed)
    measured = torch.from_numpy(stacked)
    error = between(stacked) if error is None else error
    curves = Curves(measured, error)
    remarks = []
    if pixels is not image.pixels:
        remarks.append(f"working on a copy of {pixels.shape[2]}x{pixels.shape[1]}")
    flat = float(pixels.var(axis=(1, 2)).mean())
    if flat <= error:
        remarks.append(f"a single colour comes to a mean squared error of {flat:.2g} already: try a smaller --error")
    return Case(
        problem=Problem(
            measured=measured,
            shape=stacked.shape,
            loss=summed_squared_error,
            members=len(TARGETS),
            finish=side_by_side,
        ),
        image=image.to_8_bits(pixels),
        remarks=tuple(remarks),
        observers=(curves,),
        conclude=lambda _: curves.conclude(),
        render=curves.render,
        suffixes=(".png", ".svg", ".csv"),
    )


def reduced(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """A smaller copy of a picture, antialiased; the picture itself where it is no larger than that.

    Args:
        pixels: shape (C, H, W), values 0..1.
        size: pixels of the longer side.

    Raises:
        UsageError: when a side would be shorter than the smallest allowed.
    """
    import numpy as np
    import PIL.Image

    from dipcli.images.image import SMALLEST

    height, width = pixels.shape[1:]
    if size < SMALLEST:
        raise UsageError(f"--size {size} is too small: use {SMALLEST} or more.")
    if size >= max(height, width):
        return pixels
    high, wide = (round(side * size / max(height, width)) for side in (height, width))
    if min(high, wide) < SMALLEST:
        least = -(-SMALLEST * max(height, width) // min(height, width))
        raise UsageError(f"--size {size} makes {wide}x{high} of a picture of {width}x{height}: use {least} or more.")
    planes = [PIL.Image.fromarray(plane).resize((wide, high), PIL.Image.Resampling.LANCZOS) for plane in pixels]
    return np.stack([np.asarray(plane) for plane in planes]).clip(0, 1)  # Lanczos overshoots at edges


def targets(pixels: NDArray[np.float32], sigma: float, seed: int) -> NDArray[np.float32]:
    """What is to be fitted: picture, picture + noise, shuffled pixels, uniform noise.

        y_1 = x,    y_2 = clip(x + n),    y_3(p) = x(pi(p)),    y_4(p) ~ U(0, 1)

    n is normal noise and drawn for each colour; pi permutes the pixels' places, and the colours of a pixel stay
    together. The noisy picture is clipped to 0..1, as published.

    Args:
        pixels: x, shape (C, H, W), values 0..1.
        sigma: standard deviation of n, in the picture's values.
        seed: same seed, same targets.

    Returns:
        The four one behind the other along the channels, shape (4C, H, W), values 0..1.
    """
    import numpy as np

    channels, height, width = pixels.shape
    generator = np.random.default_rng(seed)
    noisy = np.clip(pixels + generator.normal(0, sigma, pixels.shape), 0, 1)
    places = generator.permutation(height * width)
    shuffled = pixels.reshape(channels, -1)[:, places].reshape(pixels.shape)
    uniform = generator.random(pixels.shape)
    return np.concatenate([pixels, noisy, shuffled, uniform]).astype(np.float32)


def between(measured: NDArray[np.float32]) -> float:
    """An error by which to tell the targets that are fitted from those that are not.

        sqrt( mean(n^2) var(x) ),    n = y_2 - x

    A network that finds the picture and leaves the noise is as far from picture + noise as the first factor; one that
    finds no more than the mean colour is as far from the shuffled pixels as the second. Where the noise varies more
    than the picture, no error tells them apart.

    Args:
        measured: the targets, shape (4C, H, W).

    Returns:
        Rounded to two digits; 0.0001 (40 dB) at least.
    """
    picture, noisy, *_ = measured.reshape(4, -1, measured.shape[1] * measured.shape[2]).astype(float)
    product = ((noisy - picture) ** 2).mean() * picture.var(axis=1).mean()
    return max(float(f"{product**0.5:.2g}"), 1e-4)


def summed_squared_error(prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
    """The four mean squared errors added up: each network's slope is what it would be by itself.

    Args:
        prediction: shape (4C, H, W).
        measured: the same shape.
        weight: as for `losses.squared_error`.
    """
    return 4 * squared_error(prediction, measured, weight)


def side_by_side(image: Tensor) -> Tensor:
    """The four pictures in a row: from (4C, H, W) to (C, H, 4W)."""
    return image.reshape(4, -1, *image.shape[1:]).permute(1, 2, 0, 3).flatten(2)
