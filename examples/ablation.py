"""Compare architectures: one hole filled by five networks, side by side (figure 9 of the paper).

    python examples/ablation.py library.png library_mask.png --mask-invert --iters 3000 -o sheet.png

Without arguments it uses the cat of the examples with a hole in it. Skip networks of depth 2, 4 and 6, a U-Net and a
ResNet, each with its published settings.
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
    """Return the published network for holes with `depth` levels."""
    channels = ",".join(map(str, CHANNELS[:depth]))
    return f"skip:channels={channels}:skips=0x{depth}:kernel_down=5:up=nearest:pointwise=no"


NETWORKS = {
    "depth 2": {"network": skip(2)},
    "depth 4": {"network": skip(4)},
    "depth 6": {"network": skip(6)},
    "U-Net": {"network": "unet"},
    "ResNet": {"network": "resnet"},
}


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", type=Path)
    parser.add_argument("mask", nargs="?", type=Path)
    parser.add_argument("--mask-invert", action="store_true", help="fill the black pixels of the mask")
    parser.add_argument("--iters", type=int, default=3000)
    parser.add_argument("-o", "--output", type=Path, default=Path("ablation.png"))
    options = parser.parse_args()
    if options.image and not options.mask:
        parser.error("an image needs a mask")
    return options


def main() -> None:
    """Fill the hole with each network and draw the sheet."""
    options = parse_arguments()
    with Image.open(options.image or HERE / "cat_clean.png") as file:
        image = np.asarray(file.convert("RGB"))
    if options.mask:
        with Image.open(options.mask) as file:
            mask = np.asarray(file.convert("L"))
        hole = (255 - mask if options.mask_invert else mask) >= 128
    else:
        hole = np.zeros(image.shape[:2], bool)
        hole[150:200, 100:170] = True
    panels = {"to be filled": np.where(hole[..., None], 255, image)}
    for name, settings in NETWORKS.items():
        result = inpaint(
            image, mask=hole, preset="paper", damage="hole", iterations=options.iters, progress=False, **settings
        )
        panels[name] = result.image
        print(f"{name}: {result.seconds:.0f} s", flush=True)
    draw(panels, options.output)
    print(options.output)


def draw(images: dict[str, np.ndarray], path: Path, columns: int = 3) -> None:
    """Draw images of one size with their names above, in rows."""
    height, width = next(iter(images.values())).shape[:2]
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(4 * columns, rows * (4 * height / width + 0.3)), layout="constrained")
    for axes, (name, image) in zip(figure.subplots(rows, columns, squeeze=False).flat, images.items(), strict=True):
        axes.imshow(image, interpolation="none")
        axes.set_title(name)
        axes.axis("off")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
