"""What a run's folder tells, read back: the files the run had, its log and its snapshots."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from dipcli import files
from dipcli.errors import DipError
from dipcli.records.resume import find_run
from dipcli.records.run_files import CHECKPOINT, DAMAGED, FILLED, LOG, PREVIEW, RECORD
from dipcli.records.run_record import read_record

State: TypeAlias = Literal["done", "interrupted", "at work", "cut short"]
Fate: TypeAlias = Literal["there", "changed", "gone", "streamed"]
Numbers: TypeAlias = dict[str, float | None]

FIRST = b"iteration,"  # what a log of ours begins with
SNAPSHOT = re.compile(r"(?:tile(\d+)/)?(?:run(\d+)/)?(\d{6,})\.png")


@dataclass(frozen=True)
class Found:
    """A file that a run read or wrote.

    Attributes:
        path: where it is, or was.
        fate: what has become of it; `streamed` is for standard input and output, which leave nothing.
        data: its bytes; None where they are nowhere.
    """

    path: Path
    fate: Fate
    data: bytes | None = None


@dataclass(frozen=True)
class Frame:
    """A picture that was written along the way.

    Attributes:
        path: its file.
        number: the iteration.
        run: which of several.
        tile: which tile it shows; 0 for the whole picture.
        psnr: of it in dB, as the log has it; None where the log has no row for it.
        to_truth: whether that is to the true picture, else to what was measured.
    """

    path: Path
    number: int
    run: int = 1
    tile: int = 0
    psnr: float | None = None
    to_truth: bool = False


@dataclass(frozen=True)
class RunFolder:
    """What a run's folder tells.

    Attributes:
        folder: the run's.
        account: what it said of itself; of a run without an end what is known from its checkpoint.
        state: how it stands.
        files: what it read and wrote, by what that was for it: `input`, `output`, `reference`, `uncertainty`, or an
            argument of the task's own.
        beside: the pictures in its folder, by their names there.
        rows: its log.
        frames: its snapshots, or where there are none the smaller pictures of its progress.
    """

    folder: Path
    account: Mapping[str, Any]
    state: State
    files: Mapping[str, Found]
    beside: Mapping[str, Found] = field(default_factory=dict)
    rows: tuple[Numbers, ...] = ()
    frames: tuple[Frame, ...] = ()

    @property
    def resumable(self) -> bool:
        """Whether `dip resume` can go on with it."""
        return self.state in ("interrupted", "cut short") and (self.folder / CHECKPOINT).exists()

    @property
    def reached(self) -> int:
        """Iterations that the log knows of, in the run or tile that was at work last."""
        return int(self.rows[-1]["iteration"] or 0) if self.rows else 0


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    if any((folder / name).is_file() for name in (RECORD, CHECKPOINT)):
        return True
    try:  # others call their logs so too
        with (folder / LOG).open("rb") as file:
            return file.read(len(FIRST)) == FIRST
    except OSError:
        return False


@contextmanager
def find_problem(folder: Path) -> Iterator[None]:
    """Inside, what a run's folder says is used as it stands: another version may have said something else.

    Raises:
        DipError: where it did.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DipError(f"What {folder} says of its run is not what this version writes: restore it anew.") from error


def read_run_folder(
    folder: Path, account: Mapping[str, Any] | None = None, given: Mapping[str, bytes] | None = None
) -> RunFolder:
    """Read a run's folder.

    Args:
        folder: the run's.
        account: what the run says of itself, where it is the run that asks; it is read otherwise.
        given: bytes that are in memory already, by what they are for the run.

    Raises:
        DipError: when it is no run's folder.
    """
    if not is_run(folder):
        raise DipError(f"{folder} is not the folder of a run: name one, as noisy.denoised.dip, or a folder with some.")
    own = account is not None
    told = dict(account or _read(folder) or {})
    state: State = "done" if told.get("finished", bool(told)) else "interrupted" if told else "cut short"
    if not own and state != "done" and files.is_locked(folder):
        state = "at work"
    if not told:
        told = _begun(folder)
    rows = tuple(_rows(folder / LOG))
    beside = {name: folder / name for name in (*DAMAGED, FILLED, PREVIEW)}
    beside |= {each["file"]: folder / each["file"] for each in told.get("comparison") or []}
    return RunFolder(
        folder,
        told,
        state,
        {name: _found(folder, where, (given or {}).get(name)) for name, where in told.get("files", {}).items()},
        {name: Found(path, "there", path.read_bytes()) for name, path in beside.items() if path.is_file()},
        rows,
        tuple(_frames(folder, rows)),
    )


def _begun(folder: Path) -> dict[str, Any]:
    """What is known of a run that has not come to an end: from its checkpoint, if that can be read."""
    try:
        before = find_run(folder)
    except DipError:
        return {}
    job = before.job
    paths = {"input": job.source, **job.images()}
    return {
        "task": job.task.name,
        "preset": before.preset,
        "argv": list(job.argv),
        "input": str(job.source),
        "output": str(job.output or "-"),
        "arguments": dict(job.arguments),
        "settings": dict(job.given),
        "files": {
            name: {"path": str(path), "near": os.path.relpath(path, folder), "sha256": before.header.files.get(str(path))}
            for name, path in paths.items()
        },
    }


def _found(folder: Path, where: Mapping[str, Any], data: bytes | None) -> Found:
    """A file where it was, or, with all that was around it, somewhere else; rather the one that has not changed."""
    path = Path(where["path"])
    if data is not None:
        return Found(path, "there", data)
    if str(path) == "-":
        return Found(path, "streamed")
    other = None
    for place in (folder / where["near"], path):
        try:
            data = place.read_bytes()
        except (OSError, ValueError):
            continue
        same = where["sha256"] in (None, hashlib.sha256(data).hexdigest())
        found = Found(Path(os.path.normpath(place)), "there" if same else "changed", data)
        if same:
            return found
        other = other or found
    return other or Found(path, "gone")


def _rows(path: Path) -> Iterator[Numbers]:
    """The numbers of a log, row by row; what cannot be read as such is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for row in csv.DictReader(text.replace("\0", "").splitlines()):
        numbers = {name: _number(cell) for name, cell in row.items() if name != "event" and isinstance(cell, str)}
        if numbers.get("iteration") is not None:
            yield numbers


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _frames(folder: Path, rows: tuple[Numbers, ...]) -> Iterator[Frame]:
    """Snapshots in their order, with their PSNR; where there are none the frames of the run's progress."""
    logged = {(each.get("tile") or 0, each.get("run") or 1, each["iteration"]): each for each in rows}
    for place in (folder / "snapshots", folder / "frames"):
        found = []
        for path in place.rglob("*.png"):
            if match := SNAPSHOT.fullmatch(path.relative_to(place).as_posix()):
                tile, run, number = int(match[1] or 0), int(match[2] or 1), int(match[3])
                row = logged.get((tile, run, number), {})
                truth = row.get("psnr_ref_smoothed")
                psnr = row.get("psnr_noisy_smoothed") if truth is None else truth
                found.append(Frame(path, number, run, tile, psnr, truth is not None))
        if found:
            yield from sorted(found, key=lambda each: (each.tile, each.run, each.number))
            return


def _read(folder: Path) -> dict[str, Any] | None:
    record = read_record(folder)
    return record.to_json() if record else None
