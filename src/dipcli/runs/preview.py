"""Images to look at during a run, and for its film strip. The classes are observers of the fit."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from torch import Tensor
from torch.nn import functional

from dipcli import files, images
from dipcli.fitting.state import TilesState
from dipcli.images import Image
from dipcli.problem import Problem
from dipcli.runs.observers import pixels
from dipcli.stopping import Verdict
from dipcli.stopping.step import Place, Step

PREVIEW_SIDE, FRAME_SIDE = 1024, 512  # longest side in pixels
FIRST_PREVIEW_SECONDS, PREVIEW_INTERVAL_SECONDS = 1.0, 2.0
PREVIEW_TIME_FRACTION = 0.01  # at most this part of the time goes into previews
FRAME_LEADING_DIGITS = ("1", "2", "5")  # frames are written at 1, 2, 5, 10, 20, 50, ... iterations


class Preview:
    """`preview.png`: the smoothed image so far, rewritten every few seconds.

    With several runs it shows the current one. Tiles are blended into the whole image, which starts as the measurement,
    with those that `progress` has. The input image gives its colour profile.
    """

    def __init__(self, path: Path, image: Image, problem: Problem, progress: TilesState | None = None) -> None:
        self.path, self.image, self.problem = path, image, problem
        self.factor = reduction_factor(problem.shape, PREVIEW_SIDE)
        self.due = perf_counter() + FIRST_PREVIEW_SECONDS
        self.canvas: Tensor | None = None
        self.measured: Tensor | None = None
        for tile in progress.done if progress else ():
            part = problem.window(tile.place.rows, tile.place.columns)
            self.canvas = self._blend(part.finish(tile.image), tile.place)

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write the preview if it is due; otherwise nothing is computed or read from a GPU."""
        start = perf_counter()
        tile_done = step.tile is not None and verdict.stop is not None
        if start < self.due and not tile_done:
            return
        if step.tile is None:
            shown = reduce_image(self.problem.finish(step.average), self.factor)
        else:
            shown = self._blend(step.tile.problem.finish(step.average), step.tile.place)
            if tile_done:
                self.canvas = shown
        if start >= self.due:
            _write(self.path, shown, self.image)
            now = perf_counter()
            self.due = now + max(PREVIEW_INTERVAL_SECONDS, (now - start) / PREVIEW_TIME_FRACTION)

    def end(self) -> None:
        """Delete preview.png once the result is written."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _blend(self, tile: Tensor, place: Place) -> Tensor:
        """The whole image, reduced and on the CPU, with a tile, (C, h, w), faded in."""
        if self.measured is None:
            sides = [math.ceil(side / self.factor) for side in self.problem.shape[1:]]
            measured = self.problem.measured.cpu()
            self.measured = reduce_image(measured, max(1, math.ceil(measured.shape[-1] / sides[1])))
            self.measured = functional.interpolate(self.measured[None], sides, mode="bilinear")[0]
        whole = (self.measured if self.canvas is None else self.canvas).clone()
        # Only whole cells of the reduced grid that lie in the tile; the image's last ones may be narrower.
        first = [-(-part.start // self.factor) for part in (place.rows, place.columns)]
        skipped = [at * self.factor - part.start for at, part in zip(first, (place.rows, place.columns), strict=True)]
        reduced = reduce_image(tile[:, skipped[0] :, skipped[1] :], self.factor).float().cpu()
        weights = reduce_image(place.weights[None, skipped[0] :, skipped[1] :], self.factor)
        inside = (..., slice(first[0], first[0] + reduced.shape[1]), slice(first[1], first[1] + reduced.shape[2]))
        whole[inside] += weights * (reduced - self.measured[inside])
        return whole


class Frames:
    """`frames/000010.png` and so on: the smoothed image after 1, 2, 5, 10, 20, 50, 100, ... iterations.

    Written for the first run of an image that is fitted whole. Existing files stay: an earlier part of the same run
    wrote them, or they belong to the user.
    """

    def __init__(self, folder: Path, image: Image, problem: Problem) -> None:
        self.folder, self.image, self.problem = folder, image, problem
        self.factor = reduction_factor(problem.shape, FRAME_SIDE)

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - only the iteration matters
        """Write a frame if it is due."""
        if step.run > 1 or step.tile or str(step.number).rstrip("0") not in FRAME_LEADING_DIGITS:
            return
        path = self.folder / f"{step.number:06d}.png"
        if path.exists():
            return
        files.make_folder(self.folder)
        _write(path, reduce_image(self.problem.finish(step.average), self.factor), self.image)


def reduction_factor(shape: tuple[int, ...], longest: int) -> int:
    """The smallest whole number that divides both sides of an image, (C, H, W), down to `longest` or less."""
    return math.ceil(max(shape[1:]) / longest)


def reduce_image(image: Tensor, factor: int) -> Tensor:
    """Reduce an image, (C, H, W), by a whole factor: means of squares, smaller ones at the far edges."""
    return functional.avg_pool2d(image[None], factor, ceil_mode=True)[0] if factor > 1 else image


def _write(path: Path, shown: Tensor, image: Image) -> None:
    """Write a PNG that is marked as a preview, which may be replaced."""
    files.write(path, images.encode_preview(image.to_8_bits(pixels(shown))))
