"""`dip inpaint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

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

Damage = Literal["auto", "text", "hole", "region", "scattered"]

# Ulyanov et al., CVPR 2018, and the settings published with it, by what is missing.
PUBLISHED: Presets = {
    "text": {
        "network": "skip:channels=128x5:skips=128x5:up=nearest",
        "iterations": 6000,
    },
    "hole": {
        "network": "skip:channels=16,32,64,128,128,128:skips=0x6:kernel_down=5:up=nearest:pointwise=no",
        "input_depth": 1,
        "reg_noise": 0.0,
        "iterations": 3000,
    },
    "region": {
        "network": "skip:channels=128x5:skips=0x5:up=nearest",
        "input": "meshgrid",
        "input_depth": 2,
        "iterations": 5000,
    },
    "scattered": {
        "network": "skip:channels=128x5:skips=4x5",
        "rate": 0.001,
        "iterations": 11000,
    },
}
# Nearest upsampling and little noise: on house with half of its pixels missing 35.0 dB after 500 iterations, where
# bilinear upsampling reached 34.3. What is held out of the known pixels chooses the average.
NARROW = {
    "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4:up=nearest",
    "pad": "zero",
    "rate": 0.02,
    "beta2": 0.99,
    "reg_noise": 0.01,
}
# A large area wants a network that reaches far and has no skips, as published; pixels held out here and there say
# little of it, so it runs to the end.
# The networks of the published comparison, which learn slowly.
SLOW = {"input": "noise", "input_depth": 1, "rate": 0.001, "reg_noise": 0.0, "iterations": 3000, "stop": "none"}
OTHER_NETWORKS: Presets = {"unet": {**SLOW, "pad": "zero"}, "resnet": {**SLOW, "pad": "reflection"}}
FAR: Mapping[str, Any] = {**PUBLISHED["hole"], "beta2": 0.99, "stop": "none"}
PRESETS: Presets = {
    "fast": {**NARROW, "iterations": 500},
    "balanced": {**NARROW, "iterations": 1500},
    "best": {"network": "skip:channels=128x5:skips=4x5:up=nearest", "reg_noise": 0.01, "iterations": 3000},
    "paper": {
        **registry.PUBLISHED,
        "reg_noise": 0.03,
        **PUBLISHED["text"],
    },
}
FEWEST = 16  # known pixels
SPECK = 4  # pixels: the size of half of the pieces to be filled, where these are scattered
MUCH = 0.6  # share of the picture: so much is seldom meant to be filled


@task(presets=PRESETS, result="inpainted")
def inpaint(
    image: Image,
    mask: Annotated[
        str,
        typer.Option(
            metavar="MASK",
            help="What to fill: a picture of the same size in which white is to be filled; alpha for the transparent "
            "pixels of the picture itself.",
        ),
    ],
    mask_invert: Annotated[bool, typer.Option("--mask-invert", help="Fill what is black in the mask.")] = False,
    damage: Annotated[
        Damage,
        typer.Option(
            help="What is missing: text (thin strokes), scattered (single pixels), hole or region (a large area); auto "
            "looks at the mask. Each has published settings of its own."
        ),
    ] = "auto",
    loss: LossOption = "l2",
    *,
    network: str = "skip",
    sigma: str = "auto",
) -> Case:
    """Fill holes, text and scattered missing pixels.

    The network is fitted to the pixels that are known, and what it draws
    elsewhere fills the rest. Known pixels come back bit for bit.

    It runs as long as the preset says. For text and scattered pixels the
    average is kept that predicts a few held-out known pixels best, and with
    --stop holdout the run ends by them; of a large hole they tell nothing.
    Name holdout:block=9 for holes of that size.

    Examples:

        dip inpaint img.png --mask mask.png
        dip inpaint img.png --mask keep.png --mask-invert
        dip inpaint cutout.png --mask alpha
        dip inpaint img.png --mask mask.png --preset paper --damage hole
        dip inpaint img.png --mask mask.png --network unet
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli.problem.operators import KeepKnown

    own = isinstance(mask, str) and mask == "alpha"
    marked, remarks = _transparent(image, mask_invert) if own else _marked(image, mask, mask_invert)
    share = float(marked.mean())
    if not marked.any() or (~marked).sum() < FEWEST:
        what = "nothing" if not marked.any() else "everything" if marked.all() else "all but a few pixels"
        raise DipError(f"The mask marks {what} to be filled: white is what to fill, --mask-invert turns it round.")
    remarks.append(f"filling {100 * share:.1f} % of the picture")
    if share > MUCH:
        remarks[-1] += ", which is much: if white is what to keep, say --mask-invert"
    kind = judged(marked) if damage == "auto" else damage
    if kind not in PUBLISHED:
        raise UsageError(f"--damage {kind} is unknown: choose auto, {', '.join(PUBLISHED)}.")
    if damage == "auto":
        remarks.append(f"taking it for {kind} (--damage)")

    measured = torch.from_numpy(image.pixels)
    known = torch.from_numpy(~marked)[None]

    def rivals() -> list[Baseline]:
        from dipcli.tasks.baselines.inpainting import classical

        return classical(image.pixels, marked)

    opaque = replace(image, alpha=_filled(image, marked)) if own else image
    return Case(
        problem=Problem(
            measured=measured,
            shape=image.pixels.shape,
            weight=known.float(),
            loss=losses.make_loss(loss, sigma),
            finish=KeepKnown(measured, known),
        ),
        image=opaque,
        baselines=rivals,
        known=~marked,
        remarks=tuple(remarks),
        presets=adapted(kind, network),
    )


