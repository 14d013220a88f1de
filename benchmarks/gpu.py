"""Everything that is to be measured on a GPU, in one call: tests, results against the CPU, speed, memory.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --dry-run --out dry.json

It writes one JSON file and prints one table of the figures with their targets. Images are drawn, with noise of sigma
25. A part that fails is reported, and the others go on; the exit code is 1 then, or if a target is missed. With
--dry-run everything runs on the CPU, on small images and for a few iterations, in a minute: the figures then mean
nothing, and the networks are small, but it is known that the script works.

The speed of an iteration is also measured in two ways that `dip` does not use: with the network compiled by
`torch.compile`, and as CUDA graphs of its forward and backward pass. What they gain decides whether it should.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peers import published
from speed import SIGMA, synthetic_image
from torch import Tensor, nn

from dipcli.fitting.control import Control
from dipcli.fitting.machine import memory
from dipcli.fitting.machine.arithmetic import choose_precision
from dipcli.fitting.machine.device import read_name
from dipcli.fitting.machine.self_test import MAX_GRADIENT_ERROR, measure_gradient_error
from dipcli.fitting.passes.evaluate import Evaluate, evaluate_alone
from dipcli.fitting.results import Runs
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.images.image import from_array
from dipcli.networks.prior import render
from dipcli.problem.metrics import psnr
from dipcli.runs.batches.throughput import measure_throughput
from dipcli.tasks.registry import tasks

ROOT = Path(__file__).parent.parent
MAX_LOSS_DB = 0.2  # of a fit on the GPU, to the same fit on the CPU
SKIPPED_ITERATIONS = 3  # not timed


@dataclass(frozen=True)
class Figure:
    """A measured value, and the least or the most that it should be."""

    part: str
    name: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the value is as it should be."""
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)


