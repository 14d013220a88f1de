"""Many pictures: what `--scheduler` gains and costs here, and what a million of them would take on many GPUs.

    python benchmarks/scale.py --measure            a shell's loop, one call, --scheduler local, on this machine
    python benchmarks/scale.py --together           fits of pictures of one size in one pass, against one by one
    python benchmarks/scale.py --alike PICTURES     whether they come to as good a picture, to their own stop
    python benchmarks/scale.py --client             what a picture costs the client and the scheduler
    python benchmarks/scale.py --rate 10 --gpus 100 --pictures 1000000     a simulation; the table of docs/scale.md

The simulation's rates on GPUs are assumptions: nothing of it was measured on one.
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

SMALL = ["--network", "skip:channels=8,8:skips=4,4", "--input", "noise", "--input-depth", "4", "--iters"]
WAYS = {
    "loop": "a shell's loop, a process a picture",
    "one": "one call",
    "batch": "one call, --batch-size 16",
    "batch:auto": "one call, --batch-size auto",
    "parallel": "GNU parallel -j2, a process a picture",
    "local": "--scheduler local, measuring first",
    "local:1": "--scheduler local:1 --threads 2",
    "local:2": "--scheduler local:2",
    "local:2:batch": "--scheduler local:2 --batch-size 16",
}


def main() -> None:
    """Measure or simulate, as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--device", default="auto", help="of --together")
    parser.add_argument("--seconds", type=float, default=5, help="that --together tries each number for")
    parser.add_argument("--alike", type=Path, metavar="PICTURES", help="a folder of clean pictures")
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--side", type=int, default=128, help="of the pictures that are measured")
    parser.add_argument("--count", type=int, default=12, help="of the pictures that are measured")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--preset", help="measure with its network; one that is hardly any work when left out")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"any of {', '.join(WAYS)}")
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--gpus", type=int, default=100)
    parser.add_argument("--rate", type=float, nargs="+", default=[3, 10, 30], help="seconds a fit, assumed")
    parser.add_argument("--price", type=float, default=2.0, help="of a GPU for an hour, assumed")
    parser.add_argument("--lost", type=float, default=24, help="hours between two losses of a GPU, assumed")
    parser.add_argument("--client-ms", type=float, default=11, help="a picture costs the client, as --client found")
    given = parser.parse_args()
    if given.measure:
        network = ["--preset", given.preset, "--iters"] if given.preset else SMALL
        measure(given.count, given.side, [*network, str(given.iterations)], given.ways.split(","))
    elif given.together:
        together(given.count, given.side, given.preset or "balanced", given.device, given.seconds)
    elif given.alike:
        alike(given.alike, given.count, given.side, given.preset or "balanced")
    elif given.client:
        client(given.count)
    else:
        print("| s a fit | GPUs | hours | GPUs at work | price | a picture | begun again | resumed |")
        print("|---|---|---|---|---|---|---|---|")
        for seconds in given.rate:
            print(simulated(given.pictures, given.gpus, seconds, given.price, given.lost, given.client_ms / 1000))


def draw(folder: Path, count: int, side: int) -> None:
    """So many noisy pictures."""
    import imageio.v3 as iio

    folder.mkdir(parents=True)
    y, x = np.mgrid[:side, :side] / side
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 25, (side, side, 3))
        picture = np.stack([60 + 120 * x, 60 + 120 * y, 200 * (x > y)], axis=2) + noise
        iio.imwrite(folder / f"{number:06d}.png", np.clip(picture, 0, 255).astype(np.uint8))


def measure(count: int, side: int, options: list[str], ways: list[str]) -> None:
    """Wall-clock time of the same pictures, one way after the other."""
    dip = [sys.executable, "-m", "dipcli", "denoise"]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        draw(place / "in", count, side)
        how = [*options, "-q"]
        loop = f'for f in in/*.png; do "$0" -m dipcli denoise "$f" -o "loop/$(basename "$f")" {" ".join(how)}; done'
        each = f"{sys.executable} -m dipcli denoise {{}} -o parallel/ --threads 1 {' '.join(how)}"
        (place / "loop").mkdir()
        calls = {
            "loop": ["bash", "-c", loop, sys.executable],
            "one": [*dip, "in", "-o", "one", *how],
            "batch": [*dip, "in", "-o", "batch", "--batch-size", "16", *how],
            "batch:auto": [*dip, "in", "-o", "found", "--batch-size", "auto", *how],
            "parallel": ["bash", "-c", f"parallel -j2 '{each}' ::: in/*.png"],
            "local": [*dip, "in", "-o", "local", "--scheduler", "local", *how],
            "local:1": [*dip, "in", "-o", "single", "--scheduler", "local:1", "--threads", "2", *how],
            "local:2": [*dip, "in", "-o", "two", "--scheduler", "local:2", *how],
            "local:2:batch": [*dip, "in", "-o", "both", "--scheduler", "local:2", "--batch-size", "16", *how],
        }
        print(f"{count} pictures of {side}x{side}, {' '.join(options)}, {os.cpu_count()} CPUs")
        first = 0.0
        for name in ways:
            began = perf_counter()
            subprocess.run(calls[name], cwd=place, check=True, stdout=subprocess.DEVNULL)
            seconds = perf_counter() - began
            first = first or seconds
            print(
                f"{WAYS[name]:48} {seconds:6.1f} s  {seconds / count:6.2f} s a picture  {first / seconds:5.2f} x",
                flush=True,
            )


