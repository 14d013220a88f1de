"""What `dip report` was asked for: one page or figure after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from dipcli.errors import DipError, UsageError
from dipcli.report import contact_sheet as sheet
from dipcli.report import figures as drawing
from dipcli.report import index, page
from dipcli.report.run_folder import find_problem, is_run, read_run_folder

Make: TypeAlias = Callable[[], Path]


def requests(
    folders: Sequence[Path],
    output: Path | None,
    curves: Path | None,
    contact: Path | None,
    say: Callable[[str], None],
) -> Iterator[Make]:
    """All that is to be made, as functions that make it and return where it is.

    Args:
        folders: of runs, or with runs in them.
        output: where the page goes; None for in the folder.
        curves: where a figure of the curves goes, if one is wanted.
        contact: where a contact sheet of the snapshots goes, if one is wanted.
        say: told what goes wrong with the page of a run among others.

    Raises:
        UsageError: when these do not go together.
    """
    figures = {"--curves": curves, "--sheet": contact}
    asked = [name for name, path in (("-o", output), *figures.items()) if path]
    if asked and len(folders) > 1:
        raise UsageError(f"{asked[0]} is for one run: name one, or leave it out.")
    for name, path in figures.items():
        if path and not is_run(folders[0]):
            raise UsageError(f"{name} is for one run: name its folder, as noisy.denoised.dip.")
        if path:
            drawing.check_figure(path, name)
    if len({path.absolute() for path in (output, curves, contact) if path}) < len(asked):
        raise UsageError(f"{' and '.join(asked)} would be written to one file: give each a name of its own.")
    for folder in folders:
        if is_run(folder):
            yield partial(page.make, folder, path=output)
        else:
            yield partial(_index, folder, output, say)
    if curves:
        yield partial(_figure, drawing.draw, folders[0], curves)
    if contact:
        yield partial(_figure, sheet.draw, folders[0], contact)


def _figure(draw: Callable[..., None], folder: Path, path: Path) -> Path:
    with find_problem(folder):
        draw(read_run_folder(folder), path)
    return path


def _index(folder: Path, output: Path | None, say: Callable[[str], None]) -> Path:
    """The page of a folder, and of each run in it that has none, or an old one."""
    if not folder.is_dir():
        raise DipError(f"There is no folder {folder}: name that of a run, as noisy.denoised.dip.")
    page.check(output or folder / index.INDEX)
    for run in index.runs(folder):
        if index.stale(run):
            try:
                page.make(run)
            except DipError as error:
                say(str(error))
    return index.make(folder, path=output)
