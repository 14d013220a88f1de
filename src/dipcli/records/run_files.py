"""The files of a run: their names, where they go, and what must not be overwritten."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from dipcli import files, images
from dipcli.errors import DipError, UsageError
from dipcli.images import png
from dipcli.records.job import Job
from dipcli.settings.outputs import Outputs
from dipcli.tasks.baselines.baseline import FOLDER

if TYPE_CHECKING:
    from dipcli.images.image import Image
    from dipcli.tasks.case import Case

LOG = "log.csv"  # every run that keeps a record has one
CHECKPOINT = "checkpoint.pt"
RECORD = "run.json"
PREVIEW = "preview.png"  # while it is at work
FRAMES = "frames"  # a folder, for a film strip
DAMAGED = ("damaged.png", "damaged.tif")  # what was made of the picture where the damage was simulated
FILLED = "filled.png"  # white where pixels were filled, of a picture that keeps the others
REPORT = "report.html"
GENERATOR = b'<meta name="generator" content="dipcli">'  # tells a page of ours from somebody else's


def default_output(job: Job, picture: Image) -> Path:
    """noisy.png becomes noisy.denoised.png beside it, or noisy.png in a folder; - stays -."""
    if str(job.source) == "-":
        return job.source
    if job.folder is not None:
        files.make_folder(job.folder)
    place = job.output_stem()
    return place.with_name(place.name + images.default_suffix(picture))


def run_folder(record: Outputs, output: Path) -> Path | None:
    """Where log, snapshots and run record go: <output stem>.dip beside the output; None where none are wanted."""
    if record.run_dir:
        return Path(record.run_dir)
    return None if record.no_run_dir or str(output) == "-" else output.parent / f"{output.stem}.dip"


def clear(folder: Path, spared: Collection[Path] = ()) -> None:
    """Make the run's folder, without what an earlier run left there; other files in it stay.

    Args:
        folder: the run's.
        spared: files that stay in any case: what this run reads may be what an earlier one wrote.

    Raises:
        DipError: when the folder cannot be made or emptied.
    """
    files.make_folder(folder)
    if not (folder / LOG).exists():  # no run was here: whatever the files are called, they are somebody else's
        return
    spared = {each.resolve() for each in spared}
    try:
        for old in (
            *_compared_images(folder),
            *(folder / name for name in (RECORD, CHECKPOINT, *DAMAGED, FILLED)),
            *filter(png.is_marked, (folder / PREVIEW, *(folder / FRAMES).glob(6 * "[0-9]" + ".png"))),
            *(page for page in [folder / REPORT] if is_our_page(page)),
            *(folder / "snapshots").glob(6 * "[0-9]" + "*.png"),
            *(
                snapshot
                for place in ("run[0-9]*/", "tile[0-9]*/", "tile[0-9]*/run[0-9]*/")
                for snapshot in (folder / "snapshots").glob(place + 6 * "[0-9]" + "*.png")
            ),
        ):
            if old.resolve() not in spared:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise DipError(f"Cannot clear the run folder {folder} ({error.strerror}): choose another --run-dir.") from error


def _compared_images(folder: Path) -> list[Path]:
    """Return the images of an earlier run's baselines, as its record names them."""
    try:
        answers = json.loads((folder / RECORD).read_text(encoding="utf-8"))["comparison"]
        return [folder / FOLDER / Path(answer["file"]).name for answer in answers if answer["file"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def is_our_page(page: Path) -> bool:
    """Whether there is a page that this program has made: any other is somebody's own."""
    return files.has_marker(page, GENERATOR)


def check_output(job: Job, case: Case, output: Path, folder: Path | None, room: int) -> None:
    """Find now what would go wrong when hours of work are to be written, or what would be lost to it.

    Args:
        job: what is to be done.
        case: what the task makes of the picture.
        output: where the restored picture goes.
        folder: the run's, if it has one.
        room: bytes that the output will take at most, or little more.

    Raises:
        DipError: when there is something.
    """
    _check_beside(job, case, folder)
    _check_uncertainty(job, case, output)
    if str(output) == "-":
        return
    files.check_name(output)
    if output.is_dir():
        raise UsageError(f"-o {output} is a folder: name a file in it, as {output / job.source.name}.")
    files.check_writable(output.parent, room)
    if not job.outputs.overwrite:
        for read in job.input_files():
            if output.exists() and output.samefile(read):
                what = "the input itself" if read == job.source else f"{read}, which is read"
                raise UsageError(f"-o {output} is {what}: choose another name, or say --overwrite.")
        earlier = bool(folder and (folder / LOG).exists())
        for beside in (output.with_suffix(suffix) for suffix in case.suffixes):
            if beside != output and beside.exists() and not earlier:
                raise UsageError(f"{beside} is there already: choose another -o, or say --overwrite to replace it.")
    if folder and folder.resolve() == output.resolve():
        raise UsageError(f"--run-dir {folder} is the output itself: choose another folder.")


def _check_beside(job: Job, case: Case, folder: Path | None) -> None:
    """What is written beside the record must not take the place of something else."""
    if job.outputs.compare and case.baselines is None:
        raise UsageError(
            f"--compare is of no use: dip {job.task.name} has no classical methods beside it. Leave it out."
        )
    if folder is None:
        return
    read = [each.resolve() for each in job.input_files()]
    damaged = DAMAGED if case.damaged is not None else ()
    filled = (FILLED,) if case.known is not None else ()
    compared = (folder / FOLDER).glob("*") if job.outputs.compare else ()
    for place in (*(folder / name for name in (*damaged, *filled)), *compared):
        if place.exists() and (place.resolve() in read or not (folder / LOG).exists()):
            raise UsageError(f"{place} is there already, not from a run: choose another --run-dir.")


def _check_uncertainty(job: Job, case: Case, output: Path) -> None:
    """The map must be one that can be made and written, in the place of nothing that is read or written besides."""
    if not job.outputs.uncertainty:
        return
    path = Path(job.outputs.uncertainty)
    if case.render:
        raise UsageError(f"--uncertainty has nothing to tell of: dip {job.task.name} writes a figure.")
    if path.suffix.lower() not in (".png", ".tif", ".tiff"):
        raise UsageError(f"--uncertainty {path} is neither .png nor .tif: name it so.")
    if path.is_dir():
        raise UsageError(f"--uncertainty {path} is a folder: name a file in it.")
    files.check_writable(path.parent)
    if path.resolve() in [each.resolve() for each in (output, *job.input_files())]:
        raise UsageError(f"--uncertainty {path} is the output or a file that is read: choose another name.")
