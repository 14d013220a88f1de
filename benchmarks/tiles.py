"""Tiles beside the whole picture: seams, time, and what a fit was estimated to take beside what it took.

    python benchmarks/tiles.py seams --pictures PICTURES --side 1024 --tile 544 --iterations 200 --out DIR
    python benchmarks/tiles.py memory --sizes 256,512,1024 --presets fast,balanced

`seams` fits one picture, photographs beside each other with Gaussian noise of sigma 25, whole and in tiles, and
compares the errors: near the borders of tiles, where they are blended, and elsewhere; for the whole fit the same
places, which says how hard they are. `memory` fits noisy pictures in processes of their own, for a few iterations, and
shows the peak beside the estimate.
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
from speed import scenery

from dipcli.fitting.device import peak_memory
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.tasks.registry import tasks

SIGMA = 25
NEAR = 8  # pixels from a tile's border
OFFSET = (173, 121)  # where the first photograph ends: its edges are not those of the tiles
MIB = 2**20


@dataclass(frozen=True)
class Errors:
    """Root mean squared errors in grey levels of 255.

    Attributes:
        borders: within some pixels of where a tile ends.
        blended: where tiles overlap.
        elsewhere: where they do not.
    """

    borders: float
    blended: float
    elsewhere: float


def photographs(folder: Path, side: int) -> NDArray[np.uint8]:
    """A picture made of many, uint8 (side, side, 3)."""
    found = [iio.imread(path)[..., :3] for path in sorted(folder.glob("*_clean.png"))]
    picture = np.zeros((side, side, 3), np.uint8)
    number = top = 0
    while top < side:
        left, bottom = 0, side
        while left < side:
            part = found[number % len(found)]
            number += 1
            high, wide = min(part.shape[0], side - top), min(part.shape[1], side - left)
            picture[top : top + high, left : left + wide] = part[:high, :wide]
            left, bottom = left + wide, min(bottom, top + part.shape[0])
        top = bottom
    return np.roll(picture, OFFSET, axis=(0, 1))


def noisy(clean: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """With the usual noise, clipped."""
    return np.rint(np.clip(clean + np.random.default_rng(0).normal(0, SIGMA, clean.shape), 0, 255)).astype(np.uint8)


def fitted(picture: NDArray[np.uint8], preset: str, **given: object) -> tuple[NDArray[np.float32], float, PreparedFit]:
    """The restored picture, (C, H, W), the seconds of all cores it took, and what was fitted how."""
    case, settings = tasks()["denoise"].case(from_array(picture), preset, {}, given)
    began = process_time()
    bench = prepare(case.problem, settings, beside=case.bytes_in_memory)
    return solve(bench).image.numpy(), process_time() - began, bench


def zones(bench: PreparedFit) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixels lie near the border of a tile within the picture, and where tiles overlap, (H, W) each."""
    height, width = bench.problem.shape[1:]
    near, covered = np.zeros((height, width), bool), np.zeros((height, width), int)
    for rows, columns, *_ in bench.estimate.places:
        covered[rows, columns] += 1
        for border in {rows.start, rows.stop} - {0, height}:
            near[border - NEAR : border + NEAR, columns] = True
        for border in {columns.start, columns.stop} - {0, width}:
            near[rows, border - NEAR : border + NEAR] = True
    return near, covered > 1


def seams(options: argparse.Namespace) -> None:
    """Errors and times of the whole fit and of tiles."""
    clean = photographs(options.pictures, options.side)
    damaged, truth = noisy(clean), clean.transpose(2, 0, 1) / np.float32(255)
    given = {"iterations": options.iterations, "max_memory": "1000G"}
    restored = {}
    tiled, seconds, bench = fitted(damaged, options.preset, **given, tile=str(options.tile))
    restored["tiles"] = (tiled, seconds)
    if not options.tiles_only:
        restored["whole"] = fitted(damaged, options.preset, **given)[:2]
    near, blended = zones(bench)
    rows, columns, *_ = bench.estimate.places[0]
    high, wide, count = rows.stop - rows.start, columns.stop - columns.start, len(bench.estimate.places)
    share = count * high * wide / near.size
    print(f"{options.side}x{options.side} in {count} tiles of {wide}x{high}, {share:.3f} times its pixels")
    for name, (picture, seconds) in restored.items():
        squares = 255**2 * ((picture.clip(0, 1) - truth) ** 2).mean(axis=0)
        errors = Errors(*(float(squares[zone].mean() ** 0.5) for zone in (near, blended, ~blended)))
        told = {"seconds": round(seconds, 1), "psnr": round(psnr(picture.clip(0, 1), truth), 2)}
        print(name, json.dumps(told | {key: round(value, 3) for key, value in asdict(errors).items()}), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(255 * picture.clip(0, 1)).astype(np.uint8).transpose(1, 2, 0)
            iio.imwrite(options.out / f"{name}.png", pixels)


def one(options: argparse.Namespace) -> None:
    """A single fit: estimate and peak in MiB."""
    given = {"iterations": options.iterations, "max_memory": "1000G", "tile": options.tile or "auto"}
    if options.network:
        given |= {"network": options.network}
    _, _, bench = fitted(noisy(scenery(options.size)), options.preset, **given)
    print(json.dumps({"estimate": bench.estimate.memory / MIB, "peak": (peak_memory(torch.device("cpu")) or 0) / MIB}))


def memory(options: argparse.Namespace) -> None:
    """A table of estimates and peaks."""
    print("| preset | size | estimate, MiB | peak, MiB | of the estimate |\n|---|---|---|---|---|")
    for preset in options.presets.split(","):
        for size in options.sizes.split(","):
            command = [sys.executable, __file__, "one", "--preset", preset, "--size", size]
            command += ["--iterations", str(options.iterations), "--network", options.network]
            command += ["--tile", str(options.tile)] if options.tile else []
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            estimate, found = told["estimate"], told["peak"]
            name = options.network or preset
            print(f"| {name} | {size} | {estimate:.0f} | {found:.0f} | {found / estimate:.2f} |", flush=True)


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["seams", "memory", "one"])
    parser.add_argument("--pictures", type=Path, default=Path())
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
    {"seams": seams, "memory": memory, "one": one}[options.what](options)


if __name__ == "__main__":
    main()
