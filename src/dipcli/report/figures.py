"""Drawing charts as SVG within the page, in its colours, and figures for a paper: curves, and a sheet of snapshots."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.report.charts import Chart, build_charts
from dipcli.report.embedding import to_samples
from dipcli.report.gallery import ImageFiles, label_snapshots
from dipcli.report.run_folder import read_run_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHART_INCHES = (5.0, 2.9)  # on a phone a point of its text is then about a pixel
DPI = 200
MIN_LOG_RATIO = 20  # largest to smallest value from which on the scale is logarithmic
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
# The palette of Okabe and Ito, which colour-blind readers can tell apart; the page has its own for dark mode.
CURVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
PAPER_COLOURS = {"ink": "#222222", "faint": "#8c8c8c", "grid": "#e4e4e4"} | {
    f"line{number}": colour for number, colour in enumerate(CURVE_COLOURS)
}
PLACEHOLDERS = {name: f"#0102{number:02x}" for number, name in enumerate(PAPER_COLOURS)}  # for CSS variables
METADATA: Mapping[str, Mapping[str, Any]] = {
    ".png": {"Software": "dipcli"},
    ".pdf": {"Creator": "dipcli", "Producer": None, "CreationDate": None},
    ".svg": {"Creator": "dipcli", "Date": None},
}
SHEET_COLUMNS = 6
COLUMN_INCHES, CAPTION_INCHES = 2.0, 0.36
DPI_LIMITS = (100.0, 600.0)  # of a sheet: a dot for each pixel of an image, within these


def draw_svg(chart: Chart) -> str:
    """Draw a chart as an SVG element that takes colours and font from the page."""
    with _use_default_style():
        file = io.StringIO()
        _draw_charts([chart], PLACEHOLDERS).savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    start = svg.index("<svg")
    end = svg.index(">", start)
    head = re.sub(r' (width|height)="[^"]*"', "", svg[start:end])
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[end:], flags=re.DOTALL)  # a style would hold for the page
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--type)", body)
    for name, placeholder in PLACEHOLDERS.items():
        body = body.replace(placeholder, f"var(--{name})")
    return head + body


def write_curves(folder: Path, path: Path) -> Path:
    """Write the charts of a run as a figure for a paper, one below the other; return its path.

    Raises:
        DipError: if there are none, the run cannot be read, or the file cannot be written.
    """
    charts = build_charts(read_run_folder(folder))
    if not charts:
        raise DipError(f"{folder} has no curves yet: its log has fewer than two rows.")
    with _use_default_style():
        return _save(_draw_charts(charts, PAPER_COLOURS), path, DPI)


def write_contact_sheet(folder: Path, path: Path) -> Path:
    """Write the snapshots of a run with iteration and PSNR above each, as a figure for a paper; return its path.

    Raises:
        DipError: if there are none, the run cannot be read, or the file cannot be written.
    """
    run = read_run_folder(folder)
    labelled = [*label_snapshots(run, ImageFiles(run))]
    if not labelled:
        raise DipError(f"{folder} has no snapshots: restore with --snapshot-every or --snapshot-at.")
    pixels = [to_samples(images.read(snapshot.path)[0].with_span(None)) for snapshot, _, _ in labelled]
    columns = min(SHEET_COLUMNS, len(labelled))
    rows = math.ceil(len(labelled) / columns)
    height = COLUMN_INCHES * max(image.shape[0] / image.shape[1] for image in pixels)
    with _use_default_style():
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

        figure = Figure((columns * COLUMN_INCHES, rows * (height + CAPTION_INCHES)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (_, name, psnr), image in zip(grid.flat, labelled, pixels, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
            axes.set_title(f"{name.replace('iteration ', '')}   {psnr}".rstrip(), loc="left", fontsize=9)
        dots_per_inch = max(image.shape[1] for image in pixels) / COLUMN_INCHES
        return _save(figure, path, min(max(dots_per_inch, DPI_LIMITS[0]), DPI_LIMITS[1]))


def check_figure_path(path: Path, option: str) -> None:
    """Check that a figure can be written.

    Raises:
        UsageError: if the suffix is unsupported, or the file exists and dipcli did not make it.
    """
    if path.suffix.lower() not in METADATA:
        raise UsageError(f"{option} {path}: unsupported format; use one of {' '.join(METADATA)}.")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: name a file in it.")
    if path.exists() and b"dipcli" not in path.read_bytes():
        raise UsageError(f"{option} {path} exists and was not made by dip report: choose another name.")


def _save(figure: Figure, path: Path, dpi: float) -> Path:
    suffix = path.suffix.lower()
    file = io.BytesIO()
    figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=dict(METADATA[suffix]))
    files.write(path, file.getvalue())
    return path


def _use_default_style() -> Any:
    """Return a context with Matplotlib's default style, not the user's, and reproducible SVG."""
    from matplotlib import style  # noqa: PLC0415 - half a second

    return style.context(["default", {"svg.hashsalt": "dipcli", "svg.fonttype": "none", "font.size": 9}])


def _draw_charts(charts: Sequence[Chart], colours: Mapping[str, str]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

    is_paper = colours is PAPER_COLOURS
    size = (CHART_INCHES[0], CHART_INCHES[1] * len(charts))
    figure = Figure(figsize=size, layout="constrained" if is_paper else None)
    if not is_paper:  # fixed margins: a layout takes as long as drawing
        figure.subplots_adjust(left=0.14, right=0.985, bottom=0.16, top=0.91)
    for number, chart in enumerate(charts, start=1):
        axes = figure.add_subplot(len(charts), 1, number)
        _draw_chart(chart, axes, colours)
        if is_paper:
            axes.set_ylabel(chart.unit, color=colours["faint"])
            axes.set_title(chart.title, loc="left", fontsize="medium", color=colours["ink"])
    return figure


def _draw_chart(chart: Chart, axes: Axes, colours: Mapping[str, str]) -> None:
    """Draw the curves, and a mark at each iteration that was kept."""
    values = [value for curve in chart.curves for _, value in curve.points]
    faint = colours["faint"]
    axes.set_xlabel("iteration", color=faint)
    if chart.unit != "dB" and min(values) > 0 and max(values) > MIN_LOG_RATIO * min(values):
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours["grid"])
    axes.tick_params(which="both", color=colours["grid"], labelcolor=faint)
    axes.grid(color=colours["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    for curve in chart.curves:
        colour, (x, y) = colours[f"line{curve.style}"], zip(*curve.points, strict=True)
        look: dict[str, Any] = {"linewidth": 1.6}
        if curve.is_faint:
            look = {"linewidth": 0.8, "alpha": 0.45, "zorder": 1.9}
        axes.plot(x, y, color=colour, linestyle=DASHES[curve.style], label=curve.label or None, **look)
        if curve.kept is not None:
            axes.plot([curve.kept], [np.interp(curve.kept, x, y)], "o", color=colour, markersize=4.5)
    kept = [curve.kept for curve in chart.curves if curve.kept]
    if len(kept) == 1:
        place = axes.get_xaxis_transform()
        axes.axvline(kept[0], color=faint, linewidth=0.7, linestyle=(0, (3, 3)))
        axes.text(kept[0], 1.02, f"kept {kept[0]}", transform=place, ha="center", color=faint)
    if any(curve.label for curve in chart.curves):
        axes.legend(frameon=False, labelcolor=colours["ink"], loc="best")
