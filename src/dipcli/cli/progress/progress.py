"""How a fit stands, in words: what the displays show."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.cli.progress.layout import GAP
from dipcli.cli.progress.sparkline import Curve
from dipcli.runs.display import Expected, format_row
from dipcli.text import clock, legible

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

JUST_NOW = 10  # iterations ago


class Standing:
    """How a fit stands. It may be asked from another thread than the one that tells it.

    Args:
        ahead: what was known before.

    Attributes:
        number: the iteration; 0 before the first.
        where: tile and how many there are, and run; 0 of 0 where the whole is fitted.
        over: whether the fit has come to its end.
        row: the latest numbers.
    """

    def __init__(self, ahead: Expected) -> None:
        self.ahead = ahead
        self.number, self.where, self.over = 0, (0, 0, 1), False
        self.pace = 0.0
        self.first, self.since, self.latest = 0.0, 0, 0.0
        self._begin()

    def _begin(self) -> None:
        self.best: int | None = None
        self.row: Row | None = None
        self.verdict: Verdict | None = None
        self.curves = {"true": Curve(), "rule": Curve(), "fit": Curve()}

    def learn(self, step: Step, verdict: Verdict) -> None:
        """Take in one iteration; the first of a fit, which is slower than all others, says nothing of the pace."""
        where = (step.tile.number, step.tile.count, step.run) if step.tile else (0, 0, step.run)
        self.latest = perf_counter()
        if where != self.where or not self.number:
            if self.number:
                self._begin()
            self.first, self.since = self.latest, step.number
        else:
            self.pace = max(self.latest - self.first, 1e-6) / (step.number - self.since)
        if verdict.keep:
            self.best = step.number
        if verdict.criterion and (self.verdict is None or verdict.criterion != self.verdict.criterion):
            self.curves["rule"].add(
                math.log(verdict.criterion[1]) if verdict.criterion[1] > 0 else verdict.criterion[1]
            )
        self.number, self.where, self.verdict, self.over = step.number, where, verdict, verdict.stop is not None

    def hear(self, row: Row) -> None:
        """Take in new numbers."""
        self.row = row
        for name, column in (("true", "psnr_ref_smoothed"), ("fit", "psnr_noisy_smoothed")):
            value = row[column]
            if isinstance(value, float):
                self.curves[name].add(value)

    @property
    def length(self) -> int | None:
        """Iterations that this fit runs, about where a rule decides; None where nobody knows."""
        ahead = self.ahead
        if ahead.iterations:
            return ahead.iterations
        number, verdict = self.number, self.verdict
        if ahead.usual and ahead.usual > number:
            return ahead.usual
        if verdict is None or verdict.patience_left is None:
            return None
        return min(number + verdict.patience_left, ahead.most or number + verdict.patience_left)

    @property
    def share(self) -> float | None:
        """How much of all fits is done, 0..1, of this one where nobody knows how many there are; None for unknown."""
        length = self.length
        if length is None:
            return None
        fits, done = self._fits if self.ahead.runs else (1, 0)
        return min((done + (1.0 if self.over else self.number / max(length, 1))) / fits, 1.0)

    @property
    def seconds(self) -> float | None:
        """Until all fits are done, about; None where nobody knows."""
        length, end = self.length, self.ahead.left()
        if not self.ahead.runs:
            return end
        if not self.pace or not length:
            return None
        fits, done = self._fits
        # Between two iterations it goes on to fall, but no further: what comes between two fits takes its own time.
        waited = 0.0 if self.over else min(perf_counter() - self.latest, self.pace)
        left = ((fits - done) * length - (length if self.over else self.number)) * self.pace - waited
        return max(left, 0.0) if end is None else max(min(left, end), 0.0)

    @property
    def _fits(self) -> tuple[int, int]:
        """How many there are, and how many are done; 0 where nobody knows."""
        tile, tiles, run = self.where
        runs = self.ahead.runs or 0
        return max(tiles, 1) * runs, max(tile - 1, 0) * runs + run - 1

    def count(self, *, short: bool = False) -> str:
        """The iteration, of how many; what is going on before the first."""
        if not self.number or (self.over and self._goes_on):
            return "warming up" if self.ahead.warmup else "starting"
        number, length = self.number, self.length
        if length is None:
            return f"{number}" if short else f"iteration {number}"
        if self.ahead.iterations:
            return f"{number}/{length}"
        return f"{number}/~{length}" if short else f"{number} of about {length}"

    @property
    def _goes_on(self) -> bool:
        fits, done = self._fits
        return done + 1 < fits

    def place(self) -> str:
        """Which tile and which run it is, where there are several."""
        tile, tiles, run = self.where
        runs = self.ahead.runs
        if self.over and self._goes_on:
            tile, run = (tile, run + 1) if run < (runs or 1) else (tile + 1, 1)
        told = [f"tile {tile}/{tiles}"] if tiles else []
        told += [f"run {run}/{runs}" if runs else f"run {run}"] if run > 1 or (runs or 1) > 1 else []
        return GAP.join(told)

    def rate(self) -> str:
        """Iterations a second, or seconds an iteration."""
        if not self.pace:
            return ""
        return f"{1 / self.pace:.1f}/s" if self.pace <= 1 else f"{self.pace:.1f} s each"

    def left(self, *, short: bool = False) -> str:
        """The time until all is done."""
        seconds = self.seconds
        if seconds is None or not self.number:
            return ""
        about = "" if short or self.ahead.iterations else "about "
        return f"{about}{clock(seconds)} left"

    def opinion(self) -> list[str]:
        """What the rule thinks, from many words to few; none where it thinks nothing."""
        verdict, best = self.verdict, self.best
        if verdict is None:
            return []
        name, value = verdict.criterion or ("", 0.0)
        name = legible(name)
        if verdict.threshold is not None:
            told = f"{value:.3g}; ends at {verdict.threshold:.3g}"
            return [f"{name} {told}", told]
        if verdict.patience_left is not None:
            return _waiting(name, self.number, best, verdict.patience_left)
        if not name and best == self.number:  # it always keeps the latest
            return []
        kept = [] if best is None else [f"best so far at {best}", f"best at {best}"]
        return [", ".join([f"{name} {value:.3g}", *kept[:1]]), *kept] if name else kept

    def line(self) -> str:
        """All of it on one line."""
        told = [self.place(), self.count(), self.rate(), self.left(), *format_row(self.row), *self.opinion()[:1]]
        return GAP.join(each for each in told if each)


def _waiting(name: str, number: int, best: int | None, left: int) -> list[str]:
    """What a rule thinks that ends a run when for so many iterations none is better than the best."""
    end = f"ends in {left}"
    if best is None:
        told, forms = end, [f"{end} unless better", end]
    else:
        ago = f", {number - best} ago" if number - best >= JUST_NOW else ""
        told = f"best so far at {best}{ago}; {end}"
        forms = [f"best at {best}; {end} unless better", f"best at {best}; {end}", f"best at {best}"]
    told += " without a better one"
    return [*([f"{name}: {told}"] if name else []), told, *forms]
