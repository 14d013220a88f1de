"""`dip inpaint`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dipcli.errors import DipError, UsageError
from dipcli.problem import Problem, losses
from dipcli.tasks import LossOption, registry
from dipcli.tasks.baselines.baseline import Baseline
from dipcli.tasks.case import Case
from dipcli.tasks.registry import Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dipcli.images.image import Image

Damage = Literal["auto", "text", "hole", "region", "scattered"]

# Ulyanov et al., CVPR 2018, and the settings published with it, by kind of damage.
PUBLISHED: Presets = {
    "text": {"network": "skip:channels=128x5:skips=128x5:up=nearest", "iterations": 6000},
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
    "scattered": {"network": "skip:channels=128x5:skips=4x5", "rate": 0.001, "iterations": 11000},
}
# Nearest upsampling and little input noise: 35.0 dB after 500 iterations on house with half of its pixels missing;
# bilinear upsampling: 34.3 dB. The companion has 40.7 (docs/notes/inpainting.md).
NARROW = {
    "network": "skip:channels=16,32,64,128,128:skips=0,4,4,4,4:up=nearest",
    "pad": "zero",
    "rate": 0.02,
    "beta2": 0.99,
    "reg_noise": 0.01,
}
# The networks of the published comparison, which learn slowly.
SLOW = {"input": "noise", "input_depth": 1, "rate": 0.001, "reg_noise": 0.0, "iterations": 3000, "stop": "none"}
OTHER_NETWORKS: Presets = {"unet": {**SLOW, "pad": "zero"}, "resnet": {**SLOW, "pad": "reflection"}}
# A large hole needs a network with a large receptive field and no skips, as published. Scattered held-out pixels say
# little about it: the fit runs to the end.
HOLE: Mapping[str, Any] = {**PUBLISHED["hole"], "beta2": 0.99, "stop": "none"}
PRESETS: Presets = {
    "fast": NARROW,
    "balanced": NARROW,
    "best": {**NARROW, "runs": 3},
    "paper": {**registry.PUBLISHED, "reg_noise": 0.03, **PUBLISHED["text"]},
}
PATIENCE = {"fast": 50, "balanced": 150, "best": 150}  # iterations
# With few known pixels 4 % of them are too few: on house with 90 % missing, 263 held-out pixels found a share of the
# fit of 0.30, and the best was 0.05.
ENOUGH_KNOWN, MIN_HELDOUT, MAX_HELDOUT_FRACTION = 25_000, 1000, 0.2
MIN_KNOWN = 16  # pixels
SCATTERED_SIZE = 4  # pixels, median size of the pieces of a scattered mask
MAX_COLOUR = 0.25  # difference between the channels of a mask, of 1; JPEG makes some of grey
LARGE_FRACTION = 0.6  # of the image: more than that is seldom meant to be filled


@task(presets=PRESETS, result="inpainted", lengths={"fast": 150, "balanced": 400, "best": 400})
def inpaint(
    image: Image,
    mask: Annotated[
        str,
        typer.Option(
            metavar="MASK",
            help="Image of the same size in which white marks the pixels to fill; a folder with one for each image, "
            "of the same name; or alpha, to fill the transparent pixels of the input.",
        ),
    ],
    mask_invert: Annotated[bool, typer.Option("--mask-invert", help="Fill the black pixels of the mask.")] = False,
    damage: Annotated[
        Damage,
        typer.Option(
            help="Kind of damage, which chooses the settings: text (thin strokes), scattered (single pixels), hole or "
            "region (large areas); auto examines the mask."
        ),
    ] = "auto",
    loss: LossOption = "l2",
    *,
    network: str = "skip",
    sigma: str = "auto",
    fusion: str = "auto",
) -> Case:
    """Fill holes, text and scattered missing pixels.

    The network is fitted to the known pixels, and its output fills the
    others. Known pixels come back bit for bit.

    Text and scattered pixels are also estimated from similar patches. A few
    held-out known pixels decide when to stop, and how much of the result is
    of the network and how much of that estimate. They say nothing about a
    large hole: there the network alone runs the iterations of the preset.

    Examples:

        dip inpaint img.png --mask mask.png
        dip inpaint img.png --mask keep.png --mask-invert
        dip inpaint cutout.png --mask alpha
        dip inpaint img.png --mask mask.png --preset paper --damage hole
        dip inpaint img.png --mask mask.png --network unet
    """
    import numpy as np  # imported late: `dip --help` must be fast
    import torch

    from dipcli.problem.filling.gaussian import FillingCompanion
    from dipcli.problem.filling.interpolation import BlendKnown
    from dipcli.problem.independent.companion import MIN_SIDE
    from dipcli.problem.operators import KeepKnown

    marked, remarks = _choose_pixels(image, mask, mask_invert)
    fraction = float(marked.mean())
    remarks.append(f"filling {100 * fraction:.1f} % of the image")
    if fraction > LARGE_FRACTION:
        remarks[-1] += ". If white marks the pixels to keep, use --mask-invert"
    kind = classify_damage(marked) if damage == "auto" else damage
    if kind not in PUBLISHED:
        raise UsageError(f"--damage {kind} is unknown: choose auto, {', '.join(PUBLISHED)}.")
    predictable = kind in ("text", "scattered")  # held-out pixels say how well the missing ones are filled
    if damage == "auto":
        remarks.append(f"using the settings for {kind} (--damage)")
    if not predictable:
        remarks[-1] += "; held-out pixels say nothing about it: the number of iterations is fixed"

    carrier = image = image.leave_out(marked)
    measured, known = torch.from_numpy(image.pixels), torch.from_numpy(~marked)[None]
    companion = None
    if predictable and fusion == "auto" and loss == "l2" and min(marked.shape) >= MIN_SIDE:
        companion = FillingCompanion(pixels=image.pixels, known=image.valid)

    def baselines() -> list[Baseline]:
        from dipcli.tasks.baselines.inpainting import make_baselines

        methods = make_baselines(image.pixels, marked)
        if companion is None:
            return methods
        return [Baseline("non-local filling", "nonlocal", lambda _: companion().numpy()), *methods]

    if (
        image.alpha is not None and isinstance(mask, str) and mask == "alpha"
    ):  # opaque where it is filled, so that this can be seen
        carrier = replace(image, alpha=np.where(marked, image.dtype.type(image.full), image.alpha))
    return Case(
        problem=Problem(
            measured=measured,
            shape=image.pixels.shape,
            weight=image.weights["weight"],
            loss=losses.make_loss(loss, sigma),
            companion=companion,
            finish=(KeepKnown if predictable else BlendKnown)(measured, known),
        ),
        image=carrier,
        baselines=baselines,
        known=~marked,
        remarks=tuple(remarks),
        presets=adapt_presets(kind, network, int((~marked).sum())),
    )


def adapt_presets(kind: str, network: str, known: int) -> Presets:
    """Return the settings of each preset that differ for this kind of damage, network or number of known pixels."""
    if other := OTHER_NETWORKS.get(network.partition(":")[0]):
        return dict.fromkeys(PRESETS, other)
    if kind in ("text", "scattered"):
        fraction = min(MIN_HELDOUT / known, MAX_HELDOUT_FRACTION) if known < ENOUGH_KNOWN else 0
        rules = {name: f"holdout:fraction={fraction:.3f}:patience={count}" for name, count in PATIENCE.items()}
        return {"paper": PUBLISHED[kind], **{name: {"stop": rule} for name, rule in rules.items()}}
    return {
        "fast": {**HOLE, "iterations": 500},
        "balanced": {**HOLE, "iterations": 1500},
        "best": {**PUBLISHED[kind], "stop": "none"},
        "paper": PUBLISHED[kind],
    }


def classify_damage(marked: NDArray[np.bool_]) -> str:
    """Classify the pixels to fill, shape (H, W), as text, scattered or hole.

    Scattered pixels are single, or so dense that most known pixels touch one. Text has thin strokes. The rest is a
    hole.
    """
    import numpy as np
    from scipy.ndimage import binary_dilation, distance_transform_edt, label

    pieces, _ = label(marked)
    touching = binary_dilation(marked) & ~marked
    if np.median(np.bincount(pieces.flat)[1:]) <= SCATTERED_SIZE or touching.sum() > (~marked).sum() / 2:
        return "scattered"
    padded = np.pad(marked, 1, mode="edge")  # a hole at the border continues beyond it
    return "text" if distance_transform_edt(padded).max() <= max(3, min(marked.shape) / 40) else "hole"


def _choose_pixels(image: Image, mask: Any, invert: bool) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the pixels to fill, (H, W): those that are marked or missing; and remarks."""
    marked, remarks = _read_mask(image, mask, invert)
    if image.missing is not None:
        marked |= image.missing
    shown = ~marked if image.valid is None else ~marked & image.valid
    if not marked.any() or shown.sum() < MIN_KNOWN:
        extent = "nothing" if not marked.any() else "everything" if marked.all() else "all but a few pixels"
        raise DipError(f"The mask marks {extent} to be filled. If white marks the pixels to keep, use --mask-invert.")
    return marked, remarks


