"""Time and memory of one iteration, against the published network in plain fp32, and their growth with the image size.

    python benchmarks/speed.py --methods plain,paper --sizes 512
    python benchmarks/speed.py --methods fast,balanced --sizes 256,512,1024,2048
    python benchmarks/speed.py --methods plain,paper --sizes 256 --psnr 300 --image house_clean.png --seeds 0,1,2
    python benchmarks/speed.py --methods balanced,fast --sizes 256 --precision fp32 --company

`plain` is the published network as a reader of the paper would write it in PyTorch, in fp32, with the published loop
(benchmarks/peers.py); the others are presets of `dip denoise` as they run from the command line. Every measurement runs
in its own process, to measure its peak memory. Methods take turns, `--rounds` times; the table shows the median of all
iterations except the first two of each process. With --psnr N, the fits run N iterations, and the running averages,
corrected for the weight of the first output, are compared with the clean image instead. With --company every fit runs
alone and beside a process that keeps a core busy, by how long waiting threads spin before they sleep. On a processor
with AVX-512, ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 --precision fp32 shows what
one with AVX2 does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from peers import published
from stopping import crop_middle
from torch import Tensor

from dipcli.cli.app import SPIN_COUNT
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

SIGMA = 25
SKIPPED_ITERATIONS = 2  # not timed
PUBLISHED_DECAY = 0.99
WAITING: dict[str, Mapping[str, str]] = {  # how OpenMP's threads wait
    "PyTorch": {},
    "dip": {"GOMP_SPINCOUNT": str(SPIN_COUNT)},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}


def synthetic_image(size: int) -> np.ndarray:
    """Draw a smooth image with edges, uint8 (size, size, 3). The content does not affect the time."""
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([x, y, (np.hypot(x - 0.5, y - 0.5) < 0.3).astype(float)], axis=2)
    return np.rint(255 * (0.2 + 0.6 * image)).astype(np.uint8)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Fit once in this process: median seconds per iteration, peak memory in MiB, PSNR at the end."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clean = synthetic_image(options.size) if options.image is None else crop_middle(options.image, options.size)
    noise = np.random.default_rng(options.seed).normal(0, SIGMA, clean.shape)
    noisy = np.rint(np.clip(clean + noise, 0, 255)).astype(np.uint8)
    initial = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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
        # The published average gives the first output, which is grey, a weight of 0.99^(n - 1); ours is unbiased.
        weight = PUBLISHED_DECAY**options.iterations
        restored = ((average - weight * first) / (1 - weight))[0].numpy()
    else:
        given = {"iterations": options.iterations, "stop": "none", "seed": options.seed, "threads": options.threads}
        given |= {"ema": PUBLISHED_DECAY, "precision": options.precision}
        case, settings = tasks()["denoise"].case(from_array(noisy), options.method, {"loss": "l2"}, given)
        prepared = prepare(case.problem, settings)
        times[0] = perf_counter()

        def observe(_step: Step, _verdict: Verdict) -> None:
            times.append(perf_counter())

        restored = solve(prepared, observers=[observe]).image.numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    durations = np.diff(times)[SKIPPED_ITERATIONS:]
    reference = clean.transpose(2, 0, 1) / np.float32(255)
    quality = psnr(restored.clip(0, 1).astype(np.float32), reference)
    return {"seconds": float(median(durations)), "peak": peak / 1024, "fit": (peak - initial) / 1024, "psnr": quality}


def measure_in_process(
    options: argparse.Namespace, method: str, size: int, seed: int, waiting: Mapping[str, str] = WAITING["dip"]
) -> dict[str, float]:
    """Run `measure` in a process of its own, whose threads wait as these variables of OpenMP say."""
    count = options.psnr or options.iterations + SKIPPED_ITERATIONS
    command = [sys.executable, __file__, "--method", method, "--size", str(size), "--iterations", str(count)]
    command += ["--seed", str(seed), "--threads", str(options.threads), "--precision", options.precision]
    if options.image is not None:
        command += ["--image", str(options.image)]
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env={**others, **waiting}).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def compare_company(options: argparse.Namespace, methods: list[str], sizes: list[int]) -> None:
    """Print the time of an iteration alone and beside a busy process."""
    print("| network | size | threads wait as in | ms alone | ms beside a busy process | times | of PyTorch alone |")
    print("|---|---|---|---|---|---|---|")
    for method, size in product(methods, sizes):
        times: dict[tuple[str, bool], list[float]] = {}
        for _, busy, who in product(range(options.rounds), (False, True), WAITING):
            company = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                measured = measure_in_process(options, method, size, 0, WAITING[who])
            finally:
                if company:
                    company.kill()
                    company.wait()
            times.setdefault((who, busy), []).append(1000 * measured["seconds"])
            print(f"{method} {size} {who} {busy}: {times[who, busy]}", file=sys.stderr, flush=True)
        plain = median(times["PyTorch", False])
        for who in WAITING:
            alone, beside = median(times[who, False]), median(times[who, True])
            ratios = f"{beside / alone:.2f} | {alone / plain:.2f}, {beside / plain:.2f}"
            print(f"| {method} | {size} | {who} | {alone:.0f} | {beside:.0f} | {ratios} |", flush=True)


def main() -> None:
    """Measure the requested methods and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="plain,paper,best,balanced,fast")
    parser.add_argument("--sizes", default="256,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--psnr", type=int, default=0, metavar="ITERATIONS")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--company", action="store_true")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options)))
        return
    methods, sizes = options.methods.split(","), [int(size) for size in options.sizes.split(",")]
    if options.company:
        compare_company(options, methods, sizes)
        return
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for size in sizes:
        for round_ in range(1 if options.psnr else options.rounds):
            for seed in seeds:
                for method in methods:
                    results.setdefault((method, size), []).append(measure_in_process(options, method, size, seed))
                    print(f"{method} {size} {round_} {seed}: {results[method, size][-1]}", file=sys.stderr, flush=True)
    print(f"\n{options.threads} threads, {torch.__version__}\n")
    print("| network | size | ms per iteration | of plain | peak, MiB | of plain | PSNR, dB |")
    print("|---|---|---|---|---|---|---|")
    for (method, size), runs in results.items():
        seconds, peak, first = (median(run[key] for run in runs) for key in ("seconds", "peak", "psnr"))
        ratios = ["", ""]
        if plain := results.get(("plain", size)):
            ratios = [
                f"1/{median(run['seconds'] for run in plain) / seconds:.2f}",
                f"{peak / median(run['peak'] for run in plain):.2f}",
            ]
        quality = ", ".join(f"{run['psnr']:.2f}" for run in runs) if options.psnr else f"({first:.1f})"
        print(f"| {method} | {size} | {1000 * seconds:.0f} | {ratios[0]} | {peak:.0f} | {ratios[1]} | {quality} |")


if __name__ == "__main__":
    main()
