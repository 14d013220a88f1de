"""Observers of a fit: metrics, log and snapshots. They watch a fit and cannot steer it.

An observer is called after each iteration with the step and the rule's verdict. Reading the value of a tensor makes a
GPU wait, so only `Metrics` reads numbers, every few iterations, and passes them on as rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dipcli import files, images
from dipcli.images import Image
from dipcli.problem import Problem, metrics
from dipcli.records.run_record import Measures
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.case import Case

Row: TypeAlias = dict[str, float | int | str | None]

COLUMNS = (
    "iteration", "seconds", "loss", "lr", "psnr_noisy", "psnr_noisy_smoothed", "holdout", "psnr_ref",
    "psnr_ref_smoothed", "ssim_ref_smoothed", "event", "run", "tile", "signal",
)  # fmt: skip
NO_TILE = 0  # in place of a tile's number if the image is fitted whole


class Metrics:
    """Measure the fit every few iterations and at the last, and pass the numbers on.

    Only this observer holds the reference image, and nothing flows back from it.

    Args:
        problem: for the measurement and the operator, on the device of the fit.
        reference: the true image, shape (C, H, W), values 0..1; None if it is not known.
        every: iterations between rows.
        receivers: called with each row; its keys are `COLUMNS`, unknown values are None.
    """

    def __init__(
        self,
        problem: Problem,
        reference: NDArray[np.float32] | None,
        every: int,
        receivers: Iterable[Callable[[Row], None]],
    ) -> None:
        self.problem, self.reference, self.every, self.receivers = problem, reference, every, list(receivers)
        self.seen: Problem | None = None  # whose measurement is on the CPU

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Make a row if it is due."""
        if step.number % self.every and not verdict.stop and not step.event:
            return
        problem, reference = self.problem, self.reference
        if step.tile:
            fitted_whole = reference is not None and reference.shape[1:] == problem.shape[1:]  # else it has a margin
            problem, place = step.tile.problem, step.tile.place
            reference = reference[:, place.rows, place.columns] if reference is not None and fitted_whole else None
        name, value = verdict.criterion or (None, None)
        row: Row = dict.fromkeys(COLUMNS) | {
            "iteration": step.number,
            "seconds": round(step.seconds, 3),
            "loss": float(step.loss),
            "lr": step.rate,
            "psnr_noisy": self.measurement_psnr(step.image, problem),
            "psnr_noisy_smoothed": self.measurement_psnr(step.average, problem),
            "holdout": value if name == "holdout" else None,
            "event": step.event,
            "run": step.run,
            "tile": step.tile.number if step.tile else None,
            "signal": value,
        }
        if reference is not None:
            smoothed = pixels(problem.finish(step.average))
            row["psnr_ref"] = metrics.psnr(pixels(problem.finish(step.image)), reference)
            row["psnr_ref_smoothed"] = metrics.psnr(smoothed, reference)
            row["ssim_ref_smoothed"] = metrics.ssim(smoothed, reference)
        for receive in self.receivers:
            receive(row)

    def measurement_psnr(self, image: Tensor, problem: Problem | None = None) -> float:
        """PSNR of A(x) to the measurement in dB, over the values that count; of a tile if its problem is given."""
        problem = problem or self.problem
        if self.seen is not problem:
            values, weight = problem.measured, problem.weight
            self.counts = ... if weight is None else weight.expand_as(values).cpu().numpy() > 0
            self.seen, self.measured = problem, values.cpu().numpy()[self.counts]
        predicted: NDArray[np.float32] = problem.operator(image.clamp(0, 1)).float().cpu().numpy()
        return metrics.psnr(predicted[self.counts], self.measured)


