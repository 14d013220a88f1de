"""The curves of a run: loss, PSNR and the criterion of the stopping rule."""

from __future__ import annotations

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
    """Curves that share their axes.

    Attributes:
        title: what they show.
        unit: of the values.
        curves: those that have points.
        may_be_logarithmic: whether a wide range of values is drawn on a logarithmic scale.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    may_be_logarithmic: bool = True

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


@dataclass(frozen=True)
class _Fit:
    """The log of one fit, with its name among the others and the iteration that was kept."""

    name: str
    rows: list[LogRow]
    kept: int | None


def build_charts(run: RunFolder) -> list[Chart]:
    """Return the charts for which the log has at least two points."""
    fits = _split_log(run)
    rule_name = run.record.rule.removeprefix("rule ").partition(":")[0] if run.record else ""
    rule = rules().get(rule_name)
    charts = [
        Chart("Loss", "", _build_curves(fits, "loss")),
        Chart("PSNR to the reference", "dB", _build_curves(fits, "psnr_ref_smoothed", "psnr_ref"), False),
        Chart("PSNR to the measurement", "dB", _build_curves(fits, "psnr_noisy_smoothed", "psnr_noisy"), False),
        Chart("Stopping criterion", rule.criterion_label if rule else "", _build_curves(fits, "signal")),
    ]
    return [chart for chart in charts if any(len(curve.points) > 1 for curve in chart.curves)]


def _build_curves(fits: list[_Fit], column: str, output_column: str = "") -> tuple[Curve, ...]:
    """The curves of one chart: one for each fit; for a single fit also that of its outputs without averaging."""
    if len(fits) > 1:
        same = len(fits) > MAX_STYLES
        curves = [
            Curve("" if same else fit.name, _select_points(fit.rows, column), 0 if same else number, same, fit.kept)
            for number, fit in enumerate(fits)
        ]
    else:
        curves = [
            curve
            for fit in fits
            for curve in (
                Curve("running average" if output_column else "", _select_points(fit.rows, column), kept=fit.kept),
                Curve("network output", _select_points(fit.rows, output_column), is_faint=True),
            )
        ]
    return tuple(curve for curve in curves if curve.points)


def _split_log(run: RunFolder) -> list[_Fit]:
    """Split the log by fit."""
    rows: dict[tuple[int, int], list[LogRow]] = {}
    for row in run.rows:
        rows.setdefault((int(row.get("tile") or 0), int(row.get("run") or 1)), []).append(row)
    fits = run.record.runs if run.record else ()
    kept = {(fit.tile or 0, fit.run): fit.kept for fit in fits}
    several = len({number for _, number in rows}) > 1
    return [
        _Fit(" ".join([f"tile {tile}"] * bool(tile) + [f"run {number}"] * several), own_rows, kept.get((tile, number)))
        for (tile, number), own_rows in rows.items()
    ]


def _select_points(rows: list[LogRow], column: str) -> tuple[tuple[float, float], ...]:
    pairs = [(row["iteration"], row.get(column)) for row in rows]
    points = [(x, y) for x, y in pairs if x is not None and y is not None]
    return tuple(points[index] for index in space_evenly(len(points), MAX_POINTS))
