"""What is known of the machine and of what is installed on it: the facts that `dip doctor` goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Capability = tuple[int, int]


@dataclass(frozen=True)
class Package:
    """Something that dipcli needs.

    Attributes:
        name: as pip knows it.
        version: the one installed; None when it is not.
        least: the oldest version that will do; empty when any will.
        extra: the extra that asks for it; empty for what is always needed.
        trouble: why it does not import, in its own words; None when it does, or when nobody tried.
    """

    name: str
    version: str | None
    least: str = ""
    extra: str = ""
    trouble: str | None = None


@dataclass(frozen=True)
class Card:
    """A card with an NVIDIA GPU as the system sees it; PyTorch may see less.

    Attributes:
        name: of the model.
        memory: bytes; None when not known.
        capability: CUDA compute capability; None when not known.
    """

    name: str
    memory: int | None = None
    capability: Capability | None = None


@dataclass(frozen=True)
class Nvidia:
    """What the system has from NVIDIA.

    Attributes:
        state: none, works, driverless (a card, no driver), silent (the driver does not answer) or withheld (the
            machine has a card which this container was not given).
        cards: those that the driver, or the bus, tells of.
        driver: its version; None when not known.
        words: what nvidia-smi said where it did not answer.
        hidden: the value of CUDA_VISIBLE_DEVICES; None when it is not set.
    """

    state: Literal["none", "works", "driverless", "silent", "withheld"] = "none"
    cards: tuple[Card, ...] = ()
    driver: str | None = None
    words: str = ""
    hidden: str | None = None


@dataclass(frozen=True)
class Torch:
    """How the installed PyTorch was built.

    Attributes:
        version: its own.
        cuda: the version of CUDA that it brings; None for a build without.
        hip: likewise for AMD's.
        arches: what its CUDA kernels were compiled for, as sm_90 or compute_90.
        threads: how many it uses on the CPU.
        trouble: what it says about CUDA where it cannot use it.
        size: bytes on the disk, with the libraries that came along; None when not known.
        libraries: packages that came along for CUDA alone.
    """

    version: str
    cuda: str | None = None
    hip: str | None = None
    arches: tuple[str, ...] = ()
    threads: int = 1
    trouble: str | None = None
    size: int | None = None
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A small computation on a device in one precision.

    Attributes:
        precision: fp32 or bf16.
        milliseconds: the best of a few; None when it failed.
        error: relative distance to what the CPU finds in fp32.
        trouble: why it failed.
    """

    precision: str
    milliseconds: float | None = None
    error: float | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class Device:
    """A device that PyTorch offers.

    Attributes:
        name: as `--device` takes it.
        title: what it calls itself.
        precision: what `--precision auto` takes there.
        reason: why.
        memory: bytes of its own; None for the CPU, or when not known.
        capability: CUDA compute capability.
        trials: in each precision.
        repeats: whether the same small fit gave the same bits twice; None when it could not be run.
        trouble: why it could not.
    """

    name: str
    title: str
    precision: str
    reason: str
    memory: int | None = None
    capability: Capability | None = None
    trials: tuple[Trial, ...] = ()
    repeats: bool | None = None
    trouble: str | None = None


@dataclass(frozen=True)
class Processor:
    """The CPU.

    Attributes:
        name: of the model.
        abilities: which of the instructions that matter here it has.
        cores: physical ones; None when not known.
        allowed: how many processors, hyper-threads counted, this process may run on.
        quota: how many of them at a time, by the control group; None for no limit.
        variable: the environment variable that sets the number of threads, and its value; None when there is none.
    """

    name: str
    abilities: tuple[str, ...] = ()
    cores: int | None = None
    allowed: int = 1
    quota: float | None = None
    variable: tuple[str, str] | None = None

    @property
    def usable(self) -> int:
        """Threads that have a core of their own."""
        within = min(self.allowed, self.cores or self.allowed)
        return within if self.quota is None else max(1, min(within, round(self.quota)))


@dataclass(frozen=True)
class Memory:
    """The machine's memory, in bytes; None when not known.

    Attributes:
        total: what is built in.
        free: what is to be had.
        limit: the most that the control group allows.
        kept: whether freed memory stays with the process, as `device.keep_memory` asks the GNU C library; None when
            nobody tried.
    """

    total: int | None = None
    free: int | None = None
    limit: int | None = None
    kept: bool | None = None


@dataclass(frozen=True)
class Room:
    """A folder and its disk.

    Attributes:
        folder: its path.
        free: bytes; None when there is no such folder.
        writable: whether a file can be written there.
    """

    folder: str
    free: int | None
    writable: bool


@dataclass(frozen=True)
class Home:
    """The Python environment that dipcli lives in.

    Attributes:
        python: its version.
        executable: its interpreter.
        installer: what puts packages into it.
        name: of the environment, for pipx.
    """

    python: str
    executable: str
    installer: Literal["pip", "pipx", "uv"] = "pip"
    name: str = ""


@dataclass(frozen=True)
class Facts:
    """Everything together.

    Attributes:
        dipcli: its version.
        home: the Python environment.
        system: Linux, Darwin or Windows.
        release: the system's name and version, for people.
        machine: the architecture as Python sees it, such as x86_64.
        translated: whether Python runs as x86 on Apple silicon, through Rosetta.
        packages: what dipcli needs, PyTorch among it, and what its extras need.
        processor: the CPU.
        memory: the machine's.
        rooms: the current folder, then the temporary one.
        nvidia: what the system has from NVIDIA.
        torch: the installed PyTorch; None when it does not import.
        devices: what it offers.
        broken: what ended the examination of PyTorch and the devices before its time, if anything did.
    """

    dipcli: str
    home: Home
    system: str
    release: str
    machine: str
    processor: Processor
    translated: bool = False
    packages: tuple[Package, ...] = ()
    memory: Memory = Memory()
    rooms: tuple[Room, ...] = ()
    nvidia: Nvidia = Nvidia()
    torch: Torch | None = None
    devices: tuple[Device, ...] = ()
    broken: str | None = None
