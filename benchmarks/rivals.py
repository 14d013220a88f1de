"""Classical methods beside `dip --compare`: decibels and seconds; how the weight of total variation is chosen.

    python benchmarks/rivals.py PICTURES --out runs/ --preset fast
    python benchmarks/rivals.py PICTURES --weights

PICTURES is a folder with the test pictures of the paper in denoise/, inpaint/ and superres/. Of each the middle 256x256
is taken; noise is Gaussian of sigma 25, clipped. Results of an earlier call in the same folder are not computed again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.restoration import denoise_tv_chambolle

from dipcli import images
from dipcli.problem import metrics
from dipcli.problem.noise import measure_noise
from dipcli.tasks.baselines import denoising
from dipcli.tasks.baselines.baseline import Budget

SIDE = 256
RUNS: dict[str, tuple[str, ...]] = {
    "house": ("denoise", "denoise/house_clean.png", "--simulate-noise", "25"),
    "kodim01": ("denoise", "denoise/kodim01_clean.png", "--simulate-noise", "25"),
    "butterfly": ("superres", "superres/butterfly_GT.png", "--simulate"),
    "half": (
        "inpaint", "inpaint/half/house_clean.png",
        "--mask", "inpaint/half/house_missing.png", "--reference", "inpaint/half/house_clean.png",
    ),
}  # fmt: skip
LEVELS = (10, 25, 50)


def middle(path: Path, folder: Path) -> Path:
    """The middle of a picture as a file of its own."""
    target = folder / f"{path.parent.name}_{path.stem}.png"
    with Image.open(path) as picture:
        left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
        picture.crop((left, top, left + SIDE, top + SIDE)).save(target)
    return target


def run(pictures: Path, name: str, folder: Path, preset: str) -> dict[str, Any]:
    """One picture's run record; it is only read where it is there already."""
    output = folder / f"{name}.{preset}.png"
    record = output.with_suffix(".dip") / "run.json"
    if not record.exists():
        words = [str(middle(pictures / each, folder)) if "/" in each else each for each in RUNS[name]]
        command = ["dip", *words, "--compare", "--preset", preset, "-o", str(output)]
        print(*command, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "dipcli", *command[1:]], check=True, stdout=subprocess.DEVNULL)
    told: dict[str, Any] = json.loads(record.read_text())
    return told


def weigh(path: Path, level: int) -> str:
    """PSNR with the weight that predicts hidden pixels best, with the one that leaves the noise, and with the best."""
    clean = images.to_image(path).pixels
    rows, columns = (slice((side - SIDE) // 2, (side + SIDE) // 2) for side in clean.shape[1:])
    clean = clean[:, rows, columns]
    random = np.random.default_rng(0)
    added = clean + random.normal(0, level / 255, clean.shape).astype(np.float32)
    noisy = np.clip(added, 0, 1)
    seen = measure_noise(noisy)
    sigma = seen.level if seen else level / 255

    def filtered(weight: float) -> Any:
        each = denoise_tv_chambolle(noisy.transpose(1, 2, 0), weight=weight, eps=denoising.SETTLED, channel_axis=-1)
        return each.transpose(2, 0, 1)

    predicting = metrics.psnr(denoising.total_variation(noisy, sigma, Budget()), clean)
    low, high = 0.05 * sigma, 5 * sigma
    for _ in range(10):
        between = (low * high) ** 0.5
        gone = float(np.mean((filtered(between) - noisy) ** 2))
        low, high = (between, high) if gone < sigma**2 else (low, between)
    leaving = metrics.psnr(filtered((low * high) ** 0.5), clean)
    best = max(metrics.psnr(filtered(sigma * each), clean) for each in denoising.WEIGHTS)
    return f"{path.stem} {level}: predicting {predicting:.2f}, leaving the noise {leaving:.2f}, best {best:.2f}"


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(RUNS), help=f"any of {', '.join(RUNS)}")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--weights", action="store_true", help="compare ways to choose the weight of total variation")
    given = parser.parse_args()
    if given.weights:
        for path in sorted((given.pictures / "denoise").glob("*_clean.png")):
            for level in LEVELS:
                print(weigh(path, level), flush=True)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.only.split(","):
        told = run(given.pictures, name, given.out, given.preset)
        ours = {"name": "dip", **{key: told[key] for key in ("psnr_ref", "ssim_ref", "seconds")}}
        for each in (ours, *told["comparison"]):
            print(f"| {name} | {each['name']} | {each['psnr_ref']:.2f} | {each['seconds']:.2f} s |")
        print(told["compared"])


if __name__ == "__main__":
    main()
