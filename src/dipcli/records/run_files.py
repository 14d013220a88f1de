"""The files of a run: their names, where they go, and what must not be overwritten."""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.images import Image, png
from dipcli.records.job import Job
from dipcli.records.run_record import FILE_NAME, read_record
from dipcli.settings.outputs import Outputs
from dipcli.tasks.baselines.baseline import FOLDER
from dipcli.tasks.case import Case

LOG = "log.csv"  # in every run folder
LOG_START = b"iteration,seconds,loss,lr"  # other programs call their logs log.csv too
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_MARK = b"layoutq\x01"  # near its beginning
RECORD = FILE_NAME
PREVIEW = "preview.png"  # during the run
FRAMES = "frames"  # folder of the film strip
DAMAGED = tuple(f"damaged{suffix}" for suffix in images.DEFAULT_SUFFIXES)  # the input with simulated damage
FILLED = "filled.png"  # mask of an inpainted image: white where pixels were filled
REPORT = "report.html"
GENERATOR = b'<meta name="generator" content="dipcli">'  # marks our own pages
SNAPSHOT_FOLDERS = ("", "run[0-9]*/", "tile[0-9]*/", "tile[0-9]*/run[0-9]*/")  # patterns, in snapshots/
DIGITS = 6 * "[0-9]"  # of an iteration in a file name


def default_output(job: Job, image: Image) -> Path:
    """The default path of the result: noisy.denoised.png beside noisy.png, or noisy.png in a folder; - stays -."""
    if str(job.source) == "-":
        return job.source
    if job.folder is not None:
        files.make_folder(job.folder)
    stem = job.output_stem()
    suffix = job.result_suffixes()[0] if job.outputs.format else images.default_suffix(image)
    return stem.with_name(stem.name + suffix)


def run_folder(outputs: Outputs, output: Path) -> Path | None:
    """The run folder: `<output stem>.dip` beside the output; None if none is wanted."""
    if outputs.run_dir:
        return Path(outputs.run_dir)
    return None if outputs.no_run_dir or str(output) == "-" else output.parent / f"{output.stem}.dip"


def is_run_folder(folder: Path) -> bool:
    """Return whether a run has written to this folder, whatever its name: by the content of its files."""
    with suppress(OSError), (folder / LOG).open("rb") as file:
        if file.read(len(LOG_START)) == LOG_START:
            return True
    return read_record(folder) is not None or files.has_marker(folder / CHECKPOINT, CHECKPOINT_MARK)


def clear(folder: Path, spared: Collection[Path] = ()) -> None:
    """Create a run folder, and delete what an earlier run left in it; other files stay, and so do those to be spared.

    Raises:
        DipError: if the folder cannot be created or cleared.
    """
    files.make_folder(folder)
    if not is_run_folder(folder):  # the files belong to the user, whatever their names
        return
    spared = {path.resolve() for path in spared}
    record = read_record(folder)
    compared = [result.file for result in record.comparison or () if result.file] if record else []
    try:
        for old in (
            *(folder / FOLDER / Path(file).name for file in compared),
            *(folder / name for name in (RECORD, CHECKPOINT, *DAMAGED, FILLED)),
            *filter(png.is_marked, (folder / PREVIEW, *(folder / FRAMES).glob(f"{DIGITS}.png"))),
            *filter(is_our_page, [folder / REPORT]),
            *(path for place in SNAPSHOT_FOLDERS for path in folder.glob(f"snapshots/{place}{DIGITS}*.png")),
        ):
            if old.resolve() not in spared:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise DipError(f"Cannot clear the run folder {folder} ({error.strerror}): choose another --run-dir.") from error


def is_our_page(page: Path) -> bool:
    """Whether a page exists that this program wrote; others belong to the user."""
    return files.has_marker(page, GENERATOR)


def check_output(job: Job, case: Case, output: Path, folder: Path | None, size_bytes: int) -> None:
    """Check, before hours of work, that the results can be written and overwrite nothing of the user's.

    Raises:
        DipError: if they cannot, or would.
    """
    _check_run_files(job, case, folder)
    _check_uncertainty(job, case, output)
    if str(output) == "-":
        if sys.stdout is None:
            raise DipError("Standard output is closed: name a file with -o.")
        return
    files.check_name(output)
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file in it, as {output / job.source.name}.")
    files.check_replaceable(output)
    files.check_writable(files.follow(output).parent, size_bytes)
    if not job.outputs.overwrite:
        for path in job.input_files():
            if output.exists() and output.samefile(path):
                role = "the input itself" if path == job.source else f"{path}, an input"
                raise UsageError(f"-o {output} is {role}: choose another name, or use --overwrite.")
        earlier = bool(folder and is_run_folder(folder))
        for beside in (output.with_suffix(suffix) for suffix in case.suffixes):
            if beside != output and beside.exists() and not earlier:
                raise UsageError(f"{beside} exists: choose another -o, or replace it with --overwrite.")
    if folder and folder.resolve() == output.resolve():
        raise UsageError(f"--run-dir {folder} is the output itself: choose another folder.")


def _check_run_files(job: Job, case: Case, folder: Path | None) -> None:
    """Check that the files in the run folder would overwrite nothing of the user's."""
    if job.outputs.compare and case.baselines is None:
        raise UsageError(f"--compare does not apply: dip {job.task.name} has no classical methods. Leave it out.")
    if folder is None:
        return
    with suppress(OSError):  # making the folder will report what is wrong
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign and not is_run_folder(folder):
            raise UsageError(f"{folder} has files that are not from a run ({foreign[0]}): choose another --run-dir.")
    inputs = [path.resolve() for path in job.input_files()]
    damaged = DAMAGED if case.damaged is not None else ()
    filled = (FILLED,) if case.known is not None else ()
    compared = (folder / FOLDER).glob("*") if job.outputs.compare else ()
    for path in (*(folder / name for name in (*damaged, *filled)), *compared):
        if path.resolve() in inputs:
            raise UsageError(f"{path} is an input: choose another --run-dir.")


def _check_uncertainty(job: Job, case: Case, output: Path) -> None:
    """Check that the map of the uncertainty can be made and written, and overwrites nothing."""
    if not job.outputs.uncertainty:
        return
    path = Path(job.outputs.uncertainty)
    if case.render:
        raise UsageError(f"--uncertainty does not apply: dip {job.task.name} writes a figure. Leave it out.")
    if path.suffix.lower() not in (suffix for row in images.formats() if row.default for suffix in row.suffixes):
        raise UsageError(f"--uncertainty {path}: the format is not supported; use .png or .tif.")
    if path.is_dir():
        raise UsageError(f"--uncertainty {path} is a folder: name a file in it.")
    files.check_writable(path.parent)
    if path.resolve() in [other.resolve() for other in (output, *job.input_files())]:
        raise UsageError(f"--uncertainty {path} is the output or an input: choose another name.")
