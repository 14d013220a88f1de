"""Pictures for looking at while a run is at work, and for a film strip of it: they watch as `observers` do."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from torch.nn import functional

from dipcli import files, images
from dipcli.images import png
from dipcli.runs.observers import pixels

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.fitting.state import TilesState
    from dipcli.images.image import Image
    from dipcli.problem import Problem
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Place, Step

LARGEST, SMALL = 1024, 512  # pixels on the longer side of a preview, and of a frame
SOON, BETWEEN = 1.0, 2.0  # seconds to the first preview, and from one to the next;
SHARE = 0.01  # of the time may go into them
STRIP = ("1", "2", "5")  # iterations that have a frame begin with this and go on with noughts


class Preview:
    """`preview.png`: the smoothed picture as it is now, written anew every few seconds.

    Of several runs it is that of the one at work. Tiles are blended into the whole, which begins as what was measured.

    Args:
        path: where.
        picture: the measured picture, for its colour profile.
        problem: of the whole picture.
        begin: how far an earlier part of a run in tiles had come.
    """

    def __init__(self, path: Path, picture: Image, problem: Problem, begin: TilesState | None = None) -> None:
        self.path, self.picture, self.problem = path, picture, problem
        self.factor = factor(problem.shape, LARGEST)
        self.due = perf_counter() + SOON
        self.canvas: Tensor | None = None
        self.measured: Tensor | None = None
        for patch in begin.done if begin else ():
            part = problem.window(patch.place.rows, patch.place.columns)
            self.canvas = self._blended(part.finish(patch.image), patch.place)

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Write it when it is due; nothing is computed, or read off a GPU, when it is not."""
        began = perf_counter()
        done = step.tile is not None and verdict.stop is not None
        if began < self.due and not done:
            return
        if step.tile is None:
            image = reduced(self.problem.finish(step.average), self.factor)
        else:
            image = self._blended(step.tile.problem.finish(step.average), step.tile.place)
            if done:
                self.canvas = image
        if began >= self.due:
            files.write(self.path, _coded(image, self.picture))
            now = perf_counter()
            self.due = now + max(BETWEEN, (now - began) / SHARE)

    def end(self) -> None:
        """The picture is written: there is something better to look at."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _blended(self, image: Tensor, place: Place) -> Tensor:
        """The whole, reduced and on the CPU, with a tile as it is now, (C, h, w); where it ends it fades."""
        if self.measured is None:
            sides = [math.ceil(side / self.factor) for side in self.problem.shape[1:]]
            shown = self.problem.measured.cpu()
            self.measured = reduced(shown, max(1, math.ceil(shown.shape[-1] / sides[1])))
            self.measured = functional.interpolate(self.measured[None], sides, mode="bilinear")[0]
        whole = (self.measured if self.canvas is None else self.canvas).clone()
        # Its own cells of the grid, whole ones: the picture's last may be narrower.
        first = [-(-part.start // self.factor) for part in (place.rows, place.columns)]
        skipped = [at * self.factor - part.start for at, part in zip(first, (place.rows, place.columns), strict=True)]
        tile = reduced(image[:, skipped[0] :, skipped[1] :], self.factor).float().cpu()
        weights = reduced(place.weights[None, skipped[0] :, skipped[1] :], self.factor)
        inside = (..., slice(first[0], first[0] + tile.shape[1]), slice(first[1], first[1] + tile.shape[2]))
        whole[inside] += weights * (tile - self.measured[inside])
        return whole


class Frames:
    """`frames/000010.png` and so on: the smoothed picture after 1, 2, 5, 10, 20, 50, 100, ... iterations.

    Of the first run of a picture that is fitted whole. A file that is there already stays: an earlier part of the same
    run wrote it, or it is somebody else's.

    Args:
        folder: where; it is made when the first is written.
        picture: the measured picture, for its colour profile.
        problem: of the whole picture.
    """

    def __init__(self, folder: Path, picture: Image, problem: Problem) -> None:
        self.folder, self.picture, self.problem = folder, picture, problem
        self.factor = factor(problem.shape, SMALL)

    def __call__(self, step: Step, verdict: Verdict) -> None:  # noqa: ARG002 - due or not is a matter of counting
        """Write one when it is due."""
        if step.run > 1 or step.tile or str(step.number).rstrip("0") not in STRIP:
            return
        path = self.folder / f"{step.number:06d}.png"
        if path.exists():
            return
        image = reduced(self.problem.finish(step.average), self.factor)
        files.make_folder(self.folder)
        files.write(path, _coded(image, self.picture))


def _coded(image: Tensor, picture: Image) -> bytes:
    """A file of it that says whose it is."""
    shown = picture.to_8_bits(pixels(image))
    return images.encode(replace(shown, colour=shown.colour + png.MARKER), ".png", quick=True)


def factor(shape: tuple[int, ...], longest: int) -> int:
    """By which whole number both sides of a picture, (C, H, W), are to be divided so that neither is longer."""
    return math.ceil(max(shape[1:]) / longest)


def reduced(image: Tensor, by: int) -> Tensor:
    """A picture, (C, H, W), smaller by a whole number: the means of its squares, of those at the end what is there."""
    return functional.avg_pool2d(image[None], by, ceil_mode=True)[0] if by > 1 else image
