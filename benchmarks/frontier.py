"""Time against quality: presets of `dip denoise` beside what people would otherwise run, on the same noisy pictures.

    python benchmarks/frontier.py PICTURES --out frontier.jsonl --methods nlm,noise2noise,fast,balanced
    python benchmarks/frontier.py PICTURES --out frontier.jsonl --methods published --pictures f16,house,kodim01,kodim12
    python benchmarks/frontier.py --out frontier.jsonl --table
    python benchmarks/frontier.py PICTURES --out frontier.jsonl --methods paper --pictures f16,house,kodim01,kodim12
    python benchmarks/frontier.py --out frontier.jsonl --table --pace 1.2

PICTURES is a folder with clean pictures called NAME_clean.png; the middle of each is used, --side pixels square. The
noise is that of benchmarks/stopping.py: Gaussian, sigma 25, clipped, 8 bits. Ours end when their rule says so, and have
to find out the noise level; the peers (benchmarks/peers.py) run as long as they are meant to and are told it where they
ask. The clock runs from the noisy pixels to the restored ones and stands still while the PSNR of what is passed on the
way is taken; the table says for each method after which time it first had what the published method's running average
had at the end. What was run before into the same file is not run again.

The published method takes an hour a picture. With `--pace` the table goes by the quality that `paper`, the same network
and settings in our step, has at the end, and by so many seconds for each of its iterations as plain fp32 takes
(benchmarks/speed.py).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
import torch
from peers import PEERS
from stopping import NAMES, middle, noisy
from torch import Tensor

from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.runs.observers import pixels
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

EVERY = 20  # iterations between looks at the quality
SIGMA = 25
BEHIND = 0.7  # dB that `fast` may be behind


@dataclass
class Clock:
    """Seconds that count, and the PSNR at some of them; it stands still while that is taken."""

    truth: np.ndarray
    began: float = field(default_factory=perf_counter)
    trace: list[tuple[int, float, float]] = field(default_factory=list)

    def seconds(self) -> float:
        """So far."""
        return perf_counter() - self.began

    def look(self, iteration: int, *pictures: np.ndarray) -> None:
        """The best of several pictures."""
        now = self.seconds()
        self.trace.append((iteration, round(now, 2), max(psnr(each, self.truth) for each in pictures)))
        self.began += self.seconds() - now


def ours(spoilt: np.ndarray, preset: str, clock: Clock, options: argparse.Namespace) -> np.ndarray:
    """`dip denoise`, whatever its rule keeps."""
    given = {"seed": options.seed, "threads": options.threads}
    case, settings = tasks()["denoise"].case(from_array(spoilt), preset, {"loss": "l2"}, given)
    bench = prepare(case.problem, settings)

    def look(step: Step, _verdict: Verdict) -> None:
        if step.number % EVERY == 0:
            clock.look(step.number, *(pixels(bench.problem.finish(average)) for average in step.averages))

    return pixels(solve(bench, observers=[look]).image)


def theirs(spoilt: np.ndarray, name: str, clock: Clock, options: argparse.Namespace) -> np.ndarray:
    """A peer at its own settings."""
    restore, iterations = PEERS[name]
    torch.manual_seed(options.seed)
    y = torch.from_numpy(spoilt.transpose(2, 0, 1) / np.float32(255))[None]

    def look(iteration: int, picture: Tensor) -> None:
        if iteration % EVERY == 0:
            clock.look(iteration, pixels(picture[0]))

    return pixels(restore(y, SIGMA / 255, options.iterations or iterations, look)[0])


def table(rows: list[dict[str, Any]], pace: float) -> None:
    """A line a picture and method; a line of means for each method."""
    goals = {(row["picture"], row["side"]): row for row in rows if row["method"] == "published"}
    if pace:
        paper = [row for row in rows if row["method"] == "paper"]
        goals = {(row["picture"], row["side"]): row | {"seconds": pace * row["iterations"]} for row in paper}
    print("| picture | method | PSNR, dB | seconds | iterations | as good as published after | 0.7 dB below it after |")
    print("|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["picture"], row["side"], row["seconds"])):
        goal = goals.get((row["picture"], row["side"]))
        reached = [_reached(row, goal, behind) for behind in (0.0, BEHIND)] if goal else ["", ""]
        told = [
            row["picture"],
            row["method"],
            f"{row['psnr']:.2f}",
            f"{row['seconds']:.1f}",
            row["iterations"],
            *reached,
        ]
        print(f"| {' | '.join(map(str, told))} |")
    print("\n| method | pictures | PSNR, dB, mean | seconds, mean |\n|---|---|---|---|")
    groups = defaultdict(list)
    for row in rows:
        groups[row["method"], row["side"]].append(row)
    for (method, side), own in sorted(groups.items(), key=lambda item: mean(row["seconds"] for row in item[1])):
        print(
            f"| {method} | {len(own)} of {side}x{side} | {mean(row['psnr'] for row in own):.2f} "
            f"| {mean(row['seconds'] for row in own):.1f} |"
        )


def _reached(row: dict[str, Any], goal: dict[str, Any], behind: float) -> str:
    """When a method had what the published one had, and as a part of its time."""
    done = [seconds for _, seconds, quality in row["trace"] if quality >= goal["psnr"] - behind]
    if not done and row["psnr"] >= goal["psnr"] - behind:
        done = [row["seconds"]]
    return f"{done[0]:.1f} s, 1/{goal['seconds'] / done[0]:.0f}" if done else "never"


def main() -> None:
    """Run what was asked for, or show what has been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="PICTURES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", default=NAMES)
    parser.add_argument("--methods", default="nlm,noise2noise,fast,balanced")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=0, help="of the peers, in the place of their own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--pace", type=float, default=0.0, help="seconds an iteration of the published method")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table or options.folder is None:
        table(rows, options.pace)
        return
    torch.set_num_threads(options.threads)
    for name in options.pictures.split(","):
        clean = middle(options.folder / f"{name}_clean.png", options.side) / 255.0
        truth = from_array(clean).pixels
        spoilt = noisy(clean, f"gauss{SIGMA}", options.seed)
        for method in options.methods.split(","):
            asked = {"picture": name, "side": options.side, "method": method, "seed": options.seed}
            if any(asked.items() <= row.items() for row in rows):
                continue
            clock = Clock(truth)
            restored = (theirs if method in PEERS else ours)(spoilt, method, clock, options)
            seconds, iterations = clock.seconds(), clock.trace[-1][0] if clock.trace else 0
            found = {"seconds": round(seconds, 2), "iterations": iterations, "psnr": psnr(restored, truth)}
            print(f"{name} {method}: {found}", flush=True)
            found |= {"threads": options.threads, "trace": clock.trace}
            with options.out.open("a") as file:
                file.write(json.dumps(asked | found) + "\n")


if __name__ == "__main__":
    main()
