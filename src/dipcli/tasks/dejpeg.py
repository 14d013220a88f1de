"""`dip dejpeg`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dipcli.case import Case
from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.registry import Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.picture import Picture

PRESETS: Presets = {
    "fast": {
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4",
        "pad": "zero",
        "input_depth": 8,
        "rate": 0.02,
        "beta2": 0.99,
        "reg_noise": 0.01,
        "iterations": 600,
        "stop": "none",
    },
    "balanced": {
        "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4",
        "pad": "zero",
        "input_depth": 32,
        "rate": 0.01,
        "beta2": 0.99,
        "reg_noise": 0.01,
        "iterations": 1400,
        "stop": "none",
    },
    "best": {
        "network": "skip:channels=32,64,128,128,128:skips=4x5",
        "pad": "zero",
        "input_depth": 32,
        "rate": 0.01,
        "beta2": 0.99,
        "reg_noise": 0.02,
        "iterations": 2400,
        "stop": "none",
    },
    # Ulyanov et al., CVPR 2018, and the settings published with it: 572,827 parameters. It knows nothing of the file.
    "paper": {
        "blind": True,
        "network": "skip:channels=8,16,32,64,128:skips=0,0,0,4,4",
        "pad": "reflection",
        "input": "noise",
        "input_depth": 3,
        "optimize": "net",
        "optimizer": "adam",
        "rate": 0.01,
        "beta2": 0.999,
        "reg_noise": 1 / 30,
        "ema": 0.99,
        "tv": 0.0,
        "iterations": 2400,
        "stop": "none",
    },
}


@task(presets=PRESETS, result="dejpegged")
def dejpeg(
    image: Picture,
    blind: Annotated[
        bool,
        typer.Option(
            help="Fit the decoded picture, as published, in place of the numbers that the JPEG file holds. Done "
            "anyway where the input is no JPEG."
        ),
    ] = False,
) -> Case:
    """Remove the blocks and rings of JPEG compression.

    A JPEG file says of its picture within which limits each coefficient lies.
    The network finds a natural picture within these limits: the result, saved
    as the same kind of JPEG, would all but give the same file.

    Examples:

        dip dejpeg photo.jpg
        dip dejpeg photo.jpg -o photo.png --preset fast
        dip dejpeg *.jpg -o restored/
        dip dejpeg screenshot_of_a_photo.png
        dip dejpeg photo.jpg --preset paper
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli import coding

    decoded = Problem(measured=torch.from_numpy(image.pixels), shape=image.pixels.shape)
    if blind:
        return Case(problem=decoded, picture=image)
    try:
        encoder = coding.encoder(image)
    except DipError as error:
        remark = f"The decoded picture is fitted (--blind), not the numbers of a JPEG file. {error}"
        return Case(problem=decoded, picture=image, remarks=(remark,))

    def conclude(restored: NDArray[np.float32]) -> str:
        share = encoder.agreement(torch.from_numpy(restored))
        return f"{100 * share:.1f} % of its coefficients agree with the file."

    return Case(
        problem=Problem(
            measured=encoder.measured,
            shape=encoder.shape,
            operator=encoder,
            loss=encoder.misfit,
            weight=encoder.weight,
            finish=encoder.finish,
        ),
        picture=image,
        baselines={"decoded": image.pixels},
        conclude=conclude,
    )