def _read_mask(image: Image, mask: Any, invert: bool) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the pixels that a mask or, if it is "alpha", the image's transparency marks, (H, W), and remarks."""
    from dipcli import images

    if isinstance(mask, str) and mask == "alpha":
        if image.alpha is None:
            raise DipError("--mask alpha needs an image with transparency, this one has none: name a mask file.")
        levels = image.alpha / image.full
        return _threshold(levels if invert else 1 - levels, "the transparency")
    given = images.to_image(mask).with_span(None)
    levels, remarks = _read_levels(given)
    if given.alpha is not None:  # a transparent pixel of the mask was not painted
        levels = levels * given.alpha / given.full
    if levels.shape != image.pixels.shape[1:]:
        (height, width), (own_height, own_width) = levels.shape, image.pixels.shape[1:]
        raise DipError(
            f"The mask is {width}x{height}, the image {own_width}x{own_height}: give a --mask of the same size."
        )
    marked, others = _threshold(1 - levels if invert else levels, "the mask")
    return marked, [*remarks, *others]


def _read_levels(given: Image) -> tuple[NDArray[Any], list[str]]:
    """Return how much each pixel of a mask is marked, (H, W), 0..1, and remarks on values that are not black and white.

    Raises:
        DipError: if it has colours.
    """
    from dipcli.images import tiff

    channels = given.pixels
    if len(channels) > 1 and float((channels.max(axis=0) - channels.min(axis=0)).max()) > MAX_COLOUR:
        raise DipError("The mask has colours: paint the pixels to fill white, and all others black.")
    levels, top = channels.mean(axis=0), given.pixels.max() * given.full
    if given.file and tiff.is_bilevel(given.file):
        return 1 - levels, ["the mask has single bits: filling where they are 1"]
    limit = given.full / 2 if given.dtype.itemsize == 1 else given.full  # dark grey in 8 bits, any grey in 16
    if given.dtype.kind == "u" and len(channels) == 1 and levels.min() == 0 and 0 < top < limit:
        marked = (levels > 0).astype(levels.dtype)
        return marked, [f"the mask has values of 0 to {top:.0f}: filling where they are not 0"]
    return levels, []


def _threshold(levels: NDArray[Any], source: str) -> tuple[NDArray[np.bool_], list[str]]:
    """Return where levels of 0..1 are at least one half, and a remark on intermediate levels."""
    intermediate = float(((levels > 1 / 64) & (levels < 63 / 64)).mean())
    remark = f"{source} has intermediate levels ({100 * intermediate:.1f} % of it): filling from one half up"
    return levels >= 1 / 2, [remark] if intermediate else []
