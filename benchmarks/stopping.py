"""How close a stopping rule comes to the best image of its run.

    python benchmarks/stopping.py IMAGES --out results.jsonl --images house,f16 --noise gauss25 --seeds 0,1,2
    python benchmarks/stopping.py --out results.jsonl --table

IMAGES is a folder of clean images named NAME_clean.png; the middle 256x256 of each is used, or with --whole all of it.
Each run is that of `dip denoise` with its default preset, ended by the rule. Every five iterations the PSNR of each
running average is computed (RGB, clipped to the valid range). The gap is the best of these minus the PSNR of the image
that the rule kept. Results already in the file are not computed again.

With --all-rules N the run has N iterations with some pixels held out, and every rule observes it: the rows show what
each would have kept, and when it would have ended; the best is that of all N iterations. With --refit two ways to use
the held-out pixels after `holdout` has decided are added: continuing from the kept weights for 200 iterations with all
pixels, and a second fit from scratch with all pixels and as many iterations.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from dipcli import images, stopping
from dipcli.fitting import restarts
from dipcli.fitting.engine import fit
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import from_array
from dipcli.problem.metrics import psnr
from dipcli.runs.observers import pixels
from dipcli.settings.settings import DECAYS
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

SIDE = 256
PSNR_EVERY = 5  # iterations
NAMES = "f16,baboon,house,kodim01,kodim02,kodim03,kodim12,lena,peppers"
CONTINUED_ITERATIONS = 200
RULES = ("holdout", "emv", "wmv", "sigma")


def crop_middle(path: Path, side: int | None) -> np.ndarray:
    """Read the middle of an image, uint8 (side, side, 3), or all of it if side is None."""
    whole = images.read(path)[0].array()[..., :3]
    if side is None:
        return whole
    top, left = (max(0, (length - side) // 2) for length in whole.shape[:2])
    return whole[top : top + side, left : left + side]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the results that are already in a file, a JSON object a line; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_noise(clean: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """Add noise to a clean image, float (H, W, 3) of 0..1; returns 8 bits.

    gauss25 is Gaussian noise of sigma 25; smooth25 the same, smoothed by a Gaussian of one pixel and scaled back to 25;
    jpeg25 Gaussian noise of 25, then JPEG at quality 75; poisson30 Poisson noise of 30 photons at white; impulse10
    makes 10 % of the pixels black or white.
    """
    kind, level = noise.rstrip("0123456789"), float(noise.lstrip("abcdefghijklmnopqrstuvwxyz"))
    generator = np.random.default_rng(1000 + seed)
    normal = generator.normal(0, 1, clean.shape)
    if kind in {"gauss", "jpeg"}:
        noisy = clean + level / 255 * normal
    elif kind == "smooth":
        normal = gaussian_filter(normal, (1, 1, 0))
        noisy = clean + level / 255 * normal / normal.std()
    elif kind == "poisson":
        noisy = generator.poisson(clean * level) / level
    elif kind == "impulse":
        hit = generator.random(clean.shape[:2]) < level / 100
        noisy = np.where(hit[..., None], generator.integers(0, 2, clean.shape[:2])[..., None], clean)
    else:
        raise SystemExit(f"Unknown noise {noise}: use gauss25, smooth25, jpeg25, poisson30 or impulse10.")
    noisy = np.rint(255 * np.clip(noisy, 0, 1)).astype(np.uint8)
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=75)
        noisy = np.asarray(Image.open(file))
    return noisy


@dataclass
class BestPsnr:
    """An observer of the best PSNR that any average has reached."""

    clean: np.ndarray
    finish: Any
    psnr: float = 0.0
    iteration: int = 0

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Compute the PSNR of the averages."""
        if step.number % PSNR_EVERY and not verdict.stop:
            return
        for average in step.averages:
            if (value := psnr(pixels(self.finish(average)), self.clean)) > self.psnr:
                self.psnr, self.iteration = value, step.number


