"""The estimate of memory and time before a fit, and whether the image is fitted whole or in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dipcli import networks
from dipcli.errors import DipError, UsageError
from dipcli.fitting.cost import MAX_ELEMENTS, Cost
from dipcli.fitting.machine import memory
from dipcli.fitting.tiles import tiling
from dipcli.problem import Problem
from dipcli.settings import Settings
from dipcli.stopping.step import Place
from dipcli.text import format_duration

GIB = 2**30


@dataclass(frozen=True)
class ResourceEstimate:
    """The estimated memory and time of a fit.

    Attributes:
        whole: peak bytes if the whole image is fitted at once.
        limit: bytes that the fit may use; None if not limited.
        memory: peak bytes of the fit as planned.
        seconds_per_iteration: seconds of an iteration, in tiles of one iteration of each; None if not measured.
        places: the positions of the tiles; empty if the whole image is fitted.
    """

    whole: int
    limit: int | None
    memory: int
    seconds_per_iteration: float | None = None
    places: tuple[Place, ...] = ()

    def describe(self, iterations: int, budget: float | None = None) -> str:
        """Describe the estimate for a number of iterations and a time budget in seconds."""
        words = f"about {self.memory / GIB:.1f} GiB"
        if self.seconds_per_iteration is not None:
            seconds = min(self.seconds_per_iteration * iterations, budget or math.inf)
            words += f" and {format_duration(seconds)} on this machine"
        if not self.places:
            return words
        height, width = tiling.measure_size(self.places[0])
        words += f"; fitted in {len(self.places)} tiles of {width}x{height}"
        return f"{words} to stay below {self.limit / GIB:.1f} GiB" if self.limit and self.whole > self.limit else words


def estimate_resources(
    problem: Problem, settings: Settings, cost: Cost, other_bytes: int, places: tuple[Place, ...] | None = None
) -> ResourceEstimate:
    """Estimate memory and time, and choose between the whole image and tiles.

    Args:
        problem: the whole measurement.
        settings: of the fit, with device and precision resolved.
        cost: of fits with these settings.
        other_bytes: bytes of the images in memory at the same time.
        places: the positions of the tiles, empty for the whole image; None to choose.

    Raises:
        DipError: if the fit needs more memory than it may use, whole and in tiles.
    """
    channels, height, width = problem.shape
    values, limit = channels * height * width, memory.read_limit(settings)
    whole = cost.total_memory((height, width), values, other_bytes)
    if places is None:
        places = _choose_tiles(problem, settings, cost, other_bytes, whole, limit)
    if not places:
        return ResourceEstimate(whole, limit, whole, cost.seconds(height, width))
    tile_size = tiling.measure_size(places[0])
    seconds = cost.seconds(*tile_size)
    if seconds is not None:
        seconds *= sum(tiling.has_unknown(problem.window(place.rows, place.columns)) for place in places)
    tile_memory = cost.total_memory(tile_size, values, other_bytes, tiled=True)
    return ResourceEstimate(whole, limit, tile_memory, seconds, places)


def halve_tiles(size: tuple[int, int], problem: Problem, settings: Settings) -> list[Place]:
    """Lay out tiles of at most half the pixels of (H, W)."""
    max_pixels = size[0] * size[1] / 2
    return _lay_out(problem, size, settings, lambda height, width: height * width <= max_pixels)


def _choose_tiles(
    problem: Problem, settings: Settings, cost: Cost, other_bytes: int, whole: int, limit: int | None
) -> tuple[Place, ...]:
    """Return the positions of the tiles; none if the whole image fits and no smaller --tile is set.

    Raises:
        DipError: if the fit needs more memory than it may use, whole and in tiles.
    """
    channels, height, width = problem.shape
    max_side = settings.tile_side()
    countable = cost.can_index(height, width)
    fits = countable and (settings.tile == "none" or limit is None or whole <= limit)
    if fits and (max_side is None or max_side >= max(height, width)):
        return ()
    if not problem.tileable and fits:
        raise UsageError("--tile cannot be used here: this measurement cannot be cut into tiles. Omit the option.")
    available = "no limit is known" if limit is None else f"{limit / GIB:.1f} GiB may be used (--max-memory)"
    lacking = f"The whole image takes about {whole / GIB:.1f} GiB, {available}"
    if not countable and (settings.tile == "none" or not problem.tileable):
        raise DipError(
            f"The image is too large to be fitted whole, with tensors of more than {MAX_ELEMENTS} elements: "
            "omit --tile none, use a narrower --network or a smaller image."
        )
    if not problem.tileable:
        raise DipError(
            f"{lacking}, and this measurement cannot be cut into tiles: "
            "try --preset fast, more --max-memory, or --tile none to fit it nevertheless."
        )

    def is_small_enough(tile_height: int, tile_width: int) -> bool:
        if max_side is not None and max(tile_height, tile_width) > max_side:
            return False
        if not cost.can_index(tile_height, tile_width):
            return False
        values = channels * height * width
        return limit is None or cost.total_memory((tile_height, tile_width), values, other_bytes, tiled=True) <= limit

    places = _lay_out(problem, (height, width), settings, is_small_enough)
    if not places:
        refused = "even the smallest tiles take too much" if max_side is None else f"tiles of {max_side} do not fit"
        raise DipError(
            f"{lacking}, and {refused}: try --preset fast, a narrower --network, more --max-memory, or another --tile."
        )
    tiling.check_known_pixels(problem, places)
    return tuple(places)


def _lay_out(
    problem: Problem, size: tuple[int, int], settings: Settings, is_small_enough: Callable[[int, int], bool]
) -> list[Place]:
    """Lay out tiles with sides that suit the network, and with enough overlap for the reach of the operator."""
    stride = networks.architecture(settings.network).stride
    return tiling.layout(size, stride, is_small_enough, max(tiling.MIN_OVERLAP, 2 * problem.reach))
