"""Time and memory of one iteration: ours beside the published network in plain fp32, and how they grow with the size.

    python benchmarks/speed.py --methods plain,paper --sizes 512
    python benchmarks/speed.py --methods fast,balanced --sizes 256,512,1024,2048
    python benchmarks/speed.py --methods plain,paper --sizes 256 --psnr 300 --picture house_clean.png --seeds 0,1,2

`plain` is the published network as a reader of the paper would write it in PyTorch, in fp32, with the published loop
(benchmarks/peers.py); the others are presets of `dip denoise` as they run from the command line. Every measurement is a
process of its own, for its peak of memory; methods take turns, `--rounds` times over, and the median of all iterations
but the first two of each process is shown. With --psnr the fits run so many iterations and the running averages, in
which the first output has no more than its share, are compared with the true picture instead.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from peers import published
from stopping import middle
from torch import Tensor

from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

SIGMA = 25
WARMING = 2  # iterations that are not counted
AVERAGING = 0.99  # published


def scenery(size: int) -> np.ndarray:
    """A smooth picture with edges, uint8 (size, size, 3): what it shows makes no difference to the time."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.stack([x, y, (np.hypot(x - 0.5, y - 0.5) < 0.3).astype(float)], axis=2)
    return np.rint(255 * (0.2 + 0.6 * picture)).astype(np.uint8)


def one(options: argparse.Namespace) -> dict[str, float]:
    """A single measurement: seconds of each iteration, peak memory in MiB, PSNR at the end."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clean = scenery(options.size) if options.picture is None else middle(options.picture, options.size)
    noise = np.random.default_rng(options.seed).normal(0, SIGMA, clean.shape)
    noisy = np.rint(np.clip(clean + noise, 0, 255)).astype(np.uint8)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = [perf_counter()]
    if options.method == "plain":

        def watch(iteration: int, average: Tensor) -> None:
            nonlocal first
            times.append(perf_counter())
            first = average if iteration == 1 else first

        first = torch.zeros(())
        torch.manual_seed(options.seed)
        y = torch.from_numpy(noisy.transpose(2, 0, 1) / np.float32(255))[None]
        average = published(y, SIGMA / 255, options.iterations, watch)
        # The published average gives the first output, which is grey, 0.99^(n - 1) of the weight, ours what is due.
        left = AVERAGING**options.iterations
        restored = ((average - left * first) / (1 - left))[0].numpy()
    else:
        given = {"iterations": options.iterations, "stop": "none", "seed": options.seed, "threads": options.threads}
        given["ema"] = AVERAGING
        case, settings = tasks()["denoise"].case(from_array(noisy), options.method, {"loss": "l2"}, given)
        bench = prepare(case.problem, settings)
        times[0] = perf_counter()

        def observe(_step: Step, _verdict: Verdict) -> None:
            times.append(perf_counter())

        restored = solve(bench, observers=[observe]).image.numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = np.diff(times)[WARMING:]
    truth = clean.transpose(2, 0, 1) / np.float32(255)
    quality = psnr(restored.clip(0, 1).astype(np.float32), truth)
    return {"seconds": float(median(steps)), "peak": peak / 1024, "fit": (peak - began) / 1024, "psnr": quality}


def in_a_process(options: argparse.Namespace, method: str, size: int, seed: int) -> dict[str, float]:
    """The same in a process of its own."""
    count = options.psnr or options.iterations + WARMING
    command = [sys.executable, __file__, "--method", method, "--size", str(size), "--iterations", str(count)]
    command += ["--seed", str(seed), "--threads", str(options.threads)]
    if options.picture is not None:
        command += ["--picture", str(options.picture)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def main() -> None:
    """Measure what was asked for; a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="plain,paper,best,balanced,fast")
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--psnr", type=int, default=0, metavar="ITERATIONS")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(one(options)))
        return
    methods, sizes = options.methods.split(","), [int(size) for size in options.sizes.split(",")]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for size in sizes:
        for round_ in range(1 if options.psnr else options.rounds):
            for seed in seeds:
                for method in methods:
                    found.setdefault((method, size), []).append(in_a_process(options, method, size, seed))
                    print(f"{method} {size} {round_} {seed}: {found[method, size][-1]}", file=sys.stderr, flush=True)
    print(f"\n{options.threads} threads, {torch.__version__}\n")
    print("| network | size | ms an iteration | of plain | peak, MiB | of plain | PSNR, dB |")
    print("|---|---|---|---|---|---|---|")
    for (method, size), runs in found.items():
        seconds, peak, first = (median(run[key] for run in runs) for key in ("seconds", "peak", "psnr"))
        beside = ["", ""]
        if plain := found.get(("plain", size)):
            beside = [
                f"1/{median(run['seconds'] for run in plain) / seconds:.2f}",
                f"{peak / median(run['peak'] for run in plain):.2f}",
            ]
        quality = ", ".join(f"{run['psnr']:.2f}" for run in runs) if options.psnr else f"({first:.1f})"
        print(f"| {method} | {size} | {1000 * seconds:.0f} | {beside[0]} | {peak:.0f} | {beside[1]} | {quality} |")


if __name__ == "__main__":
    main()
