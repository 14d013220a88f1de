"""Those who watch a fit and cannot steer it: metrics, log and snapshots. The displays are next door.

An observer is called after each iteration with the step and the rule's verdict. Reading a tensor's value makes a
GPU wait, so the numbers are read by `Metrics` alone, every so many iterations, and handed on as rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from dipcli import files, images, metrics
from dipcli.recovery import LOOKED_AT

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli.engine import Step
    from dipcli.picture import Picture
    from dipcli.problem import Problem
    from dipcli.restarts import Runs
    from dipcli.stopping import Verdict

Row: TypeAlias = dict[str, float | int | str | None]

COLUMNS = (
    "iteration",
    "seconds",
    "loss",
    "lr",
    "psnr_noisy",
    "psnr_noisy_smoothed",
    "holdout",
    "psnr_ref",
    "psnr_ref_smoothed",
    "ssim_ref_smoothed",
    "event",
    "run",
)


MEMORY = 0.99  # of the variance of the outputs


class Metrics:
    """Take the measure of the fit every so many iterations and at the last, and tell others.

    It alone holds the true picture, and nothing flows back from it.

    Args:
        problem: for the measurement and the operator, on the device of the fit.
        reference: the true picture, shape (C, H, W), values 0..1; None where there is none.
        every: iterations between rows.
        tell: called with each row; its keys are `COLUMNS`, None where there is nothing to say.
    """

    def __init__(
        self,
        problem: Problem,
        reference: NDArray[np.float32] | None,
        every: int,
        tell: Iterable[Callable[[Row], None]],
    ) -> None:
        self.problem, self.reference, self.every, self.tell = problem, reference, every, list(tell)
        weight = torch.ones_like(problem.measured) if problem.weight is None else problem.weight
        self.counting = weight.expand_as(problem.measured).cpu().numpy() > 0
        self.measured = problem.measured.cpu().numpy()[self.counting]

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Make a row when one is due."""
        if step.number % self.every and not verdict.stop and not step.event:
            return
        row: Row = dict.fromkeys(COLUMNS) | {
            "iteration": step.number,
            "seconds": round(step.seconds, 3),
            "loss": float(step.loss),
            "lr": step.rate,
            "psnr_noisy": self.agreement(step.image),
            "psnr_noisy_smoothed": self.agreement(step.average),
            "holdout": verdict.signal[1] if verdict.signal and verdict.signal[0] == "holdout" else None,
            "event": step.event,
            "run": step.run,
        }
        if self.reference is not None:
            smoothed = pixels(self.problem.finish(step.average))
            row["psnr_ref"] = metrics.psnr(pixels(self.problem.finish(step.image)), self.reference)
            row["psnr_ref_smoothed"] = metrics.psnr(smoothed, self.reference)
            row["ssim_ref_smoothed"] = metrics.ssim(smoothed, self.reference)
        for told in self.tell:
            told(row)

    def agreement(self, image: Tensor) -> float:
        """PSNR of A(x) against the measurement, in dB, over the values that count."""
        predicted: NDArray[np.float32] = self.problem.operator(image.clamp(0, 1)).float().cpu().numpy()
        return metrics.psnr(predicted[self.counting], self.measured)


