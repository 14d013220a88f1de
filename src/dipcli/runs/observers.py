"""Those who watch a fit and cannot steer it: metrics, log and snapshots. The displays are next door.

An observer is called after each iteration with the step and the rule's verdict. Reading a tensor's value makes a
GPU wait, so the numbers are read by `Metrics` alone, every so many iterations, and handed on as rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from dipcli import files, images
from dipcli.problem import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli.images.image import Image
    from dipcli.problem import Problem
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

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
    "tile",
    "signal",
)


NO_TILE = 0  # in the place of a tile's number, where there are none


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
        self.seen: _Seen | None = None

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Make a row when one is due."""
        if step.number % self.every and not verdict.stop and not step.event:
            return
        shown, reference = self.problem, self.reference
        if step.tile:
            shown = step.tile.problem
            reference = None if reference is None else reference[:, step.tile.place.rows, step.tile.place.columns]
        row: Row = dict.fromkeys(COLUMNS) | {
            "iteration": step.number,
            "seconds": round(step.seconds, 3),
            "loss": float(step.loss),
            "lr": step.rate,
            "psnr_noisy": self.measurement_psnr(step.image, shown),
            "psnr_noisy_smoothed": self.measurement_psnr(step.average, shown),
            "holdout": verdict.criterion[1] if verdict.criterion and verdict.criterion[0] == "holdout" else None,
            "event": step.event,
            "run": step.run,
            "tile": step.tile.number if step.tile else None,
            "signal": verdict.criterion[1] if verdict.criterion else None,
        }
        if reference is not None:
            smoothed = pixels(shown.finish(step.average))
            row["psnr_ref"] = metrics.psnr(pixels(shown.finish(step.image)), reference)
            row["psnr_ref_smoothed"] = metrics.psnr(smoothed, reference)
            row["ssim_ref_smoothed"] = metrics.ssim(smoothed, reference)
        for told in self.tell:
            told(row)

    def measurement_psnr(self, image: Tensor, problem: Problem | None = None) -> float:
        """PSNR of A(x) against the measurement, in dB, over the values that count.

        Args:
            image: x.
            problem: that of a tile; the whole one when left out.
        """
        problem = problem or self.problem
        if self.seen is None or self.seen.problem is not problem:
            self.seen = _Seen.of(problem)
        predicted: NDArray[np.float32] = problem.operator(image.clamp(0, 1)).float().cpu().numpy()
        if self.seen.counting is not None:
            predicted = predicted[self.seen.counting]
        return metrics.psnr(predicted, self.seen.measured)


@dataclass(frozen=True)
class _Seen:
    """A measurement as `Metrics` compares with it: which of its values count, all of them when None, and those."""

    problem: Problem
    counting: NDArray[np.bool_] | None
    measured: NDArray[np.float32]

    @classmethod
    def of(cls, problem: Problem) -> _Seen:
        """Taken from a problem on whatever device."""
        measured: NDArray[np.float32] = problem.measured.cpu().numpy()
        if problem.weight is None:
            return cls(problem, None, measured)
        counting = problem.weight.expand_as(problem.measured).cpu().numpy() > 0
        return cls(problem, counting, measured[counting])


class Log:
    """`log.csv`: a row each time there is one, on disk at once.

    Args:
        path: where; an earlier log is replaced,
        after: but for its rows up to this tile, run and iteration, of a run that goes on from there.
    """

    def __init__(self, path: Path, after: tuple[int, int, int] | None = None) -> None:
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

    Those of a second run go into a folder `run2` of their own, and so on; those of a picture that is fitted in tiles
    are of a tile each, in folders `tile1`, `tile2`, ...

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
        picture: Image,
        every: int | None,
        at: frozenset[int],
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        self.folder, self.picture, self.every, self.at, self.finish = folder, picture, every, at, finish

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - due or not is a matter of counting
        """Write both pictures when they are due."""
        if step.number not in self.at and not (self.every and step.number % self.every == 0):
            return
        folder, finish = self.folder, self.finish
        if step.tile:
            folder, finish = folder / f"tile{step.tile.number}", step.tile.problem.finish
        folder = folder if step.run == 1 else folder / f"run{step.run}"
        files.make_folder(folder)
        for suffix, image in (("", step.average), (".raw", step.image)):
            snapshot = self.picture.to_8_bits(pixels(finish(image)))
            files.write(folder / f"{step.number:06d}{suffix}.png", images.encode(snapshot, ".png"))


def _rows(path: Path, after: tuple[int, int, int]) -> list[list[str]]:
    """The rows of a log up to a tile, run and iteration; what was cut short in the middle of a row is left out."""
    tile, run, number = (COLUMNS.index(name) for name in ("tile", "run", "iteration"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[run].isdecimal()]
    return [row for row in rows if (int(row[tile] or NO_TILE), int(row[run]), int(row[number])) <= after]


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
