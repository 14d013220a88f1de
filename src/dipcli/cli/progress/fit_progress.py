"""The progress of a fit, in words and numbers, as the displays show it."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.cli.progress.sparkline import Curve
from dipcli.runs.display import Display, Expected, format_row
from dipcli.text import escape_controls, format_clock

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

GAP = "  "  # between two parts of a line
RECENT_ITERATIONS = 10  # the age of the best iteration is shown from here on


class ProgressDisplay(Display):
    """A display of the progress of a fit, and of the number of images that have failed so far."""

    def __init__(self) -> None:
        self.title, self.progress, self.failed = "", FitProgress(Expected()), 0

    def show_row(self, row: Row) -> None:
        """Keep the metrics, to be shown next."""
        self.progress.update_row(row)

    def show_failures(self, failed: int) -> None:
        """Keep the number of failed images, to be shown next."""
        self.failed = failed


class FitProgress:
    """The progress of one fit, of all its tiles and runs. A display may read it from another thread."""

    def __init__(self, expected: Expected) -> None:
        self.expected, self.finished = expected, False
        self.number = 0  # the iteration; 0 before the first
        self.position = (0, 0, 1)  # tile, number of tiles and run; (0, 0, run) without tiles
        self.seconds_per_iteration = 0.0  # mean over this tile and run; 0 until it is known
        self.first_seconds, self.first_number, self.latest_seconds = 0.0, 0, 0.0
        self._reset()

    def _reset(self) -> None:
        self.best: int | None = None
        self.row: Row | None = None
        self.verdict: Verdict | None = None
        # PSNR to the reference, logarithm of the rule's criterion, PSNR to the input.
        self.curves = {"reference": Curve(), "criterion": Curve(), "input": Curve()}

    def update(self, step: Step, verdict: Verdict) -> None:
        """Add one iteration. The first of a fit is slower than all others and is left out of the timing."""
        position = (step.tile.number, step.tile.count, step.run) if step.tile else (0, 0, step.run)
        self.latest_seconds = perf_counter()
        if position != self.position or not self.number:
            if self.number:
                self._reset()
            self.first_seconds, self.first_number = self.latest_seconds, step.number
        else:
            elapsed = max(self.latest_seconds - self.first_seconds, 1e-6)
            self.seconds_per_iteration = elapsed / (step.number - self.first_number)
        if verdict.keep:
            self.best = step.number
        if verdict.criterion and (self.verdict is None or verdict.criterion != self.verdict.criterion):
            value = verdict.criterion[1]
            self.curves["criterion"].add(math.log(value) if value > 0 else value)
        self.number, self.position, self.verdict = step.number, position, verdict
        self.finished = verdict.stop is not None

    def update_row(self, row: Row) -> None:
        """Add a row of metrics."""
        self.row = row
        for name, column in (("reference", "psnr_ref_smoothed"), ("input", "psnr_noisy_smoothed")):
            value = row[column]
            if isinstance(value, float):
                self.curves[name].add(value)

    @property
    def length(self) -> int | None:
        """Iterations of this fit, estimated if a rule decides; None if unknown."""
        expected, number, verdict = self.expected, self.number, self.verdict
        if expected.iterations:
            return expected.iterations
        if expected.usual and expected.usual > number:
            return expected.usual
        if verdict is None or verdict.patience_left is None:
            return None
        return min(number + verdict.patience_left, expected.most or number + verdict.patience_left)

    @property
    def fraction(self) -> float | None:
        """Fraction of all fits that is done, 0..1; of this fit if their number is unknown; None if unknown."""
        length = self.length
        if length is None:
            return None
        fits, done = self._count_fits() if self.expected.runs else (1, 0)
        return min((done + (1.0 if self.finished else self.number / max(length, 1))) / fits, 1.0)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all fits are done; None if unknown."""
        length, deadline = self.length, self.expected.left()
        if not self.expected.runs:
            return deadline
        if not self.seconds_per_iteration or not length:
            return None
        fits, done = self._count_fits()
        iterations = (fits - done) * length - (length if self.finished else self.number)
        # Count down within an iteration, but not further, and not while the next fit is prepared.
        waited = 0.0 if self.finished else min(perf_counter() - self.latest_seconds, self.seconds_per_iteration)
        seconds = max(iterations * self.seconds_per_iteration - waited, 0.0)
        return seconds if deadline is None else max(min(seconds, deadline), 0.0)

    def _count_fits(self) -> tuple[int, int]:
        """Number of fits (tiles x runs), and how many are done; (0, ...) if the number of runs is unknown."""
        tile, tiles, run = self.position
        runs = self.expected.runs or 0
        return max(tiles, 1) * runs, max(tile - 1, 0) * runs + run - 1

    def _is_between_fits(self) -> bool:
        fits, done = self._count_fits()
        return self.finished and done + 1 < fits

    def describe_count(self) -> str:
        """The iteration and how many there are: `640/2000`, `640/~2000` where that is an estimate."""
        if not self.number or self._is_between_fits():
            return "warming up" if self.expected.warmup else "starting"
        if self.length is None:
            return f"iteration {self.number}"
        return f"{self.number}/{'' if self.expected.iterations else '~'}{self.length}"

    def describe_position(self) -> str:
        """The tile and the run, if there are several."""
        tile, tiles, run = self.position
        runs = self.expected.runs
        if self._is_between_fits():
            tile, run = (tile, run + 1) if run < (runs or 1) else (tile + 1, 1)
        parts = [f"tile {tile}/{tiles}"] if tiles else []
        if run > 1 or (runs or 1) > 1:
            parts.append(f"run {run}/{runs}" if runs else f"run {run}")
        return GAP.join(parts)

    def describe_throughput(self) -> str:
        """Iterations per second, or seconds per iteration."""
        seconds = self.seconds_per_iteration
        if not seconds:
            return ""
        return f"{1 / seconds:.1f} it/s" if seconds <= 1 else f"{seconds:.1f} s/it"

    def describe_time_left(self) -> str:
        """The time until all fits are done: `0:54 left`, `~0:54 left` if a rule decides."""
        seconds = self.seconds_left
        if seconds is None or not self.number:
            return ""
        return f"{'' if self.expected.iterations else '~'}{format_clock(seconds)} left"

    def describe_rule(self) -> list[str]:
        """The state of the stopping rule, in sentences from long to short; none if the rule has no criterion."""
        verdict, best = self.verdict, self.best
        if verdict is None:
            return []
        name, value = verdict.criterion or ("", 0.0)
        name = escape_controls(name)
        current = f"{name} {value:.3g}".lstrip()
        if verdict.threshold is not None:
            return [f"{current}, stops at {verdict.threshold:.3g}"]
        if verdict.patience_left is not None:
            prefix, stops = f"{name}: " if name else "", f"stops in {verdict.patience_left}"
            if best is None:
                return [f"{prefix}{stops} without improvement", stops]
            age = f" ({self.number - best} ago)" if self.number - best >= RECENT_ITERATIONS else ""
            long = f"{prefix}best at {best}{age}, {stops} without improvement"
            return [long, f"best at {best}, {stops}", f"best at {best}"]
        if not name:  # without a criterion the latest is always the best
            return [] if best in (None, self.number) else [f"best at {best}"]
        return [current] if best is None else [f"{current}, best at {best}", f"best at {best}"]

    def line(self) -> str:
        """Everything on one line."""
        parts = [self.describe_position(), self.describe_count(), self.describe_throughput(), self.describe_time_left()]
        return GAP.join(filter(None, [*parts, *format_row(self.row), *self.describe_rule()[:1]]))
