"""Time against quality: presets of `dip denoise` and other methods on the same noisy images.

    python benchmarks/frontier.py IMAGES --out frontier.jsonl --methods nlm,noise2noise,fast,balanced
    python benchmarks/frontier.py IMAGES --out frontier.jsonl --methods published --images f16,house,kodim01,kodim12
    python benchmarks/frontier.py --out frontier.jsonl --table
    python benchmarks/frontier.py --out frontier.jsonl --figure frontier.png
    python benchmarks/frontier.py IMAGES --out frontier.jsonl --methods paper --images f16,house,kodim01,kodim12
    python benchmarks/frontier.py --out frontier.jsonl --table --seconds-per-iteration 1.2
    pip install bm3d
    python benchmarks/frontier.py IMAGES --out frontier.jsonl --noise gauss10,gauss25,gauss50,poisson30 --methods cbm3d

IMAGES is a folder of clean images named NAME_clean.png; the middle of each is used, --side pixels square, 0 for the
whole. The noise is that of benchmarks/stopping.py: clipped, 8 bits. Presets end by their stopping rule and estimate the
noise level; `ridge` is the non-local estimate with which they fuse the fit. The peers (benchmarks/peers.py) run for
their published number of iterations and receive the true noise level if they need it (of Poisson noise, the standard
deviation of the whole image's noise). The clock runs from the noisy pixels to the restored ones and pauses while PSNRs
are computed. The table shows for each method the time at which it first reached the final PSNR of the published
method's running average; the trace is of the fit alone. Results already in the file are not computed again.

The published method takes an hour per image. With `--seconds-per-iteration`, the table instead uses the final PSNR of
`paper`, the same network and settings in our step, and the given time of one iteration in plain fp32
(benchmarks/speed.py).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from peers import PEERS
from stopping import NAMES, add_noise, crop_middle, read_rows
from torch import Tensor

from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.runs.observers import pixels
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

PSNR_EVERY = 20  # iterations
ALLOWED_LOSS = 0.7  # dB that `fast` may be below the published method
OURS = ("ridge", "fast", "balanced", "best")
LABELS = {
    "ridge": "non-local estimate alone", "fast": "--preset fast", "balanced": "default", "best": "--preset best",
    "nlm": "non-local means", "cbm3d": "CBM3D, true level", "noise2noise": "zero-shot Noise2Noise",
    "paper": "Deep Image Prior as published",
}  # fmt: skip


@dataclass
class Clock:
    """A stopwatch with a trace of PSNRs, paused while these are computed.

    Attributes:
        clean: the reference, float (C, H, W) of 0..1.
        started: reading of `perf_counter` at the start, moved forward by every pause.
        true_level: standard deviation of the noise before it was clipped, 0..1; None if it depends on brightness.
        trace: iteration, seconds and PSNR of each measurement.
    """

    clean: np.ndarray
    true_level: float | None = None
    started: float = field(default_factory=perf_counter)
    trace: list[tuple[int, float, float]] = field(default_factory=list)

    def seconds(self) -> float:
        """Seconds since the start, without pauses."""
        return perf_counter() - self.started

    def measure(self, iteration: int, *candidates: np.ndarray) -> None:
        """Record the best PSNR of several images."""
        now = self.seconds()
        self.trace.append((iteration, round(now, 2), max(psnr(image, self.clean) for image in candidates)))
        self.started += self.seconds() - now


def restore_with_dip(noisy_image: np.ndarray, preset: str, clock: Clock, options: argparse.Namespace) -> np.ndarray:
    """Run `dip denoise` with a preset and return the image that its rule keeps."""
    given = {"seed": options.seed, "threads": options.threads}
    name = "balanced" if preset == "ridge" else preset
    case, settings = tasks()["denoise"].case(from_array(noisy_image), name, {"loss": "l2"}, given)
    if preset == "ridge":
        return pixels(case.problem.finish(case.problem.visible_companion()))
    prepared = prepare(case.problem, settings)

    def observe(step: Step, _verdict: Verdict) -> None:
        if step.number % PSNR_EVERY == 0:
            clock.measure(step.number, *(pixels(prepared.problem.finish(average)) for average in step.averages))

    return pixels(solve(prepared, observers=[observe]).image)


def restore_with_peer(noisy_image: np.ndarray, name: str, clock: Clock, options: argparse.Namespace) -> np.ndarray:
    """Run a peer at its own settings."""
    restore, iterations = PEERS[name]
    torch.manual_seed(options.seed)
    y = torch.from_numpy(noisy_image.transpose(2, 0, 1) / np.float32(255))[None]

    def watch(iteration: int, image: Tensor) -> None:
        if iteration % PSNR_EVERY == 0:
            clock.measure(iteration, pixels(image[0]))

    sigma = clock.true_level or float(np.std(y[0].numpy() - clock.clean))
    return pixels(restore(y, sigma, options.iterations or iterations, watch)[0])


def print_table(rows: list[dict[str, Any]], seconds_per_iteration: float) -> None:
    """Print a row per image and method, then the means of each method."""
    targets = {(row["image"], row["side"], row["noise"]): row for row in rows if row["method"] == "published"}
    if seconds_per_iteration:
        paper = [row for row in rows if row["method"] == "paper"]
        targets = {
            (row["image"], row["side"], row["noise"]): row | {"seconds": seconds_per_iteration * row["iterations"]}
            for row in paper
        }
    print(
        "| image | noise | method | PSNR, dB | seconds | iterations | as good as published after | 0.7 dB below after |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["noise"], row["image"], row["side"], row["seconds"])):
        target = targets.get((row["image"], row["side"], row["noise"]))
        reached = [_time_to_reach(row, target, loss) for loss in (0.0, ALLOWED_LOSS)] if target else ["", ""]
        cells = [
            row["image"],
            row["noise"],
            row["method"],
            f"{row['psnr']:.2f}",
            f"{row['seconds']:.1f}",
            row["iterations"],
            *reached,
        ]
        print(f"| {' | '.join(map(str, cells))} |")
    print("\n| noise | method | images | PSNR, dB, mean | seconds, mean |\n|---|---|---|---|---|")
    groups = defaultdict(list)
    for row in rows:
        groups[row["noise"], row["method"], row["side"]].append(row)
    for (noise, method, side), group in sorted(
        groups.items(), key=lambda item: (item[0][0], mean(row["seconds"] for row in item[1]))
    ):
        size = f"{side}x{side}" if side else "whole"
        quality, seconds = (mean(row[name] for row in group) for name in ("psnr", "seconds"))
        print(f"| {noise} | {method} | {len(group)} of {size} | {quality:.2f} | {seconds:.1f} |")


def draw_figure(rows: list[dict[str, Any]], path: Path, seconds_per_iteration: float) -> None:
    """Draw the mean PSNR of each method over its mean time, for noise of sigma 25; of methods that ran on all images.

    Args:
        rows: the results.
        path: of the PNG.
        seconds_per_iteration: of the published method, whose PSNR is that of `paper`; 0 leaves it out.
    """
    groups = defaultdict(list)
    for row in rows:
        if row["noise"] == "gauss25":
            groups[row["method"]].append(row)
    most = max(len(group) for group in groups.values())
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method, group in groups.items():
        if len(group) < most or (method == "paper" and not seconds_per_iteration):
            continue
        times = [seconds_per_iteration * row["iterations"] if method == "paper" else row["seconds"] for row in group]
        point = mean(times), mean(row["psnr"] for row in group)
        ours = method in OURS
        axes.plot(*point, "o" if ours else "s", color="tab:blue" if ours else "tab:gray", markersize=8)
        axes.annotate(LABELS.get(method, method), point, xytext=(8, -4), textcoords="offset points")
    axes.set(xscale="log", xlabel="seconds for an image of 256x256, mean", ylabel="PSNR, dB, mean")
    axes.set_title(f"Noise of sigma 25, {most} images, two threads", loc="left")
    axes.margins(x=0.25, y=0.12)
    axes.grid(visible=True, which="both", alpha=0.2)
    figure.savefig(path, dpi=120)


def _time_to_reach(row: dict[str, Any], target: dict[str, Any], loss: float) -> str:
    """Format when a method came within `loss` dB of the target, in seconds and as a fraction of the target's time."""
    times = [seconds for _, seconds, quality in row["trace"] if quality >= target["psnr"] - loss]
    if not times and row["psnr"] >= target["psnr"] - loss:
        times = [row["seconds"]]
    return f"{times[0]:.1f} s, 1/{target['seconds'] / times[0]:.0f}" if times else "never"


