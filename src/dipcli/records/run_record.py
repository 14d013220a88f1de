"""The run record, `run.json`: everything needed to repeat a run, and how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from dipcli import files

SCHEMA = 2  # 1 had no number, and another name for `outlier`
FILE_NAME = "run.json"
# Keys of run.json that are written only if there is something to say.
ABSENT_IF_EMPTY = (
    "psnr_ref_y", "psnr_ref_unknown", "ssim_ref", "baselines", "figures", "uncertainty", "uncertainty_most", "files",
    "comparison", "compared", "worker", "fusion",
)  # fmt: skip


class FileRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a run read or wrote.

    Attributes:
        path: the full path; `-` for a standard stream.
        near: the path relative to the run folder, which stays valid when both are moved.
        sha256: None if the file could not be read.
    """

    path: str
    near: str = ""
    sha256: str | None = None


class FitRecord(Struct, frozen=True, kw_only=True, rename={"decay": "memory"}):
    """One of the fits of a run.

    Attributes:
        run: its number, from 1.
        seed: of its random numbers.
        iterations: iterations run.
        kept: the iteration whose average was kept.
        decay: EMA decay of that average.
        reason: why it ended.
        seconds: time in the fit.
        outlier: whether it was left out of the mean.
        tile: number of the tile, from 1; None if the image was fitted whole.
    """

    run: int
    seed: int
    iterations: int
    kept: int
    decay: float
    reason: str
    seconds: float
    outlier: bool = False
    tile: int | None = None


class TileRecord(Struct, frozen=True, kw_only=True):
    """Position of a tile in the image, in pixels."""

    left: int
    top: int
    width: int
    height: int


class EstimateRecord(Struct, frozen=True, kw_only=True, rename={"seconds_per_iteration": "seconds_an_iteration"}):
    """What the run was expected to take.

    Attributes:
        memory_bytes: peak memory.
        limit_bytes: the memory limit; None if there is none.
        seconds_per_iteration: None if it was not measured.
    """

    memory_bytes: float
    limit_bytes: float | None = None
    seconds_per_iteration: float | None = None


class Measures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How near an image is to the true one.

    Attributes:
        psnr: in dB; None if the images are identical.
        psnr_y: the same for luma; None if not measured.
        psnr_unknown: the same over the pixels that were restored; None if not measured.
        ssim: structural similarity; None if not measured.
    """

    psnr: float | None
    psnr_y: float | None = None
    psnr_unknown: float | None = None
    ssim: float | None = None


class MeasuredResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures that need a reference image; all unset without one. PSNR in dB, None if identical."""

    psnr_ref: float | UnsetType | None = UNSET
    psnr_ref_y: float | None = None
    psnr_ref_unknown: float | None = None
    ssim_ref: float | None = None

    @property
    def measures(self) -> Measures | None:
        """The figures against the reference; None without one."""
        if isinstance(self.psnr_ref, UnsetType):
            return None
        return Measures(
            psnr=self.psnr_ref, psnr_y=self.psnr_ref_y, psnr_unknown=self.psnr_ref_unknown, ssim=self.ssim_ref
        )


class BaselineRecord(MeasuredResult, frozen=True, kw_only=True, omit_defaults=False):
    """The result of a classical method (`--compare`).

    Attributes:
        name: of the method.
        seconds: it took.
        file: its image, relative to the run folder; None if it was not written.
    """

    name: str
    seconds: float
    file: str | None = None


class RunRecord(
    MeasuredResult, frozen=True, kw_only=True, omit_defaults=False, rename={"decay": "memory", "request": "asked"}
):
    """Everything needed to repeat a run, and how it went.

    Attributes:
        input: path of the damaged image; `-` for standard input.
        output: path of the restored image; `-` for standard output.
        task: its name.
        schema: version of this layout.
        version: of dipcli; likewise `torch` and `python`.
        argv: the command line.
        arguments: of the task itself.
        request: what was asked for, as `Job.describe_request` gives it: tells whether a later job is the same.
        input_sha256: of the input file.
        preset: its name.
        settings: all settings as they were used.
        parameters: number of weights.
        input_depth: channels of the network's input.
        seed: of the first fit.
        device: its name.
        precision: fp32 or bf16.
        threads: CPU threads.
        batch_size: images that shared a pass.
        iterations: iterations of all fits.
        kept: the iteration whose average was kept, of the first fit.
        decay: EMA decay of that average.
        fusion: share of the fit, 0..1, in its fusion with the companion; None if it was not fused.
        rule: the stopping rule, in words.
        reason: why the run ended.
        events: what happened out of the ordinary.
        finished: False if the run was interrupted.
        runs: the fits.
        tiles: positions of the tiles; empty if the image was fitted whole.
        estimate: what the run was expected to take.
        seconds: time in the fits.
        peak_memory_bytes: None if the device does not tell.
        psnr_noisy: PSNR of the result to the measurement in dB; None if identical, unset if a figure was written.
        baselines: figures of answers that need no fit, by name.
        conclusion: the task's own sentence.
        figures: suffixes of the files that were written in place of an image.
        uncertainty: path of the uncertainty map.
        uncertainty_most: its largest value on the 0-255 scale.
        files: what was read and written, by role: `input`, `output`, `reference`, `uncertainty`, or a task's argument.
        comparison: results of the classical methods; None if they were not asked for.
        compared: the comparison in a sentence.
        worker: which of several workers did it.
    """

    input: str
    output: str
    task: str
    schema: int = 1
    version: str = ""
    torch: str = ""
    python: str = ""
    argv: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = {}
    request: Mapping[str, Any] = {}
    input_sha256: str = ""
    preset: str = ""
    settings: Mapping[str, Any] = {}
    parameters: int = 0
    input_depth: int = 0
    seed: int = 0
    device: str = ""
    precision: str = ""
    threads: int = 0
    batch_size: int = 1
    iterations: int = 0
    kept: int = 0
    decay: float = 0.0
    fusion: float | None = None
    rule: str = ""
    reason: str = ""
    events: tuple[str, ...] = ()
    finished: bool = True
    runs: tuple[FitRecord, ...] = ()
    tiles: tuple[TileRecord, ...] = ()
    estimate: EstimateRecord | None = None
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    psnr_noisy: float | UnsetType | None = UNSET
    baselines: Mapping[str, Measures] = {}
    conclusion: str | None = None
    figures: tuple[str, ...] = ()
    uncertainty: str | None = None
    uncertainty_most: float | None = None
    files: Mapping[str, FileRecord] = {}
    comparison: tuple[BaselineRecord, ...] | None = None
    compared: str | None = None
    worker: str = ""

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; infinite figures are None."""
        # Not msgspec's own JSON: it refuses paths that are not UTF-8.
        text = json.dumps(msgspec.to_builtins(self, enc_hook=str))
        plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
        return {name: value for name, value in plain.items() if value or name not in ABSENT_IF_EMPTY}

    @classmethod
    def from_json(cls, data: object) -> RunRecord:
        """The record that `to_json` gave.

        Raises:
            ValueError: if the data are not a run record.
        """
        return msgspec.convert(data, cls)


def write_record(path: Path, record: RunRecord) -> None:
    """Write a record as indented JSON, atomically."""
    files.write(path, (json.dumps(record.to_json(), indent=2) + "\n").encode())


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run folder; None if there is none that can be read."""
    try:
        return RunRecord.from_json(json.loads((folder / FILE_NAME).read_bytes()))
    except (OSError, ValueError):
        return None
