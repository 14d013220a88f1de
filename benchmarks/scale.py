"""Many images: gains and costs of `--scheduler` on this machine, and a simulation of a million on many GPUs.

    python benchmarks/scale.py --measure            a shell loop, one call, --scheduler local, on this machine
    python benchmarks/scale.py --together           fits of one size in one pass, against one by one
    python benchmarks/scale.py --quality IMAGES     PSNR of the same, each fit to its own stop
    python benchmarks/scale.py --client             overhead per image of the client and the scheduler
    python benchmarks/scale.py --rate 10 --gpus 100 --images 1000000     a simulation; the table of docs/scale.md

The simulation's rates on GPUs are assumptions; none was measured.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

TRIVIAL_FIT = ["--network", "skip:channels=8,8:skips=4,4", "--input", "noise", "--input-depth", "4", "--iters"]
WAYS = {
    "loop": "a shell loop, one process per image",
    "one": "one call",
    "batch": "one call, --batch-size 16",
    "batch:auto": "one call, --batch-size auto",
    "parallel": "GNU parallel -j2, one process per image",
    "local": "--scheduler local",
    "local:1": "--scheduler local:1 --threads 2",
    "local:2": "--scheduler local:2",
    "local:2:batch": "--scheduler local:2 --batch-size 16",
}


def main() -> None:
    """Measure or simulate, depending on the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--device", default="auto", help="of --together")
    parser.add_argument("--seconds", type=float, default=5, help="per measurement of --together")
    parser.add_argument("--quality", type=Path, metavar="IMAGES", help="a folder of clean images")
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--side", type=int, default=128, help="of the measured images")
    parser.add_argument("--count", type=int, default=12, help="of the measured images")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--preset", help="measure with its network; by default a trivial one")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"any of {', '.join(WAYS)}")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--rate", type=float, nargs="+", default=[3, 10, 30], help="seconds per fit, assumed")
    parser.add_argument("--price", type=float, default=2.0, help="per GPU-hour, assumed")
    parser.add_argument("--lost", type=float, default=24, help="hours between two losses of a GPU, assumed")
    parser.add_argument("--client-ms", type=float, default=11, help="overhead per image, as measured by --client")
    options = parser.parse_args()
    if options.measure:
        network = ["--preset", options.preset, "--iters"] if options.preset else TRIVIAL_FIT
        measure_ways(options.count, options.side, [*network, str(options.iterations)], options.ways.split(","))
    elif options.together:
        measure_together(options.count, options.side, options.preset or "balanced", options.device, options.seconds)
    elif options.quality:
        compare_quality(options.quality, options.count, options.side, options.preset or "balanced")
    elif options.client:
        measure_client(options.count)
    else:
        print("| s per fit | GPUs | hours | GPUs busy | price | per image | restarted | resumed |")
        print("|---|---|---|---|---|---|---|---|")
        for seconds in options.rate:
            print(
                simulate(options.images, options.gpus, seconds, options.price, options.lost, options.client_ms / 1000)
            )


def draw_images(folder: Path, count: int, side: int) -> None:
    """Write `count` noisy images."""
    import imageio.v3 as iio

    folder.mkdir(parents=True)
    y, x = np.mgrid[:side, :side] / side
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 25, (side, side, 3))
        image = np.stack([60 + 120 * x, 60 + 120 * y, 200 * (x > y)], axis=2) + noise
        iio.imwrite(folder / f"{number:06d}.png", np.clip(image, 0, 255).astype(np.uint8))


