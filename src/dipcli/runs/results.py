"""What a run leaves when it is over: the image, its record, the comparison with classical methods, the page."""

from __future__ import annotations

import hashlib
import os
import platform
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace as updated
from numpy.typing import NDArray

import dipcli
from dipcli import images
from dipcli.errors import DipError, describe_failure
from dipcli.fitting.machine import memory
from dipcli.fitting.machine.arithmetic import IEEE
from dipcli.fitting.machine.device import read_name
from dipcli.fitting.results import Runs
from dipcli.images import from_array
from dipcli.problem.noise import FULL_SCALE
from dipcli.records.run_files import RECORD, REPORT
from dipcli.records.run_record import SCHEMA, EstimateRecord, FileRecord, FitRecord, RunRecord, TileRecord, write_record
from dipcli.report import page
from dipcli.runs.comparison import Comparison
from dipcli.runs.display import Display
from dipcli.runs.observers import Metrics, measure_result, pixels
from dipcli.runs.plan import Plan, suffix_of


@dataclass(frozen=True)
class Results:
    """Writes the results of one run, step by step; what is on disk is never worse than what was there before."""

    plan: Plan
    display: Display

    def write_image(self, result: Runs, meter: Metrics) -> tuple[dict[str, Any], bytes]:
        """Write the image, or the figures in its place; return fields of the record, and the bytes of the file."""
        case, output = self.plan.case, self.plan.output
        restored = pixels(result.image)
        if case.render:
            conclusion = case.conclude(restored) if case.conclude else None
            figures = case.render()
            for suffix, data in figures.items():
                if suffix == ".png":
                    images.write(data, output)
                elif str(output) != "-":
                    images.write(data, output.with_suffix(suffix))
            return {"conclusion": conclusion, "figures": tuple(figures)}, figures[".png"]
        image = case.image.with_pixels(restored, case.known)
        data = images.encode(image, suffix_of(output))
        images.write(data, output)
        return measure_result(case, meter, images.read_back(data, image), self.plan.truth), data

    def write_uncertainty(self, record: RunRecord, values: Callable[[], NDArray[np.float32]]) -> RunRecord:
        """Write the map of the uncertainty, (H, W), in units of the image's range, if one was asked for.

        Returns:
            The record with its path and its largest value on the 0-255 scale, which white stands for in a PNG.
        """
        if not self.plan.job.outputs.uncertainty:
            return record
        path, samples = Path(self.plan.job.outputs.uncertainty), values()
        largest = float(samples.max())
        if "float32" not in images.find_writable(path.suffix).dtypes:
            white = np.iinfo(np.uint16).max
            samples = np.rint(samples * (white / largest if largest else 0)).astype(np.uint16)
        images.write(images.encode(from_array(samples).with_span(None), path.suffix), path)
        return updated(record, uncertainty=str(path), uncertainty_most=FULL_SCALE * largest)

    def write_record(self, record: RunRecord, written: bytes | None = None) -> RunRecord:
        """Write the record, if the run has a folder.

        With the bytes of the output, the record lists the files that were read and written; it is returned with them.
        """
        if self.plan.folder:
            if written is not None:
                record = updated(record, files=_describe_files(self.plan, record, written))
            try:
                write_record(self.plan.folder / RECORD, record)
            except DipError as error:  # the image is written
                self.display.note(f"{record.input}: {error}")
        return record

    def compare(
        self, record: RunRecord, signals: tuple[signal.Signals, ...]
    ) -> tuple[RunRecord, signal.Signals | None]:
        """Apply the classical methods, if asked for; return the record with them, and the signal that ended them."""
        plan = self.plan
        if not plan.job.outputs.compare:
            return record, None
        self.display.note(f"{plan.job.source}: image written; running the classical methods")
        memory.release(torch.device("cpu"))
        limit = memory.read_limit(replace(plan.settings, device="cpu"))
        comparison = Comparison(plan.case, plan.truth, suffix_of(plan.output), plan.folder, limit)
        baselines, verdict, ended_by = comparison.run(record, signals)
        return self.write_record(updated(record, comparison=baselines, compared=verdict)), ended_by

    def write_page(self, record: RunRecord, known: Mapping[str, bytes]) -> None:
        """Write the run's page, if it has one. An error is reported and does not undo the results."""
        if self.plan.folder is None or self.plan.job.outputs.no_report:
            return
        try:
            page.make(self.plan.folder, record=record, given=known)
        except Exception as error:  # noqa: BLE001 - image and record are written: even a bug must not hide that
            self.display.note(f"{record.input}: could not write {REPORT}: {describe_failure(error)}")


