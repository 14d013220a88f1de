"""Learning curves: how fast a network fits an image, the image with noise, its shuffled pixels, and noise."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

SIZE_INCHES = (8.0, 4.5)
DPI = 200  # sharp on high-resolution screens
LABEL_GAP = 0.06  # of the chart's height
BIN_DECADES = 0.05  # width of the bins whose medians are drawn: dashes would be lost in single iterations' jitter


class Target(NamedTuple):
    """One of the images that are fitted at the same time: its column, its label, and the look of its curve.

    The colours are from the palette of Okabe and Ito, which the colour-blind can distinguish; dashes differ in grey.
    """

    name: str
    label: str
    colour: str
    dashes: str


TARGETS = (
    Target("picture", "image", "#0072B2", "-"),
    Target("picture_noise", "image + noise", "#D55E00", "--"),
    Target("shuffled", "shuffled pixels", "#009E73", "-."),
    Target("noise", "uniform noise", "#000000", ":"),
)


class Curves:
    """Record the error of each target and draw it: an observer.

        e_k = mean( (x_k - y_k)^2 ),    x_k the output of the k-th network, not its running average

    No value is read while the fit runs, so that a GPU does not have to wait.

    Args:
        targets: y, those of `TARGETS` along the channels, shape (4C, H, W), values 0..1.
        error: mean squared error at which a target counts as fitted, above 0.
    """

    def __init__(self, targets: Tensor, error: float) -> None:
        self.targets, self.error = targets, error
        self.iterations: list[int] = []
        self.seen: list[Tensor] = []

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - every iteration counts
        """Record the errors of this iteration."""
        self.targets = self.targets.to(step.image.device)
        squares = (step.image - self.targets) ** 2
        self.seen.append(squares.reshape(len(TARGETS), -1).mean(dim=1))
        self.iterations.append(step.number)

    def remember(self) -> dict[str, list[Any]]:
        """Return the state for a checkpoint."""
        return {"iterations": list(self.iterations), "seen": list(self.seen)}

    def recall(self, seen: dict[str, list[Any]]) -> None:
        """Continue from the state of a checkpoint."""
        self.iterations, self.seen = seen["iterations"], seen["seen"]

    def errors(self) -> NDArray[np.float32]:
        """Return the mean squared errors so far, shape (iterations, targets)."""
        errors: NDArray[np.float32] = torch.stack(self.seen).cpu().numpy()
        return errors

    def find_fitted(self) -> dict[str, int | None]:
        """Return the iteration at which each target first reached the error, by label; None if it never did."""
        below = self.errors() <= self.error
        first = [self.iterations[column.argmax()] if column.any() else None for column in below.T]
        return dict(zip([target.label for target in TARGETS], first, strict=True))

    def conclude(self) -> str:
        """Return a sentence on when each target reached the error."""
        reached = self.find_fitted()
        fitted = [(label, number) for label, number in reached.items() if number is not None]
        *others, last_label = [label for label, number in reached.items() if number is None] or [""]
        error, last = f"a mean squared error of {self.error:g}", self.iterations[-1]
        if not fitted:
            return f"None of the four reached {error} by iteration {last}."
        (label, number), *later = sorted(fitted, key=lambda pair: pair[1])
        parts = [
            f"The {label} reached {error} at iteration {number}",
            *(f"{label} at {number}" for label, number in later),
        ]
        never = " and ".join(filter(None, [", ".join(others), last_label]))
        return ", ".join(parts) + (f"; {never} had not by iteration {last}." if never else ".")

    def render(self) -> dict[str, bytes]:
        """Return the chart as PNG and SVG and the numbers as CSV, by suffix. Same numbers, same bytes."""
        from matplotlib import style  # noqa: PLC0415 - half a second

        # Independent of the user's own style. The salt replaces the random identifiers in an SVG.
        with style.context(["default", {"svg.hashsalt": "dipcli", "svg.fonttype": "path"}]):
            figure, png, svg = self.draw(), io.BytesIO(), io.BytesIO()
            figure.savefig(png, format="png", metadata={"Software": None})
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            return {".png": png.getvalue(), ".svg": svg.getvalue(), ".csv": self.to_csv().encode()}

    def to_csv(self) -> str:
        """Return the numbers as CSV: the iteration, and the error of each target to six significant digits."""
        rows = [["iteration", *(target.name for target in TARGETS)]]
        rows += [
            [str(number), *(f"{value:.6g}" for value in errors)]
            for number, errors in zip(self.iterations, self.errors(), strict=True)
        ]
        return "".join(f"{','.join(row)}\n" for row in rows)

    def draw(self) -> Figure:
        """Draw the errors over the iterations, on a logarithmic scale as in the published figure.

        The pale line is every iteration, the strong one the median of neighbouring iterations.
        """
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

        errors = np.where(np.isfinite(self.errors()), self.errors(), np.nan).astype(np.float64)
        top = 1.05 * float(np.nan_to_num(errors).max(initial=self.error))
        figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        axes.set(
            title="How fast the network fits each target",
            xlabel="iteration",
            ylabel="mean squared error",
            xscale="log",
            xlim=(1, max(10, self.iterations[-1])),
            ylim=(0, top),
        )
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter("")
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(self.error, color="#8c8c8c", linewidth=0.8)
        annotation: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate(f"{self.error:g}", (0, self.error), (4, 3), color="#6c6c6c", fontsize="small", **annotation)
        numbers, medians = _medians(np.array(self.iterations), errors)
        heights = _spread(np.nan_to_num(medians[-1]).tolist(), LABEL_GAP * top)
        for target, error, median, height in zip(TARGETS, errors.T, medians.T, heights, strict=True):
            colour = target.colour
            axes.plot(self.iterations, error, color=colour, linewidth=0.6, alpha=0.4)
            axes.plot(numbers, median, color=colour, linewidth=1.8, linestyle=target.dashes)
            axes.annotate(target.label, (1, height), (6, 0), color=colour, verticalalignment="center", **annotation)
        return figure


def _medians(
    iterations: NDArray[np.int_], errors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the median iteration and errors of each bin of the logarithmic scale."""
    bins = np.log10(iterations) // BIN_DECADES
    members = [bins == number for number in np.unique(bins)]
    return (
        np.array([np.median(iterations[member]) for member in members]),
        np.array([np.median(errors[member], axis=0) for member in members]),
    )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move the heights of labels up, in their order, until neighbours are at least the gap apart."""
    moved = list(heights)
    lowest = -np.inf
    for index in np.argsort(heights, kind="stable"):
        moved[index] = lowest = max(heights[index], lowest + gap)
    return moved
