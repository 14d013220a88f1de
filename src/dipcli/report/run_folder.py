"""Reading a run folder back: its record or checkpoint, the files of the run, its log and its snapshots."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from dipcli import files
from dipcli.errors import DipError
from dipcli.records.run_files import CHECKPOINT, DAMAGED, FILLED, LOG, PREVIEW, RECORD, is_run_folder
from dipcli.records.run_record import FileRecord, RunRecord, read_record

State: TypeAlias = Literal["finished", "interrupted", "running", "cut short"]
FileState: TypeAlias = Literal["found", "changed", "missing", "stream"]
LogRow: TypeAlias = dict[str, float | None]

UNKNOWN = RunRecord(input="", output="", task="")
SNAPSHOT_NAME = re.compile(r"(?:tile(\d+)/)?(?:run(\d+)/)?(\d{6,})\.png")


@dataclass(frozen=True)
class StoredFile:
    """A file that a run read or wrote.

    Attributes:
        path: where it is, or where it was.
        state: `changed` if its SHA-256 is not that of the run; `stream` for standard input and output.
        data: its bytes; None if they are not available.
    """

    path: Path
    state: FileState
    data: bytes | None = None


@dataclass(frozen=True)
class Snapshot:
    """An image written during the fit.

    Attributes:
        run: number of the fit, from 1.
        tile: number of the tile, from 1; 0 if it shows the whole image.
        psnr: in dB, from the log; None if the log has no row for this iteration.
        has_reference: whether `psnr` is against the reference; otherwise it is against the measurement.
    """

    path: Path
    iteration: int
    run: int = 1
    tile: int = 0
    psnr: float | None = None
    has_reference: bool = False


@dataclass(frozen=True)
class RunFolder:
    """The contents of a run folder.

    Attributes:
        record: None if the run was cut short before it wrote one.
        request: the record, or as much of one as the checkpoint tells: what the run was asked to do.
        files: what the run read and wrote, by role: `input`, `output`, `reference`, `uncertainty`, or an argument of
            the task.
        inside: images inside the folder, by relative path.
        rows: of the log.
        snapshots: in order; if there are none, the smaller images of the preview.
    """

    folder: Path
    state: State
    record: RunRecord | None = None
    request: RunRecord = UNKNOWN
    files: Mapping[str, StoredFile] = field(default_factory=dict)
    inside: Mapping[str, StoredFile] = field(default_factory=dict)
    rows: tuple[LogRow, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()

    @property
    def can_resume(self) -> bool:
        """Whether `dip resume` can continue this run."""
        return self.state in ("interrupted", "cut short") and (self.folder / CHECKPOINT).exists()

    @property
    def last_iteration(self) -> int:
        """The last logged iteration of the last fit; 0 if there is none."""
        return int(self.rows[-1]["iteration"] or 0) if self.rows else 0


def read_run_folder(
    folder: Path, record: RunRecord | None = None, given: Mapping[str, bytes] | None = None
) -> RunFolder:
    """Read a run folder.

    Args:
        folder: its path.
        record: the run record, if the run itself asks; read from the folder otherwise.
        given: bytes of files that are in memory already, by role.

    Raises:
        DipError: if this is not a run folder, or its record cannot be read.
    """
    if not is_run_folder(folder):
        raise DipError(f"{folder} is not a run folder: name one, for example noisy.denoised.dip, or a folder of them.")
    running = record is None and files.is_locked(folder)
    record = record or read_record(folder)
    if record is None and (folder / RECORD).is_file():
        raise DipError(
            f"Cannot read {folder / RECORD}: it is damaged or from another version. Restore the image again."
        )
    state: State = "running" if running else "interrupted" if record else "cut short"
    request = record or _read_checkpoint(folder)
    inside = [*DAMAGED, FILLED, PREVIEW, *(baseline.file for baseline in request.comparison or () if baseline.file)]
    rows = tuple(_read_log(folder / LOG))
    return RunFolder(
        folder,
        "finished" if record and record.finished else state,
        record,
        request,
        {role: _find_file(folder, file, (given or {}).get(role)) for role, file in request.files.items()},
        {name: StoredFile(path, "found", path.read_bytes()) for name in inside if (path := folder / name).is_file()},
        rows,
        tuple(_find_snapshots(folder, rows)),
    )


def _read_checkpoint(folder: Path) -> RunRecord:
    """What the checkpoint of a run without a record says; only the settings that were given are known."""
    from dipcli.records.resume import find_run  # noqa: PLC0415 - imports torch

    try:
        run = find_run(folder)
    except DipError:
        return UNKNOWN
    job, hashes = run.job, run.header.files
    return RunRecord(
        input=str(job.source),
        output="",
        task=job.task.name,
        preset=run.preset,
        argv=tuple(job.argv),
        arguments=job.arguments,
        settings=job.given,
        files={
            role: FileRecord(path=str(path), near=os.path.relpath(path, folder), sha256=hashes.get(str(path)))
            for role, path in {"input": job.source, **job.images()}.items()
        },
    )


def _find_file(folder: Path, file: FileRecord, data: bytes | None) -> StoredFile:
    """Locate a file relative to the run folder, then by its full path; prefer a copy that has not changed."""
    path = Path(file.path)
    if data is not None:
        return StoredFile(path, "found", data)
    if file.path == "-":
        return StoredFile(path, "stream")
    stored = StoredFile(path, "missing")
    for candidate in (folder / file.near, path):
        with suppress(OSError, ValueError):
            if not candidate.is_file():  # reading from a pipe may never end
                continue
            data, place = candidate.read_bytes(), Path(os.path.normpath(candidate))
            if file.sha256 in (None, hashlib.sha256(data).hexdigest()):
                return StoredFile(place, "found", data)
            stored = stored if stored.data else StoredFile(place, "changed", data)
    return stored


def _read_log(path: Path) -> Iterator[LogRow]:
    """The numbers of a log, row by row; unreadable cells are None and rows without an iteration are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for cells in csv.DictReader(text.replace("\0", "").splitlines()):
        row = {name: _parse_number(cell) for name, cell in cells.items() if isinstance(cell, str) and name != "event"}
        if row.get("iteration") is not None:
            yield row


def _parse_number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _find_snapshots(folder: Path, rows: tuple[LogRow, ...]) -> list[Snapshot]:
    """Snapshots in order with their PSNR; if there are none, the frames of the preview."""
    logged = {(row.get("tile") or 0, row.get("run") or 1, row["iteration"]): row for row in rows}
    for place in (folder / "snapshots", folder / "frames"):
        snapshots = []
        for path in place.rglob("*.png"):
            if match := SNAPSHOT_NAME.fullmatch(path.relative_to(place).as_posix()):
                tile, run, iteration = int(match[1] or 0), int(match[2] or 1), int(match[3])
                row = logged.get((tile, run, iteration), {})
                reference = row.get("psnr_ref_smoothed")
                psnr = row.get("psnr_noisy_smoothed") if reference is None else reference
                snapshots.append(Snapshot(path, iteration, run, tile, psnr, reference is not None))
        if snapshots:
            return sorted(snapshots, key=lambda snapshot: (snapshot.tile, snapshot.run, snapshot.iteration))
    return []