def measure_result(
    case: Case, meter: Metrics, restored: NDArray[np.float32], truth: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Measure a restored image, (C, H, W); return the fields of the run record that say how good it is."""
    image = torch.from_numpy(restored).to(meter.problem.measured.device)
    if any(case.origin):  # a margin was cut off: the border is repeated in its place
        (top, left), (height, width) = case.origin, case.problem.shape[1:]
        bottom, right = height - top - restored.shape[1], width - left - restored.shape[2]
        image = functional.pad(image, (left, right, top, bottom), mode="replicate")
    found: dict[str, Any] = {"psnr_noisy": _finite(meter.measurement_psnr(image))}
    if truth is not None:
        found |= reference_fields(measure_against_truth(case, restored, truth))
        found["baselines"] = {
            name: measure_against_truth(case, image, truth) for name, image in case.baseline_images.items()
        }
    return found | {"conclusion": case.conclude(restored) if case.conclude else None}


def measure_against_truth(case: Case, image: NDArray[np.float32], truth: NDArray[np.float32]) -> Measures:
    """PSNR and SSIM of an image to the true one, both (C, H, W)."""
    measures = metrics.measure_similarity(image, truth, border=case.border, known=case.known)
    return Measures(**{name: _finite(value) for name, value in measures.items()})


def reference_fields(measures: Measures) -> dict[str, float | None]:
    """The fields of a record for figures against the true image."""
    others = {"psnr_ref_y": measures.psnr_y, "psnr_ref_unknown": measures.psnr_unknown, "ssim_ref": measures.ssim}
    return {"psnr_ref": measures.psnr} | {name: value for name, value in others.items() if value is not None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Log:
    """`log.csv`: each row is on disk at once.

    An earlier log is replaced, except for its rows up to the tile, run and iteration `after` which a run is resumed.
    """

    def __init__(self, path: Path, after: tuple[int, int, int] | None = None) -> None:
        self.path = path
        earlier = _read_rows(path, after) if after and path.exists() else []
        files.write(path, b"")
        self.write(COLUMNS)
        for row in earlier:
            self.write(row)

    def __call__(self, row: Row) -> None:
        """Add a row; unknown values stay empty."""
        self.write([_format(row[column]) for column in COLUMNS])

    def write(self, cells: Iterable[Any]) -> None:
        """Add a line."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(cells)


class Snapshots:
    """Intermediate images: 000100.png is the average, 000100.raw.png the network's own output.

    Those of a second run go into a folder `run2`, and so on. An image that is fitted in tiles has snapshots of each
    tile, in folders `tile1`, `tile2`, ... The input image gives its colour profile.
    """

    def __init__(
        self, folder: Path, image: Image, every: int | None, at: frozenset[int], finish: Callable[[Tensor], Tensor]
    ) -> None:
        self.folder, self.image, self.every, self.at, self.finish = folder, image, every, at, finish

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - only the iteration matters
        """Write both images if they are due."""
        if step.number not in self.at and not (self.every and step.number % self.every == 0):
            return
        folder, finish = self.folder, self.finish
        if step.tile:
            folder, finish = folder / f"tile{step.tile.number}", step.tile.problem.finish
        folder = folder if step.run == 1 else folder / f"run{step.run}"
        files.make_folder(folder)
        for suffix, output in (("", step.average), (".raw", step.image)):
            snapshot = self.image.to_8_bits(pixels(finish(output)))
            files.write(folder / f"{step.number:06d}{suffix}.png", images.encode(snapshot, ".png"))


def pixels(image: Tensor) -> NDArray[np.float32]:
    """A tensor on any device as a NumPy array, clipped to 0..1."""
    array: NDArray[np.float32] = image.clamp(0, 1).float().cpu().numpy()
    return array


def _read_rows(path: Path, after: tuple[int, int, int]) -> list[list[str]]:
    """The rows of a log up to a tile, run and iteration, without a row that was cut off."""
    tile, run, number = (COLUMNS.index(name) for name in ("tile", "run", "iteration"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS) and row[run].isdecimal()]
    return [row for row in rows if (int(row[tile] or NO_TILE), int(row[run]), int(row[number])) <= after]


def _format(value: float | str | None) -> str:
    """A number with six significant digits; None is empty."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
