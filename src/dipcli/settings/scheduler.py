"""What `--scheduler` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

from dipcli.errors import DipError, UsageError

SCHEDULER_KINDS = "choose local, slurm, or the address of a Dask scheduler as tcp://host:8786"
REQUIRED_MODULES = {"local": ("distributed",), "address": ("distributed",), "slurm": ("distributed", "dask_jobqueue")}


@dataclass(frozen=True)
class Scheduler:
    """What restores several pictures at a time.

    Attributes:
        kind: workers on this machine, jobs of Slurm's, or a scheduler that is there already.
        address: of that scheduler.
        count: how many workers or jobs; None for as many as are best.
    """

    kind: Literal["local", "slurm", "address"]
    address: str = ""
    count: int | None = None


def parse_scheduler(text: str) -> Scheduler:
    """The scheduler that `--scheduler` names: local, local:4, slurm, slurm:100, tcp://host:port or tls://host:port.

    Raises:
        UsageError: when there is no such scheduler.
        DipError: when what it needs is not installed.
    """
    found = _found(text)
    if missing := [each for each in REQUIRED_MODULES[found.kind] if find_spec(each) is None]:
        raise DipError(
            f"--scheduler {text} needs {missing[0].replace('_', '-')}: install dip as dipcli[cluster], or leave it out."
        )
    return found


def _found(text: str) -> Scheduler:
    if text.startswith(("tcp://", "tls://")):
        try:
            there = urlsplit(text)
            complete = bool(there.hostname and there.port) and there.path in ("", "/")
        except ValueError:  # a port that is no number
            complete = False
        if not complete:
            raise UsageError(f"--scheduler {text} is no address: write it as tcp://host:8786.")
        return Scheduler("address", text.rstrip("/"))
    match = re.fullmatch(r"(local|slurm)(?::(\d{1,6}))?", text)
    if not match:
        raise UsageError(f"--scheduler {text!r} is unknown: {SCHEDULER_KINDS}.")
    count = None if match[2] is None else int(match[2])
    if count == 0:
        raise UsageError(f"--scheduler {text} would have nobody to do the work: write {match[1]}:1 or more.")
    return Scheduler("slurm" if match[1] == "slurm" else "local", count=count)