def measure_ways(count: int, side: int, options: list[str], ways: list[str]) -> None:
    """Print the wall-clock time of restoring the same images in each way."""
    dip = [sys.executable, "-m", "dipcli", "denoise"]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        draw_images(place / "in", count, side)
        quiet = [*options, "-q"]
        loop = f'for f in in/*.png; do "$0" -m dipcli denoise "$f" -o "loop/$(basename "$f")" {" ".join(quiet)}; done'
        command = f"{sys.executable} -m dipcli denoise {{}} -o parallel/ --threads 1 {' '.join(quiet)}"
        (place / "loop").mkdir()
        calls = {
            "loop": ["bash", "-c", loop, sys.executable],
            "one": [*dip, "in", "-o", "one", *quiet],
            "batch": [*dip, "in", "-o", "batch", "--batch-size", "16", *quiet],
            "batch:auto": [*dip, "in", "-o", "found", "--batch-size", "auto", *quiet],
            "parallel": ["bash", "-c", f"parallel -j2 '{command}' ::: in/*.png"],
            "local": [*dip, "in", "-o", "local", "--scheduler", "local", *quiet],
            "local:1": [*dip, "in", "-o", "single", "--scheduler", "local:1", "--threads", "2", *quiet],
            "local:2": [*dip, "in", "-o", "two", "--scheduler", "local:2", *quiet],
            "local:2:batch": [*dip, "in", "-o", "both", "--scheduler", "local:2", "--batch-size", "16", *quiet],
        }
        print(f"{count} images of {side}x{side}, {' '.join(options)}, {os.cpu_count()} CPUs")
        first = 0.0
        for name in ways:
            started = perf_counter()
            subprocess.run(calls[name], cwd=place, check=True, stdout=subprocess.DEVNULL)
            seconds = perf_counter() - started
            first = first or seconds
            print(
                f"{WAYS[name]:48} {seconds:6.1f} s  {seconds / count:6.2f} s per image  {first / seconds:5.2f} x",
                flush=True,
            )


def measure_together(most: int, side: int, preset: str, device: str, seconds: float) -> None:
    """Print the throughput of one fit, and of two, four, eight and so on in one pass."""
    from dipcli.fitting.machine.arithmetic import choose_precision
    from dipcli.fitting.machine.device import choose_device, read_name
    from dipcli.records.job import Job
    from dipcli.runs.batches.throughput import measure_throughput, prepare_job
    from dipcli.tasks.registry import tasks

    with tempfile.TemporaryDirectory() as scratch:
        draw_images(Path(scratch, "in"), 1, side)
        job = Job(
            task=tasks()["denoise"], source=Path(scratch, "in/000000.png"), preset=preset, given={"device": device}
        )
        chosen, prepared = choose_device(device), prepare_job(job)
        print(f"{side}x{side}, {preset}, {read_name(chosen)} {choose_precision(chosen)[0]}, {os.cpu_count()} CPUs")
        count, first = 1, 0.0
        while count <= most:
            throughput = measure_throughput(prepared, count, seconds=seconds)
            first = first or throughput
            ratio = throughput / first
            print(f"{count:4} together: {throughput:8.1f} iterations per second  {ratio:6.2f} x", flush=True)
            count *= 2


def compare_quality(images: Path, count: int, side: int, preset: str) -> None:
    """Print the PSNR of the middles of clean images with noise of sigma 25, restored one by one and together."""
    import imageio.v3 as iio
    from stopping import crop_middle

    from dipcli.problem.metrics import psnr

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "in").mkdir()
        clean = {}
        for number, path in enumerate(sorted(images.glob("*.png"))[:count]):
            clean[path.stem] = crop_middle(path, side) / 255
            noise = np.random.default_rng(number).normal(0, 25, (side, side, 3))
            noisy = np.clip(255 * clean[path.stem] + noise, 0, 255).round().astype(np.uint8)
            iio.imwrite(place / f"in/{path.stem}.png", noisy)
        results: dict[str, dict[str, float]] = {}
        for name, size in (("one by one", 1), ("together", count)):
            call = [sys.executable, "-m", "dipcli", "denoise", "in", "-o", str(size), "--batch-size", str(size), "-q"]
            started = perf_counter()
            subprocess.run([*call, "--preset", preset], cwd=place, check=True, stdout=subprocess.DEVNULL)
            results[name] = {"seconds": perf_counter() - started}
            for stem, reference in clean.items():
                results[name][stem] = psnr(iio.imread(place / str(size) / f"{stem}.png") / 255, reference)
        single, joint = results.values()
        for stem in clean:
            print(f"{stem:16} {single[stem]:6.2f} {joint[stem]:6.2f} dB")
        means = [np.mean([result[stem] for stem in clean]) for result in (single, joint)]
        print(f"{'mean':16} {means[0]:6.2f} {means[1]:6.2f} dB, {single['seconds']:.0f} and {joint['seconds']:.0f} s")


