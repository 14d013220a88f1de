"""Drawing the curves of a run: into the page in its own colours, and for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dipcli import files
from dipcli.errors import DipError, UsageError
from dipcli.report.charts import Chart, charts
from dipcli.report.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES = (5.0, 2.9)  # of one chart: in a page a point of its text is about a pixel on a telephone
DPI = 200
WIDE = 20  # times the smallest value: from there on the scale is logarithmic
KINDS = (".png", ".pdf", ".svg")
DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
# Okabe and Ito's, told apart by the colour-blind too; in a page others stand in their place when it is dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
PAPER = {"ink": "#222222", "faint": "#8c8c8c", "grid": "#e4e4e4"} | {f"line{k}": each for k, each in enumerate(COLOURS)}
MARKERS = {name: f"#0102{k:02x}" for k, name in enumerate(PAPER)}


def inline(chart: Chart) -> str:
    """A chart as SVG within a page, in the page's own colours and type."""
    with styled():
        figure = _figure([chart], MARKERS)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--type)", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
    for name, marker in MARKERS.items():
        text = text.replace(marker, f"var(--{name})")
    return text


def draw(story: RunFolder, path: Path) -> None:
    """Write the curves of a run as a figure for a paper, one chart beneath the other.

    Raises:
        DipError: when there are none, or it cannot be written.
    """
    found = charts(story)
    if not found:
        raise DipError(f"There are no curves of {story.folder} yet: its log has fewer than two rows.")
    with styled():
        save(_figure(found, PAPER), path, "--curves")


def save(figure: Figure, path: Path, option: str, dpi: float = DPI) -> None:
    """Write a figure, in the place of an earlier one of ours but of nothing else.

    Args:
        figure: what.
        path: where; its suffix names the format.
        option: that named it, for sentences.
        dpi: dots an inch, where it is made of dots.

    Raises:
        DipError: when it cannot be written there.
    """
    check_figure(path, option)
    stamp: Mapping[str, Mapping[str, Any]] = {
        ".png": {"Software": "dipcli"},
        ".pdf": {"Creator": "dipcli", "Producer": None, "CreationDate": None},
        ".svg": {"Creator": "dipcli", "Date": None},
    }
    kind = path.suffix.lower()
    file = io.BytesIO()
    figure.savefig(file, format=kind[1:], dpi=dpi, metadata=dict(stamp[kind]))
    files.write(path, file.getvalue())


def check_figure(path: Path, option: str) -> None:
    """Find out whether a figure can be written there.

    Raises:
        UsageError: when the name is not one of a figure, or the file that is there is not ours.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"{option} {path} is no name of a figure: use one of {' '.join(KINDS)}.")
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder: name a file in it.")
    if path.exists() and b"dipcli" not in path.read_bytes():
        raise UsageError(f"{option} {path} is there already and was not made by dip report: choose another name.")


def styled() -> Any:
    """Matplotlib as it is delivered, inside of a `with`."""
    from matplotlib import style  # noqa: PLC0415 - half a second

    # The user's own style stays out of it; ids in an SVG are made from the salt, so that same numbers are same bytes.
    return style.context(["default", {"svg.hashsalt": "dipcli", "svg.fonttype": "none", "font.size": 9}])


def _figure(found: Sequence[Chart], colours: Mapping[str, str]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

    paper = colours is PAPER
    figure = Figure(figsize=(INCHES[0], INCHES[1] * len(found)), layout="constrained" if paper else None)
    if not paper:  # finding the margins would take as long as drawing
        figure.subplots_adjust(left=0.14, right=0.985, bottom=0.16, top=0.91)
    for number, chart in enumerate(found, start=1):
        axes = figure.add_subplot(len(found), 1, number)
        _drawn(chart, axes, colours)
        if paper:
            axes.set_ylabel(chart.unit, color=colours["faint"])
            axes.set_title(chart.title, loc="left", fontsize="medium", color=colours["ink"])
    return figure


def _drawn(chart: Chart, axes: Axes, colours: Mapping[str, str]) -> None:
    """Curves, and a mark at each iteration that was kept."""
    values = [value for curve in chart.curves for _, value in curve.points]
    axes.set_xlabel("iteration", color=colours["faint"])
    if chart.falling and min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(colours["grid"])
    axes.tick_params(which="both", color=colours["grid"], labelcolor=colours["faint"])
    axes.grid(color=colours["grid"], linewidth=0.7)
    axes.set_axisbelow(True)
    few = len([each for each in chart.curves if each.kept]) == 1
    for curve in sorted(chart.curves, key=lambda each: not each.pale):  # what accompanies lies beneath
        colour = colours[f"line{curve.colour}"]
        look: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.45} if curve.pale else {"linewidth": 1.6}
        x, y = zip(*curve.points, strict=True)
        axes.plot(x, y, color=colour, linestyle=DASHES[curve.dashes], label=curve.label or None, **look)
        if curve.kept is not None:
            axes.plot([curve.kept], [np.interp(curve.kept, x, y)], "o", color=colour, markersize=4.5)
            if few:
                axes.axvline(curve.kept, color=colours["faint"], linewidth=0.7, linestyle=(0, (3, 3)))
                axes.annotate(
                    f"kept {curve.kept}",
                    (curve.kept, 1),
                    (0, 2),
                    xycoords=axes.get_xaxis_transform(),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    color=colours["faint"],
                )
    if any(each.label for each in chart.curves):
        lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        named = [each.label for each in chart.curves if each.label]
        axes.legend([lines[each] for each in named], named, frameon=False, labelcolor=colours["ink"], loc="best")
