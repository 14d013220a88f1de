"""How near a stopping rule comes to the best picture that its run passed.

    python benchmarks/stopping.py PICTURES --out results.jsonl --pictures house,f16 --noise gauss25 --seeds 0,1,2
    python benchmarks/stopping.py --out results.jsonl --table

PICTURES is a folder with clean pictures called NAME_clean.png; the middle 256x256 of each is used, or with --whole all
of it. Each run is that of `dip denoise` with its default preset, and ends when the rule says so. Beside it, every five
iterations, the PSNR of each running average is taken (RGB, clipped to the valid range): the gap is the best of all
these less the PSNR of the picture that the rule kept. What was run before into the same file is not run again.

With --jury N the run has N iterations with some pixels held out, and every rule judges it side by side: what it would
have kept, and when it would have ended; here the best is that of all N iterations. With --second two answers follow to
the question what to do with the pixels that `holdout` held out, once it has decided: going on from the kept weights for
200 iterations with all pixels, and a second fit from the beginning with all pixels and as many iterations.
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
EVERY = 5
NAMES = "f16,baboon,house,kodim01,kodim02,kodim03,kodim12,lena,peppers"
MORE = 200  # iterations to go on for
RULES = ("holdout", "emv", "wmv", "sigma")


def middle(path: Path, side: int | None) -> np.ndarray:
    """The middle of a picture, uint8 (side, side, 3), or all of it when side is None."""
    whole = images.read(path)[0].array()[..., :3]
    if side is None:
        return whole
    top, left = (max(0, (length - side) // 2) for length in whole.shape[:2])
    return whole[top : top + side, left : left + side]


def noisy(clean: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """The clean picture, float (H, W, 3) of 0..1, with noise, as 8 bits.

    gauss25 is Gaussian noise of sigma 25; smooth25 the same smoothed by a Gaussian of one pixel and scaled back to 25;
    jpeg25 Gaussian noise of 25 saved as JPEG at quality 75; poisson30 counts 30 photons at white; impulse10 makes 10 %
    of the pixels black or white.
    """
    kind, level = noise.rstrip("0123456789"), float(noise.lstrip("abcdefghijklmnopqrstuvwxyz"))
    generator = np.random.default_rng(1000 + seed)
    drawn = generator.normal(0, 1, clean.shape)
    if kind in {"gauss", "jpeg"}:
        spoilt = clean + level / 255 * drawn
    elif kind == "smooth":
        drawn = gaussian_filter(drawn, (1, 1, 0))
        spoilt = clean + level / 255 * drawn / drawn.std()
    elif kind == "poisson":
        spoilt = generator.poisson(clean * level) / level
    elif kind == "impulse":
        hit = generator.random(clean.shape[:2]) < level / 100
        spoilt = np.where(hit[..., None], generator.integers(0, 2, clean.shape[:2])[..., None], clean)
    else:
        raise SystemExit(f"There is no noise {noise}.")
    spoilt = np.rint(255 * np.clip(spoilt, 0, 1)).astype(np.uint8)
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(spoilt).save(file, "JPEG", quality=75)
        spoilt = np.asarray(Image.open(file))
    return spoilt


@dataclass
class Best:
    """The best PSNR that any average reached so far; an observer."""

    truth: np.ndarray
    finish: Any
    psnr: float = 0.0
    at: int = 0

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Measure the averages."""
        if step.number % EVERY and not verdict.stop:
            return
        for average in step.averages:
            if (reached := psnr(pixels(self.finish(average)), self.truth)) > self.psnr:
                self.psnr, self.at = reached, step.number