@dataclass
class RuleObserver:
    """An observer that applies a rule to a run without stopping it."""

    name: str
    problem: Any
    best: BestPsnr
    row: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule = stopping.parse_rule(self.name)
        self.state, _ = self.rule.start(self.problem)
        self.image: Any = None
        self.kept, self.decay = 0, 0.0

    def __call__(self, step: Step, _verdict: Verdict) -> None:
        """Judge one iteration, until the rule would have ended the run."""
        if self.row:
            return
        verdict, self.state = self.rule.judge(step, self.state)
        if verdict.keep:
            self.image, self.kept = step.averages[verdict.average_index], step.number
            self.decay = DECAYS[verdict.average_index]
        if verdict.stop:
            self.conclude(step.number, verdict.stop)

    def conclude(self, ended: int, reason: str) -> None:
        """Fill in the row: what the rule would have kept, and when it would have ended."""
        kept = psnr(pixels(self.best.finish(self.image)), self.best.clean)
        self.row = {
            "rule": self.name,
            "psnr": kept,
            "kept": self.kept,
            "iterations": ended,
            "reason": reason,
        }


@dataclass
class WeightKeeper:
    """An observer that copies the weights whenever `holdout` would have kept an average."""

    rule_observer: RuleObserver
    network: Any
    weights: dict[str, Any] = field(default_factory=dict)

    def __call__(self, step: Step, _verdict: Verdict) -> None:
        """Copy the weights if the rule kept this iteration; runs after the rule's observer."""
        if not self.rule_observer.row and self.rule_observer.kept == step.number:
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}


def continue_fit(prepared: Any, keeper: WeightKeeper) -> tuple[Any, int]:
    """Continue from the kept weights, with all pixels."""
    prepared.prior.network.load_state_dict(keeper.weights)
    settings = replace(prepared.settings, iterations=CONTINUED_ITERATIONS, stop="none", ema=0.99)
    return fit(prepared.problem, prepared.prior, settings), CONTINUED_ITERATIONS


def second_fit(prepared: Any, keeper: WeightKeeper) -> tuple[Any, int]:
    """Fit from scratch with all pixels, for as many iterations as were kept."""
    kept, decay = keeper.rule_observer.kept, keeper.rule_observer.decay
    settings = replace(prepared.settings, iterations=kept, stop="none", ema=decay)
    prior = restarts.fresh_prior(prepared.problem, settings)
    return fit(prepared.problem, prior, settings), kept