def make_record(plan: Plan, data: bytes, result: Runs, found: Mapping[str, Any], *, finished: bool) -> RunRecord:
    """Put the record of a run together, with the fields that `Results.write_image` found.

    `data` are the bytes of the input file.
    """
    job, settings, prior, estimate = plan.job, plan.settings, plan.prepared.prior, plan.prepared.estimate
    fits = [(run, run.fit) for run in result.runs]
    return RunRecord(
        schema=SCHEMA,
        version=dipcli.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        argv=job.argv,
        task=job.task.name,
        arguments=dict(job.arguments),
        request=job.describe_request(),
        input=str(job.source),
        input_sha256=hashlib.sha256(data).hexdigest(),
        output=str(plan.output),
        sample_type=plan.case.image.dtype.name,
        span=plan.case.image.span,
        preset=plan.preset,
        settings=asdict(settings),
        parameters=sum(parameter.numel() for parameter in prior.network.parameters()),
        input_depth=prior.code.shape[1],
        seed=settings.seed,
        device=read_name(prior.code.device),
        precision=settings.precision,
        fp32_products=IEEE,
        threads=settings.threads or torch.get_num_threads(),
        batch_size=memory.FITS_AT_ONCE.get(),
        iterations=sum(fit.steps for _, fit in fits),
        kept=result.first.kept,
        decay=result.first.decay,
        fusion=result.share,
        rule=plan.rule,
        reason=result.reason,
        events=tuple(event for _, fit in fits for event in fit.events),
        finished=finished,
        runs=tuple(
            FitRecord(
                run=run.number,
                seed=run.seed,
                iterations=fit.steps,
                kept=fit.kept,
                decay=fit.decay,
                reason=fit.reason,
                seconds=round(fit.seconds, 3),
                outlier=run.outlier,
                tile=run.tile,
            )
            for run, fit in fits
        ),
        tiles=tuple(
            TileRecord(left=x.start, top=y.start, width=x.stop - x.start, height=y.stop - y.start)
            for y, x, *_ in result.places
        ),
        estimate=EstimateRecord(
            memory_bytes=estimate.memory,
            limit_bytes=estimate.limit,
            seconds_per_iteration=estimate.seconds_per_iteration,
        ),
        seconds=round(result.seconds, 3),
        peak_memory_bytes=memory.read_peak(prior.code.device),
        **found,
    )


def _describe_files(plan: Plan, record: RunRecord, written: bytes) -> dict[str, FileRecord]:
    """The images that the run read and wrote, by role, so that they are found and recognised later."""
    job, folder = plan.job, plan.folder or Path()
    paths = {"input": job.source, "output": plan.output, **job.images()}
    paths |= {"uncertainty": Path(job.outputs.uncertainty)} if job.outputs.uncertainty else {}
    digests = {"input": record.input_sha256, "output": hashlib.sha256(written).hexdigest()}
    records = {name: FileRecord(path="-") for name in paths}  # a standard stream
    for name, path in paths.items():
        if str(path) == "-":
            continue
        full, near, digest = str(path.absolute()), str(path.absolute()), digests.get(name)
        with suppress(ValueError):  # on another drive
            near = os.path.relpath(path, folder)
        if digest is None and path.is_file():  # reading from a pipe may never end
            with suppress(OSError), path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        records[name] = FileRecord(path=full, near=near, sha256=digest)
    return records
