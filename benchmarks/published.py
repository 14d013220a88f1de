"""Run every experiment of the paper with its published settings, as `dip` commands, and print the figures.

    python benchmarks/published.py IMAGES --out runs/ --only text,hole

IMAGES is a folder with the test images of the paper in denoise/, inpaint/, superres/, dejpeg/, flash/ and invert/.
Experiments that would take hours on a laptop use smaller copies and fewer iterations; docs/results.md says which.
Results of an earlier call in the same folder are not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Experiment:
    """One command.

    Attributes:
        task: the subcommand and its image.
        files: options whose values are images.
        options: the rest of the command line, besides `--preset paper`.
        middle: width and height of the crop from the middle of every image; the whole image if None.
        shrink: factor by which the copies are smaller.
    """

    task: tuple[str, str]
    files: dict[str, str]
    options: tuple[str, ...]
    middle: tuple[int, int] | None = None
    shrink: int = 1


EXPERIMENTS = {
    "text": Experiment(
        ("inpaint", "inpaint/kate.png"),
        {"--mask": "inpaint/kate_mask.png", "--reference": "inpaint/kate.png"},
        ("--mask-invert", "--damage", "text", "--iters", "300"),
        middle=(256, 256),
    ),
    "hole": Experiment(
        ("inpaint", "inpaint/library.png"),
        {"--mask": "inpaint/library_mask.png"},
        ("--mask-invert", "--damage", "hole"),
        shrink=2,
    ),
    "region": Experiment(
        ("inpaint", "inpaint/vase.png"),
        {"--mask": "inpaint/vase_mask.png"},
        ("--mask-invert", "--damage", "region", "--iters", "600"),
        shrink=2,
    ),
    "scattered": Experiment(
        ("inpaint", "inpaint/half/house_clean.png"),
        {"--mask": "inpaint/half/house_missing.png", "--reference": "inpaint/half/house_clean.png"},
        ("--damage", "scattered", "--iters", "500"),
    ),
    "zebra": Experiment(
        ("superres", "superres/zebra_GT.png"),
        {},
        ("--scale", "4", "--simulate", "--iters", "150"),
    ),
    "butterfly": Experiment(
        ("superres", "superres/butterfly_GT.png"), {}, ("--scale", "4", "--simulate", "--iters", "300")
    ),
    "snail": Experiment(("dejpeg", "dejpeg/snail.jpg"), {}, ()),
    "cave": Experiment(
        ("flash", "flash/cave01_01_noflash.jpg"), {"--guide": "flash/cave01_00_flash.jpg"}, (), shrink=4
    ),
    "monkey": Experiment(
        ("invert", "invert/monkey.jpg"), {}, ("--weights", "random", "--layer", "conv3", "--iters", "1000")
    ),
    "impedance": Experiment(("impedance", "denoise/f16_clean.png"), {}, ("--size", "128")),
    "kodim01": Experiment(
        ("denoise", "denoise/kodim01_clean.png"),
        {},
        ("--simulate-noise", "25", "--iters", "500", "--snapshot-at", "1,10,100,400,500"),
        middle=(384, 256),
    ),
}


def copy_image(images: Path, name: str, experiment: Experiment, folder: Path) -> Path:
    """Return the image itself, or its copy in `folder`: cropped, shrunk by Lanczos; masks stay binary."""
    source = images / name
    if experiment.middle is None and experiment.shrink == 1:
        return source
    target = folder / "copies" / Path(name).with_suffix(".png").name
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        if experiment.middle:
            width, height = experiment.middle
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))  # noqa: PLW2901
        if experiment.shrink > 1:
            size = image.width // experiment.shrink, image.height // experiment.shrink
            image = image.resize(size, Image.Resampling.LANCZOS)  # noqa: PLW2901
        if "mask" in name:
            image = Image.fromarray((np.asarray(image.convert("L")) >= 128).astype(np.uint8) * 255)  # noqa: PLW2901
        image.save(target)
    return target


def run(images: Path, name: str, experiment: Experiment, folder: Path) -> dict[str, object]:
    """Run one experiment unless its run record exists; return the record."""
    task, source = experiment.task
    path = folder / f"{name}.dip" / "run.json"
    if not path.exists():
        files = [
            part
            for flag, file in experiment.files.items()
            for part in (flag, copy_image(images, file, experiment, folder))
        ]
        command = [
            "dip", task, copy_image(images, source, experiment, folder), *files, *experiment.options,
            "--preset", "paper", "-o", folder / f"{name}.png",
        ]  # fmt: skip
        print(*command, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "dipcli", *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)
    record: dict[str, object] = json.loads(path.read_text())
    return record


def main() -> None:
    """Run the requested experiments and print their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help=f"any of {', '.join(EXPERIMENTS)}")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        record = run(options.images, name, EXPERIMENTS[name], options.out)
        keys = ("iterations", "seconds", "psnr_noisy", "psnr_ref", "psnr_ref_y", "psnr_ref_unknown", "events")
        print(
            name, *(f"{key}={record[key]}" for key in keys if record.get(key) is not None), record["conclusion"] or ""
        )
        print(*(f"{baseline}: {figures}" for baseline, figures in (record.get("baselines") or {}).items()))


if __name__ == "__main__":
    main()
