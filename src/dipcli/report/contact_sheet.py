"""A contact sheet for a paper: the snapshots of a run, with iteration and PSNR above each."""

from __future__ import annotations

import math
from pathlib import Path

from dipcli import images
from dipcli.errors import DipError
from dipcli.report.embedding import to_samples
from dipcli.report.figures import save_figure, use_default_style
from dipcli.report.gallery import measure_psnr, open_reference, select_snapshots
from dipcli.report.run_folder import RunFolder

MAX_COLUMNS = 6
COLUMN_INCHES = 2.0
CAPTION_INCHES = 0.36
DPI_LIMITS = (100.0, 600.0)  # a dot for each pixel of an image, within these


def write_contact_sheet(run: RunFolder, path: Path) -> None:
    """Write the contact sheet of a run.

    Raises:
        DipError: if there are no snapshots, or the file cannot be written.
    """
    snapshots = select_snapshots(run.snapshots)
    if not snapshots:
        raise DipError(f"{run.folder} has no snapshots: restore with --snapshot-every or --snapshot-at.")
    pixels = [to_samples(images.read(snapshot.path)[0]) for snapshot in snapshots]
    reference = open_reference(run)
    columns = min(MAX_COLUMNS, len(snapshots))
    rows = math.ceil(len(snapshots) / columns)
    height = COLUMN_INCHES * max(image.shape[0] / image.shape[1] for image in pixels)
    with use_default_style():
        from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

        figure = Figure((columns * COLUMN_INCHES, rows * (height + CAPTION_INCHES)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, snapshot, image in zip(grid.flat, snapshots, pixels, strict=False):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="none")
            psnr = measure_psnr(snapshot, reference)
            parts = [f"tile {snapshot.tile}"] * bool(snapshot.tile) + [f"run {snapshot.run}"] * (snapshot.run > 1)
            caption = ", ".join([*parts, str(snapshot.iteration)])
            axes.set_title(caption if psnr is None else f"{caption}   {psnr:.2f} dB", loc="left", fontsize=9)
        dots_per_inch = max(image.shape[1] for image in pixels) / COLUMN_INCHES
        save_figure(figure, path, min(max(dots_per_inch, DPI_LIMITS[0]), DPI_LIMITS[1]))