class Log:
    """`log.csv`: a row each time there is one, on disk at once.

    Args:
        path: where; an earlier log is replaced,
        after: but for its rows up to this run and iteration, of a run that goes on from there.
    """

    def __init__(self, path: Path, after: tuple[int, int] | None = None) -> None:
        self.path = path
        earlier = _rows(path, after) if after and path.exists() else []
        files.write(path, b"")
        self.write(COLUMNS)
        for row in earlier:
            self.write(row)

    def __call__(self, row: Row) -> None:
        """Add a row; what is not known stays empty."""
        self.write([_short(row[column]) for column in COLUMNS])

    def write(self, cells: Iterable[Any]) -> None:
        """Add a line."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)


class Snapshots:
    """Pictures along the way: 000100.png is the average, 000100.raw.png the network's own output.

    Those of a second run go into a folder `run2` of their own, and so on.

    Args:
        folder: where; it is made when the first snapshot is due.
        picture: the measured picture, for its colour profile.
        every: iterations between snapshots; None for none.
        at: further iterations to write.
        finish: the problem's last touch.
    """

    def __init__(
        self,
        folder: Path,
        picture: Picture,
        every: int | None,
        at: frozenset[int],
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        self.folder, self.picture, self.every, self.at, self.finish = folder, picture, every, at, finish

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - due or not is a matter of counting
        """Write both pictures when they are due."""
        if step.number not in self.at and not (self.every and step.number % self.every == 0):
            return
        folder = self.folder if step.run == 1 else self.folder / f"run{step.run}"
        files.make_folder(folder)
        for suffix, image in (("", step.average), (".raw", step.image)):
            snapshot = self.picture.to_8_bits(pixels(self.finish(image)))
            files.write(folder / f"{step.number:06d}{suffix}.png", images.encode(snapshot, ".png"))


class Spread:
    """How far the outputs stray about the picture that is kept: what the fit is not sure of.

    Within a run it is the exponential variance of the outputs up to the kept iteration, in which the noise on the
    network's input is what varies; between runs the variance of their pictures comes on top:

        spread = sqrt(mean over channels of (mean of v_run + variance of x_run))

    It is a guide to where not to trust the picture, not the standard deviation of its error: what all outputs get
    wrong alike does not show in it.
    """

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}
        self.older: Tensor | None = None
        self.newer: Tensor | None = None
        self.mean = self.variance = torch.zeros(())
        self.run = self.count = 0

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Take in one output; after a collapse go back as the fit does, and begin anew."""
        if step.run != self.run:
            self.run, self.count, self.older, self.newer = step.run, 0, None, None
        if step.event:
            self.count = 0
            if self.older is not None:
                self.kept[step.run] = self.older
            return
        self.count += 1
        if self.count == 1:
            self.mean, self.variance = step.image, torch.zeros_like(step.image)
        share = max(1 / self.count, 1 - MEMORY)
        change = step.image - self.mean
        self.mean = self.mean + share * change
        self.variance = (1 - share) * (self.variance + share * change**2)
        if verdict.keep or step.run not in self.kept:
            self.kept[step.run] = self.variance
        if step.number % LOOKED_AT == 0:
            self.older, self.newer = self.newer, self.kept[step.run]

    def remember(self) -> dict[str, Any]:
        """What it has seen."""
        return {**vars(self), "kept": dict(self.kept)}

    def recall(self, seen: dict[str, Any]) -> None:
        """Go on from what it had seen."""
        for name in vars(self):
            setattr(self, name, seen[name])

    def map(self, runs: Runs, known: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """The spread of each pixel of the result, shape (H, W), in units of the picture's range.

        Args:
            runs: those that were watched.
            known: pixels that come back as they were, shape (H, W): they do not stray.
        """
        agreeing = [each for each in runs.runs if not each.astray]
        total = torch.stack([self.kept[each.number] for each in agreeing]).mean(dim=0)
        if len(agreeing) > 1:
            total = total + torch.stack([each.fit.average for each in agreeing]).var(dim=0)
        height, width = runs.image.shape[-2:]  # what was fitted may be larger, as a JPEG's whole blocks are
        spread: NDArray[np.float32] = total.mean(dim=0).sqrt()[:height, :width].cpu().numpy()
        return spread if known is None or known.shape != spread.shape else np.where(known, np.float32(0), spread)


def _rows(path: Path, after: tuple[int, int]) -> list[list[str]]:
    """The rows of a log up to a run and an iteration; what was cut short in the middle of a row is left out."""
    number, run = COLUMNS.index("iteration"), COLUMNS.index("run")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[run].isdecimal()]
    return [row for row in rows if (int(row[run]), int(row[number])) <= after]


def pixels(image: Tensor) -> NDArray[np.float32]:
    """A tensor on whatever device as an array of 0..1."""
    array: NDArray[np.float32] = image.clamp(0, 1).float().cpu().numpy()
    return array


def tensor(image: NDArray[np.float32], device: torch.device) -> Tensor:
    """The other way round."""
    return torch.from_numpy(image).to(device)


def _short(value: float | str | None) -> str:
    """A number as it stands in the log: six significant digits, nothing where there is nothing."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
