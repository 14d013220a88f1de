"""The geometry of tiles: where they lie in a large image, how they overlap and blend."""

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

MAX_TILES_PER_SIDE = 64
# Overlap of neighbours: a fraction of a tile's side, within a range in pixels. docs/notes/tiles.md has what it costs
# and how much worse a network is at the border of a tile.
OVERLAP, MIN_OVERLAP, MAX_OVERLAP = 1 / 16, 32, 128
MAX_TILING_OVERHEAD = 1.2  # times the pixels of the image, for all tiles together
MAX_ASPECT_RATIO = 2  # above it a tile is a strip
MARGIN = 1 / 4  # of an overlap, at both ends: there a tile has the weight 0, being worst at its border
MIN_KNOWN_PIXELS = 16  # of positive weight in a tile
MAX_HOLE = 1 / 2  # of a tile's side: the fit of a tile cannot fill a larger hole from its surroundings
HOLE_CELL = 16  # pixels: resolution at which holes are measured

TileLayout: TypeAlias = Callable[[tuple[int, int]], list[Place]]


def layout(
    size: tuple[int, int], stride: int, fits: Callable[[int, int], bool], min_overlap: int = MIN_OVERLAP
) -> list[Place]:
    """Lay out the fewest tiles of one size that cover an image, evenly spaced, row by row.

    Among layouts with the same number of tiles the one with the fewest pixels is chosen. Strips, which see little to
    either side, and layouts with more than `MAX_TILING_OVERHEAD` times the pixels are used only if there is no other.

    Args:
        size: (H, W) of the image, in pixels.
        stride: the sides of a tile are multiples of this, unless it is as long as the image.
        fits: whether a tile of this height and width is small enough.
        min_overlap: least overlap of neighbours, in pixels.

    Returns:
        One tile if the whole image fits; none if not even the smallest tiles fit.
    """
    height, width = size
    row_options, column_options = (
        [
            (count, side)
            for count in range(1, MAX_TILES_PER_SIDE + 1)
            if (side := _find_side(length, count, stride, min_overlap))
        ]
        for length in size
    )
    possible = [
        (rows, tile_height, columns, tile_width)
        for rows, tile_height in row_options
        for columns, tile_width in column_options
        if fits(tile_height, tile_width)
    ]
    if not possible:
        return []

    def rank(option: tuple[int, int, int, int]) -> tuple[bool, bool, int, int]:
        rows, tile_height, columns, tile_width = option
        short, length = min((tile_height, height), (tile_width, width))
        strip = max(tile_height, tile_width) > MAX_ASPECT_RATIO * short and short < length
        pixels = rows * columns * tile_height * tile_width
        return pixels > MAX_TILING_OVERHEAD * height * width, strip, rows * columns, pixels

    rows, tile_height, columns, tile_width = min(possible, key=rank)
    column_places = list(_place_along(width, columns, tile_width))
    return [
        Place(row_slice, column_slice, down, across)
        for row_slice, down in _place_along(height, rows, tile_height)
        for column_slice, across in column_places
    ]


def _find_side(length: int, count: int, stride: int, min_overlap: int) -> int | None:
    """Return the least side with which this many tiles cover a line; None if there is none or fewer tiles would do."""
    if count == 1:
        return length

    def covered(tiles: int, side: int) -> int:
        return tiles * side - (tiles - 1) * max(min_overlap, min(round(OVERLAP * side), MAX_OVERLAP))

    side = stride * math.ceil(max(MIN_TILE_SIDE, 2 * min_overlap, length / count) / stride)
    while covered(count, side) < length:
        side += stride
    return side if side < length and covered(count - 1, side) < length else None


