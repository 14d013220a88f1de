"""The curves of a run: which there are, and what is marked on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dipcli.report.embedding import evenly
from dipcli.report.run_folder import Numbers, RunFolder
from dipcli.stopping import rules

POINTS = 1500  # of a curve: more cannot be seen
TOLD_APART = 5  # curves, by colour and dashes; more are drawn alike


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: what it is; empty for one that needs no word.
        points: iteration and value.
        colour: by its place in the palette.
        dashes: by their place among `DASHES`.
        pale: whether it only accompanies another.
        kept: the iteration whose average was kept.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    colour: int = 0
    dashes: int = 0
    pale: bool = False
    kept: int | None = None


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes.

    Attributes:
        title: what they show.
        unit: of the values.
        curves: those that have points.
        falling: whether they are best at their lowest.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    falling: bool = True

    @property
    def told(self) -> str:
        """What can be seen in it, in words."""
        words = []
        for each in (each for each in self.curves if not each.pale):
            (begin, first), (end, last) = each.points[0], each.points[-1]
            kept = f", kept {each.kept}" if each.kept else ""
            words.append(
                f"{each.label or self.title}: {first:.4g} at iteration {begin:.0f}, {last:.4g} at {end:.0f}{kept}"
            )
        return "; ".join(words)


def charts(story: RunFolder) -> list[Chart]:
    """The charts of a run: loss, PSNR, the rule's signal, as far as the log has them."""
    groups = _grouped(story)
    rule = rules().get(str(story.account.get("rule", "")).removeprefix("rule ").partition(":")[0])
    several = len(groups) > 1

    def of(*columns: tuple[str, str, bool]) -> tuple[Curve, ...]:
        chosen = [each for each in columns if not each[2]][:1] if several else columns
        drawn = []
        for number, (name, kept, rows) in enumerate(groups):
            alike = len(groups) > TOLD_APART
            for place, (column, label, pale) in enumerate(chosen):
                points = _points(rows, column)
                if not points:
                    continue
                colour = 0 if alike else number if several else place // 2
                word = ("" if alike else name) if several else label
                dashes = colour if several else 0
                drawn.append(Curve(word, points, colour, dashes, pale or alike, None if pale else kept))
        return tuple(drawn)

    found = [
        Chart("Loss", "", of(("loss", "", False))),
        Chart(
            "PSNR to the true picture",
            "dB",
            of(("psnr_ref_smoothed", "running average", False), ("psnr_ref", "the network's output", True)),
            falling=False,
        ),
        Chart(
            "PSNR to what was measured",
            "dB",
            of(("psnr_noisy_smoothed", "running average", False), ("psnr_noisy", "the network's output", True)),
            falling=False,
        ),
        Chart("What the rule goes by", rule.criterion_label if rule else "", of(("signal", "", False))),
    ]
    return [each for each in found if any(len(curve.points) > 1 for curve in each.curves)]


def _grouped(story: RunFolder) -> list[tuple[str, int | None, list[Numbers]]]:
    """The rows of each fit, with its name among the others and the iteration that was kept."""
    rows: dict[tuple[int, int], list[Numbers]] = {}
    for each in story.rows:
        rows.setdefault((int(each.get("tile") or 0), int(each.get("run") or 1)), []).append(each)
    kept = {
        (each.get("tile") or 0, each.get("run", number)): each.get("kept")
        for number, each in enumerate(story.account.get("runs") or [], start=1)
    }
    many = len({run for _, run in rows}) > 1
    return [
        (" ".join([*([f"tile {tile}"] if tile else []), *([f"run {run}"] if many else [])]), kept.get((tile, run)), own)
        for (tile, run), own in rows.items()
    ]


def _points(rows: Iterable[Numbers], column: str) -> tuple[tuple[float, float], ...]:
    pairs = [(row["iteration"], row.get(column)) for row in rows]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return tuple(known[each] for each in evenly(len(known), POINTS))
