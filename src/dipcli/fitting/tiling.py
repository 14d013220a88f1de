"""Where the overlapping tiles of a large picture lie, and how what they show is blended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.errors import DipError
from dipcli.problem import Problem
from dipcli.settings.settings import MIN_TILE_SIDE
from dipcli.stopping.step import Place

MAX_TILES_PER_SIDE = 64  # tiles along a side
# Of two neighbours, in pixels: so much of a tile's side, within these. What it costs is measured in
# docs/performance.md, and what a network does not know at a tile's border.
OVERLAP, MIN_OVERLAP, MAX_OVERLAP = 1 / 16, 32, 128
MAX_TILING_OVERHEAD = 1.2  # times the whole's pixels are too many for all tiles together
MAX_ASPECT_RATIO = 2  # times its width a tile is a strip
MARGIN = 1 / 4  # of an overlap at either end of it, where the tile that ends there does not count: it sees least there
MIN_KNOWN_PIXELS = 16  # pixels that count, below which a tile has too little to go by
HOLE = 1 / 2  # of a tile's side: what is in a larger hole the tile cannot tell from what surrounds it
CELL = 16  # pixels: how finely holes are looked for


TileLayout: TypeAlias = Callable[[tuple[int, int]], list[Place]]


def layout(
    size: tuple[int, int], stride: int, fits: Callable[[int, int], bool], least: int = MIN_OVERLAP
) -> list[Place]:
    """The fewest tiles in which a picture can be fitted, row by row; all of one size, evenly laid.

    Of as many tiles those that make the least work. Strips, which see little to either side, and more than `DEAR`
    times the work of the whole there are only where there is no other way.

    Args:
        size: (H, W) of the picture, in pixels.
        stride: sides are multiples of this, where a tile is not as long as the picture.
        fits: whether a tile of this height and width is small enough.
        least: pixels by which neighbours overlap at least.

    Returns:
        One that is the whole picture where that fits; none where not even the smallest tiles do.
    """
    sides = [
        [(count, side) for count in range(1, MAX_TILES_PER_SIDE + 1) if (side := _side(length, count, stride, least))]
        for length in size
    ]
    most = MAX_TILING_OVERHEAD * size[0] * size[1]

    def dislike(rows: int, high: int, columns: int, wide: int) -> tuple[bool, bool, int, int]:
        narrow = min((high, size[0]), (wide, size[1]))
        strips = max(high, wide) > MAX_ASPECT_RATIO * narrow[0] and narrow[0] < narrow[1]
        work = rows * columns * high * wide
        return work > most, strips, rows * columns, work

    possible = [
        (rows, high, columns, wide) for rows, high in sides[0] for columns, wide in sides[1] if fits(high, wide)
    ]
    if not possible:
        return []
    rows, high, columns, wide = min(possible, key=lambda each: dislike(*each))
    across = list(_lines(size[1], columns, wide))
    return [Place(down, right, one, other) for down, one in _lines(size[0], rows, high) for right, other in across]


def _side(length: int, count: int, stride: int, least: int) -> int | None:
    """The least of so many tiles along a line; None where there is none, or where fewer of them would do."""
    if count == 1:
        return length

    def covered(many: int, side: int) -> int:
        return many * side - (many - 1) * max(least, min(round(OVERLAP * side), MAX_OVERLAP))

    side = stride * math.ceil(max(MIN_TILE_SIDE, 2 * least, length / count) / stride)
    while covered(count, side) < length:
        side += stride
    return side if side < length and covered(count - 1, side) < length else None


def _lines(length: int, count: int, side: int) -> Iterator[tuple[slice, Tensor]]:
    """So many tiles along a line, and how much each pixel of them counts."""
    begins = [round(number * (length - side) / max(1, count - 1)) for number in range(count)]
    parts = [slice(begin, begin + side) for begin in begins]
    total = torch.zeros(length, dtype=torch.float64)
    ramps = []
    for number, part in enumerate(parts):
        before = parts[number - 1].stop - part.start if number else 0
        after = part.stop - parts[number + 1].start if number + 1 < count else 0
        ramp = _ramp(side, before) * _ramp(side, after).flip(0)
        total[part] += ramp
        ramps.append(ramp)
    for part, ramp in zip(parts, ramps, strict=True):
        yield part, (ramp / total[part]).float()


def _ramp(side: int, rising: int) -> Tensor:
    """From 0 to 1 over so many pixels, as a squared sine, and 1 from there; nought at first and one before the end."""
    margin = MARGIN * rising
    along = (torch.arange(side, dtype=torch.float64) + 0.5 - margin) / max(rising - 2 * margin, 1e-9)
    return torch.sin(along.clamp(0, 1) * (math.pi / 2)) ** 2


def blend(shape: tuple[int, ...], patches: Iterable[tuple[Place, Tensor]]) -> Tensor:
    """One picture, shape (C, H, W), of the pictures of all tiles.

    Args:
        shape: (C, H, W).
        patches: where each tile lies, and its picture, shape (C, h, w).
    """
    picture = torch.zeros(shape)
    for place, image in patches:
        whole = picture[:, place.rows, place.columns]
        for channel, added in zip(whole, image, strict=True):  # one at a time: less memory
            channel.addcmul_(place.weights, added)
    return picture


def check(problem: Problem, places: list[Place]) -> None:
    """Find now that a tile would have too little to go by, or that a hole is too large for tiles.

    Raises:
        DipError: when there is one.
    """
    if problem.weight is None:
        return
    for place in places:
        part = problem.window(place.rows, place.columns)
        height, width = part.shape[1:]
        counting = (part.weight > 0).any(dim=0) if part.weight is not None else torch.ones(1)
        if counting.sum() < MIN_KNOWN_PIXELS or _largest_hole(counting) > HOLE * min(counting.shape):
            raise DipError(
                f"A hole in the picture is too large for tiles of {width}x{height}: give more --max-memory, "
                "a larger --tile, or fit the whole picture with --tile none."
            )


def _largest_hole(counting: Tensor) -> int:
    """About the side of the largest square, in pixels, in which nothing counts; a hole at the border goes on there."""
    from scipy.ndimage import distance_transform_cdt  # noqa: PLC0415 - half a second of SciPy

    cells = functional.max_pool2d(counting[None].float(), CELL, ceil_mode=True)[0] > 0
    if not cells.any():
        return max(counting.shape)
    return CELL * (2 * int(distance_transform_cdt(~cells.numpy(), "chessboard").max()) - 1)


def halve_place(place: Place, smaller: TileLayout) -> list[Place]:
    """A tile in smaller ones, which count as much as it did."""
    rows, columns = place.rows, place.columns
    return [
        Place(
            slice(rows.start + part.rows.start, rows.start + part.rows.stop),
            slice(columns.start + part.columns.start, columns.start + part.columns.stop),
            part.down * place.down[part.rows],
            part.across * place.across[part.columns],
        )
        for part in smaller((rows.stop - rows.start, columns.stop - columns.start))
    ]


def has_unknown(part: Problem) -> bool:
    """Whether there is something to fit in a tile: nothing is where all is put back in the end."""
    return not torch.equal(*(part.finish(torch.full(part.shape, value)) for value in (0.0, 1.0)))
