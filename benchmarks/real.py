"""`dip denoise` without options on photographs, and on made noise that neighbouring pixels share.

    python benchmarks/real.py IMAGES --out real.jsonl
    python benchmarks/real.py IMAGES --out real.jsonl --sets made --images f16,house
    python benchmarks/real.py IMAGES --out real.jsonl --methods bm3d,bm3d2
    python benchmarks/real.py --out real.jsonl --table

IMAGES is a folder with pairs NAME_noisy.*, NAME_clean.* in real/sidd and real/polyu, and clean images NAME_clean.png in
denoise/, of which the middle is used, --side pixels square. The made noise:

    smooth07-25   Gaussian, smoothed by a Gaussian of 0.7 pixels, scaled back to sigma 25 (of 255), clipped, 8 bits
    demosaic25    Gaussian of sigma 25 on an RGGB mosaic, bilinear demosaicing
    jpeg75-25     Gaussian of sigma 25, clipped, JPEG of quality 75
    grain12       one channel of Gaussian noise, smoothed by 1 pixel, sigma 12, strongest at middle grey
    scan8         image smoothed by 0.6 pixels, Gaussian noise smoothed likewise, sigma 8, JPEG of quality 90
    night14       Gaussian on an RGGB mosaic, sigma 14 where the image is 1/4, half of the variance in proportion to the
                  image (photons), bilinear demosaicing, JPEG of quality 85

All PSNRs are over RGB, clipped to the valid range. `kept` is the result with `--preset`, `best` the best that any
running average of the run would have given, `nlm` non-local means as in `dip denoise --compare`, with the level that
`measure_noise` finds; `bm3d` (if the package is installed) has that level, `bm3d2` twice as much. The clock runs from
the noisy pixels to the restored ones, without the computation of PSNRs. Results already in the file are not computed
again.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter
from stopping import NAMES, crop_middle, read_rows

from dipcli import images
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.problem.noise import measure_noise
from dipcli.runs.observers import pixels
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.baselines.baseline import Budget
from dipcli.tasks.baselines.denoising import non_local_means
from dipcli.tasks.registry import tasks

PSNR_EVERY = 10  # iterations
MADE = (
    "smooth07-10,smooth07-25,smooth07-50,smooth15-10,smooth15-25,smooth15-50,"
    "demosaic25,jpeg60-25,jpeg90-25,grain12,scan8,night14"
)


@dataclass(frozen=True)
class Pair:
    """A noisy image and its clean one, uint8 (H, W, C)."""

    group: str
    name: str
    noisy: np.ndarray
    clean: np.ndarray


def read_pairs(folder: Path, sets: list[str], names: list[str], noises: list[str], side: int) -> Iterator[Pair]:
    """Yield the pairs of the sets."""
    for group in [group for group in ("sidd", "polyu") if group in sets]:
        for path in sorted((folder / "real" / group).glob("*_noisy.*")):
            name = path.stem.removesuffix("_noisy")
            if not names or name in names:
                clean = images.read(path.with_stem(f"{name}_clean"))[0].array()
                yield Pair(group, name, images.read(path)[0].array(), clean)
    if "made" in sets:
        for noise in noises:
            for name in names or NAMES.split(","):
                clean = crop_middle(folder / "denoise" / f"{name}_clean.png", side)
                yield Pair(noise, name, add_shared_noise(clean, noise), clean)


def add_shared_noise(clean: np.ndarray, noise: str) -> np.ndarray:
    """Add noise that neighbouring pixels share to a clean image, uint8 (H, W, 3)."""
    generator = np.random.default_rng(1)
    kind = noise.rstrip("0123456789-")
    numbers = [int(number) for number in noise.removeprefix(kind).split("-")]
    level, x = numbers[-1] / 255, clean / 255
    white = generator.normal(0, 1, clean.shape)
    quality = None
    if kind == "smooth":
        white = gaussian_filter(white, (numbers[0] / 10, numbers[0] / 10, 0))
        noisy = x + level * white / white.std()
    elif kind == "demosaic":
        noisy = demosaic(np.clip(x + level * white, 0, 1))
    elif kind == "night":
        noisy, quality = demosaic(np.clip(x + level * np.sqrt(0.5 + 2 * x) * white, 0, 1)), 85
    elif kind == "jpeg":
        noisy, quality = x + level * white, numbers[0]
    elif kind == "grain":
        grain = gaussian_filter(white[..., 0], 1)
        noisy = x + level * (grain / grain.std())[..., None] * 2 * np.sqrt(x * (1 - x))
    elif kind == "scan":
        blurred, white = gaussian_filter(x, (0.6, 0.6, 0)), gaussian_filter(white, (0.6, 0.6, 0))
        noisy, quality = blurred + level * white / white.std(), 90
    else:
        raise SystemExit(f"Unknown noise {noise}: use one like {MADE}.")
    noisy = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    if quality:
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=quality)
        noisy = np.asarray(Image.open(file))
    return noisy


def demosaic(image: np.ndarray) -> np.ndarray:
    """Keep one colour per pixel (RGGB) and fill in the others bilinearly."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] % 2
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    result = np.empty_like(image)
    for channel, kept in enumerate([(rows == 0) & (columns == 0), rows != columns, (rows == 1) & (columns == 1)]):
        weights = convolve(kept.astype(float), kernel, mode="mirror")
        result[..., channel] = convolve(image[..., channel] * kept, kernel, mode="mirror") / weights
    return result


