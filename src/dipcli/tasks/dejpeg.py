"""`dip dejpeg`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

# The network is shown the decoded picture under fresh noise at every step, which it can no more copy than plain noise
# but need not invent: half the steps, and more detail in the end. Measured: docs/results.md.
SHOWN: Mapping[str, Any] = {
    "input": "guide",
    "pad": "zero",
    "rate": 0.01,
    "beta2": 0.99,
    "reg_noise": 0.1,
    "stop": "none",
}
PRESETS: Presets = {
    "fast": {
        **SHOWN,
        "network": "skip:channels=8,16,32,64,128:skips=0,4,4,4,4",
        "rate": 0.02,
        "iterations": 600,
    },
    "balanced": {**SHOWN, "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4", "iterations": 800},
    "best": {**SHOWN, "network": "skip:channels=32,64,128,128,128:skips=0,4,4,4,4", "iterations": 1500},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 572,827 parameters. It knows nothing of the file.
    "paper": {
        **PUBLISHED,
        "blind": True,
        "network": "skip:channels=8,16,32,64,128:skips=0,0,0,4,4",
        "input_depth": 3,
        "reg_noise": 1 / 30,
        "iterations": 2400,
    },
}
# Where the decoded picture itself is fitted the network must not be shown it, and takes its time from plain noise.
BLIND: Presets = {
    name: {"input": "noise", "input_depth": 32, "reg_noise": 1 / 30, "iterations": 2 * int(PRESETS[name]["iterations"])}
    for name in ("fast", "balanced", "best")
}


@task(presets=PRESETS, result="dejpegged")
def dejpeg(
    image: Image,
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
        dip dejpeg once_a_jpeg.png
        dip dejpeg photo.jpg --preset paper
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli.problem import jpeg as coding

    decoded, baselines = torch.from_numpy(image.pixels), {"decoded": image.pixels}
    refused = ""
    try:
        encoder = None if blind else coding.encoder(image)
    except DipError as error:
        encoder, refused = None, f"The decoded picture is fitted (--blind), not what its file says of it. {error}"
    if encoder is None:
        return Case(
            problem=Problem(measured=decoded, shape=image.pixels.shape),
            image=image,
            baseline_images=baselines,
            remarks=(refused,) if refused else (),
            presets=BLIND,
        )

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
            guide=encoder.extend(decoded),
            finish=encoder.finish,
        ),
        image=image,
        baseline_images=baselines,
        conclude=conclude,
    )