def together(most: int, side: int, preset: str, device: str, seconds: float) -> None:
    """Iterations a second of one fit, and of two, four, eight and so on in one pass."""
    from dipcli.fitting import device as machine
    from dipcli.records.job import Job
    from dipcli.runs.batches.throughput import measure_throughput, prepare_job
    from dipcli.tasks.registry import tasks

    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch, "in"), 1, side)
        job = Job(
            task=tasks()["denoise"], source=Path(scratch, "in/000000.png"), preset=preset, given={"device": device}
        )
        chosen, bench = machine.choose(device), prepare_job(job)
        print(f"{side}x{side}, {preset}, {machine.name(chosen)} {machine.precision(chosen)}, {os.cpu_count()} CPUs")
        count, first = 1, 0.0
        while count <= most:
            found = measure_throughput(bench, count, seconds=seconds)
            first = first or found.iterations
            ratio = found.iterations / first
            print(f"{count:4} together: {found.iterations:8.1f} iterations a second  {ratio:6.2f} x", flush=True)
            count *= 2


def alike(pictures: Path, count: int, side: int, preset: str) -> None:
    """PSNR of the middles of clean pictures with noise of sigma 25, restored one by one and together."""
    import imageio.v3 as iio
    from stopping import middle

    from dipcli.problem.metrics import psnr

    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "in").mkdir()
        clean = {}
        for number, path in enumerate(sorted(pictures.glob("*.png"))[:count]):
            clean[path.stem] = middle(path, side) / 255
            noise = np.random.default_rng(number).normal(0, 25, (side, side, 3))
            noisy = np.clip(255 * clean[path.stem] + noise, 0, 255).round().astype(np.uint8)
            iio.imwrite(place / f"in/{path.stem}.png", noisy)
        found: dict[str, dict[str, float]] = {}
        for name, size in (("one by one", 1), ("together", count)):
            call = [sys.executable, "-m", "dipcli", "denoise", "in", "-o", str(size), "--batch-size", str(size), "-q"]
            began = perf_counter()
            subprocess.run([*call, "--preset", preset], cwd=place, check=True, stdout=subprocess.DEVNULL)
            found[name] = {"seconds": perf_counter() - began}
            for stem, truth in clean.items():
                found[name][stem] = psnr(iio.imread(place / str(size) / f"{stem}.png") / 255, truth)
        one, other = found.values()
        for stem in clean:
            print(f"{stem:16} {one[stem]:6.2f} {other[stem]:6.2f} dB")
        means = [np.mean([each[stem] for stem in clean]) for each in (one, other)]
        print(f"{'mean':16} {means[0]:6.2f} {means[1]:6.2f} dB, {one['seconds']:.0f} and {other['seconds']:.0f} s")


def client(count: int) -> None:
    """What the client and the scheduler take for pictures that take no time."""
    from dipcli.cluster import dispatch, worker
    from dipcli.records.job import Job
    from dipcli.runs.batches.batch import lay_out
    from dipcli.runs.display import Silent
    from dipcli.settings.scheduler import parse_scheduler
    from dipcli.tasks.registry import tasks

    def nothing(_order: dict[str, object]) -> dict[str, object]:
        return {"account": {"iterations": 1}, "notes": [], "worker": "none"}

    worker.fit = nothing  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "in")
        draw(folder, 1, 16)
        for number in range(1, count):
            os.link(folder / "000000.png", folder / f"{number:06d}.png")
        began = perf_counter()
        batch = lay_out(Job(task=tasks()["denoise"], source=folder), [folder], f"{scratch}/out/")
        laid = perf_counter() - began
        outcomes = dispatch.restore_by(parse_scheduler("local:2"), batch, display=Silent())
        next(outcomes)
        began = perf_counter()
        for _ in outcomes:
            pass
        seconds = perf_counter() - began
    print(f"to find and lay out: {1000 * laid / count:.2f} ms a picture")
    print(f"to send and to take back: {1000 * seconds / (count - 1):.2f} ms a picture")


def simulated(pictures: int, gpus: int, seconds: float, price: float, lost: float, cost: float) -> str:
    """A row of the table: fits that take more or less long, one client, GPUs that are lost now and then.

    Fits are lognormal about `seconds` (sigma 0.4). A GPU that is lost comes back after five minutes; its picture
    goes on from its checkpoint, one a minute, on another.
    """
    dice = random.Random(0)  # noqa: S311 - dice
    spread = 0.4
    mean = np.log(seconds) - spread**2 / 2
    free = [(dice.random() * 60, each) for each in range(gpus)]  # they come within a minute
    fails = [dice.expovariate(1 / (3600 * lost)) for _ in range(gpus)]
    clock = busy = 0.0
    left, again, resumed = pictures, 0, 0
    waiting: list[float] = []  # what is left of fits that were cut short
    end = 0.0
    while left or waiting:
        at, gpu = heapq.heappop(free)
        clock = max(clock + cost, at)  # the client serves one after the other
        if waiting:
            takes = waiting.pop()
        else:
            takes, left = dice.lognormvariate(mean, spread), left - 1
        if clock + takes > fails[gpu]:
            done = max(0.0, fails[gpu] - clock)
            kept = done // 60 * 60
            waiting.append(takes - kept)
            resumed, again = resumed + (kept > 0), again + (kept == 0)
            busy += done
            back = max(fails[gpu], clock) + 300
            fails[gpu] = back + dice.expovariate(1 / (3600 * lost))
            heapq.heappush(free, (back, gpu))
            continue
        busy += takes
        end = max(end, clock + takes)
        heapq.heappush(free, (clock + takes, gpu))
    hours = end / 3600
    bill = hours * gpus * price
    return (
        f"| {seconds:g} | {gpus} | {hours:.1f} | {100 * busy / (end * gpus):.1f} % | {bill:,.0f} | "
        f"{bill / pictures:.5f} | {again} | {resumed} |"
    )


if __name__ == "__main__":
    main()
