"""What the architecture does: one hole filled by five networks, side by side (figure 9 of the paper).

    python examples/ablation.py library.png library_mask.png --mask-invert --iters 3000 -o sheet.png

Without a picture it is the cat of the examples with a hole in it. Skip networks of depth 2, 4 and 6, a U-Net and a
ResNet, each with the settings published for it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dipcli import inpaint

HERE = Path(__file__).parent
CHANNELS = (16, 32, 64, 128, 128, 128)


def skip(depth: int) -> str:
    """The published network for holes with so many levels; the other two have settings of their own."""
    channels = ",".join(map(str, CHANNELS[:depth]))
    return f"skip:channels={channels}:skips=0x{depth}:kernel_down=5:up=nearest:pointwise=no"


NETWORKS = {
    "depth 2": {"network": skip(2)},
    "depth 4": {"network": skip(4)},
    "depth 6": {"network": skip(6)},
    "U-Net": {"network": "unet"},
    "ResNet": {"network": "resnet"},
}


def read() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("mask", nargs="?", type=Path)
    parser.add_argument("--mask-invert", action="store_true", help="fill what is black in the mask")
    parser.add_argument("--iters", type=int, default=3000)
    parser.add_argument("-o", "--output", type=Path, default=Path("ablation.png"))
    given = parser.parse_args()
    if given.picture and not given.mask:
        parser.error("a picture needs a mask")
    return given


def main() -> None:
    """Fill the hole five times and draw the sheet."""
    given = read()
    with Image.open(given.picture or HERE / "cat_clean.png") as image:
        picture = np.asarray(image.convert("RGB"))
    if given.mask:
        with Image.open(given.mask) as image:
            mask = np.asarray(image.convert("L"))
        hole = (255 - mask if given.mask_invert else mask) >= 128
    else:
        hole = np.zeros(picture.shape[:2], bool)
        hole[150:200, 100:170] = True
    shown = {"to be filled": np.where(hole[..., None], 255, picture)}
    for name, settings in NETWORKS.items():
        result = inpaint(
            picture, mask=hole, preset="paper", damage="hole", iterations=given.iters, progress=False, **settings
        )
        shown[name] = result.image
        print(f"{name}: {result.seconds:.0f} s", flush=True)
    draw(shown, given.output)
    print(given.output)


def draw(pictures: dict[str, np.ndarray], path: Path, columns: int = 3) -> None:
    """Pictures of one size with their names above, in rows."""
    height, width = next(iter(pictures.values())).shape[:2]
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(4 * columns, rows * (4 * height / width + 0.3)), layout="constrained")
    for axes, (name, picture) in zip(figure.subplots(rows, columns, squeeze=False).flat, pictures.items(), strict=True):
        axes.imshow(picture, interpolation="none")
        axes.set_title(name)
        axes.axis("off")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