@dataclass
class Juror:
    """One rule judging a run that does not heed it; an observer."""

    name: str
    problem: Any
    best: Best
    verdict: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rule = stopping.parse_rule(self.name)
        self.state, _ = self.rule.start(self.problem)
        self.image: Any = None
        self.kept, self.memory = 0, 0.0

    def __call__(self, step: Step, _verdict: Verdict) -> None:
        """Judge one iteration, until the rule would have ended the run."""
        if self.verdict:
            return
        verdict, self.state = self.rule.judge(step, self.state)
        if verdict.keep:
            self.image, self.kept = step.averages[verdict.average_index], step.number
            self.memory = DECAYS[verdict.average_index]
        if verdict.stop:
            self.conclude(step.number, verdict.stop)

    def conclude(self, ended: int, reason: str) -> None:
        """Note what the rule would have kept."""
        kept = psnr(pixels(self.best.finish(self.image)), self.best.truth)
        self.verdict = {
            "rule": self.name,
            "psnr": kept,
            "kept": self.kept,
            "iterations": ended,
            "reason": reason,
        }


@dataclass
class Keeper:
    """Copies of the weights where `holdout` would have kept an average; an observer."""

    juror: Juror
    network: Any
    weights: dict[str, Any] = field(default_factory=dict)

    def __call__(self, step: Step, _verdict: Verdict) -> None:
        """After the juror: copy when it kept this very iteration."""
        if not self.juror.verdict and self.juror.kept == step.number:
            self.weights = {name: value.clone() for name, value in self.network.state_dict().items()}


def going_on(bench: Any, keeper: Keeper) -> tuple[Any, int]:
    """From the kept weights on, with all pixels."""
    bench.prior.network.load_state_dict(keeper.weights)
    settings = replace(bench.settings, iterations=MORE, stop="none", ema=0.99)
    return fit(bench.problem, bench.prior, settings), MORE


def second_fit(bench: Any, keeper: Keeper) -> tuple[Any, int]:
    """From the beginning with all pixels, for as many iterations as were kept."""
    settings = replace(bench.settings, iterations=keeper.juror.kept, stop="none", ema=keeper.juror.memory)
    prior = restarts.fresh_prior(bench.problem, settings, stopping.parse_rule("none"))
    return fit(bench.problem, prior, settings), keeper.juror.kept


