"""Which pictures of a run are shown, under which names, and how much room each may take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError
from dipcli.images import tiff
from dipcli.images.image import Image
from dipcli.problem import metrics
from dipcli.records.run_files import DAMAGED, FILLED, PREVIEW
from dipcli.report.embedding import View, embedded, evenly, marked, stretched, whole
from dipcli.report.run_folder import Frame, RunFolder

# Bytes for the large pictures, a third of them for each of the first two, and for the film strip. In a page, where they
# grow by a third, that is 8 MB: a browser opens it without a wait.
ROOM, STRIP = 4.6e6, 1.4e6
MOST = 24  # pictures of a film strip

INPUT, RESTORED, PROGRESS, TRUTH = "Input", "Restored", "So far", "True picture"
FATES = {
    "changed": "{what} {path} has changed since the run: what is shown is the file as it is now.",
    "gone": "{what} {path} is not where it was, and is not shown: it was deleted or moved.",
    "streamed": "{what} went through a standard stream, which keeps nothing.",
}


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page.

    Attributes:
        views: the large ones, the one before the run and the one after it first, as far as there are such.
        strip: those along the way.
        figure: what the run drew, in the place of all others.
        size: width and height of the result in pixels.
        missed: sentences on what is not shown.
    """

    views: tuple[View, ...]
    strip: tuple[View, ...]
    figure: View | None
    size: tuple[int, int]
    missed: tuple[str, ...]


class _Shown(NamedTuple):
    name: str
    picture: Image
    legend: str = ""


class _Shelf:
    """The pictures that a run left, opened one at a time: a photograph takes much memory.

    Args:
        story: the run's.

    Attributes:
        missed: sentences on those that cannot be shown.
    """

    def __init__(self, story: RunFolder) -> None:
        self.files = {name: each for name, each in {**story.files, **story.beside}.items() if each.data is not None}
        self.missed = [
            FATES[each.fate].format(what=f"The {name}", path=each.path)
            for name, each in story.files.items()
            if each.fate != "there"
        ]
        floats = "input" in self.files and (self.files["input"].data or b"").startswith(tiff.SIGNATURES)
        given = self.open("input") if floats else None
        self.span = given.span if given and given.dtype.kind == "f" else None

    def open(self, name: str, span: tuple[float, float] | None = None) -> Image | None:
        """A picture by what it is for the run; None where there is none that can be read, which is told."""
        if name not in self.files:
            return None
        found = self.files[name]
        try:
            return images.decode(found.data or b"", span=span)
        except DipError as error:
            del self.files[name]
            self.missed.append(f"{found.path} is not shown: {error}")
            return None


def gallery(story: RunFolder) -> Gallery:
    """Choose and embed the pictures of a run."""
    shelf = _Shelf(story)
    if story.account.get("figures") and (drawn := shelf.open("output")):
        figure = embedded("The curves that it drew", drawn, ROOM)
        return Gallery((), (), figure, figure.size, tuple(shelf.missed))
    others = max(1, len(shelf.files) - 2)
    views = tuple(
        embedded(each.name, each.picture, ROOM / 3 if place < 2 else ROOM / 3 / others, each.legend)  # noqa: PLR2004
        for place, each in enumerate(_named(story, shelf))
    )
    sizes = {each.name: each.size for each in views}
    size = sizes.get(RESTORED, sizes.get(PROGRESS, max([each.size for each in views] or [(1, 1)])))
    strip = tuple(_strip(story, size, shelf.missed))
    if RESTORED not in sizes and not any(each.place for each in strip):
        size = max([size, *(each.size for each in strip)])
    return Gallery(views, strip, None, size, tuple(shelf.missed))


def chosen(frames: tuple[Frame, ...], most: int = MOST) -> list[Frame]:
    """As many of the frames as can be looked at, evenly spaced."""
    return [frames[each] for each in evenly(len(frames), most)]


