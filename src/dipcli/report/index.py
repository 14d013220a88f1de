"""The page of a folder of runs: what became of each picture, in a table that can be sorted."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.records.run_files import LOG, RECORD, REPORT, is_our_page
from dipcli.records.run_record import read_record
from dipcli.report import page
from dipcli.report import text as words
from dipcli.report.embedding import View, thumbnail
from dipcli.report.run_folder import is_run
from dipcli.text import format_clock, escape_controls

INDEX = "index.html"
SIDE = 192  # pixels of a thumbnail
THUMB = re.compile(  # as index.html has it
    r'<a class="thumb" href="([^"]+)"><img decoding="async" src="(data:[^"]+)" width="(\d+)" height="(\d+)"'
)


@dataclass(frozen=True)
class Line:
    """One picture in the table.

    Attributes:
        name: of the picture.
        task: what was done, with its preset.
        state: done, or what became of it.
        sound: whether it is done.
        thumb: the result, small; None where there is none that can be shown.
        page: URL of the run's page; empty where there is none.
        picture: URL of the result; empty where there is none.
        where: the result's path.
        numbers: iterations, seconds, PSNR to the input and to the truth, None where they are not known.
    """

    name: str
    task: str
    state: str
    sound: bool
    thumb: View | None = None
    page: str = ""
    picture: str = ""
    where: str = ""
    numbers: tuple[float | None, ...] = (None,) * 4

    @property
    def cells(self) -> list[tuple[str, str]]:
        """The numbers as they are sorted and as they are shown."""
        iterations, seconds, *decibels = self.numbers
        told = ["" if iterations is None else f"{iterations:,.0f}", "" if seconds is None else format_clock(seconds)]
        told += ["" if each is None else f"{each:.2f}" for each in decibels]
        return [("" if value is None else repr(value), text) for value, text in zip(self.numbers, told, strict=True)]


def make(folder: Path, failed: Sequence[tuple[str, str]] = (), path: Path | None = None) -> Path:
    """Write the page of a folder.

    Args:
        folder: in which, or in whose sub-folders, runs are.
        failed: pictures that left no run, and why.
        path: where to; `index.html` in the folder when left out.

    Returns:
        Where it is.

    Raises:
        DipError: when there is no run, or a file is there that this program has not made.
    """
    path = path or folder / INDEX
    page.check(path)
    before = _Before.of(path)
    lines = [_line(run, path.parent, before) for run in runs(folder)]
    lines += [_failed(name, why) for name, why in failed]
    if not lines:
        raise DipError(f"There is no run in {folder}: name the folder of one, as noisy.denoised.dip.")
    states = [each.sound for each in lines]
    text = page.filled(
        "index.html",
        "index.js",
        title=escape_controls(folder.resolve().name or str(folder)),
        lines=lines,
        told=f"{states.count(True)} done" + (f", {states.count(False)} not" if False in states else ""),
        truth=any(each.numbers[-1] is not None for each in lines),
    )
    files.write(path, text.encode(errors="backslashreplace"))
    return path


def runs(folder: Path) -> Iterator[Path]:
    """The folders of the runs in a folder and those below; links and hidden folders are not followed."""
    for name, below, _ in os.walk(folder):
        here = Path(name)
        if is_run(here):
            below.clear()
            yield here
        else:
            below[:] = sorted(each for each in below if not each.startswith(".") and not (here / each).is_symlink())


def stale(run: Path) -> bool:
    """Whether a run has no page yet, or one that is older than what the run has written."""
    told = [run / name for name in (REPORT, RECORD, LOG)]
    made, *others = (each.stat().st_mtime if each.is_file() else 0.0 for each in told)
    return made < max(others)


def _failed(name: str, why: str) -> Line:
    return Line(escape_controls(Path(name).name), "", escape_controls(f"failed: {why}"), sound=False)


@dataclass(frozen=True)
class _Before:
    """The thumbnails that the page had: to read all pictures of a large folder anew takes long.

    Attributes:
        made: when it was written.
        thumbs: by where they lead.
    """

    made: float
    thumbs: Mapping[str, View]

    @classmethod
    def of(cls, path: Path) -> _Before:
        """Read from the page, if there is one."""
        if not path.is_file():
            return cls(0.0, {})
        made, text = path.stat().st_mtime, path.read_text(encoding="utf-8", errors="replace")
        found = (
            (html.unescape(each[1]), View("", each[2], (int(each[3]), int(each[4])))) for each in THUMB.finditer(text)
        )
        return cls(made, dict(found))

    def thumb(self, output: Path, link: str) -> View | None:
        """The one of a picture, made anew where that has changed since; None where it cannot be shown."""
        known = self.thumbs.get(link)
        if known and output.stat().st_mtime < self.made:
            return known
        try:
            return thumbnail(images.read(output)[0], SIDE)
        except DipError:
            return None


def _line(run: Path, place: Path, before: _Before) -> Line:
    """What there is to say of a run at a glance: nothing but its record and its picture is read."""
    record = read_record(run)
    told = record.to_json() if record else None
    link = words.url(run / REPORT, place) if is_our_page(run / REPORT) else ""
    if told is None:
        state = "at work" if files.is_locked(run) else "cut short"
        return Line(escape_controls(run.name), "", state, sound=False, page=link)
    try:
        return _told(run, told, place, link, before)
    except (LookupError, TypeError, ValueError, AttributeError):
        return Line(escape_controls(run.name), "", "its record cannot be read", sound=False, page=link)


def _told(run: Path, told: Mapping[str, Any], place: Path, link: str, before: _Before) -> Line:
    name = str(told["input"])
    where = told.get("files", {}).get("output", {"path": told["output"]})
    places = (run / where.get("near", where["path"]), Path(where["path"]))
    output = next((Path(os.path.normpath(each)) for each in places if each.is_file()), None)
    done = bool(told.get("finished", True))
    state = "done" if output and done else "interrupted" if not done else "its picture is gone"
    picture = words.url(output, place) if output else ""
    values = [told.get(key) for key in ("iterations", "seconds", "psnr_noisy", "psnr_ref")]
    return Line(
        "standard input" if name == "-" else escape_controls(Path(name).name),
        escape_controls(f"{told['task']}, {told['preset']}"),
        "standard output" if str(where["path"]) == "-" and done else state,
        sound=done and (output is not None or str(where["path"]) == "-"),
        thumb=before.thumb(output, link or picture) if output else None,
        page=link,
        picture=picture,
        where=escape_controls(os.path.relpath(output, place)) if output else "",
        numbers=tuple(None if each is None else float(each) for each in values),
    )
