"""What a fit will take, estimated before it, and whether it is to be of the whole picture or of tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dipcli import networks
from dipcli import text as specs
from dipcli.errors import DipError, UsageError
from dipcli.fitting import memory
from dipcli.fitting import tiling as tiles
from dipcli.fitting.memory import Cost
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping.step import Place

GIB = 2**30


@dataclass(frozen=True)
class ResourceEstimate:
    """What a fit will take, as it was estimated before it.

    Attributes:
        whole: bytes, were the picture fitted whole.
        most: bytes that it may take; None for no end.
        memory: bytes, as it will be fitted.
        pace: seconds an iteration takes, in tiles one of each; None where it was not measured.
        places: of the tiles; none where the picture is fitted whole.
    """

    whole: int
    limit: int | None
    memory: int
    seconds_per_iteration: float | None = None
    places: tuple[Place, ...] = ()

    def describe(self, iterations: int, budget: float | None = None) -> str:
        """The same in words, for so many iterations, within so many seconds."""
        words = f"about {self.memory / GIB:.1f} GiB"
        if self.seconds_per_iteration is not None:
            seconds = min(self.seconds_per_iteration * iterations, budget or math.inf)
            words += f" and {specs.format_duration(seconds)} on this machine"
        if not self.places:
            return words
        rows, columns, *_ = self.places[0]
        words += f"; fitted in {len(self.places)} tiles of {columns.stop - columns.start}x{rows.stop - rows.start}"
        return f"{words} to stay below {self.limit / GIB:.1f} GiB" if self.limit and self.whole > self.limit else words


def estimate_resources(
    problem: Problem, settings: Settings, cost: Cost, beside: int, places: tuple[Place, ...] | None = None
) -> ResourceEstimate:
    """What it will take, whole or in the given tiles, or as is best.

    Raises:
        DipError: when there is no way that fits.
    """
    channels, height, width = problem.shape
    values, most = channels * height * width, memory.limit(settings)
    whole = cost.total((height, width), values, beside)
    if places is None:
        places = _places(problem, settings, cost, beside, whole)
    if not places:
        return ResourceEstimate(whole, most, whole, cost.seconds(height, width))
    rows, columns, *_ = places[0]
    tile = rows.stop - rows.start, columns.stop - columns.start
    pace = cost.seconds(*tile)
    told = None if pace is None else pace * sum(tiles.has_unknown(problem.window(*each[:2])) for each in places)
    return ResourceEstimate(whole, most, cost.total(tile, values, beside, tiled=True), told, places)


def _places(problem: Problem, settings: Settings, cost: Cost, beside: int, whole: int) -> tuple[Place, ...]:
    """None for the whole, where that fits and nothing else is wanted, else of the tiles.

    Raises:
        DipError: when there is no way that fits.
    """
    channels, *_ = shape = problem.shape
    size = shape[1], shape[2]
    most, wanted = memory.limit(settings), settings.tile_side()
    fits = settings.tile == "none" or most is None or whole <= most
    if fits and (wanted is None or wanted >= max(size)):
        return ()
    if not problem.tileable and fits:
        raise UsageError("--tile is of no use here: such a measurement cannot be cut into tiles. Leave it out.")
    if not problem.tileable:
        raise DipError(
            f"{_lacking(whole, most)}, and such a measurement cannot be cut into tiles: "
            "try --preset fast, more --max-memory, or --tile none to fit it all the same."
        )

    def suits(height: int, width: int) -> bool:
        small = wanted is None or max(height, width) <= wanted
        values = channels * size[0] * size[1]
        return small and (most is None or cost.total((height, width), values, beside, tiled=True) <= most)

    places = _laid(problem, size, settings, suits)
    if not places:
        refused = "even the smallest tiles take too much" if wanted is None else f"tiles of {wanted} will not do"
        raise DipError(
            f"{_lacking(whole, most)}, and {refused}: "
            "try --preset fast, a narrower --network, more --max-memory, or another --tile."
        )
    tiles.check(problem, places)
    return tuple(places)


def _lacking(whole: int, most: int | None) -> str:
    """How it stands with memory, to begin a sentence."""
    there = "no limit is known" if most is None else f"{most / GIB:.1f} GiB may be used (--max-memory)"
    return f"The whole picture takes about {whole / GIB:.1f} GiB, {there}"


def halve_tiles(size: tuple[int, int], problem: Problem, settings: Settings) -> list[Place]:
    """Tiles of at most half the pixels."""
    most = size[0] * size[1] / 2
    return _laid(problem, size, settings, lambda high, wide: high * wide <= most)


def _laid(
    problem: Problem, size: tuple[int, int], settings: Settings, suits: Callable[[int, int], bool]
) -> list[Place]:
    """Tiles as the network likes them, and so that all that was measured is seen by one, well within it."""
    stride = networks.architecture(settings.network).stride
    return tiles.layout(size, stride, suits, max(tiles.MIN_OVERLAP, 2 * problem.reach))
