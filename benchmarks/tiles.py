"""Tiles against the whole image: seams and time; estimated against measured memory.

    python benchmarks/tiles.py seams --photographs IMAGES --side 1024 --tile 544 --iterations 200 --out DIR
    python benchmarks/tiles.py memory --sizes 256,512,1024 --presets fast,balanced

`seams` fits one image, photographs side by side with Gaussian noise of sigma 25, whole and in tiles, and compares the
errors near the borders of tiles, where they are blended, and elsewhere. The errors of the whole fit at the same places
show how difficult these are. `memory` fits noisy images for a few iterations, in processes of their own, and prints
the peak next to the estimate.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import imageio.v3 as iio
import numpy as np
import torch
from numpy.typing import NDArray
from speed import synthetic_image

from dipcli.fitting.machine.memory import read_peak
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.tasks.registry import tasks

SIGMA = 25
BORDER_WIDTH = 8  # pixels on either side of a tile's border
OFFSET = (173, 121)  # pixels: shifts the photographs, so that their edges are not those of the tiles
MIB = 2**20


@dataclass(frozen=True)
class Errors:
    """Root mean squared errors in grey levels of 255.

    Attributes:
        borders: within `BORDER_WIDTH` of where a tile ends.
        blended: where tiles overlap.
        elsewhere: where they do not.
    """

    borders: float
    blended: float
    elsewhere: float


def collage(folder: Path, side: int) -> NDArray[np.uint8]:
    """Lay photographs side by side, uint8 (side, side, 3)."""
    photographs = [iio.imread(path)[..., :3] for path in sorted(folder.glob("*_clean.png"))]
    image = np.zeros((side, side, 3), np.uint8)
    number = top = 0
    while top < side:
        left, bottom = 0, side
        while left < side:
            part = photographs[number % len(photographs)]
            number += 1
            height, width = min(part.shape[0], side - top), min(part.shape[1], side - left)
            image[top : top + height, left : left + width] = part[:height, :width]
            left, bottom = left + width, min(bottom, top + part.shape[0])
        top = bottom
    return np.roll(image, OFFSET, axis=(0, 1))


def add_noise(clean: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add Gaussian noise of sigma 25 and clip."""
    return np.rint(np.clip(clean + np.random.default_rng(0).normal(0, SIGMA, clean.shape), 0, 255)).astype(np.uint8)


def restore(image: NDArray[np.uint8], preset: str, **given: object) -> tuple[NDArray[np.float32], float, PreparedFit]:
    """Fit an image: the result, (C, H, W), the seconds of all cores, and the prepared fit."""
    case, settings = tasks()["denoise"].case(from_array(image), preset, {}, given)
    started = process_time()
    prepared = prepare(case.problem, settings, other_bytes=case.bytes_in_memory)
    return solve(prepared).image.numpy(), process_time() - started, prepared


def find_zones(prepared: PreparedFit) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the pixels near the inner border of a tile, and of those where tiles overlap, (H, W) each."""
    height, width = prepared.problem.shape[1:]
    near, covered = np.zeros((height, width), bool), np.zeros((height, width), int)
    for rows, columns, *_ in prepared.estimate.places:
        covered[rows, columns] += 1
        for border in {rows.start, rows.stop} - {0, height}:
            near[border - BORDER_WIDTH : border + BORDER_WIDTH, columns] = True
        for border in {columns.start, columns.stop} - {0, width}:
            near[rows, border - BORDER_WIDTH : border + BORDER_WIDTH] = True
    return near, covered > 1


def seams(options: argparse.Namespace) -> None:
    """Print errors and times of the whole fit and of tiles."""
    clean = collage(options.photographs, options.side)
    noisy, reference = add_noise(clean), clean.transpose(2, 0, 1) / np.float32(255)
    given = {"iterations": options.iterations, "max_memory": "1000G"}
    restored = {}
    tiled, seconds, prepared = restore(noisy, options.preset, **given, tile=str(options.tile))
    restored["tiles"] = (tiled, seconds)
    if not options.tiles_only:
        restored["whole"] = restore(noisy, options.preset, **given)[:2]
    near, blended = find_zones(prepared)
    rows, columns, *_ = prepared.estimate.places[0]
    height, width, count = rows.stop - rows.start, columns.stop - columns.start, len(prepared.estimate.places)
    ratio = count * height * width / near.size
    print(f"{options.side}x{options.side} in {count} tiles of {width}x{height}, {ratio:.3f} times its pixels")
    for name, (image, seconds) in restored.items():
        squares = 255**2 * ((image.clip(0, 1) - reference) ** 2).mean(axis=0)
        errors = Errors(*(float(squares[zone].mean() ** 0.5) for zone in (near, blended, ~blended)))
        figures = {"seconds": round(seconds, 1), "psnr": round(psnr(image.clip(0, 1), reference), 2)}
        print(name, json.dumps(figures | {key: round(value, 3) for key, value in asdict(errors).items()}), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(255 * image.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
            iio.imwrite(options.out / f"{name}.png", pixels)


def fit_once(options: argparse.Namespace) -> None:
    """Fit once in this process and print the estimated and the peak memory in MiB, as JSON."""
    given = {"iterations": options.iterations, "max_memory": "1000G", "tile": options.tile or "auto"}
    if options.network:
        given |= {"network": options.network}
    _, _, prepared = restore(add_noise(synthetic_image(options.size)), options.preset, **given)
    peak = read_peak(torch.device("cpu")) or 0
    print(json.dumps({"estimate": prepared.estimate.memory / MIB, "peak": peak / MIB}))


def memory(options: argparse.Namespace) -> None:
    """Print a table of estimates and peaks."""
    print("| preset | size | estimate, MiB | peak, MiB | of the estimate |\n|---|---|---|---|---|")
    for preset in options.presets.split(","):
        for size in options.sizes.split(","):
            command = [sys.executable, __file__, "one", "--preset", preset, "--size", size]
            command += ["--iterations", str(options.iterations), "--network", options.network]
            command += ["--tile", str(options.tile)] if options.tile else []
            figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            estimate, peak = figures["estimate"], figures["peak"]
            name = options.network or preset
            print(f"| {name} | {size} | {estimate:.0f} | {peak:.0f} | {peak / estimate:.2f} |", flush=True)


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=["seams", "memory", "one"])
    parser.add_argument("--photographs", type=Path, default=Path())
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--tile", default="")
    parser.add_argument("--tiles-only", action="store_true")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--presets", default="fast,balanced")
    parser.add_argument("--network", default="")
    parser.add_argument("--iterations", type=int, default=21)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--sizes", default="256,512,1024")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    {"seams": seams, "memory": memory, "one": fit_once}[options.measurement](options)


if __name__ == "__main__":
    main()
