"""Make the strips of docs/gallery.md by running `dip`: `python docs/make_gallery.py`.

A strip is a degraded image, the result and the clean image. `--only inpaint,flash` makes some of them, `--out DIR`
writes them elsewhere, and other options are passed to `dip`: `python docs/make_gallery.py --preset fast`. The images
are shipped with scikit-image and free to use (docs/gallery.md has the credits), 256x256 of each. One row of figures is
printed per strip.
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
from scipy.signal import convolve
from skimage import data
from skimage.metrics import peak_signal_noise_ratio as psnr

from dipcli.problem.blur.kernels import read_kernel

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "benchmarks"))
from real import add_shared_noise  # noqa: E402 - it states the recipes
from stopping import add_noise  # noqa: E402

SIDE, GAP = 256, 6  # pixels of a panel, and between two
STRIP_QUALITY = 88  # of the strips, as JPEG
DEGRADED_QUALITY = 10  # of the JPEG to restore
SCALE = 4
SEED = 0

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Strip:
    """One degraded image.

    Attributes:
        command: the subcommand and its arguments, without the output; files are relative to the folder.
        clean: the clean image, uint8 (H, W, 3) or (H, W).
        before: the degraded image as displayed.
        last: the third panel; the clean image if None.
    """

    command: tuple[str, ...]
    clean: Array
    before: Array
    last: Array | None = None


def independent(folder: Path) -> Strip:
    """Add independent noise of sigma 25 to stained tissue."""
    clean = data.immunohistochemistry()[100 : 100 + SIDE, 100 : 100 + SIDE]
    return denoise(folder, clean, add_noise(clean / 255, "gauss25", SEED))


def telephone(folder: Path) -> Strip:
    """Take the shuttle behind the astronaut with a mosaic of noisy colours, filled in bilinearly."""
    clean = data.astronaut()[:SIDE, SIDE : 2 * SIDE]
    return denoise(folder, clean, add_shared_noise(clean, "demosaic25"))


def camera(folder: Path) -> Strip:
    """Save the cat with mild noise as a JPEG."""
    clean = data.chelsea()[20 : 20 + SIDE, 110 : 110 + SIDE]
    return denoise(folder, clean, add_shared_noise(clean, "jpeg90-8"))


def grain(folder: Path) -> Strip:
    """Add film grain to the cameraman."""
    clean = np.repeat(data.camera()[60 : 60 + SIDE, 110 : 110 + SIDE, None], 3, axis=2)
    return denoise(folder, clean, add_shared_noise(clean, "grain12"))


def scan(folder: Path) -> Strip:
    """Scan a print of the coffee cup."""
    clean = data.coffee()[100 : 100 + SIDE, 200 : 200 + SIDE]
    return denoise(folder, clean, add_shared_noise(clean, "scan8"))


def night(folder: Path) -> Strip:
    """Take the rocket at night, in a JPEG."""
    bright = data.rocket()[170 : 170 + SIDE, 200 : 200 + SIDE]
    clean = np.rint(0.6 * bright).astype(np.uint8)
    return denoise(folder, clean, add_shared_noise(clean, "night14"))


def denoise(folder: Path, clean: Array, noisy: Array) -> Strip:
    """Return the strip of a noisy image."""
    save(folder, noisy=noisy, clean=clean)
    return Strip(("denoise", "noisy.png", "--reference", "clean.png"), clean, noisy)


def hole(folder: Path) -> Strip:
    """Cut two holes into a brick wall."""
    clean = data.brick()[:SIDE, :SIDE]
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[50:110, 40:120] = hidden[150:210, 130:210] = True
    before = np.where(hidden, np.uint8(255), clean)
    save(folder, wall=before, mask=hidden.astype(np.uint8) * 255, clean=clean)
    return Strip(("inpaint", "wall.png", "--mask", "mask.png", "--reference", "clean.png"), clean, before)


def inpaint(folder: Path) -> Strip:
    """Hide the astronaut under four lines of text."""
    clean = data.astronaut()[:SIDE, 100 : 100 + SIDE]
    mask = Image.new("L", (SIDE, SIDE))
    draw, font = ImageDraw.Draw(mask), ImageFont.load_default(30)
    for number, line in enumerate(("No training set,", "no weights,", "one picture in,", "one picture out.")):
        draw.text((16 + 8 * number, 28 + 52 * number), line, fill=255, font=font)
    hidden = np.asarray(mask) >= 128
    before = np.where(hidden[..., None], np.uint8(255), clean)
    save(folder, text=before, mask=hidden.astype(np.uint8) * 255, clean=clean)
    return Strip(("inpaint", "text.png", "--mask", "mask.png", "--reference", "clean.png"), clean, before)


def superres(folder: Path) -> Strip:
    """Shrink the cup to a sixteenth of its pixels."""
    clean = data.coffee()[70 : 70 + SIDE, 170 : 170 + SIDE]
    save(folder, cup=clean)
    small = Image.fromarray(clean).resize((SIDE // SCALE, SIDE // SCALE), Image.Resampling.LANCZOS)
    before = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return Strip(("superres", "cup.png", "--scale", str(SCALE), "--simulate"), clean, before)


def dejpeg(folder: Path) -> Strip:
    """Save the astronaut's sleeve as a low-quality JPEG."""
    clean = data.astronaut()[SIDE : 2 * SIDE, :SIDE]
    save(folder, clean=clean)
    Image.fromarray(clean).save(folder / "poor.jpg", quality=DEGRADED_QUALITY)
    with Image.open(folder / "poor.jpg") as poor:
        before = np.asarray(poor.convert("RGB"))
    return Strip(("dejpeg", "poor.jpg", "--reference", "clean.png"), clean, before)


