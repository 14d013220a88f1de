"""The facts about this machine, gathered without importing PyTorch into this process."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import dipcli
from dipcli import files
from dipcli.cli.doctor import probes
from dipcli.errors import DipError
from dipcli.fitting.machine import cgroups

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # PyTorch reads these, in this order
# A line of the metadata: torch>=2.4, or dask>=2025; extra == 'cluster'. Lines with another condition are skipped.
REQUIREMENT = re.compile(r"([\w.-]+)([^;]*)(?:;\s*extra\s*==\s*.([\w-]+).)?")
MODULES = {"pillow": "PIL", "scikit-image": "skimage", "pywavelets": "pywt"}  # imported under another name
NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


@dataclass(frozen=True)
class Package:
    """A package that dipcli or one of its extras needs."""

    name: str
    version: str | None  # None if it is not installed
    minimum: str = ""
    extra: str = ""
    error: str | None = None  # on import


@dataclass(frozen=True)
class Disk:
    """A folder, to write to."""

    folder: str
    free: int | None  # bytes; None if the folder does not exist
    writable: bool


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All facts. None stands for unknown, or for no limit."""

    dipcli: str
    python: str  # version
    executable: str
    system: str
    packages: tuple[Package, ...] = ()
    torch: probes.Torch | None = None  # None if it does not work
    error: str | None = None  # of the process that imports the packages
    processor: str
    abilities: tuple[str, ...] = ()  # instruction sets that matter for convolutions
    cores: int | None = None  # physical
    allowed: int = 1  # logical processors that this process may use
    quota: float | None = None  # processors at a time, by the control group
    variable: str | None = None  # NAME=VALUE of the environment that sets the number of threads
    memory_free: int | None = None  # bytes
    memory_total: int | None = None
    memory_limit: int | None = None  # by the control group
    disks: tuple[Disk, ...] = ()  # the current folder, the temporary folder
    gpus: tuple[str, ...] = ()  # of NVIDIA, by its driver
    devices: tuple[probes.Device, ...] = ()  # of PyTorch

    @property
    def usable_cores(self) -> int:
        """Threads that get a core of their own."""
        cores = min(self.allowed, self.cores or self.allowed)
        return cores if self.quota is None else max(1, min(cores, round(self.quota)))


def gather_facts(timeout: float = probes.TIMEOUT_SECONDS) -> Facts:
    """Gather the facts: a few seconds for each device, at most `timeout` seconds for each probe."""
    packages = list_packages()
    modules = {package.name: MODULES.get(package.name, package.name) for package in packages}
    needed = [modules[package.name] for package in packages if not package.extra] or ["torch"]
    report, error = probes.run_child("import", *needed, timeout=timeout)
    errors = report.get("errors", {})
    quota, memory_limit = cgroups.read_limits()
    cores = memory_free = memory_total = None
    with suppress(ImportError):
        import psutil

        cores, memory = psutil.cpu_count(logical=False), psutil.virtual_memory()
        memory_free, memory_total = memory.available, memory.total
    return Facts(
        dipcli=dipcli.__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        packages=tuple(replace(package, error=errors.get(modules[package.name])) for package in packages),
        torch=probes.Torch(**report["torch"]) if "torch" in report else None,
        error=error,
        processor=platform.processor() or platform.machine(),
        abilities=tuple(report.get("abilities", ())),
        cores=cores,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=quota,
        variable=next((f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if os.environ.get(name)), None),
        memory_free=memory_free,
        memory_total=memory_total,
        memory_limit=memory_limit,
        disks=(check_disk(Path()), check_disk(Path(tempfile.gettempdir()))),
        gpus=list_gpus(),
        devices=tuple(probes.probe_in_child(name, timeout) for name in report.get("devices", ())),
    )


def list_packages(distribution: str = "dipcli") -> tuple[Package, ...]:
    """List what a distribution requires, by its metadata, and the installed versions."""
    packages, requirements = [], None
    with suppress(PackageNotFoundError):  # run from its source
        requirements = requires(distribution)
    for match in filter(None, map(REQUIREMENT.fullmatch, requirements or [])):
        name, versions, extra = match.groups("")
        installed, minimum = None, re.search(r">=\s*([\w.]+)", versions)
        with suppress(PackageNotFoundError):
            installed = version(name)
        packages.append(Package(name, installed, minimum[1] if minimum else "", extra))
    return tuple(packages)


def check_disk(folder: Path) -> Disk:
    """Measure the room on the disk of a folder, and check whether a file can be written there."""
    free, writable = None, False
    with suppress(OSError, DipError):
        folder = folder.absolute()
        free = shutil.disk_usage(folder).free
        files.check_writable(folder)
        writable = True
    return Disk(str(folder), free, writable)


def list_gpus() -> tuple[str, ...]:
    """List NVIDIA GPUs as `NAME, driver VERSION`; empty if nvidia-smi is missing or fails."""
    try:
        child = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(", driver ".join(line.rsplit(", ", 1)) for line in child.stdout.splitlines() if ", " in line)
