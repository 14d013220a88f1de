"""`dip dejpeg`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.stopping import Auto, HoldOut, Plateau
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

# The network's input is the companion and the decoded image with new noise at every step: half the iterations that
# plain noise takes as input, and more detail. Measured: docs/results.md, docs/notes/consistent.md.
GUIDED: Mapping[str, Any] = {
    "input": "guide",
    "pad": "zero",
    "rate": 0.01,
    "beta2": 0.99,
    "reg_noise": 0.1,
    "stop": Plateau.name,
}
CHANNELS = {"fast": "8,16,32,64,128", "balanced": "16,32,64,128,128", "best": "32,64,128,128,128"}
PRESETS: Presets = {
    "fast": {
        **GUIDED,
        "network": f"skip:channels={CHANNELS['fast']}:skips=4,4,4,4,4",
        "rate": 0.02,
        "max_iterations": 300,
    },
    "balanced": {**GUIDED, "network": f"skip:channels={CHANNELS['balanced']}:skips=4,4,4,4,4", "max_iterations": 400},
    "best": {**GUIDED, "network": f"skip:channels={CHANNELS['best']}:skips=4,4,4,4,4", "max_iterations": 600},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 572,827 parameters. It fits the decoded image.
    "paper": {
        **PUBLISHED,
        "blind": True,
        "network": "skip:channels=8,16,32,64,128:skips=0,0,0,4,4",
        "input_depth": 3,
        "reg_noise": 1 / 30,
        "iterations": 2400,
    },
}
# Without a companion: no skip at full resolution, which would keep the blocks, and longer.
ALONE: Presets = {
    name: {"network": f"skip:channels={CHANNELS[name]}:skips=0,4,4,4,4", "max_iterations": limit}
    for name, limit in (("fast", 600), ("balanced", 800), ("best", 1500))
}
# If the decoded image itself is fitted it cannot be the network's input: plain noise, and twice the iterations.
BLIND: Presets = {
    name: {
        **alone,
        "input": "noise",
        "input_depth": 32,
        "reg_noise": 1 / 30,
        "stop": "none",
        "iterations": 2 * int(alone["max_iterations"]),
    }
    for name, alone in ALONE.items()
}
# Of the fit in the fusion with its companion. The errors of the two differ, and their mean is better than either.
FIT_SHARE = 0.4


@task(presets=PRESETS, result="dejpegged", lengths={"fast": 300, "balanced": 350, "best": 350})
def dejpeg(
    image: Image,
    blind: Annotated[
        bool,
        typer.Option(
            help="Fit the decoded image, as published, not the coefficients in the JPEG file. Always so if the input "
            "is not a JPEG."
        ),
    ] = False,
    *,
    fusion: str = "auto",
    stop: str = Plateau.name,
) -> Case:
    """Remove the blocking and ringing of JPEG compression.

    A JPEG file gives the interval of each coefficient of the original image.
    The network finds a natural image within these intervals, until its average
    hardly changes any more or --max-iters is reached, and the result is the
    mean of it and of a smooth image within them: saved as a JPEG of the same
    kind, it would give almost the same file.

    Examples:

        dip dejpeg photo.jpg
        dip dejpeg photo.jpg -o photo.png --preset fast
        dip dejpeg *.jpg -o restored/
        dip dejpeg once_a_jpeg.png
        dip dejpeg photo.jpg --preset paper
    """
    import torch  # imported late: `dip --help` must be fast

    from dipcli.problem import jpeg
    from dipcli.problem.consistent.compressed import CompressedCompanion
    from dipcli.problem.consistent.first_save import find_first_save
    from dipcli.problem.independent.companion import MIN_SIDE

    remark = ""
    try:
        encoder = None if blind else jpeg.make_encoder(image.with_span(None))
    except DipError as error:
        encoder, remark = None, f"Fitting the decoded image (--blind), not its JPEG coefficients. {error}"
    if encoder is not None:
        image = image.with_span(None)  # its coefficients are those of the whole range
    decoded, baselines = torch.from_numpy(image.pixels), {"decoded": image.pixels}
    if encoder is None:
        return Case(
            problem=Problem(measured=decoded, shape=image.pixels.shape, **image.weights),
            image=image,
            baseline_images=baselines,
            remarks=(remark,) if remark else (),
            presets=BLIND,
        )

    if first := find_first_save(encoder, decoded):
        coefficients, quality = first
        encoder, remark = jpeg.Encoder(coefficients), f"saved twice, first at a quality of {quality}: undoing that save"

    def conclude(restored: NDArray[np.float32]) -> str:
        fraction = encoder.agreement(torch.from_numpy(restored))
        return f"{100 * fraction:.1f} % of its coefficients agree with the file."

    companion = None
    if fusion == "auto" and not stop.startswith((HoldOut.name, Auto.name)) and min(encoder.shape[1:]) >= MIN_SIDE:
        companion = CompressedCompanion(encoder, encoder.extend(decoded))
    return Case(
        problem=Problem(
            measured=encoder.measured,
            shape=encoder.shape,
            operator=encoder,
            loss=encoder.misfit,
            weight=encoder.weight,
            guide=encoder.extend(decoded),
            companion=companion,
            share=FIT_SHARE,
            finish=encoder.finish,
        ),
        image=image,
        baseline_images=baselines,
        remarks=(remark,) if remark else (),
        presets={} if companion else ALONE,
        conclude=conclude,
    )
