"""Which pictures of a run are shown, under which names, and how much room each may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dipcli import images
from dipcli.errors import DipError
from dipcli.job import DAMAGED, FILLED
from dipcli.picture import Picture
from dipcli.report.story import PREVIEW, Frame, Story
from dipcli.report.views import View, embedded, evenly, marked, stretched, whole

# Bytes for the large pictures and for the film strip: in a page, where they grow by a third, 12 MB together.
ROOM, STRIP = 6.5e6, 2.5e6
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
    picture: Picture
    legend: str = ""


class _Shelf:
    """The pictures that a run left, opened one at a time: a photograph takes much memory.

    Args:
        story: the run's.

    Attributes:
        missed: sentences on those that cannot be shown.
    """

    def __init__(self, story: Story) -> None:
        self.files = {name: each for name, each in {**story.files, **story.beside}.items() if each.data is not None}
        self.missed = [
            FATES[each.fate].format(what=f"The {name}", path=each.path)
            for name, each in story.files.items()
            if each.fate != "there"
        ]
        given = self.open("input") if "output" in self.files else None
        self.span = given.span if given and given.dtype.kind == "f" else None

    def open(self, name: str, span: tuple[float, float] | None = None) -> Picture | None:
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


def gallery(story: Story) -> Gallery:
    """Choose and embed the pictures of a run."""
    shelf = _Shelf(story)
    if story.account.get("figures") and (drawn := shelf.open("output")):
        figure = embedded("The curves that it drew", drawn, ROOM)
        return Gallery((), (), figure, figure.size, tuple(shelf.missed))
    share = ROOM / max(1, len(shelf.files))
    views = tuple(embedded(each.name, each.picture, share, each.legend) for each in _named(story, shelf))
    sizes = {each.name: each.size for each in views}
    size = sizes.get(RESTORED, sizes.get(PROGRESS, max([each.size for each in views] or [(1, 1)])))
    strip = tuple(_strip(story, size, shelf.missed))
    if RESTORED not in sizes and not any(each.place for each in strip):
        size = max([size, *(each.size for each in strip)])
    return Gallery(views, strip, None, size, tuple(shelf.missed))


def chosen(frames: tuple[Frame, ...], most: int = MOST) -> list[Frame]:
    """As many of the frames as can be looked at, evenly spaced."""
    return [frames[each] for each in evenly(len(frames), most)]


def _named(story: Story, shelf: _Shelf) -> Iterator[_Shown]:
    """What each picture is called, in the order in which they are offered: before, after, then what else there is."""
    damaged = next((name for name in DAMAGED if name in shelf.files), None)
    if picture := shelf.open(damaged or "input"):
        yield _Shown("Input, damaged on purpose" if damaged else INPUT, picture)
    if picture := shelf.open("output", shelf.span):
        yield _Shown(RESTORED, picture)
    elif picture := shelf.open(PREVIEW):
        yield _Shown(PROGRESS, picture)
    if picture := shelf.open("reference", shelf.span) or (shelf.open("input") if damaged else None):
        yield _Shown(TRUTH, picture)
    for each in story.account.get("comparison") or []:
        if picture := shelf.open(each["file"], shelf.span):
            yield _Shown(str(each["name"]).capitalize(), picture)
    given, filled = (shelf.open(name) if FILLED in shelf.files else None for name in ("input", FILLED))
    if given and filled and (shown := marked(given, filled)):
        yield _Shown("What was filled", shown, "what was to be filled is pink")
    if picture := shelf.open("uncertainty"):
        most = story.account.get("uncertainty_most")
        words = f"white is where the outputs stray most, by {most:.1f} of 255" if most else ""
        yield _Shown("Uncertainty", stretched(picture), words)
    others = {"input", "output", "reference", "uncertainty", *(["mask"] if filled else [])}
    for name in (name for name in story.files if name not in others):
        if picture := shelf.open(name):
            yield _Shown(name.capitalize(), picture)


def _strip(story: Story, size: tuple[int, int], missed: list[str]) -> Iterator[View]:
    """The frames as views, at most so many."""
    frames = story.frames
    several = len({each.run for each in frames}) > 1
    taken = chosen(frames)
    for each in taken:
        name = " ".join([*([f"tile {each.tile}"] if each.tile else []), *([f"run {each.run}"] if several else [])])
        name = f"{name}, iteration {each.number}" if name else f"iteration {each.number}"
        legend = "" if each.psnr is None else f"{each.psnr:.2f} dB"
        try:
            yield whole(
                name, each.path.read_bytes(), STRIP / len(taken), place=_place(story, each, size), legend=legend
            )
        except (DipError, OSError) as error:
            missed.append(f"{each.path.relative_to(story.folder)} is not shown: {error}")
    if len(taken) < len(frames):
        missed.append(f"Of {len(frames)} pictures along the way {len(taken)} are shown.")


def _place(story: Story, frame: Frame, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
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
