"""PSNR and seconds of the baselines of `dip --compare`; ways to choose the weight of total variation.

    python benchmarks/baselines.py IMAGES --out runs/ --preset fast
    python benchmarks/baselines.py IMAGES --weights

IMAGES is a folder with the test images of the paper in denoise/, inpaint/ and superres/. The middle 256x256 of each is
used; noise is Gaussian of sigma 25, clipped. Results of an earlier call in the same folder are not computed again.
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
NOISE_LEVELS = (10, 25, 50)


def save_middle(path: Path, folder: Path) -> Path:
    """Write the middle of an image to `folder` and return its path."""
    target = folder / f"{path.parent.name}_{path.stem}.png"
    with Image.open(path) as image:
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        image.crop((left, top, left + SIDE, top + SIDE)).save(target)
    return target


def run(source: Path, name: str, folder: Path, preset: str) -> dict[str, Any]:
    """Restore one image with `--compare` unless its run record exists; return the record."""
    output = folder / f"{name}.{preset}.png"
    path = output.with_suffix(".dip") / "run.json"
    if not path.exists():
        words = [str(save_middle(source / word, folder)) if "/" in word else word for word in RUNS[name]]
        command = ["dip", *words, "--compare", "--preset", preset, "-o", str(output)]
        print(*command, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "dipcli", *command[1:]], check=True, stdout=subprocess.DEVNULL)
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def compare_weights(path: Path, level: int) -> str:
    """Describe the PSNR with three weights of total variation.

    These are the weight that predicts hidden pixels best, the one whose residual equals the noise, and the best one.
    """
    clean = images.to_image(path).pixels
    rows, columns = (slice((side - SIDE) // 2, (side + SIDE) // 2) for side in clean.shape[1:])
    clean = clean[:, rows, columns]
    generator = np.random.default_rng(0)
    noisy = clean + generator.normal(0, level / 255, clean.shape).astype(np.float32)
    noisy = np.clip(noisy, 0, 1)
    noise = measure_noise(noisy)
    sigma = noise.level if noise else level / 255

    def smooth(weight: float) -> Any:
        image = denoise_tv_chambolle(noisy.transpose(1, 2, 0), weight=weight, eps=denoising.TV_EPS, channel_axis=-1)
        return image.transpose(2, 0, 1)

    predicting = metrics.psnr(denoising.total_variation(noisy, sigma, Budget()), clean)
    low, high = 0.05 * sigma, 5 * sigma
    for _ in range(10):
        weight = (low * high) ** 0.5
        residual = float(np.mean((smooth(weight) - noisy) ** 2))
        low, high = (weight, high) if residual < sigma**2 else (low, weight)
    leaving = metrics.psnr(smooth((low * high) ** 0.5), clean)
    best = max(metrics.psnr(smooth(sigma * factor), clean) for factor in denoising.TV_WEIGHTS)
    return f"{path.stem} {level}: predicting {predicting:.2f}, leaving the noise {leaving:.2f}, best {best:.2f}"


def main() -> None:
    """Run the requested comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--only", default=",".join(RUNS), help=f"any of {', '.join(RUNS)}")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--weights", action="store_true", help="compare ways to choose the weight of total variation")
    options = parser.parse_args()
    if options.weights:
        for path in sorted((options.images / "denoise").glob("*_clean.png")):
            for level in NOISE_LEVELS:
                print(compare_weights(path, level), flush=True)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only.split(","):
        record = run(options.images, name, options.out, options.preset)
        ours = {"name": "dip", **{key: record[key] for key in ("psnr_ref", "ssim_ref", "seconds")}}
        for method in (ours, *record["comparison"]):
            print(f"| {name} | {method['name']} | {method['psnr_ref']:.2f} | {method['seconds']:.2f} s |")
        print(record["compared"])


if __name__ == "__main__":
    main()