def run(name: str, clean: np.ndarray, noise: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit once; returns a row of results, or with --all-rules one per rule."""
    task = tasks()["denoise"]
    given: dict[str, Any] = {"seed": seed, "threads": options.threads}
    if options.runs > 1:
        given["runs"] = options.runs
    if options.stop:
        given["stop"] = options.stop
    if options.all_rules:
        given |= {"iterations": options.all_rules, "stop": "holdout"}
    noise_seed = seed if options.noise_seed is None else options.noise_seed
    noisy = from_array(add_noise(clean, noise, noise_seed))
    case, settings = task.case(noisy, options.preset, {"loss": options.loss}, given)
    prepared = prepare(case.problem, settings)
    reference = from_array(clean).pixels
    best = BestPsnr(reference, prepared.problem.finish)
    rule_observers = [RuleObserver(rule, prepared.problem, best) for rule in RULES if options.all_rules]
    keepers = [WeightKeeper(rule_observers[0], prepared.prior.network)] if options.refit else []
    result = solve(prepared, observers=[best, *rule_observers, *keepers])
    shared = {
        "image": name,
        "size": f"{clean.shape[1]}x{clean.shape[0]}",
        "noise": noise,
        "seed": seed,
        "noise_seed": noise_seed,
        "preset": options.preset,
        "loss": options.loss,
        "runs": options.runs,
        "all_rules": options.all_rules,
        "noisy": psnr(noisy.pixels, reference),
        "seconds": round(result.seconds, 1),
    }
    for observer in rule_observers:
        if not observer.row:
            observer.conclude(options.all_rules, "it had not ended")
    if rule_observers:
        rows = [shared | observer.row for observer in rule_observers]
        for keeper in keepers:
            for refit in (continue_fit, second_fit):
                refitted, count = refit(prepared, keeper)
                row = {"rule": refit.__name__, "psnr": psnr(pixels(refitted.image), reference), "kept": count}
                rows.append(shared | row | {"iterations": count, "reason": refitted.reason})
        return [row | {"best": best.psnr, "best_at": best.iteration} for row in rows]
    first = result.runs[0].fit
    kept = psnr(pixels(result.image), reference)
    row = {
        "rule": settings.stop,
        "psnr": kept,
        "kept": first.kept,
        "decay": first.decay,
        "iterations": first.steps,
        "reason": result.reason,
        "best": max(best.psnr, kept),
        "best_at": best.iteration,
        "singles": [psnr(pixels(single.fit.image), reference) for single in result.runs],
    }
    return [shared | row]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print Markdown: means over images and seeds by kind of run, then deviations where there are several seeds."""
    groups = defaultdict(list)
    for row in rows:
        size = "256x256" if row["size"] == f"{SIDE}x{SIDE}" else "whole"
        rule = f"{row['rule']}{' (observing)' if row.get('all_rules') else ''}"
        groups[size, row["noise"], row["loss"], row["preset"], rule, row["runs"]].append(row)
    print(
        "| images | noise | loss | preset | rule | runs | kept (dB) | best passed | gap: mean | worst | iterations "
        f"| most per kept |\n|{12 * '---|'}"
    )
    for (size, *words), group in sorted(groups.items(), key=str):
        gaps = [row["best"] - row["psnr"] for row in group]
        kept, best, iterations = (mean(row[key] for row in group) for key in ("psnr", "best", "iterations"))
        names = {row["image"] for row in group}
        count = f"{len(names)} of {size}, {len(group)} in all"
        ratio = max(row["iterations"] / row["kept"] for row in group)
        figures = f"{kept:.2f} | {best:.2f} | {mean(gaps):.3f} | {max(gaps):.3f} | {iterations:.0f} | {ratio:.2f}"
        print(f"| {count} | {' | '.join(map(str, words))} | {figures} |")
    print(f"\n| image | noise | runs averaged | results | kept, dB, mean | standard deviation |\n|{6 * '---|'}")
    values = defaultdict(list)
    for row in rows:
        if not row.get("all_rules"):
            values[row["image"], row["size"], row["noise"], row["loss"], row["rule"], row["runs"]].append(row["psnr"])
    for (name, _, noise, _, _, runs), group in sorted(values.items()):
        if len(group) > 2:
            print(f"| {name} | {noise} | {runs} | {len(group)} | {mean(group):.2f} | {stdev(group):.3f} |")


def main() -> None:
    """Run the fits that are missing from the file, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="IMAGES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", default=NAMES)
    parser.add_argument("--noise", default="gauss25")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--noise-seed", type=int, help="the same noise for all seeds; by default each has its own")
    parser.add_argument("--stop", default="")
    parser.add_argument("--loss", default="l2")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--all-rules", type=int, default=0, metavar="N")
    parser.add_argument("--refit", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = read_rows(options.out)
    if options.table or options.folder is None:
        print_table(rows)
        return
    for noise in options.noise.split(","):
        for seed in map(int, options.seeds.split(",")):
            for name in options.images.split(","):
                clean = crop_middle(options.folder / f"{name}_clean.png", None if options.whole else SIDE) / 255.0
                key = {
                    "image": name,
                    "noise": noise,
                    "seed": seed,
                    "preset": options.preset,
                    "loss": options.loss,
                    "runs": options.runs,
                    "size": f"{clean.shape[1]}x{clean.shape[0]}",
                }
                key["all_rules"] = options.all_rules
                same = [row for row in rows if key.items() <= ({"all_rules": 0} | row).items()]
                if any(options.all_rules or row["rule"] == (options.stop or "auto") for row in same):
                    continue
                new_rows = run(name, clean, noise, seed, options)
                with options.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new_rows)
                for row in new_rows:
                    print(
                        f"{name} {noise} seed {seed} {row['rule']}: kept {row['psnr']:.2f} at {row['kept']}, "
                        f"best {row['best']:.2f} at {row['best_at']}, {row['iterations']} iterations, "
                        f"{row['seconds']} s, {row['reason']}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
