"""The images of a page: which of a run's images are shown, with labels and legends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipcli import images
from dipcli.errors import DipError
from dipcli.images import Image
from dipcli.problem import metrics
from dipcli.problem.residual import amplify, autocorrelation
from dipcli.records.run_files import DAMAGED, FILLED, PREVIEW
from dipcli.report.embedding import COLOURS, EmbeddedImage, embed_image, mark_filled_pixels, space_evenly
from dipcli.report.run_folder import RunFolder, Snapshot

MAX_SNAPSHOTS = 24  # of the film strip
SNAPSHOT_MAX_SIDE, SNAPSHOT_MAX_LOSSLESS_SIDE = 1024, 256  # pixels
TASKS_WITH_RESIDUAL = ("denoise",)  # y = x + noise
MAX_LAG = 8  # pixels
MAX_CORRELATED_SIDE = 2048  # pixels, of the middle of the image
INPUT, RESTORED, PREVIEWED, REFERENCE = "Input", "Restored", "Preview", "Reference"
FILE_NOTES = {
    "changed": "The {role} {path} has changed since the run; the current file is shown.",
    "missing": "The {role} {path} is not shown: the file was moved or deleted.",
    "stream": "The {role} is not shown: it went through a standard stream.",
}


@dataclass(frozen=True)
class Gallery:
    """The images of a page, before and after first; the snapshots; sentences on images that are not shown.

    Attributes:
        residual: of a denoised image: what was removed, amplified, and its autocorrelation; empty for other tasks.
        figure: the curves that the task drew instead of an image.
        size: width and height of the result in pixels.
    """

    images: tuple[EmbeddedImage, ...]
    strip: tuple[EmbeddedImage, ...]
    residual: tuple[EmbeddedImage, ...]
    figure: EmbeddedImage | None
    size: tuple[int, int]
    notes: tuple[str, ...]


class ImageFiles:
    """The images that a run left, decoded one at a time to save memory.

    Attributes:
        names: of the files that can be opened: roles, and paths inside the run folder.
        notes: sentences on those that cannot.
        damaged: the measurement: the input, or the file with simulated damage.
        request: what the run was asked to do.
    """

    def __init__(self, run: RunFolder) -> None:
        self._files = {name: file for name, file in {**run.files, **run.inside}.items() if file.data is not None}
        self.names = set(self._files)
        self.notes = [
            FILE_NOTES[file.state].format(role=role, path=file.path)
            for role, file in run.files.items()
            if file.state in FILE_NOTES
        ]
        self.damaged = next((name for name in DAMAGED if name in self.names), "input")
        self.request = run.request

    def open(self, name: str) -> Image | None:
        """Decode an image; None if it does not exist or cannot be read, which is noted.

        The images of the run are shown in the range of values in which it worked, others in their own.
        """
        if name not in self.names:
            return None
        file = self._files[name]
        try:
            image = images.decode(file.data or b"", missing=True)
        except DipError as error:
            self.names.remove(name)
            self.notes.append(f"{file.path} is not shown: {error}")
            return None
        own = name in self.request.files and name not in ("input", "output", "reference")
        return image if own or image.dtype.name != self.request.sample_type else image.with_span(self.request.span)

    def open_reference(self) -> Image | None:
        """Decode the reference: that of `--reference`, or the input if the damage was simulated."""
        return self.open("reference") or (self.open("input") if self.damaged != "input" else None)


def build_gallery(run: RunFolder) -> Gallery:
    """Choose and embed the images of a run."""
    image_files = ImageFiles(run)
    if run.request.figures and (drawn := image_files.open("output")):
        figure = embed_image("Curves", drawn)
        return Gallery((), (), (), figure, figure.size, tuple(image_files.notes))
    shown = tuple(_embed_images(run, image_files))
    sizes = {image.name: image.size for image in shown}
    size = sizes.get(RESTORED) or sizes.get(PREVIEWED) or max([image.size for image in shown], default=(1, 1))
    strip = tuple(_embed_snapshots(run, size, image_files))
    if RESTORED not in sizes and not any(image.place for image in strip):
        size = max([size, *(image.size for image in strip)])
    residual = tuple(_embed_residual(image_files)) if run.request.task in TASKS_WITH_RESIDUAL else ()
    return Gallery(shown, strip, residual, None, size, tuple(image_files.notes))


def _embed_images(run: RunFolder, image_files: ImageFiles) -> Iterator[EmbeddedImage]:
    """Yield the images in the order in which they are offered: before, after, reference, others."""
    baselines = [baseline for baseline in run.request.comparison or () if baseline.file]
    others = {baseline.name.capitalize(): str(baseline.file) for baseline in baselines}
    hidden = {"input", "output", "reference", "uncertainty", *(["mask"] if FILLED in image_files.names else [])}
    others |= {role.capitalize(): role for role in run.files if role not in hidden}
    filled = image_files.open(FILLED)
    image = image_files.open("input" if filled else image_files.damaged)
    if filled and image and (marked := mark_filled_pixels(image, filled)):
        yield embed_image("To be filled", marked, legend="pixels to be filled are pink")
        others = {INPUT: "input"} | others
    elif image:
        yield embed_image(INPUT if image_files.damaged == "input" else "Damaged input", image)
    if image := image_files.open("output"):
        yield embed_image(RESTORED, image)
    elif image := image_files.open(PREVIEW):
        yield embed_image(PREVIEWED, image)
    if image := image_files.open_reference():
        yield embed_image(REFERENCE, image)
    for label, name in others.items():
        if image := image_files.open(name):
            yield embed_image(label, image)
    if image := image_files.open("uncertainty"):
        most = run.request.uncertainty_most
        legend = f"white is the largest uncertainty, {most:.1f} of 255" if most else ""
        values = image.with_span(None).pixels
        yield embed_image("Uncertainty", image.to_8_bits(values / (values.max() or 1)), legend=legend)


def _embed_residual(image_files: ImageFiles) -> Iterator[EmbeddedImage]:
    """Yield the measurement minus the result, amplified, and a map of its autocorrelation."""
    measured, result = image_files.open(image_files.damaged), image_files.open("output")
    if not measured or not result or measured.pixels.shape[1:] != result.pixels.shape[1:]:
        return
    removed = measured.pixels - result.pixels[: len(measured.pixels)]  # WebP makes three channels of one
    shown, gain = amplify(removed)
    yield embed_image(
        "Residual",
        Image(shown, np.dtype(np.uint8)),
        max_side=SNAPSHOT_MAX_SIDE,
        max_lossless_side=SNAPSHOT_MAX_LOSSLESS_SIDE,
        legend=f"input minus result, times {gain:.2g}; grey is zero",
    )
    luma = metrics.luma(removed) if len(removed) == COLOURS else removed.mean(axis=0)
    top, left = (max(0, side - MAX_CORRELATED_SIDE) // 2 for side in luma.shape)
    found = autocorrelation(luma[top : top + MAX_CORRELATED_SIDE, left : left + MAX_CORRELATED_SIDE], MAX_LAG)
    (across, two_across), (down, two_down) = found[MAX_LAG, MAX_LAG + 1 :][:2], found[MAX_LAG + 1 :, MAX_LAG][:2]
    legend = (
        f"shifts of up to {MAX_LAG} pixels; grey is 0, white 0.5 and more, the centre is 1. Shifted by one pixel: "
        f"{across:.2f} across, {down:.2f} down; by two: {two_across:.2f} across, {two_down:.2f} down"
    )
    shown = np.clip(1 / 2 + found[None], 0, 1).astype(np.float32)
    yield embed_image("Autocorrelation", Image(shown, np.dtype(np.uint8)), legend=legend)


def label_snapshots(run: RunFolder, image_files: ImageFiles) -> Iterator[tuple[Snapshot, str, str]]:
    """Yield the snapshots of the film strip, evenly spaced, each with its name and its PSNR in words."""
    snapshots = [run.snapshots[index] for index in space_evenly(len(run.snapshots), MAX_SNAPSHOTS)]
    several = len({snapshot.run for snapshot in run.snapshots}) > 1
    image = image_files.open_reference() if any(snapshot.psnr is None for snapshot in snapshots) else None
    for snapshot in snapshots:
        parts = [f"tile {snapshot.tile}"] * bool(snapshot.tile) + [f"run {snapshot.run}"] * several
        name = ", ".join([*filter(None, [" ".join(parts)]), f"iteration {snapshot.iteration}"])
        psnr = _measure_psnr(snapshot, image.pixels if image else None)
        yield snapshot, name, "" if psnr is None else f"{psnr:.2f} dB"


def _measure_psnr(snapshot: Snapshot, reference: NDArray[np.float32] | None) -> float | None:
    """Return the PSNR of a snapshot in dB: from the log, or against the reference if the log lacks it."""
    if snapshot.psnr is not None or reference is None or snapshot.tile:
        return snapshot.psnr
    try:
        pixels = images.read(snapshot.path)[0].with_span(None).pixels
    except DipError:
        return None
    value = metrics.psnr(pixels, reference) if pixels.shape == reference.shape else math.inf
    return value if math.isfinite(value) else None


def _embed_snapshots(run: RunFolder, size: tuple[int, int], image_files: ImageFiles) -> Iterator[EmbeddedImage]:
    """Embed the snapshots of the film strip."""
    tiles = run.request.tiles
    for snapshot, name, psnr in label_snapshots(run, image_files):
        place = None  # in percent of the result
        if 0 < snapshot.tile <= len(tiles):
            tile, (width, height) = tiles[snapshot.tile - 1], size
            place = (
                100 * tile.left / width,
                100 * tile.top / height,
                100 * tile.width / width,
                100 * tile.height / height,
            )
        try:
            image = images.read(snapshot.path)[0].with_span(None)
        except DipError as error:
            image_files.notes.append(f"{snapshot.path.relative_to(run.folder)} is not shown: {error}")
            continue
        yield embed_image(
            name,
            image,
            max_side=SNAPSHOT_MAX_SIDE,
            max_lossless_side=SNAPSHOT_MAX_LOSSLESS_SIDE,
            legend=psnr,
            place=place,
        )
    if len(run.snapshots) > MAX_SNAPSHOTS:
        image_files.notes.append(f"{MAX_SNAPSHOTS} of {len(run.snapshots)} snapshots are shown.")