def measure_client(count: int) -> None:
    """Print the time that the client and the scheduler take for images that take no time."""
    from dipcli.cluster import dispatch, worker
    from dipcli.records.job import Job
    from dipcli.runs.batches.batch import Outcome, lay_out
    from dipcli.runs.display import Silent
    from dipcli.settings.scheduler import parse_scheduler
    from dipcli.tasks.registry import tasks

    def no_fit(_request: dict[str, object]) -> list[Outcome]:
        return [Outcome("a.png", "b.png", skipped="done")]

    worker.restore_images = no_fit
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "in")
        draw_images(folder, 1, 16)
        for number in range(1, count):
            os.link(folder / "000000.png", folder / f"{number:06d}.png")
        started = perf_counter()
        batch = lay_out(Job(task=tasks()["denoise"], source=folder), [folder], f"{scratch}/out/")
        planning = perf_counter() - started
        outcomes = dispatch.restore_by(parse_scheduler("local:2"), batch, display=Silent())
        next(outcomes)
        started = perf_counter()
        for _ in outcomes:
            pass
        seconds = perf_counter() - started
    print(f"to find and plan: {1000 * planning / count:.2f} ms per image")
    print(f"to send and receive: {1000 * seconds / (count - 1):.2f} ms per image")


def simulate(images: int, gpus: int, seconds: float, price: float, lost: float, cost: float) -> str:
    """Simulate fits of random length, one client, and GPUs that fail; returns a row of the table.

    Fits are lognormal around `seconds` (sigma 0.4). A lost GPU comes back after five minutes; its image continues from
    its checkpoint, one a minute, on another.
    """
    generator = random.Random(0)  # noqa: S311 - a simulation
    sigma = 0.4
    mean = np.log(seconds) - sigma**2 / 2
    free = [(generator.random() * 60, gpu) for gpu in range(gpus)]  # they start within a minute
    fails = [generator.expovariate(1 / (3600 * lost)) for _ in range(gpus)]
    clock = busy = 0.0
    remaining, restarted, resumed = images, 0, 0
    waiting: list[float] = []  # seconds left of interrupted fits
    end = 0.0
    while remaining or waiting:
        at, gpu = heapq.heappop(free)
        clock = max(clock + cost, at)  # the client serves one request at a time
        if waiting:
            duration = waiting.pop()
        else:
            duration, remaining = generator.lognormvariate(mean, sigma), remaining - 1
        if clock + duration > fails[gpu]:
            done = max(0.0, fails[gpu] - clock)
            kept = done // 60 * 60
            waiting.append(duration - kept)
            resumed, restarted = resumed + (kept > 0), restarted + (kept == 0)
            busy += done
            back = max(fails[gpu], clock) + 300
            fails[gpu] = back + generator.expovariate(1 / (3600 * lost))
            heapq.heappush(free, (back, gpu))
            continue
        busy += duration
        end = max(end, clock + duration)
        heapq.heappush(free, (clock + duration, gpu))
    hours = end / 3600
    bill = hours * gpus * price
    return (
        f"| {seconds:g} | {gpus} | {hours:.1f} | {100 * busy / (end * gpus):.1f} % | {bill:,.0f} | "
        f"{bill / images:.5f} | {restarted} | {resumed} |"
    )


if __name__ == "__main__":
    main()
