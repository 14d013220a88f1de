"""What the system tells of the machine, without PyTorch: processor, memory, disks, cards, what is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dipcli import files
from dipcli.cli.doctor.facts import Card, Home, Memory, Nvidia, Package, Processor, Room
from dipcli.errors import DipError
from dipcli.fitting import cgroups as groups

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # PyTorch heeds these, the first one first
# As the metadata have it: torch>=2.4, or dask>=2025; extra == 'cluster'. One with any other condition is passed over.
REQUIREMENT = re.compile(r"([\w.-]+)([^;]*)(?:;\s*extra\s*==\s*.([\w-]+).)?")
PATIENCE = 20  # seconds: a sick driver may never answer


def home() -> Home:
    """Where dipcli is installed, and by what."""
    version, here = platform.python_version(), Path(sys.prefix)
    if (here / "pipx_metadata.json").exists():
        return Home(version, sys.executable, "pipx", here.name)
    return Home(version, sys.executable, "pip" if importlib.util.find_spec("pip") else "uv")


def release() -> str:
    """The system's name and version, for people."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform != "linux":
        return f"{platform.system()} {platform.release()}"
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = "Linux"
    return f"{name}, kernel {platform.release()}, {' '.join(platform.libc_ver()) or 'another C library than GNU'}"


def translated() -> bool:
    """Whether this is a program for x86 on Apple silicon."""
    return sys.platform == "darwin" and _said("sysctl", "-n", "sysctl.proc_translated") == "1"


def packages(distribution: str = "dipcli") -> tuple[Package, ...]:
    """What a distribution requires, by its own metadata, and what of it is installed."""
    try:
        requirements = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        requirements = []
    found = []
    for name, versions, extra in (match.groups("") for each in requirements if (match := REQUIREMENT.fullmatch(each))):
        least = re.search(r">=\s*([\w.]+)", versions)
        found.append(Package(name, installed(name), least[1] if least else "", extra))
    return tuple(found)


def installed(name: str) -> str | None:
    """The version of a package; None when it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def burden() -> tuple[int | None, tuple[str, ...]]:
    """Bytes of the installed PyTorch with what came along for CUDA, and the names of that."""
    try:
        wanted = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return None, ()
    names = [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in wanted]
    along = [each for each in names if each.startswith(("nvidia-", "cuda-", "triton")) and installed(each)]
    recorded = [importlib.metadata.files(each) or [] for each in ("torch", *along)]
    return sum(file.size or 0 for each in recorded for file in each), tuple(along)


def processor() -> Processor:
    """The CPU, and how much of it this process may use."""
    try:
        import psutil

        cores = psutil.cpu_count(logical=False)
    except ImportError:
        cores = None
    # Python has a word for it from 3.13 on, and not everywhere.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    variable = next(((name, os.environ[name]) for name in THREADS if os.environ.get(name)), None)
    return Processor(_model(), cores=cores, allowed=allowed, quota=groups.limits()[0], variable=variable)


def memory() -> Memory:
    """The machine's memory."""
    limit = groups.limits()[1]
    try:
        import psutil
    except ImportError:
        return Memory(limit=limit)
    seen = psutil.virtual_memory()
    return Memory(seen.total, seen.available, limit)


def rooms() -> tuple[Room, ...]:
    """The current folder and the temporary one."""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return (Room(".", None, writable=False), _room(Path(tempfile.gettempdir())))
    return _room(here), _room(Path(tempfile.gettempdir()))


def nvidia(system: Path = Path("/")) -> Nvidia:
    """What there is from NVIDIA, by its driver, and without one by the bus.

    Args:
        system: the root of the file system.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shutil.which("nvidia-smi"):
        told = _asked("name,memory.total,driver_version,compute_cap") or _asked("name,memory.total,driver_version")
        if told:
            cards = [_card(each) for each in told]
            return Nvidia("works", tuple(cards), driver=told[0][2], hidden=hidden)
        words = _said("nvidia-smi") or ""
        if words and "No devices" not in words:
            return Nvidia("silent", tuple(_on_the_bus(system)), words=words.partition("\n")[0].strip(), hidden=hidden)
    module = system / "proc/driver/nvidia"
    if module.exists():
        models = [_found(r"Model:\s*(.+)", each) for each in sorted(module.glob("gpus/*/information"))]
        cards = [Card(model or "an NVIDIA card") for model in models]
        driver = _found(r"\s(\d{3,}\.[\d.]+)\s", module / "version")
        given = (system / "dev/nvidiactl").exists()
        return Nvidia("works" if given else "withheld", tuple(cards), driver, hidden=hidden)
    cards = list(_on_the_bus(system))
    return Nvidia("driverless" if cards else "none", tuple(cards), hidden=hidden)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _found(pattern: str, path: Path) -> str | None:
    """What the pattern's group matches in a file."""
    match = re.search(pattern, "\n".join(_lines(path)))
    return match[1].strip() if match else None


def _room(folder: Path) -> Room:
    try:
        files.check_writable(folder)
    except DipError:
        writable = False
    else:
        writable = True
    try:
        return Room(str(folder), shutil.disk_usage(folder).free, writable)
    except OSError:
        return Room(str(folder), None, writable)


def _model() -> str:
    """What the processor calls itself; its architecture where it has no name."""
    if sys.platform == "darwin":
        name = _said("sysctl", "-n", "machdep.cpu.brand_string")
    elif sys.platform == "linux":
        name = _found(r"(?m)^model name\s*:\s*(.+)$", Path("/proc/cpuinfo"))
    else:
        name = platform.processor()
    return name or platform.machine()


def _on_the_bus(system: Path) -> Iterator[Card]:
    """NVIDIA's display controllers on the PCI bus."""
    for each in sorted(system.glob("sys/bus/pci/devices/*")):
        if groups.describe_limits(each / "vendor") == ["0x10de"] and "".join(
            groups.describe_limits(each / "class")
        ).startswith("0x03"):
            yield Card("an NVIDIA card")


def _asked(fields: str) -> list[list[str]]:
    """The fields of each card; empty when nvidia-smi does not answer."""
    said = _said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", checked=True) or ""
    rows = [[each.strip() for each in line.split(",")] for line in said.splitlines()]
    return rows if all(len(row) == len(fields.split(",")) for row in rows) else []


def _card(row: list[str]) -> Card:
    """From name, memory in MiB, driver and, where the driver tells it, the capability."""
    name, size, _, *rest = row
    parts = rest[0].split(".") if rest else []
    known = len(parts) == 2 and all(each.isdecimal() for each in parts)  # noqa: PLR2004 - as in 8.6
    return Card(
        name, int(size) * 2**20 if size.isdecimal() else None, (int(parts[0]), int(parts[1])) if known else None
    )


def _said(*command: str, checked: bool = False) -> str | None:
    """What a program prints; None when it is not there, does not end, or, checked, fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=checked)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.strip() or done.stderr.strip()) if not checked else done.stdout.strip()
