"""What a run says of itself: the account that goes into run.json, and the measures of its picture."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import dipcli
from dipcli import files
from dipcli.fitting import device as machine
from dipcli.fitting import memory
from dipcli.fitting.results import Runs
from dipcli.fitting.solve import PreparedFit
from dipcli.records.job import Job
from dipcli.records.run_files import RECORD


def account(job: Job, preset: str, output: Path, data: bytes, bench: PreparedFit, result: Runs) -> dict[str, Any]:
    """Everything that is needed to do the run again and to know how it went."""
    device = bench.prior.code.device
    first = result.first
    return {
        "version": dipcli.__version__,
        "argv": list(job.argv),
        "task": job.task.name,
        "arguments": dict(job.arguments),
        "asked": job.describe_request(),
        "input": str(job.source),
        "input_sha256": hashlib.sha256(data).hexdigest(),
        "output": str(output),
        "preset": preset,
        "settings": asdict(bench.settings),
        "parameters": sum(each.numel() for each in bench.prior.network.parameters()),
        "input_depth": bench.prior.code.shape[1],
        "seed": bench.settings.seed,
        "device": machine.name(device),
        "precision": bench.settings.precision,
        "threads": bench.settings.threads or torch.get_num_threads(),
        "batch_size": memory.SHARING.get(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "iterations": sum(each.fit.steps for each in result.runs),
        "kept": first.kept,
        "memory": first.decay,
        "reason": result.reason,
        "events": [event for each in result.runs for event in each.fit.events],
        "runs": [
            {
                "run": each.number,
                "seed": each.seed,
                "iterations": each.fit.steps,
                "kept": each.fit.kept,
                "memory": each.fit.decay,
                "reason": each.fit.reason,
                "seconds": round(each.fit.seconds, 3),
                "astray": each.outlier,
                "tile": each.tile,
            }
            for each in result.runs
        ],
        "tiles": [
            {"left": c.start, "top": r.start, "width": c.stop - c.start, "height": r.stop - r.start}
            for r, c, *_ in result.places
        ],
        "estimate": {
            "memory_bytes": bench.estimate.memory,
            "limit_bytes": bench.estimate.limit,
            "seconds_an_iteration": bench.estimate.seconds_per_iteration,
        },
        "seconds": round(result.seconds, 3),
        "peak_memory_bytes": machine.peak_memory(device),
    }


def whereabouts(job: Job, folder: Path, output: Path, known: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Where the pictures that a run read and wrote are, and what they were, so that they are known again later.

    Args:
        job: what was done.
        folder: the run's.
        output: where the picture is.
        known: the bytes that are in memory; those of `input` and `output` are among them.

    Returns:
        By what each is for the run (`input`, `output`, `reference`, `uncertainty`, or the task's own argument that
        names it): its full path; the way to it from the run's folder, which stays the same where both are moved; its
        SHA-256, None where it cannot be read any more. Of a standard stream nothing but the path `-`.
    """
    paths = {"input": job.source, "output": output, **job.images()}
    paths |= {"uncertainty": Path(job.outputs.uncertainty)} if job.outputs.uncertainty else {}
    digests = {name: hashlib.sha256(each).hexdigest() for name, each in known.items()}
    return {name: _whereabouts(each, folder, digests.get(name)) for name, each in paths.items()}


def _whereabouts(path: Path, folder: Path, digest: str | None) -> dict[str, Any]:
    if str(path) == "-":
        return {"path": "-"}
    full = str(path.absolute())
    with suppress(OSError), path.open("rb") as file:
        digest = digest or hashlib.file_digest(file, "sha256").hexdigest()
    try:
        near = os.path.relpath(path, folder)
    except ValueError:  # another drive, where there are such
        near = full
    return {"path": full, "near": near, "sha256": digest}


def write(path: Path | None, told: Mapping[str, Any]) -> None:
    """Write an account, if there is a place for it."""
    if path:
        files.write(path, (json.dumps(told, indent=2, default=str) + "\n").encode())


def read(folder: Path) -> dict[str, Any] | None:
    """The account that an earlier run left in its folder; None where there is none that can be read."""
    try:
        told = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None
