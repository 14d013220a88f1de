"""The page of a folder of runs: a table that can be sorted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.records.run_files import LOG, RECORD, REPORT, is_our_page, is_run_folder
from dipcli.records.run_record import FileRecord, read_record
from dipcli.report import page
from dipcli.report.embedding import EmbeddedImage, embed_image
from dipcli.report.text import format_title, make_url
from dipcli.text import escape_controls, format_clock

INDEX = "index.html"
THUMBNAIL_SIDE = 192  # pixels


@dataclass(frozen=True)
class Row:
    """One run in the table. What is unknown is empty.

    Attributes:
        is_finished: whether the result is there.
        page: URL of the run's page.
        thumbnail: the result; None if it cannot be shown.
        image: URL of the result.
        image_path: relative path of the result.
        cells: iterations, time, PSNR to the input and to the reference, each as sorted and as shown.
    """

    name: str
    state: str
    is_finished: bool = False
    page: str = ""
    task: str = ""
    thumbnail: EmbeddedImage | None = None
    image: str = ""
    image_path: str = ""
    cells: tuple[tuple[str, str], ...] = (("", ""),) * 4


def update(folder: Path, path: Path | None, warn: Callable[[str], None]) -> Path:
    """Write the page of a folder of runs, and those of its runs that are missing or older than their record or log.

    What is wrong with single runs goes to `warn`; for the rest see `make`.
    """
    if not folder.is_dir():
        raise DipError(f"There is no folder {folder}: name a run folder, for example noisy.denoised.dip.")
    page.check_path(path or folder / INDEX)
    for run in _find_runs(folder):
        times = [file.stat().st_mtime if (file := run / name).is_file() else 0.0 for name in (REPORT, RECORD, LOG)]
        if times[0] < max(times[1:]):
            try:
                page.make(run)
            except DipError as error:
                warn(str(error))
    return make(folder, path=path)


def make(folder: Path, failed: Sequence[tuple[str, str]] = (), path: Path | None = None) -> Path:
    """Write the page of a folder of runs and its sub-folders, and return its path: `index.html` there by default.

    Inputs that left no run (failed) are listed with the reason.

    Raises:
        DipError: if there is no run, or a file exists that dipcli did not make.
    """
    path = path or folder / INDEX
    page.check_path(path)
    rows = [_read_row(run, path.parent) for run in _find_runs(folder)]
    rows += [Row(format_title(name), escape_controls(f"failed: {reason}")) for name, reason in failed]
    if not rows:
        raise DipError(f"There is no run in {folder}: name a run folder, for example noisy.denoised.dip.")
    finished = sum(row.is_finished for row in rows)
    html = page.render_template(
        "index.html",
        "index.js",
        task="dip",
        title=escape_controls(folder.resolve().name or str(folder)),
        rows=rows,
        summary=f"{finished} finished" + (f", {len(rows) - finished} not finished" if finished < len(rows) else ""),
        has_reference=any(row.cells[-1][0] for row in rows),
    )
    files.write(path, html.encode(errors="backslashreplace"))
    return path


def _find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders in a folder and below; links and hidden folders are not followed."""
    for name, below, _ in os.walk(folder):
        here = Path(name)
        if is_run_folder(here):
            below.clear()
            yield here
        else:
            below[:] = sorted(name for name in below if not name.startswith(".") and not (here / name).is_symlink())


def _read_row(run: Path, place: Path) -> Row:
    """Read the record and the result of a run, nothing else."""
    url = make_url(run / REPORT, place) if is_our_page(run / REPORT) else ""
    record = read_record(run)
    if not record:
        state = "running" if files.is_locked(run) else "unreadable record" if (run / RECORD).exists() else "cut short"
        return Row(escape_controls(run.name), state, page=url)
    file = record.files.get("output") or FileRecord(path=record.output)
    candidates = (run / (file.near or file.path), Path(file.path))
    output = next((Path(os.path.normpath(path)) for path in candidates if path.is_file()), None)
    state = "standard output" if file.path == "-" else "finished" if output else "image missing"
    state = state if record.finished else "interrupted"
    numbers = (record.iterations, record.seconds, record.psnr_noisy, record.measures.psnr if record.measures else None)
    formats = ("{:,}".format, format_clock, "{:.2f}".format, "{:.2f}".format)
    cells = [
        (repr(number), write(number)) if isinstance(number, int | float) else ("", "")
        for number, write in zip(numbers, formats, strict=True)
    ]
    return Row(
        format_title(record.input),
        state,
        state in ("finished", "standard output"),
        url,
        escape_controls(f"{record.task}, {record.preset}"),
        _make_thumbnail(output) if output else None,
        make_url(output, place) if output else "",
        escape_controls(os.path.relpath(output, place)) if output else "",
        tuple(cells),
    )


def _make_thumbnail(path: Path) -> EmbeddedImage | None:
    try:
        return embed_image("", images.read(path)[0], max_side=THUMBNAIL_SIDE, max_lossless_side=0)
    except DipError:
        return None