def _place_along(length: int, count: int, side: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the position of each tile along a line, and the weights of its pixels, which add up to 1."""
    starts = [round(number * (length - side) / max(1, count - 1)) for number in range(count)]
    parts = [slice(start, start + side) for start in starts]
    total = torch.zeros(length, dtype=torch.float64)
    ramps = []
    for number, part in enumerate(parts):
        before = parts[number - 1].stop - part.start if number else 0
        after = part.stop - parts[number + 1].start if number + 1 < count else 0
        ramp = _make_ramp(side, before) * _make_ramp(side, after).flip(0)
        total[part] += ramp
        ramps.append(ramp)
    for part, ramp in zip(parts, ramps, strict=True):
        yield part, (ramp / total[part]).float()


def _make_ramp(side: int, overlap: int) -> Tensor:
    """Return weights that rise from 0 to 1 over the overlap as a squared sine, flat in the margins at both ends."""
    margin = MARGIN * overlap
    along = (torch.arange(side, dtype=torch.float64) + 0.5 - margin) / max(overlap - 2 * margin, 1e-9)
    return torch.sin(along.clamp(0, 1) * (math.pi / 2)) ** 2


def blend(shape: tuple[int, ...], patches: Iterable[tuple[Place, Tensor]]) -> Tensor:
    """Return the weighted sum of the tiles' images, shape (C, H, W).

    Args:
        shape: (C, H, W).
        patches: the position of each tile and its image, shape (C, h, w).
    """
    blended = torch.zeros(shape)
    for place, patch in patches:
        window = blended[:, place.rows, place.columns]
        for channel, added in zip(window, patch, strict=True):  # one at a time saves memory
            channel.addcmul_(place.weights, added)
    return blended


def check_known_pixels(problem: Problem, places: list[Place]) -> None:
    """Check that every tile has known pixels enough and no hole that is too large for it.

    Raises:
        DipError: if one has not.
    """
    if problem.weight is None or problem.hidden:
        return
    for place in places:
        part = problem.window(place.rows, place.columns)
        known = (part.weight > 0).any(dim=0) if part.weight is not None else torch.ones(1)
        if known.sum() < MIN_KNOWN_PIXELS or _measure_largest_hole(known) > MAX_HOLE * min(known.shape):
            height, width = part.shape[1:]
            raise DipError(
                f"A hole in the image is too large for tiles of {width}x{height}: allow more --max-memory, "
                "use a larger --tile, or fit the whole image with --tile none."
            )


def _measure_largest_hole(known: Tensor) -> int:
    """Return roughly the side, in pixels, of the largest square without known pixels.

    A hole at the border is taken to go on outside.
    """
    from scipy.ndimage import distance_transform_cdt  # noqa: PLC0415 - importing SciPy takes half a second

    cells = functional.max_pool2d(known[None].float(), HOLE_CELL, ceil_mode=True)[0] > 0
    if not cells.any():
        return max(known.shape)
    return HOLE_CELL * (2 * int(distance_transform_cdt(~cells.numpy(), "chessboard").max()) - 1)


def measure_size(place: Place) -> tuple[int, int]:
    """Return the height and width of a tile."""
    return place.rows.stop - place.rows.start, place.columns.stop - place.columns.start


def halve_place(place: Place, smaller: TileLayout) -> list[Place]:
    """Split a tile into smaller ones whose weights add up to its own."""
    rows, columns = place.rows, place.columns
    return [
        Place(
            slice(rows.start + part.rows.start, rows.start + part.rows.stop),
            slice(columns.start + part.columns.start, columns.start + part.columns.stop),
            part.down * place.down[part.rows],
            part.across * place.across[part.columns],
        )
        for part in smaller(measure_size(place))
    ]


def is_hidden(part: Problem) -> bool:
    """Return whether a tile shows too little to be fitted."""
    return part.hidden and part.weight is not None and int((part.weight > 0).any(dim=0).sum()) < MIN_KNOWN_PIXELS


def has_unknown(part: Problem) -> bool:
    """Return whether the fit can change anything: not if `finish` puts back every pixel."""
    uses_fit: bool | None = getattr(part.finish, "uses_fit", None)
    if uses_fit is not None:
        return uses_fit
    return not torch.equal(*(part.finish(torch.full(part.shape, value)) for value in (0.0, 1.0)))
