"""A contact sheet of a run: the pictures along the way, with iteration and PSNR beneath, for a paper."""

from __future__ import annotations

import math
from pathlib import Path

from dipcli import images
from dipcli.errors import DipError
from dipcli.report.embedding import samples
from dipcli.report.figures import PAPER, save, styled
from dipcli.report.gallery import chosen, psnr_of, truth_of
from dipcli.report.run_folder import Frame, RunFolder

ACROSS = 6  # pictures in a row, at most
INCHES = 2.0  # width of one
GAP, BENEATH = 0.08, 0.36  # inches between two, and for what is told beneath
DOTS = (100.0, 600.0)  # an inch: as many as a picture has pixels, within these


def draw(story: RunFolder, path: Path) -> None:
    """Write the contact sheet of a run.

    Raises:
        DipError: when there are no pictures along the way, or it cannot be written.
    """
    frames = chosen(story.frames)
    if not frames:
        raise DipError(f"{story.folder} has no snapshots: ask for some with --snapshot-every or --snapshot-at.")
    pictures = [samples(images.read(each.path)[0]) for each in frames]
    truth = truth_of(story)
    across = min(ACROSS, len(frames))
    down = math.ceil(len(frames) / across)
    high = INCHES * max(each.shape[0] / each.shape[1] for each in pictures)
    with styled():
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

        size = (across * (INCHES + GAP) - GAP, down * (high + BENEATH))
        figure = Figure(figsize=size)
        for place, (frame, picture) in enumerate(zip(frames, pictures, strict=True)):
            row, column = divmod(place, across)
            box = (column * (INCHES + GAP), size[1] - row * (high + BENEATH) - high, INCHES, high)
            axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="equal")
            axes.set_anchor("N")
            axes.set_axis_off()
            figure.text(
                box[0] / size[0], (box[1] - 0.04) / size[1], _told(frame, psnr_of(frame, truth)), va="top",
                color=PAPER["ink"], parse_math=False,
            )  # fmt: skip
        dots = max(each.shape[1] for each in pictures) / INCHES
        save(figure, path, "--sheet", min(max(dots, DOTS[0]), DOTS[1]))


def _told(frame: Frame, psnr: float | None) -> str:
    """Iteration and PSNR of a picture."""
    parts = [f"tile {frame.tile}"] if frame.tile else []
    parts += [f"run {frame.run}"] if frame.run > 1 else []
    return ", ".join([*parts, str(frame.number)]) + ("" if psnr is None else f"   {psnr:.2f} dB")
