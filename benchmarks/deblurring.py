"""PSNR of `dip deblur` beside Richardson-Lucy and Wiener at their best settings, which only the sharp image tells.

    python benchmarks/deblurring.py IMAGES --out runs/
    python benchmarks/deblurring.py IMAGES --out runs/ --images house,f16 --kernels motion:9:30 --noise 5

IMAGES is a folder with the test images of the paper in denoise/ and inpaint/half/. The middle 256x256 of each is
blurred; pixels that depend on others beyond are left out, so that 242x242 or 256x248 remain. Gaussian noise is added,
values are clipped and rounded to 8 bits. Results of an earlier call in the same folder are not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve
from skimage.restoration import wiener

from dipcli import images
from dipcli.problem.blur.kernels import read_kernel
from dipcli.problem.metrics import psnr
from dipcli.tasks.baselines import deblurring
from dipcli.tasks.baselines.baseline import Budget

SIDE = 256
IMAGES = {
    "house": "inpaint/half/house_clean.png",
    "lena": "inpaint/half/lena_clean.png",
    "peppers": "inpaint/half/peppers_clean.png",
    "f16": "denoise/f16_clean.png",
}
KERNELS = ("gaussian:1.6", "motion:9:0")
RICHARDSON_LUCY = (3, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112)  # iterations
WIENER = tuple(np.geomspace(1e-4, 1, 17))  # weights of smoothness


def blur(path: Path, kernel: NDArray[np.float32], noise: float, target: Path) -> tuple[Path, Path]:
    """Write NAME.blurred.png and NAME.sharp.png of the middle of an image, and return their paths."""
    sharp = images.to_image(path).pixels
    top, left = ((side - SIDE) // 2 for side in sharp.shape[1:])
    sharp = sharp[:, top : top + SIDE, left : left + SIDE]
    blurred = np.stack([convolve(channel, kernel, mode="valid") for channel in sharp])
    blurred += np.random.default_rng(0).normal(0, noise / 255, blurred.shape)
    down, across = (side // 2 for side in kernel.shape)
    sharp = sharp[:, down : down + blurred.shape[1], across : across + blurred.shape[2]]
    paths = []
    for name, pixels in (("blurred", blurred), ("sharp", sharp)):
        samples = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0).squeeze()
        paths.append(target.with_name(f"{target.name}.{name}.png"))
        iio.imwrite(paths[-1], samples)
    return paths[0], paths[1]


def measure_baselines(blurred: Path, sharp: Path, kernel: NDArray[np.float32]) -> dict[str, float | str]:
    """Return the PSNR of the blurred image, and of the baselines with their best settings."""
    measured, truth = images.to_image(blurred).pixels, images.to_image(sharp).pixels
    height, width = measured.shape[1:]

    def by_wiener(balance: float) -> NDArray[np.float32]:
        restored = [wiener(deblurring.mirror(channel), kernel, balance, clip=False) for channel in measured]
        return np.stack(restored)[:, :height, :width]

    def score(restored: NDArray[np.float32]) -> float:
        return float(psnr(restored.clip(0, 1), truth))

    lucy = {count: score(deblurring.by_richardson_lucy(measured, kernel, Budget(), count)) for count in RICHARDSON_LUCY}
    balances = {balance: score(by_wiener(balance)) for balance in WIENER}
    best_count, best_balance = max(lucy, key=lucy.__getitem__), max(balances, key=balances.__getitem__)
    return {
        "blurred": score(measured),
        "Richardson-Lucy": lucy[best_count],
        "iterations": best_count,
        "Wiener": balances[best_balance],
        "balance": f"{best_balance:.1g}",
        "unsupervised Wiener": score(deblurring.by_wiener(measured, kernel, Budget())),
    }


def restore(blurred: Path, sharp: Path, kernel: str, options: argparse.Namespace) -> dict[str, float | str]:
    """Return the figures of `dip deblur`, of its run record."""
    output = blurred.with_suffix(f".{options.preset}.png")
    command = ["dip", "deblur", str(blurred), "--kernel", kernel, "--preset", options.preset, "-q"]
    command += ["--reference", str(sharp), "-o", str(output)]
    command += ["--threads", str(options.threads)] if options.threads else []
    print(*command, file=sys.stderr)
    subprocess.run([sys.executable, "-m", "dipcli", *command[1:]], check=True, stdout=subprocess.DEVNULL)
    record = json.loads((output.with_suffix(".dip") / "run.json").read_text())
    return {key: record[key] for key in ("psnr_ref", "fusion", "iterations", "seconds")}


def main() -> None:
    """Print one row of a table for each image and kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--images", dest="names", default=",".join(IMAGES), help="of house, lena, peppers, f16")
    parser.add_argument("--kernels", default=",".join(KERNELS))
    parser.add_argument("--noise", type=float, default=2, help="standard deviation, of 255")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print("| image | kernel | blurred | Richardson-Lucy, best | Wiener, best | unsupervised | dip | share of the fit |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.names.split(","):
        for text in options.kernels.split(","):
            target = options.out / f"{name}.{text.replace(':', '-')}.{options.noise:g}"
            kernel = read_kernel(text, (SIDE, SIDE))
            blurred, sharp = blur(options.images / IMAGES[name], kernel, options.noise, target)
            figures: dict[str, dict[str, float | str]] = {}
            for part, compute in (
                ("baselines", lambda paths=(blurred, sharp), taps=kernel: measure_baselines(*paths, taps)),
                (options.preset, lambda paths=(blurred, sharp), taps=text: restore(*paths, taps, options)),
            ):
                path = target.with_name(f"{target.name}.{part}.json")
                if not path.exists():
                    path.write_text(json.dumps(compute()))
                figures[part] = json.loads(path.read_text())
            base, own = figures["baselines"], figures[options.preset]
            print(
                f"| {name} | {text} | {base['blurred']:.2f} | {base['Richardson-Lucy']:.2f} ({base['iterations']}) "
                f"| {base['Wiener']:.2f} ({base['balance']}) | {base['unsupervised Wiener']:.2f} "
                f"| {own['psnr_ref']:.2f} | {own['fusion']:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