@dataclass(frozen=True)
class Bench:
    """Where and how large to measure."""

    device: torch.device
    dry: bool

    @cached_property
    def precision(self) -> str:
        """The precision that `--precision auto` chooses."""
        return choose_precision(self.device)[0]

    def size(self, full: int, dry: int) -> int:
        """Return a size or a count: the first, or the second in a dry run."""
        return dry if self.dry else full

    def prepare(self, preset: str, side: int, device: str | None = None, **given: Any) -> PreparedFit:
        """Prepare `dip denoise` of a noisy image."""
        where: dict[str, Any] = {"device": device or str(self.device), "stop": "none"}
        cheap = {"warmup": 0, "threads": 1, "network": "skip:channels=8,8:skips=4,4", "fusion": "none"}
        where |= cheap if self.dry else {}
        case, settings = tasks()["denoise"].case(from_array(draw_noisy(side)), preset, {}, where | given)
        return prepare(case.problem, settings)

    def finish(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def draw_noisy(side: int) -> np.ndarray:
    """Draw a noisy image, uint8 (side, side, 3)."""
    noise = np.random.default_rng(0).normal(0, SIGMA, (side, side, 3))
    return np.rint(np.clip(synthetic_image(side) + noise, 0, 255)).astype(np.uint8)


def measure_quality(result: Runs, side: int) -> float:
    """Return the PSNR of a result, dB."""
    clean = synthetic_image(side).transpose(2, 0, 1) / np.float32(255)
    return psnr(result.image.cpu().numpy().clip(0, 1).astype(np.float32), clean)


# The parts.


def run_tests(bench: Bench) -> Iterator[Figure]:
    """The tests marked gpu; in a dry run they are only collected."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "gpu", *map(str, files)]
    command += ["--collect-only"] if bench.dry else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout[-2000:], file=sys.stderr)
    yield Figure("tests", "exit code of pytest -m gpu", done.returncode, most=0)


def compare_with_cpu(bench: Bench) -> Iterator[Figure]:
    """Gradients of a small network, and the quality of whole fits with the same seed."""
    for precision in ("fp32", "bf16"):
        error = measure_gradient_error(bench.device, precision)
        yield Figure("gradients", precision, error, "relative", most=MAX_GRADIENT_ERROR[precision])
    side, iterations = bench.size(128, 64), bench.size(150, 4)
    for preset in ("fast", "balanced", "paper"):
        fits = [bench.prepare(preset, side, device, iterations=iterations) for device in ("cpu", None)]
        there, here = (measure_quality(solve(fit), side) for fit in fits)
        yield Figure("quality", f"{preset}, {side}x{side}, to the CPU", here - there, "dB", least=-MAX_LOSS_DB)


def measure_iterations(bench: Bench) -> Iterator[Figure]:
    """Milliseconds of an iteration of the paper network, against plain eager code on the same device."""
    side, iterations = bench.size(512, 64), bench.size(100, 2)
    noisy = torch.from_numpy(draw_noisy(side).transpose(2, 0, 1) / np.float32(255))[None].to(bench.device)
    ticks: list[float] = []

    def watch(number: int, _: Tensor) -> None:
        if number in (SKIPPED_ITERATIONS, SKIPPED_ITERATIONS + iterations):
            bench.finish()
            ticks.append(perf_counter())

    times: dict[str, float] = {}
    for name, exact in (("plain fp32, PyTorch's defaults", False), ("plain fp32, without TF32", True)):
        ticks.clear()
        with torch.device(bench.device), _without_tf32(exact):
            published(noisy, SIGMA / 255, SKIPPED_ITERATIONS + iterations, watch)
        times[name] = 1000 * (ticks[1] - ticks[0]) / iterations
    for precision, (name, evaluate) in product(dict.fromkeys(("fp32", bench.precision)), list_ways(bench)):
        ticks.clear()
        fit = bench.prepare("paper", side, iterations=SKIPPED_ITERATIONS + iterations, precision=precision)
        solve(fit, observers=[lambda step, _: watch(step.number, step.image)], control=Control(evaluate=evaluate()))
        times[f"{precision}, {name}"] = 1000 * (ticks[1] - ticks[0]) / iterations
    least = {f"{bench.precision}, as dip does": 6.0}
    for name, milliseconds in times.items():
        yield Figure("iteration", f"paper, {side}x{side}, {name}", milliseconds, "ms")
        ratio = times["plain fp32, without TF32"] / milliseconds
        yield Figure("iteration", f"plain fp32 without TF32, of {name}", ratio, "times", least=least.get(name))


def list_ways(bench: Bench) -> list[tuple[str, Callable[[], Evaluate]]]:
    """List the ways to compute an iteration."""
    ways: list[tuple[str, Callable[[], Evaluate]]] = [("as dip does", lambda: evaluate_alone)]
    if bench.device.type == "cuda":
        ways += [("compiled", partial(_evaluate_by, torch.compile)), ("CUDA graphs", partial(_evaluate_by, _graph))]
    return ways


class _Rendering(nn.Module):
    """The network in its precision, as a module."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network, self.precision = network, precision

    def forward(self, z: Tensor) -> Tensor:
        return render(self.network, self.precision, z)


def _evaluate_by(transform: Callable[..., Any]) -> Evaluate:
    """Return an evaluation whose network is transformed at the first call."""
    made: list[Callable[[Tensor], Tensor]] = []

    def evaluate(network: nn.Module, precision: str, z: Tensor, compute_loss: Callable[[Tensor], Tensor]) -> Tensor:
        if not made:
            rendering = _Rendering(network, precision)
            made.append(transform(rendering, z) if transform is _graph else transform(rendering))
        loss = compute_loss(made[0](z)[0])
        loss.backward()
        return loss

    return evaluate


def _graph(rendering: nn.Module, z: Tensor) -> Any:
    return torch.cuda.make_graphed_callables(rendering, (z.detach().clone(memory_format=torch.preserve_format),))


@contextmanager
def _without_tf32(exact: bool) -> Iterator[None]:
    """Compute convolutions and products in full fp32 inside the context, if asked to."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    if exact:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def measure_fits(bench: Bench) -> Iterator[Figure]:
    """Seconds of whole fits, preparation included, and their peak memory against the estimate."""
    side, full = bench.size(512, 64), bench.size(1800, 3)
    ends = {"iterations": bench.size(1000, 3)} if bench.dry else {"stop": "auto:patience=100"}
    fits = [("paper", side, {"iterations": full}, 10.0), ("balanced", side, ends, 5.0), ("fast", side, ends, None)]
    fits += [("balanced", bench.size(2048, 96), {"iterations": bench.size(20, 3)}, None)]
    for preset, own_side, given, most in fits:
        memory.release(bench.device)
        started = perf_counter()
        fit = bench.prepare(preset, own_side, **given)
        result = solve(fit)
        bench.finish()
        seconds, steps = perf_counter() - started, sum(run.fit.steps for run in result.runs)
        name = f"{preset}, {own_side}x{own_side}"
        yield Figure("fit", f"{name}, {steps} iterations", seconds, "s", most=most)
        yield Figure("fit", f"{name}, PSNR", measure_quality(result, own_side), "dB")
        peak = (memory.read_peak(bench.device) or 0) / fit.estimate.memory
        yield Figure("memory", f"{name}, peak of the estimate", peak, "times", most=1.0)


def measure_together(bench: Bench) -> Iterator[Figure]:
    """Iterations per second of small images in one pass."""
    side, seconds = bench.size(128, 32), bench.size(5, 1) / bench.size(1, 5)
    fit = bench.prepare("balanced", side, warmup=0, iterations=10**6)
    alone = 0.0
    for count in (1, bench.size(16, 2), bench.size(64, 4)):
        rate = measure_throughput(replace(fit), count, seconds=seconds)
        alone = alone or rate
        yield Figure("together", f"{count} of {side}x{side}", rate, "iterations/s")
        yield Figure("together", f"{count} of {side}x{side}, of one by one", rate / alone, "times")


PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    "tests": run_tests,
    "correctness": compare_with_cpu,
    "iterations": measure_iterations,
    "fits": measure_fits,
    "together": measure_together,
}


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    bench = Bench(torch.device("cpu" if options.dry_run else options.device), options.dry_run)
    if bench.dry:
        torch.set_num_threads(1)
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    for part in options.parts.split(","):
        try:
            for figure in PARTS[part](bench):
                figures.append(figure)
                print(figure, file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001 - the other parts are measured nevertheless
            failures[part] = traceback.format_exc()
            print(failures[part], file=sys.stderr, flush=True)
    where = f"{read_name(bench.device)}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {bench.precision}"
    where += ", DRY RUN: the figures mean nothing" if options.dry_run else ""
    rows = [asdict(figure) | {"reached": figure.reached} for figure in figures]
    options.out.write_text(json.dumps({"machine": where, "figures": rows, "failures": failures}, indent=2) + "\n")
    print(f"{where}\n\n| part | what | value | target |\n|---|---|---|---|")
    for figure in figures:
        targets = [f"at least {figure.least:g}"] if figure.least is not None else []
        targets += [f"at most {figure.most:g}"] if figure.most is not None else []
        missed = "" if figure.reached else " MISSED"
        print(f"| {figure.part} | {figure.name} | {figure.value:.3g} {figure.unit} | {' '.join(targets)}{missed} |")
    for part in failures:
        print(f"| {part} | FAILED | | |")
    missed_targets = not options.dry_run and not all(figure.reached for figure in figures)
    sys.exit(bool(failures) or missed_targets)


if __name__ == "__main__":
    main()
