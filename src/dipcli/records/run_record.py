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
    "comparison", "compared", "worker", "fusion", "span",
)  # fmt: skip


class FileRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a run read or wrote."""

    path: str  # the full path; `-` for a standard stream
    near: str = ""  # relative to the run folder, which stays valid when both are moved
    sha256: str | None = None  # None if the file could not be read


class FitRecord(Struct, frozen=True, kw_only=True, rename={"decay": "memory"}):
    """One of the fits of a run."""

    run: int  # its number, from 1
    seed: int  # of its random numbers
    iterations: int
    kept: int  # the iteration whose average was kept
    decay: float  # EMA decay of that average
    reason: str  # why it ended
    seconds: float  # time in the fit
    outlier: bool = False  # whether it was left out of the mean
    tile: int | None = None  # number of the tile, from 1; None if the image was fitted whole


class TileRecord(Struct, frozen=True, kw_only=True):
    """Position of a tile in the image, in pixels."""

    left: int
    top: int
    width: int
    height: int


class EstimateRecord(Struct, frozen=True, kw_only=True, rename={"seconds_per_iteration": "seconds_an_iteration"}):
    """What the run was expected to take."""

    memory_bytes: float  # peak memory
    limit_bytes: float | None = None  # the memory limit; None if there is none
    seconds_per_iteration: float | None = None  # None if it was not measured


class Measures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How near an image is to the true one. Everything but `psnr` is None if it was not measured."""

    psnr: float | None  # in dB; None if the images are identical
    psnr_y: float | None = None  # of the luma
    psnr_unknown: float | None = None  # over the pixels that were restored
    ssim: float | None = None  # structural similarity


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
    """The result of a classical method (`--compare`)."""

    name: str
    seconds: float
    file: str | None = None  # its image, relative to the run folder; None if it was not written


class RunRecord(
    MeasuredResult, frozen=True, kw_only=True, omit_defaults=False, rename={"decay": "memory", "request": "asked"}
):
    """Everything needed to repeat a run, and how it went."""

    input: str  # path of the damaged image; `-` for standard input
    output: str  # path of the restored image; `-` for standard output
    task: str
    schema: int = 1
    version: str = ""  # of dipcli; likewise `torch` and `python`
    torch: str = ""
    python: str = ""
    argv: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = {}  # of the task itself
    request: Mapping[str, Any] = {}  # as `Job.describe_request` gives it: tells whether a later job is the same
    input_sha256: str = ""
    sample_type: str = ""  # of the input, as uint16
    span: tuple[float, float] | None = None  # sample values that were mapped to 0 and 1; None for the type's own range
    preset: str = ""
    settings: Mapping[str, Any] = {}  # all of them, as they were used
    parameters: int = 0  # number of weights
    input_depth: int = 0  # channels of the network's input
    seed: int = 0  # of the first fit
    device: str = ""  # its name
    precision: str = ""  # fp32 or bf16
    fp32_products: str = ""  # ieee: of all 24 bits, also on a GPU; unset in older records
    threads: int = 0  # of the CPU
    batch_size: int = 1  # images that shared a pass
    iterations: int = 0  # of all fits
    kept: int = 0  # the iteration whose average was kept, of the first fit
    decay: float = 0.0  # EMA decay of that average
    fusion: float | None = None  # share of the fit, 0..1, in its fusion with the companion; None if it was not fused
    rule: str = ""  # the stopping rule, in words
    reason: str = ""  # why the run ended
    events: tuple[str, ...] = ()  # what happened out of the ordinary
    finished: bool = True  # False if the run was interrupted
    runs: tuple[FitRecord, ...] = ()  # the fits
    tiles: tuple[TileRecord, ...] = ()  # empty if the image was fitted whole
    estimate: EstimateRecord | None = None
    seconds: float = 0.0  # time in the fits
    peak_memory_bytes: int | None = None  # None if the device does not tell
    psnr_noisy: float | UnsetType | None = UNSET  # to the measurement, dB; None if identical, unset for a figure
    baselines: Mapping[str, Measures] = {}  # of answers that need no fit, by name
    conclusion: str | None = None  # the task's own sentence
    figures: tuple[str, ...] = ()  # suffixes of the files that were written in place of an image
    uncertainty: str | None = None  # path of the uncertainty map
    uncertainty_most: float | None = None  # its largest value on the 0-255 scale
    # What was read and written, by role: `input`, `output`, `reference`, `uncertainty`, or a task's argument.
    files: Mapping[str, FileRecord] = {}
    comparison: tuple[BaselineRecord, ...] | None = None  # of the classical methods; None if not asked for
    compared: str | None = None  # the comparison in a sentence
    worker: str = ""  # which of several workers did it

    def to_json(self) -> dict[str, Any]:
        """The record as plain values; infinite figures are None."""
        # Not msgspec's own JSON: it refuses paths that are not UTF-8.
        text = json.dumps(msgspec.to_builtins(self, enc_hook=str))
        plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
        empty: tuple[object, ...] = (None, "", [], {})
        return {name: value for name, value in plain.items() if name not in ABSENT_IF_EMPTY or value not in empty}

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
