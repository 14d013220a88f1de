"""`dip dejpeg` and `dip superres` against classical methods, image by image.

    python benchmarks/consistent.py dejpeg IMAGES --out j.jsonl --cases 10/4:2:0,20/4:2:0,40/4:2:0,10/4:4:4 --methods smooth,companion
    python benchmarks/consistent.py dejpeg IMAGES --out j.jsonl --cases 20/4:2:0 --methods fast,balanced --side 256
    python benchmarks/consistent.py superres SET5 --out s.jsonl --cases 4/lanczos3,4/bicubic,2/bicubic,8/bicubic --methods companion,fast
    python benchmarks/consistent.py dejpeg --out j.jsonl --table

IMAGES is a folder of clean images named NAME_clean.png, SET5 one of NAME_GT.png. A case is quality and chroma sampling
of a JPEG that Pillow writes, or factor and kernel of the small image, which is rounded to 8 bits. `smooth` is total
variation within the intervals of the coefficients (the idea of jpeg-quantsmooth); `companion` is the estimate with which
the presets fuse the fit. PSNR of dejpeg is over RGB, of superres over the luma without 4 pixels of border, both of 8-bit
results. `best` is that of the best fusion that the run passed. Results already in the file are not computed again.
"""  # noqa: E501

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import PIL.Image
import torch
from skimage.restoration import denoise_tv_chambolle
from stopping import crop_middle, read_rows

from dipcli import images
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem import metrics
from dipcli.problem.fusion import fuse
from dipcli.runs.observers import pixels
from dipcli.tasks.registry import tasks

BORDER = 4  # pixels
TV_WEIGHTS = 0.05, 0.03, 0.02, 0.015, 0.01
PSNR_EVERY = 50  # iterations


def degrade(task: str, clean: np.ndarray, case: str) -> tuple[images.Image, dict[str, Any]]:
    """Return the degraded image of a case, and the task's options."""
    first, second = case.split("/")
    if task == "superres":
        options = {"scale": float(first), "kernel": second}
        small = tasks()[task].case(from_array(clean), "fast", {**options, "simulate": True}, {})[0].damaged
        return from_array((255 * small).round().astype(np.uint8).transpose(1, 2, 0)), options
    file = io.BytesIO()
    PIL.Image.fromarray(clean).save(file, "JPEG", quality=int(first), subsampling=second)
    return images.decode(file.getvalue()), {}


def measure(task: str, image: torch.Tensor, clean: np.ndarray) -> float:
    """Return the PSNR of the image as an 8-bit file."""
    found, true = (255 * pixels(image)).round() / 255, (clean / 255).astype(np.float32).transpose(2, 0, 1)
    if task == "superres":
        found, true = (metrics.luma(x)[..., BORDER:-BORDER, BORDER:-BORDER] for x in (found, true))
    return round(metrics.psnr(found, true), 3)


def smooth_within_intervals(problem: Any) -> torch.Tensor:
    """Return the result of total variation and projection onto the intervals of the coefficients in turn."""
    image = problem.guide
    for weight in TV_WEIGHTS:
        image = torch.from_numpy(denoise_tv_chambolle(image.numpy(), weight, channel_axis=0)).float()
        image = problem.operator.project(image)
    return problem.finish(image)


def restore(task: str, clean: np.ndarray, case: str, method: str) -> dict[str, Any]:
    """Return the PSNR before and after, and what else there is to say."""
    if task == "superres":  # as is usual: to a multiple of the factor
        factor = int(float(case.partition("/")[0]))
        clean = clean[: clean.shape[0] // factor * factor, : clean.shape[1] // factor * factor]
    degraded, options = degrade(task, clean, case)
    fitted = method not in ("smooth", "companion")
    posed, settings = tasks()[task].case(degraded, method if fitted else "fast", options, {"threads": 1})
    problem = posed.problem
    baseline = posed.baseline_images.get("decoded")
    if baseline is None:
        baseline = problem.companion.start.numpy()
    row = {"before": measure(task, torch.from_numpy(baseline), clean)}
    if not fitted:
        image = smooth_within_intervals(problem) if method == "smooth" else problem.finish(problem.companion())
        return {**row, "psnr": measure(task, image, clean)}
    companion, passed = problem.companion(), []

    def watch(step: Any, _: Any) -> None:
        if step.number % PSNR_EVERY == 0:
            passed.append(measure(task, problem.finish(fuse(step.average, companion, problem.share)), clean))

    result = solve(prepare(problem, settings), observers=[watch])
    fit = measure(task, problem.finish(result.first.average), clean)
    row |= {"psnr": measure(task, result.image, clean), "fit": fit, "best": max(passed)}
    return {**row, "steps": result.first.steps, "seconds": round(result.seconds, 1), "reason": result.reason}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a row for each case and method, a column for each image."""
    groups = defaultdict(dict)
    for row in rows:
        groups[row["case"], row["side"], row["method"]][row["image"]] = row
    for (case, side, method), found in sorted(groups.items()):
        cells = " | ".join(f"{row['before']:.2f} {row['psnr']:.2f}" for row in found.values())
        before, after = (mean(row[key] for row in found.values()) for key in ("before", "psnr"))
        print(f"| {case} {side or 'whole'} | {method} | {cells} | {before:.2f} {after:.2f} | {after - before:+.2f} |")
        print("   ", " ".join(found))


def main() -> None:
    """Run the cases, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("dejpeg", "superres"))
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", default="")
    parser.add_argument("--methods", default="companion")
    parser.add_argument("--only", default="", help="names of images, separated by commas")
    parser.add_argument("--side", type=int, default=0, help="of the middle that is used, 0 for the whole")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        print_table(read_rows(options.out))
        return
    suffix = "_GT.png" if options.task == "superres" else "_clean.png"
    done = {(row["image"], row["case"], row["side"], row["method"]) for row in read_rows(options.out)}
    for path in sorted(options.images.glob(f"*{suffix}")):
        name = path.name.removesuffix(suffix)
        if options.only and name not in options.only.split(","):
            continue
        clean = crop_middle(path, options.side or None)
        for case in options.cases.split(","):
            for method in options.methods.split(","):
                key = {"image": name, "case": case, "side": options.side, "method": method}
                if tuple(key.values()) not in done:
                    row = {**key, **restore(options.task, clean, case, method)}
                    print(row, flush=True)
                    with options.out.open("a") as file:
                        print(json.dumps(row), file=file)


if __name__ == "__main__":
    main()