def main() -> None:
    """Run the methods that are missing from the file, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", default=NAMES)
    parser.add_argument("--methods", default="nlm,noise2noise,fast,balanced")
    parser.add_argument("--noise", default="gauss25", help="kinds, as in benchmarks/stopping.py")
    parser.add_argument("--side", type=int, default=256, help="of the middle of each image, pixels; 0 for the whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=0, help="of the peers, instead of their own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    parser.add_argument("--seconds-per-iteration", type=float, default=0.0, help="of the published method")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.figure:
        draw_figure(rows, options.figure, options.seconds_per_iteration)
        return
    if options.table or options.folder is None:
        print_table(rows, options.seconds_per_iteration)
        return
    torch.set_num_threads(options.threads)
    for name in options.images.split(","):
        clean = crop_middle(options.folder / f"{name}_clean.png", options.side or None) / 255.0
        clean_pixels = from_array(clean).pixels
        for noise, method in product(options.noise.split(","), options.methods.split(",")):
            key = {"image": name, "side": options.side, "noise": noise, "method": method, "seed": options.seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            noisy_image = add_noise(clean, noise, options.seed)
            level = float(noise.removeprefix("gauss")) / 255 if noise.startswith("gauss") else None
            clock = Clock(clean_pixels, level)
            restored = (restore_with_peer if method in PEERS else restore_with_dip)(noisy_image, method, clock, options)
            seconds, iterations = clock.seconds(), clock.trace[-1][0] if clock.trace else 0
            result = {"seconds": round(seconds, 2), "iterations": iterations, "psnr": psnr(restored, clean_pixels)}
            print(f"{name} {noise} {method}: {result}", flush=True)
            result |= {"threads": options.threads, "trace": clock.trace}
            with options.out.open("a") as file:
                file.write(json.dumps(key | result) + "\n")


if __name__ == "__main__":
    main()