def run(name: str, clean: np.ndarray, noise: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One fit; a row of results, or with a jury one for each rule."""
    task = tasks()["denoise"]
    given: dict[str, Any] = {"seed": seed, "threads": options.threads}
    if options.runs > 1:
        given["runs"] = options.runs
    if options.stop:
        given["stop"] = options.stop
    if options.jury:
        given |= {"iterations": options.jury, "stop": "holdout"}
    drawn = seed if options.noise_seed is None else options.noise_seed
    spoilt = from_array(noisy(clean, noise, drawn))
    case, settings = task.case(spoilt, options.preset, {"loss": options.loss}, given)
    bench = prepare(case.problem, settings)
    truth = from_array(clean).pixels
    best = Best(truth, bench.problem.finish)
    jurors = [Juror(rule, bench.problem, best) for rule in RULES if options.jury]
    keepers = [Keeper(jurors[0], bench.prior.network)] if options.second else []
    result = solve(bench, observers=[best, *jurors, *keepers])
    about = {
        "picture": name,
        "size": f"{clean.shape[1]}x{clean.shape[0]}",
        "noise": noise,
        "seed": seed,
        "noise_seed": drawn,
        "preset": options.preset,
        "loss": options.loss,
        "runs": options.runs,
        "jury": options.jury,
        "noisy": psnr(spoilt.pixels, truth),
        "seconds": round(result.seconds, 1),
    }
    for juror in jurors:
        if not juror.verdict:
            juror.conclude(options.jury, "it had not ended yet")
    if jurors:
        rows = [about | juror.verdict for juror in jurors]
        for keeper in keepers:
            for another in (going_on, second_fit):
                further, count = another(bench, keeper)
                told = {"rule": another.__name__, "psnr": psnr(pixels(further.image), truth), "kept": count}
                rows.append(about | told | {"iterations": count, "reason": further.reason})
        return [row | {"best": best.psnr, "best_at": best.at} for row in rows]
    first = result.runs[0].fit
    kept = psnr(pixels(result.image), truth)
    told = {
        "rule": settings.stop,
        "psnr": kept,
        "kept": first.kept,
        "memory": first.decay,
        "iterations": first.steps,
        "reason": result.reason,
        "best": max(best.psnr, kept),
        "best_at": best.at,
        "singles": [psnr(pixels(each.fit.image), truth) for each in result.runs],
    }
    return [about | told]


def table(rows: list[dict[str, Any]]) -> None:
    """Markdown: a line a kind of run, the mean over its pictures and seeds; the spread where there are many seeds."""
    groups = defaultdict(list)
    for row in rows:
        size = "256x256" if row["size"] == f"{SIDE}x{SIDE}" else "whole"
        rule = f"{row['rule']}{' (jury)' if row.get('jury') else ''}"
        groups[size, row["noise"], row["loss"], row["preset"], rule, row["runs"]].append(row)
    heads = [
        "pictures",
        "noise",
        "loss",
        "preset",
        "rule",
        "runs",
        "kept (dB)",
        "best passed",
        "gap: mean",
        "worst",
        "iterations",
        "most per kept",
    ]
    print(f"| {' | '.join(heads)} |\n|{len(heads) * '---|'}")
    for (size, *words), group in sorted(groups.items(), key=str):
        gaps = [row["best"] - row["psnr"] for row in group]
        kept, best, iterations = (mean(row[key] for row in group) for key in ("psnr", "best", "iterations"))
        names = {row["picture"] for row in group}
        what = f"{len(names)} of {size}, {len(group)} in all"
        ratio = max(row["iterations"] / row["kept"] for row in group)
        figures = f"{kept:.2f} | {best:.2f} | {mean(gaps):.3f} | {max(gaps):.3f} | {iterations:.0f} | {ratio:.2f}"
        print(f"| {what} | {' | '.join(map(str, words))} | {figures} |")
    heads = ["picture", "noise", "runs averaged", "results", "kept, dB, mean", "standard deviation"]
    print(f"\n| {' | '.join(heads)} |\n|{len(heads) * '---|'}")
    spreads = defaultdict(list)
    for row in rows:
        if not row.get("jury"):
            spreads[row["picture"], row["size"], row["noise"], row["loss"], row["rule"], row["runs"]].append(
                row["psnr"]
            )
    for (name, _, noise, _, _, runs), own in sorted(spreads.items()):
        if len(own) > 2:
            print(f"| {name} | {noise} | {runs} | {len(own)} | {mean(own):.2f} | {stdev(own):.3f} |")


def main() -> None:
    """Run what was asked for, or show what has been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="PICTURES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", default=NAMES)
    parser.add_argument("--noise", default="gauss25")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--noise-seed", type=int, help="the same noise for all seeds; each its own when left out")
    parser.add_argument("--stop", default="")
    parser.add_argument("--loss", default="l2")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--jury", type=int, default=0)
    parser.add_argument("--second", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table or options.folder is None:
        table(rows)
        return
    for noise in options.noise.split(","):
        for seed in map(int, options.seeds.split(",")):
            for name in options.pictures.split(","):
                clean = middle(options.folder / f"{name}_clean.png", None if options.whole else SIDE) / 255.0
                asked = {
                    "picture": name,
                    "noise": noise,
                    "seed": seed,
                    "preset": options.preset,
                    "loss": options.loss,
                    "runs": options.runs,
                    "size": f"{clean.shape[1]}x{clean.shape[0]}",
                }
                same = [row for row in rows if asked.items() <= row.items() and row.get("jury", 0) == options.jury]
                if any(options.jury or row["rule"] == (options.stop or "auto") for row in same):
                    continue
                found = run(name, clean, noise, seed, options)
                with options.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in found)
                for row in found:
                    print(
                        f"{name} {noise} seed {seed} {row['rule']}: kept {row['psnr']:.2f} at {row['kept']}, "
                        f"best {row['best']:.2f} at {row['best_at']}, {row['iterations']} iterations, "
                        f"{row['seconds']} s, {row['reason']}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