def flash(folder: Path) -> Strip:
    """Make a noisy cat in lamplight, guided by the bright one: examples/flash.sh with more light."""
    lit = iio.imread(HERE.parent / "examples" / "cat_clean.png")
    # The lamplight is warm and comes from the right; the flash is white and frontal.
    lamp = np.linspace(0.2, 0.7, lit.shape[1])[None, :, None] * np.array([1, 0.7, 0.4])
    dark = lit / 255 * lamp
    noisy = dark + np.random.default_rng(SEED).normal(0, 0.08, dark.shape)
    clean, before = (np.rint(255 * image.clip(0, 1)).astype(np.uint8) for image in (dark, noisy))
    save(folder, dark=before, flash=lit, clean=clean)
    command = ("flash", "dark.png", "--guide", "flash.png", "--reference", "clean.png")
    return Strip(command, clean, before, last=lit)


def deblur(folder: Path) -> Strip:
    """Move the camera while it takes the rocket, with a little noise."""
    name, top, left = "motion:15:30", 120, 230
    kernel = read_kernel(name, (SIDE, SIDE))
    down, across = (side // 2 for side in kernel.shape)
    wide = data.rocket()[top - down : top + SIDE + down, left - across : left + SIDE + across]
    clean = wide[down : down + SIDE, across : across + SIDE]
    blurred = np.stack([convolve(channel / 255, kernel, mode="valid") for channel in wide.transpose(2, 0, 1)], axis=2)
    noisy = blurred + np.random.default_rng(SEED).normal(0, 2 / 255, blurred.shape)
    before = np.rint(255 * noisy.clip(0, 1)).astype(np.uint8)
    save(folder, shaken=before, clean=clean)
    return Strip(("deblur", "shaken.png", "--kernel", name, "--reference", "clean.png"), clean, before)


STRIPS: dict[str, Callable[[Path], Strip]] = {
    "independent": independent,
    "telephone": telephone,
    "camera": camera,
    "grain": grain,
    "scan": scan,
    "night": night,
    "inpaint": inpaint,
    "hole": hole,
    "superres": superres,
    "dejpeg": dejpeg,
    "flash": flash,
    "deblur": deblur,
}


def save(folder: Path, **images: Array) -> None:
    """Write images as PNG under their names."""
    for name, image in images.items():
        iio.imwrite(folder / f"{name}.png", image)


def restore(strip: Strip, folder: Path, options: list[str]) -> tuple[Array, dict[str, Any]]:
    """Run `dip` on the degraded image; returns the result and the run record."""
    command = [sys.executable, "-m", "dipcli", *strip.command, "-o", "restored.png", "--json", *options]
    process = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
    record: dict[str, Any] = json.loads(process.stdout)
    return iio.imread(folder / "restored.png"), record


def side_by_side(*panels: Array) -> Array:
    """Join panels with thin white gaps, all in colour."""
    panels = tuple(np.dstack([panel] * 3) if panel.ndim == 2 else panel for panel in panels)
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (gap, panel)][1:])


def main() -> None:
    """Make the strips that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STRIPS), help=f"any of {', '.join(STRIPS)}")
    parser.add_argument("--out", type=Path, default=HERE)
    options, dip_options = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print("| | command | input, dB | restored, dB | baselines, dB | iteration kept, of | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            strip = STRIPS[name](Path(scratch))
            after, record = restore(strip, Path(scratch), dip_options)
        last = strip.clean if strip.last is None else strip.last
        path = options.out / f"strip_{name}.jpg"
        Image.fromarray(side_by_side(strip.before, after, last)).save(path, quality=STRIP_QUALITY, optimize=True)
        psnrs = [f"{psnr(strip.clean, image):.2f}" for image in (strip.before, after)]
        baselines = ", ".join(f"{name} {figures['psnr']:.2f}" for name, figures in record.get("baselines", {}).items())
        print(
            f"| {name} | `dip {' '.join([*strip.command, *dip_options])}` | {psnrs[0]} | {psnrs[1]} | {baselines} "
            f"| {record['kept']} of {record['iterations']} | {record['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
