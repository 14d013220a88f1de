"""A new task in one file: undo a blur of known width.

    python examples/sharpen.py sharpen blurred.png --width 1.5

A file like this in `src/dipcli/tasks/` is found automatically and becomes `dip sharpen`. Here `main()` at the end makes
it a command line of its own, with every shared option, the log and the run record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipcli import Image, Problem, UsageError, main, task

if TYPE_CHECKING:
    from torch import Tensor

PRESETS = {
    # A blurred image has little noise, so the fit may run long and the input needs little noise of its own.
    "balanced": {
        "network": "skip:channels=16,32,64,128:skips=4x4",
        "pad": "zero",
        "reg_noise": 0.01,
        "iterations": 600,
    },
}


@task(presets=PRESETS, result="sharpened")
def sharpen(
    image: Image,
    width: Annotated[float, typer.Option(help="Standard deviation of the Gaussian blur, in pixels.")] = 1.5,
) -> Problem:
    """Undo a Gaussian blur of known width.

    Examples:
        sharpen.py sharpen blurred.png --width 1.5
    """
    if not 0 < width < 5:
        raise UsageError(f"--width {width} is out of range: use a number between 0 and 5.")
    import torch  # imported here, because --help and completion need not wait for it

    return Problem(
        measured=torch.from_numpy(image.pixels),
        shape=image.pixels.shape,
        operator=lambda x: blur(x, width),
    )


def blur(image: Tensor, width: float) -> Tensor:
    """Blur an image by a Gaussian, shape (C, H, W) to (C, H, W), with reflection at the border."""
    import torch
    import torch.nn.functional as F

    radius = round(3 * width)
    distance = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-((distance / width) ** 2) / 2)
    kernel /= kernel.sum()
    padded = F.pad(image[:, None], [radius] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]


if __name__ == "__main__":
    main()