def adapted(kind: str, network: str) -> Presets:
    """What each preset is for this kind of damage, or for this network, where it differs."""
    if other := OTHER_NETWORKS.get(network.partition(":")[0]):
        return dict.fromkeys(PRESETS, other)
    if kind in ("text", "scattered"):
        return {"paper": PUBLISHED[kind]}
    return {
        "fast": {**FAR, "iterations": 500},
        "balanced": {**FAR, "iterations": 1500},
        "best": {**PUBLISHED[kind], "stop": "none"},
        "paper": PUBLISHED[kind],
    }


def judged(marked: NDArray[np.bool_]) -> str:
    """Text, scattered or hole, by the shape of what is to be filled, (H, W).

    Scattered pixels are single, or so many that most known pixels touch one; strokes are thin; the rest is a hole.
    """
    import numpy as np
    from scipy.ndimage import binary_dilation, distance_transform_edt, label

    pieces, _ = label(marked)
    touching = binary_dilation(marked) & ~marked
    if np.median(np.bincount(pieces.flat)[1:]) <= SPECK or touching.sum() > (~marked).sum() / 2:
        return "scattered"
    padded = np.pad(marked, 1, mode="edge")  # a hole at the border goes on beyond it
    return "text" if distance_transform_edt(padded).max() <= max(3, min(marked.shape) / 40) else "hole"


def _marked(image: Image, mask: Any, invert: bool) -> tuple[NDArray[np.bool_], list[str]]:
    """Which pixels a mask marks, (H, W), and what there is to say of it."""
    from dipcli import images

    given = images.to_image(mask)
    levels = given.pixels.mean(axis=0)
    if given.alpha is not None:  # what was left transparent was not painted
        levels = levels * given.alpha / _full(given.alpha)
    if levels.shape != image.pixels.shape[1:]:
        (height, width), (tall, wide) = levels.shape, image.pixels.shape[1:]
        raise DipError(f"The mask is {width}x{height}, the picture {wide}x{tall}: give a --mask of the same size.")
    if 0 < levels.max() <= 1 / 255 and given.dtype.kind == "u":
        raise DipError("The mask's largest value is 1 of 255, which is black: give yes and no, or 0 and 255.")
    return _halved(1 - levels if invert else levels, "the mask")


def _transparent(image: Image, invert: bool) -> tuple[NDArray[np.bool_], list[str]]:
    """Which pixels are transparent, (H, W)."""
    if image.alpha is None:
        raise DipError("--mask alpha needs a picture with transparency, this one has none: name a mask file.")
    levels = image.alpha / _full(image.alpha)
    return _halved(levels if invert else 1 - levels, "the transparency")


def _halved(levels: NDArray[Any], what: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Levels of 0..1 as yes or no."""
    between = float(((levels > 1 / 64) & (levels < 63 / 64)).mean())
    told = f"{what} has levels in between ({100 * between:.1f} % of it): from one half up they are filled"
    return levels >= 1 / 2, [told] if between else []


def _filled(image: Image, marked: NDArray[np.bool_]) -> NDArray[Any] | None:
    """The transparency with what is filled made opaque: else nobody would see it."""
    import numpy as np

    alpha = image.alpha
    return None if alpha is None else np.where(marked, alpha.dtype.type(_full(alpha)), alpha)


def _full(alpha: NDArray[Any]) -> int:
    """What opaque is in samples of this type."""
    import numpy as np

    return 1 if alpha.dtype.kind == "f" else int(np.iinfo(alpha.dtype).max)
