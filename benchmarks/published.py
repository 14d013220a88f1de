"""Every experiment of the paper with its published settings, as `dip` commands; a table of what came out.

    python benchmarks/published.py PICTURES --out runs/ --only text,hole

PICTURES is a folder with the test pictures of the paper in denoise/, inpaint/, superres/, dejpeg/, flash/ and invert/.
Pictures that would take hours on a laptop are run on smaller copies and for fewer iterations; the table says so.
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
        task: the subcommand, then its picture.
        files: options whose values are pictures.
        options: what else is on the command line, beside `--preset paper`.
        middle: width and height of the part cut out of the middle of every picture; all of it when None.
        shrink: how much smaller the copies are.
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


def copy(pictures: Path, name: str, experiment: Experiment, folder: Path) -> Path:
    """The picture itself, or its copy in `folder`: the middle cut out, shrunk by Lanczos; masks stay two-valued."""
    source = pictures / name
    if experiment.middle is None and experiment.shrink == 1:
        return source
    target = folder / "copies" / Path(name).with_suffix(".png").name
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture:
        if experiment.middle:
            width, height = experiment.middle
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))  # noqa: PLW2901
        if experiment.shrink > 1:
            size = picture.width // experiment.shrink, picture.height // experiment.shrink
            picture = picture.resize(size, Image.Resampling.LANCZOS)  # noqa: PLW2901
        if "mask" in name:
            picture = Image.fromarray((np.asarray(picture.convert("L")) >= 128).astype(np.uint8) * 255)  # noqa: PLW2901
        picture.save(target)
    return target


def run(pictures: Path, name: str, experiment: Experiment, folder: Path) -> dict[str, object]:
    """One experiment's run record; it is only read where it is there already."""
    task, source = experiment.task
    record = folder / f"{name}.dip" / "run.json"
    if not record.exists():
        files = [
            part for flag, file in experiment.files.items() for part in (flag, copy(pictures, file, experiment, folder))
        ]
        command = [
            "dip", task, copy(pictures, source, experiment, folder), *files, *experiment.options,
            "--preset", "paper", "-o", folder / f"{name}.png",
        ]  # fmt: skip
        print(*command, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "dipcli", *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)
    told: dict[str, object] = json.loads(record.read_text())
    return told


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help=f"any of {', '.join(EXPERIMENTS)}")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only.split(","):
        told = run(given.pictures, name, EXPERIMENTS[name], given.out)
        keys = ("iterations", "seconds", "psnr_noisy", "psnr_ref", "psnr_ref_y", "psnr_ref_unknown", "events")
        print(name, *(f"{key}={told[key]}" for key in keys if told.get(key) is not None), told["conclusion"] or "")
        print(*(f"{of}: {figures}" for of, figures in (told.get("baselines") or {}).items()))


if __name__ == "__main__":
    main()
