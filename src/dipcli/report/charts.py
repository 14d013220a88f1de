"""The curves of a run: loss, PSNR and the criterion of the stopping rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dipcli.report.embedding import space_evenly
from dipcli.report.run_folder import LogRow, RunFolder
from dipcli.stopping import rules

MAX_POINTS = 1500  # of a curve
MAX_STYLES = 5  # curves that differ by colour and dashes; if there are more, all look the same


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: for the legend; empty for none.
        points: iteration and value.
        style: index of its colour and dashes.
        is_faint: whether it is drawn faintly, behind the others.
        kept: the iteration whose average was kept, to be marked.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    style: int = 0
    is_faint: bool = False
    kept: int | None = None


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes: a title, the unit of the values, and the curves that have points."""

    title: str
    unit: str
    curves: tuple[Curve, ...]

    @property
    def description(self) -> str:
        """The ends of each curve in words."""
        sentences = []
        for curve in self.curves:
            if not curve.is_faint:
                (begin, first), (end, last) = curve.points[0], curve.points[-1]
                kept = f", kept {curve.kept}" if curve.kept else ""
                label = curve.label or self.title
                sentences.append(f"{label}: {first:.4g} at iteration {begin:.0f}, {last:.4g} at {end:.0f}{kept}")
        return "; ".join(sentences)


def build_charts(run: RunFolder) -> list[Chart]:
    """Return the charts for which the log has at least two points."""
    rule = rules().get(run.record.rule.removeprefix("rule ").partition(":")[0] if run.record else "")
    columns = {
        ("Loss", ""): ("loss", ""),
        ("PSNR to the reference", "dB"): ("psnr_ref_smoothed", "psnr_ref"),
        ("PSNR to the measurement", "dB"): ("psnr_noisy_smoothed", "psnr_noisy"),
        ("Stopping criterion", rule.criterion_label if rule else ""): ("signal", ""),
    }
    charts = [Chart(*title, tuple(_build_curves(run, *names))) for title, names in columns.items()]
    return [chart for chart in charts if any(len(curve.points) > 1 for curve in chart.curves)]


def _build_curves(run: RunFolder, column: str, output_column: str) -> Iterator[Curve]:
    """Yield the curves of one chart: one for each fit; for a single fit also that of its outputs without averaging."""
    fits: dict[tuple[int, int], list[LogRow]] = {}
    for row in run.rows:
        fits.setdefault((int(row.get("tile") or 0), int(row.get("run") or 1)), []).append(row)
    kept = {(fit.tile or 0, fit.run): fit.kept for fit in (run.record.runs if run.record else ())}
    several_runs, same_style = len({number for _, number in fits}) > 1, len(fits) > MAX_STYLES
    for index, ((tile, number), rows) in enumerate(fits.items()):
        names = [f"tile {tile}"] * bool(tile) + [f"run {number}"] * several_runs
        label, style = (" ".join(names), index) if len(fits) > 1 else ("running average" * bool(output_column), 0)
        if same_style:
            label, style = "", 0
        if points := _select_points(rows, column):
            yield Curve(label, points, style, same_style, kept.get((tile, number)))
        if len(fits) == 1 and (points := _select_points(rows, output_column)):
            yield Curve("network output", points, is_faint=True)


def _select_points(rows: list[LogRow], column: str) -> tuple[tuple[float, float], ...]:
    pairs = [(row["iteration"], row.get(column)) for row in rows]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return tuple(points[index] for index in space_evenly(len(points), MAX_POINTS))
