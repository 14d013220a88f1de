"""Make the strips of docs/strips.md, before and after, by running `dip` itself: `python docs/make_strips.py`.

`--only inpaint,flash` makes some of them, `--out DIR` puts them elsewhere, and what else is given goes to `dip`:
`python docs/make_strips.py --preset fast`. The pictures are those that scikit-image ships and that are free to use
(docs/strips.md says whose they are), 256x256 of each. What came out is printed, a line for each strip.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from skimage.metrics import peak_signal_noise_ratio as psnr

HERE = Path(__file__).parent
SIDE, GAP = 256, 6  # pixels of a panel, and between two
QUALITY = 88  # of the strips, as JPEG
POOR = 10  # of the JPEG that is restored
ZOOM = 4
SEED = 0

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """One damaged picture.

    Attributes:
        command: the subcommand and all that follows, but the output; files are named as they lie in the folder.
        truth: the clean picture, uint8 (H, W, 3).
        before: the damaged one as it is shown.
        last: the third panel; the truth when None.
    """

    command: tuple[str, ...]
    truth: Array
    before: Array
    last: Array | None = None


def inpaint(folder: Path) -> Strip:
    """The astronaut under four lines of text."""
    truth = data.astronaut()[:SIDE, 100 : 100 + SIDE]
    mask = Image.new("L", (SIDE, SIDE))
    draw, font = ImageDraw.Draw(mask), ImageFont.load_default(30)
    for number, line in enumerate(("No training set,", "no weights,", "one picture in,", "one picture out.")):
        draw.text((16 + 8 * number, 28 + 52 * number), line, fill=255, font=font)
    hidden = np.asarray(mask) >= 128
    before = np.where(hidden[..., None], np.uint8(255), truth)
    save(folder, text=before, mask=hidden.astype(np.uint8) * 255, truth=truth)
    return Strip(("inpaint", "text.png", "--mask", "mask.png", "--reference", "truth.png"), truth, before)


def superres(folder: Path) -> Strip:
    """The cup from a sixteenth of its pixels."""
    truth = data.coffee()[70 : 70 + SIDE, 170 : 170 + SIDE]
    save(folder, cup=truth)
    small = Image.fromarray(truth).resize((SIDE // ZOOM, SIDE // ZOOM), Image.Resampling.LANCZOS)
    before = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return Strip(("superres", "cup.png", "--scale", str(ZOOM), "--simulate"), truth, before)


def dejpeg(folder: Path) -> Strip:
    """The astronaut's sleeve and its patch, saved as a poor JPEG."""
    truth = data.astronaut()[SIDE : 2 * SIDE, :SIDE]
    save(folder, truth=truth)
    Image.fromarray(truth).save(folder / "poor.jpg", quality=POOR)
    with Image.open(folder / "poor.jpg") as poor:
        before = np.asarray(poor.convert("RGB"))
    return Strip(("dejpeg", "poor.jpg", "--reference", "truth.png"), truth, before)


def flash(folder: Path) -> Strip:
    """The cat by the light of a lamp, with noise, and its twin with a flash: examples/flash.sh with more light."""
    lit = iio.imread(HERE.parent / "examples" / "cat_clean.png")
    # The lamp of the room is warm and stands to the right, the flash is white and in front.
    lamp = np.linspace(0.2, 0.7, lit.shape[1])[None, :, None] * np.array([1, 0.7, 0.4])
    dark = lit / 255 * lamp
    noisy = dark + np.random.default_rng(SEED).normal(0, 0.08, dark.shape)
    truth, before = (np.rint(255 * each.clip(0, 1)).astype(np.uint8) for each in (dark, noisy))
    save(folder, dark=before, flash=lit, truth=truth)
    command = ("flash", "dark.png", "--guide", "flash.png", "--reference", "truth.png")
    return Strip(command, truth, before, last=lit)


STRIPS: dict[str, Callable[[Path], Strip]] = {
    "inpaint": inpaint,
    "superres": superres,
    "dejpeg": dejpeg,
    "flash": flash,
}


def save(folder: Path, **pictures: Array) -> None:
    """As PNG under their names."""
    for name, picture in pictures.items():
        iio.imwrite(folder / f"{name}.png", picture)


def restored(strip: Strip, folder: Path, further: list[str]) -> tuple[Array, dict[str, Any]]:
    """What `dip` makes of the damaged picture, and what it says of it."""
    command = [sys.executable, "-m", "dipcli", *strip.command, "-o", "restored.png", "--json", *further]
    ended = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(ended.stdout)
    return iio.imread(folder / "restored.png"), told


def side_by_side(*panels: Array) -> Array:
    """With thin white gaps."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (gap, panel)][1:])


def main() -> None:
    """Make the strips that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STRIPS), help=f"any of {', '.join(STRIPS)}")
    parser.add_argument("--out", type=Path, default=HERE)
    given, further = parser.parse_known_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print("| command | before, dB | restored, dB | beside it, dB | iteration kept, of | seconds |")
    print("|---|---|---|---|---|---|")
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            strip = STRIPS[name](Path(scratch))
            after, told = restored(strip, Path(scratch), further)
        last = strip.truth if strip.last is None else strip.last
        path = given.out / f"strip_{name}.jpg"
        Image.fromarray(side_by_side(strip.before, after, last)).save(path, quality=QUALITY, optimize=True)
        shown = [f"{psnr(strip.truth, each):.2f}" for each in (strip.before, after)]
        beside = ", ".join(f"{of} {figures['psnr']:.2f}" for of, figures in (told["baselines"] or {}).items())
        print(
            f"| `dip {' '.join([*strip.command, *further])}` | {shown[0]} | {shown[1]} | {beside} "
            f"| {told['kept']} of {told['iterations']} | {told['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
