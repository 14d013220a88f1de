"""The page of a folder of runs: a table that can be sorted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.records.run_files import LOG, RECORD, REPORT, is_our_page
from dipcli.records.run_record import FileRecord, RunRecord, read_record
from dipcli.report import page
from dipcli.report.embedding import EmbeddedImage, embed_image
from dipcli.report.run_folder import is_run_folder
from dipcli.report.text import format_title, make_url
from dipcli.text import escape_controls, format_clock

INDEX = "index.html"
THUMBNAIL_SIDE = 192  # pixels


@dataclass(frozen=True)
class Row:
    """One run in the table.

    Attributes:
        is_finished: whether the result is there.
        thumbnail: the result; None if it cannot be shown.
        page: URL of the run's page; empty if there is none.
        image: URL of the result; empty if there is none.
        image_path: relative path of the result.
        psnr_noisy: PSNR to the input in dB; like the other numbers, None if unknown.
        psnr_ref: PSNR to the reference in dB.
    """

    name: str
    state: str
    is_finished: bool = False
    task: str = ""
    thumbnail: EmbeddedImage | None = None
    page: str = ""
    image: str = ""
    image_path: str = ""
    iterations: int | None = None
    seconds: float | None = None
    psnr_noisy: float | None = None
    psnr_ref: float | None = None

    @property
    def cells(self) -> list[tuple[str, str]]:
        """Iterations, time and PSNR, as sorted and as shown."""
        numbers = (self.iterations, self.seconds, self.psnr_noisy, self.psnr_ref)
        texts = [f"{self.iterations or 0:,}", format_clock(self.seconds or 0)]
        texts += [f"{psnr or 0:.2f}" for psnr in (self.psnr_noisy, self.psnr_ref)]
        return [
            ("", "") if number is None else (repr(number), text) for number, text in zip(numbers, texts, strict=True)
        ]


def make(folder: Path, failed: Sequence[tuple[str, str]] = (), path: Path | None = None) -> Path:
    """Write the page of a folder of runs.

    Args:
        folder: searched for runs with its sub-folders.
        failed: inputs that left no run, and why.
        path: of the page; `index.html` in the folder by default.

    Returns:
        The path of the page.

    Raises:
        DipError: if there is no run, or a file exists that dipcli did not make.
    """
    path = path or folder / INDEX
    page.check_path(path)
    rows = [_read_row(run, path.parent) for run in find_runs(folder)]
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
        has_reference=any(row.psnr_ref is not None for row in rows),
    )
    files.write(path, html.encode(errors="backslashreplace"))
    return path


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders in a folder and below; links and hidden folders are not followed."""
    for name, below, _ in os.walk(folder):
        here = Path(name)
        if is_run_folder(here):
            below.clear()
            yield here
        else:
            below[:] = sorted(name for name in below if not name.startswith(".") and not (here / name).is_symlink())


def is_outdated(run: Path) -> bool:
    """Return whether a run has no page, or one older than its record or log."""
    times = [path.stat().st_mtime if (path := run / name).is_file() else 0.0 for name in (REPORT, RECORD, LOG)]
    return times[0] < max(times[1:])


def _read_row(run: Path, place: Path) -> Row:
    """Read the record and the result of a run, nothing else."""
    url = make_url(run / REPORT, place) if is_our_page(run / REPORT) else ""
    record = read_record(run)
    if record:
        return _describe_record(run, record, place, url)
    state = "running" if files.is_locked(run) else "unreadable record" if (run / RECORD).exists() else "cut short"
    return Row(escape_controls(run.name), state, page=url)


def _describe_record(run: Path, record: RunRecord, place: Path, url: str) -> Row:
    file = record.files.get("output") or FileRecord(path=record.output)
    candidates = (run / (file.near or file.path), Path(file.path))
    output = next((Path(os.path.normpath(path)) for path in candidates if path.is_file()), None)
    if not record.finished:
        state = "interrupted"
    elif file.path == "-":
        state = "standard output"
    else:
        state = "finished" if output else "image missing"
    return Row(
        format_title(record.input),
        state,
        state in ("finished", "standard output"),
        escape_controls(f"{record.task}, {record.preset}"),
        _make_thumbnail(output) if output else None,
        url,
        make_url(output, place) if output else "",
        escape_controls(os.path.relpath(output, place)) if output else "",
        record.iterations,
        record.seconds,
        record.psnr_noisy if isinstance(record.psnr_noisy, float) else None,
        record.measures.psnr if record.measures else None,
    )


def _make_thumbnail(path: Path) -> EmbeddedImage | None:
    try:
        return embed_image("", images.read(path)[0], max_side=THUMBNAIL_SIDE, max_lossless_side=0)
    except DipError:
        return None
