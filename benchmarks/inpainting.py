"""Inpainting: PSNR over the whole image and over the missing pixels, of classical methods and of `dip inpaint`.

    python benchmarks/inpainting.py IMAGES --out i.jsonl --missing 10,30,50,70,90
    python benchmarks/inpainting.py --out i.jsonl --table

IMAGES holds inpaint/NAME.png or inpaint/half/NAME_clean.png. A number is the percentage of missing pixels, drawn at
random, or for 50 taken from inpaint/half/NAME_missing.png if that exists; `text` takes inpaint/NAME_mask.png, white:
keep. Results are rounded to 8 bits. `nonlocal` is the estimate with which `dip inpaint` fuses its fit. Results of an
earlier call are not computed again.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import griddata
from stopping import read_rows

import dipcli
from dipcli import images
from dipcli.problem.filling.gaussian import FillingCompanion
from dipcli.problem.metrics import psnr
from dipcli.tasks.baselines.baseline import Budget
from dipcli.tasks.baselines.inpainting import biharmonic, cubic

METHODS = "linear,cubic,biharmonic,nonlocal,fast,balanced"


def read_case(folder: Path, name: str, missing: str) -> tuple[images.Image, NDArray[np.bool_]]:
    """Return an image and its missing pixels, (H, W)."""
    path = folder / f"half/{name}_clean.png"
    image = images.read(path if path.exists() else folder / f"{name}.png")[0]
    drawn = folder / f"half/{name}_missing.png"
    if missing == "text":
        return image, images.read(folder / f"{name}_mask.png")[0].pixels[0] < 1 / 2
    if missing == "50" and drawn.exists():
        return image, images.read(drawn)[0].pixels[0] >= 1 / 2
    return image, np.random.default_rng(int(missing)).random(image.pixels.shape[1:]) < int(missing) / 100


def linear(pixels: NDArray[np.float32], marked: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Interpolate linearly on triangles of known pixels; outside of them, use the nearest."""
    known, missing, restored = np.argwhere(~marked), np.argwhere(marked), pixels.copy()
    filled = griddata(known, pixels[:, ~marked].T, missing, method="linear")
    nearest = griddata(known, pixels[:, ~marked].T, missing, method="nearest")
    restored[:, marked] = np.where(np.isnan(filled), nearest, filled).T
    return restored


def restore(image: images.Image, marked: NDArray[np.bool_], method: str) -> tuple[NDArray[np.float32], str]:
    """Return the filled pixels, (C, H, W), 0..1, and how the fit ended."""
    pixels = np.where(marked, np.float32(0), image.pixels)
    classical = {"cubic": cubic, "biharmonic": biharmonic}
    if method == "linear":
        return linear(pixels, marked), ""
    if method in classical:
        return classical[method](pixels, marked, Budget()), ""
    if method == "nonlocal":
        return FillingCompanion(pixels=pixels, known=~marked)().numpy(), ""
    array = image.with_pixels(pixels).array()
    result = dipcli.inpaint(array, mask=marked, preset=method, threads=torch.get_num_threads(), progress=False)
    return images.from_array(result.image).pixels, f"{result.steps} iterations: {result.reason}"


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row for each image and fraction."""
    methods = [method for method in METHODS.split(",") if any(row["method"] == method for row in rows)]
    print(f"| image | missing | {' | '.join(methods)} |\n|---|---|{'---|' * len(methods)}")
    cells = defaultdict(dict)
    for row in rows:
        cells[row["image"], row["missing"]][row["method"]] = f"{row['psnr']:.2f} ({row['psnr_missing']:.2f})"
    for (name, missing), found in cells.items():
        print(f"| {name} | {missing} | {' | '.join(found.get(method, '') for method in methods)} |")


def main() -> None:
    """Run the methods that are missing from the file, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", default="house,lena,peppers,fingerprint")
    parser.add_argument("--missing", default="50")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.table or options.folder is None:
        print_table(rows)
        return
    torch.set_num_threads(options.threads)
    for name, missing, method in product(
        *(part.split(",") for part in (options.images, options.missing, options.methods))
    ):
        key = {"image": name, "missing": missing, "method": method}
        if any(key.items() <= row.items() for row in rows):
            continue
        image, marked = read_case(options.folder / "inpaint", name, missing)
        started = perf_counter()
        restored, end = restore(image, marked, method)
        seconds = round(perf_counter() - started, 2)
        restored = np.where(marked, images.from_array(image.with_pixels(restored).array()).pixels, image.pixels)
        result = {
            "psnr": psnr(restored, image.pixels),
            "psnr_missing": psnr(restored[:, marked], image.pixels[:, marked]),
        }
        result |= {"seconds": seconds, "end": end}
        print(f"{name} {missing} {method}: {result}", flush=True)
        with options.out.open("a") as file:
            file.write(json.dumps(key | result) + "\n")


if __name__ == "__main__":
    main()
