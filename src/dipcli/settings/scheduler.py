"""The value of `--scheduler`."""

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
    """What restores several images in parallel.

    Attributes:
        kind: workers on this machine, Slurm jobs, or a running Dask scheduler.
        address: of that scheduler.
        count: number of workers or jobs; None to choose it.
    """

    kind: Literal["local", "slurm", "address"]
    address: str = ""
    count: int | None = None


def parse_scheduler(text: str) -> Scheduler:
    """Parse `--scheduler`: local, local:4, slurm, slurm:100, tcp://host:port or tls://host:port.

    Raises:
        UsageError: if the text is none of these.
        DipError: if a package it needs is not installed.
    """
    scheduler = _parse(text)
    if missing := [module for module in REQUIRED_MODULES[scheduler.kind] if find_spec(module) is None]:
        raise DipError(
            f"--scheduler {text} needs {missing[0].replace('_', '-')}: install dip as dipcli[cluster], or leave it out."
        )
    return scheduler


def _parse(text: str) -> Scheduler:
    if text.startswith(("tcp://", "tls://")):
        try:
            url = urlsplit(text)
            complete = bool(url.hostname and url.port) and url.path in ("", "/")
        except ValueError:  # the port is not a number
            complete = False
        if not complete:
            raise UsageError(f"--scheduler {text} is not a complete address: use tcp://host:8786.")
        return Scheduler("address", text.rstrip("/"))
    match = re.fullmatch(r"(local|slurm)(?::(\d{1,6}))?", text)
    if not match:
        raise UsageError(f"--scheduler {text!r} is unknown: {SCHEDULER_KINDS}.")
    count = None if match[2] is None else int(match[2])
    if count == 0:
        raise UsageError(f"--scheduler {text} has no workers: use {match[1]}:1 or more.")
    return Scheduler("slurm" if match[1] == "slurm" else "local", count=count)