def restore(pair: Pair, clean: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Restore with `dip denoise` and return kept, best, seconds and iterations."""
    started = perf_counter()
    given = {"seed": options.seed, "threads": options.threads}
    case, settings = tasks()["denoise"].case(from_array(pair.noisy), options.preset, {}, given)
    prepared = prepare(case.problem, settings)
    best, paused = 0.0, 0.0

    def observe(step: Step, verdict: Verdict) -> None:
        nonlocal best, paused
        before = perf_counter()
        if step.number % PSNR_EVERY == 0 or verdict.stop:
            finished = (pixels(prepared.problem.finish(average)) for average in step.averages)
            best = max([best, *(psnr(image, clean) for image in finished)])
        paused += perf_counter() - before

    result = solve(prepared, observers=[observe])
    seconds = perf_counter() - started - paused
    restored = from_array(pixels(result.image).transpose(1, 2, 0)).quantize(pixels(result.image))
    return {
        "kept": psnr(restored, clean),
        "best": best,
        "seconds": round(seconds, 1),
        "iterations": result.first.steps,
        "remark": "; ".join(case.remarks),
    }


def apply_baseline(method: str, noisy: np.ndarray, clean: np.ndarray) -> dict[str, Any]:
    """Return the PSNR of a classical method."""
    noise = measure_noise(noisy)
    level = max(noise.level if noise else 0.0, 1 / 255)
    if method == "nlm":
        return {"nlm": psnr(non_local_means(noisy, level, Budget()), clean)}
    import bm3d  # optional: its licence allows non-commercial use only

    factor = 2 if method == "bm3d2" else 1
    restored = bm3d.bm3d_rgb(noisy.transpose(1, 2, 0).astype(np.float64), factor * level)
    return {method: psnr(restored.transpose(2, 0, 1).clip(0, 1).astype(np.float32), clean)}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row per image, and the means of each set."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        merged.setdefault((row["set"], row["image"]), {}).update(row)
    columns = ["input", "kept", "best", "nlm", "bm3d", "bm3d2", "seconds"]
    print(f"| set | image | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    for group in dict.fromkeys(group for group, _ in merged):
        members = {name: row for (own, name), row in merged.items() if own == group}
        for name, row in members.items():
            print(f"| {group} | {name} | {' | '.join(_format(row.get(column)) for column in columns)} |")
        means = [[row[column] for row in members.values() if column in row] for column in columns]
        cells = [_format(mean(values) if values else None) for values in means]
        print(f"| {group} | mean of {len(members)} | {' | '.join(cells)} |")


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    """Run what is missing from the file, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default="sidd,polyu")
    parser.add_argument("--images", default="", help="names; by default all")
    parser.add_argument("--noise", default=MADE, help="of the set `made`")
    parser.add_argument("--methods", default="dip,nlm")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.table or options.folder is None:
        print_table(rows)
        return
    torch.set_num_threads(options.threads)
    names, noises = ([word for word in text.split(",") if word] for text in (options.images, options.noise))
    for pair in read_pairs(options.folder, options.sets.split(","), names, noises, options.side):
        noisy, clean = from_array(pair.noisy).pixels, from_array(pair.clean).pixels
        for method in options.methods.split(","):
            key = {"set": pair.group, "image": pair.name, "method": method, "seed": options.seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            found = restore(pair, clean, options) if method == "dip" else apply_baseline(method, noisy, clean)
            row = key | {"input": psnr(noisy, clean)} | found
            print(row, flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