def _named(story: RunFolder, shelf: _Shelf) -> Iterator[_Shown]:
    """What each picture is called, in the order in which they are offered: before, after, then what else there is."""
    damaged = next((name for name in DAMAGED if name in shelf.files), "")
    holes = _holes(shelf)
    if holes:
        yield holes
    elif picture := shelf.open(damaged or "input"):
        yield _Shown("Damaged input" if damaged else INPUT, picture)
    if picture := shelf.open("output", shelf.span):
        yield _Shown(RESTORED, picture)
    elif picture := shelf.open(PREVIEW):
        yield _Shown(PROGRESS, picture)
    if picture := shelf.open("reference", shelf.span) or shelf.open("input" if damaged else ""):
        yield _Shown(TRUTH, picture)
    yield from _others(story, shelf, {INPUT: "input"} if holes else {})


def _others(story: RunFolder, shelf: _Shelf, named: dict[str, str]) -> Iterator[_Shown]:
    """What other methods made, the task's own pictures, and where the outputs stray."""
    named |= {str(each["name"]).capitalize(): each["file"] for each in story.account.get("comparison") or []}
    known = {"input", "output", "reference", "uncertainty", *(["mask"] if FILLED in shelf.files else [])}
    named |= {name.capitalize(): name for name in story.files if name not in known}
    for name, file in named.items():
        if picture := shelf.open(file, shelf.span):
            yield _Shown(name, picture)
    if picture := shelf.open("uncertainty"):
        most = story.account.get("uncertainty_most")
        words = f"white is where the outputs stray most, by {most:.1f} of 255" if most else ""
        yield _Shown("Uncertainty", stretched(picture), words)


def _holes(shelf: _Shelf) -> _Shown | None:
    """What the network was shown of a picture in which pixels were to be filled; None where there were none."""
    filled = shelf.open(FILLED)
    given = shelf.open("input") if filled else None
    shown = marked(given, filled) if given and filled else None
    return _Shown("To be filled", shown, "what is pink; the rest was known") if shown else None


def truth_of(story: RunFolder) -> NDArray[np.float32] | None:
    """The true picture, (C, H, W), where it is known to be one of the run's size."""
    shelf = _Shelf(story)
    truth = shelf.open("reference", shelf.span) or shelf.open("input" if set(DAMAGED) & set(shelf.files) else "")
    return truth.pixels if truth else None


def psnr_of(frame: Frame, truth: NDArray[np.float32] | None) -> float | None:
    """PSNR of a frame in dB: as the log has it, or else by the picture itself where the truth is known."""
    if frame.psnr is not None or truth is None or frame.tile:
        return frame.psnr
    try:
        pixels = images.read(frame.path)[0].pixels
    except DipError:
        return None
    value = metrics.psnr(pixels, truth) if pixels.shape == truth.shape else math.inf
    return value if math.isfinite(value) else None


def _strip(story: RunFolder, size: tuple[int, int], missed: list[str]) -> Iterator[View]:
    """The frames as views, at most so many."""
    frames = story.frames
    several = len({each.run for each in frames}) > 1
    taken = chosen(frames)
    truth = truth_of(story) if any(each.psnr is None for each in taken) else None
    for each in taken:
        name = " ".join([*([f"tile {each.tile}"] if each.tile else []), *([f"run {each.run}"] if several else [])])
        name = f"{name}, iteration {each.number}" if name else f"iteration {each.number}"
        psnr = psnr_of(each, truth)
        legend = "" if psnr is None else f"{psnr:.2f} dB"
        try:
            yield whole(
                name, each.path.read_bytes(), STRIP / len(taken), place=_place(story, each, size), legend=legend
            )
        except (DipError, OSError) as error:
            missed.append(f"{each.path.relative_to(story.folder)} is not shown: {error}")
    if len(taken) < len(frames):
        missed.append(f"Of {len(frames)} pictures along the way {len(taken)} are shown.")


def _place(story: RunFolder, frame: Frame, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Where a tile lies in the result, in percent."""
    tiles = story.account.get("tiles") or []
    if not 0 < frame.tile <= len(tiles):
        return None
    tile, (width, height) = tiles[frame.tile - 1], size
    return (
        100 * tile["left"] / width,
        100 * tile["top"] / height,
        100 * tile["width"] / width,
        100 * tile["height"] / height,
    )
