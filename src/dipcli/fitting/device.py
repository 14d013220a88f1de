"""The machine: which device, which arithmetic, how much memory it took."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from dipcli.errors import DipError, OutOfMemoryError, UsageError
from dipcli.settings.settings import Precision

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h of the GNU C library numbers its options
# Of an allocation that failed. The last is how oneDNN says it: its convolutions, which fit any size, want room too.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a primitive")
STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux has them
KINDS = ("cuda", "mps", "cpu")  # in the order in which auto tries them


def choose(name: str) -> torch.device:
    """The device to fit on; it has answered a small computation.

    Args:
        name: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: when there is no such kind of device.
        DipError: when the device is not there or does not work.
    """
    if name == "auto":
        return torch.device(next(kind for kind in KINDS if _trouble(kind) is None))
    kind, _, index = name.partition(":")
    if kind not in KINDS or not (index.isdecimal() or name == kind):
        raise UsageError(f"--device {name} is unknown: choose auto, cpu, cuda, cuda:N or mps.")
    if trouble := _trouble(name):
        raise DipError(f"--device {name} is not available here ({trouble}): use --device cpu or leave it out.")
    return torch.device(name)


def precision(device: torch.device) -> Precision:
    """bf16 where the hardware computes in it, else fp32.

    It goes by what the hardware says of itself, not by a timing: the same machine always answers the same.
    """
    return choice(device)[0]


def choice(device: torch.device) -> tuple[Precision, str]:
    """The precision for a device, and why."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            able = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU computes in it") if able else ("fp32", "the GPU would only emulate bf16")
    if device.type == "cpu":
        having = [ability for ability in ("avx512_bf16", "amx_bf16") if capabilities().get(ability)]
        return ("bf16", f"the CPU has {having[0]}") if having else ("fp32", "PyTorch knows of no bf16 in this CPU")
    return "fp32", "bf16 is not tried on MPS"


def capabilities() -> dict[str, object]:
    """What PyTorch knows of the CPU: its name, and which instructions it has; an older PyTorch has no word for it."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return able


def name(device: torch.device) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def keep_memory(device: torch.device) -> bool:
    """Have the CPU's memory kept by this process when a tensor is freed: the next iteration wants it again.

    By default the GNU C library gives every large block back to the system, which clears each page of the next one:
    a fifth of an iteration of the published network at 512x512. Elsewhere than on Linux with that library, nothing is
    done.

    Returns:
        Whether it is kept now.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return False
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is None:
        return False
    taken = [option(M_MMAP_THRESHOLD, 2**31 - 1), option(M_TRIM_THRESHOLD, -1)]  # -1 is never
    return all(taken)


def release_memory(device: torch.device) -> None:
    """Give back to the system what was freed and kept: memory ran out, and what comes next is of other sizes."""
    gc.collect()  # an error that was handled holds on to what its functions had
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def forget_peak_memory(device: torch.device) -> None:
    """Count from now on, where the device can: the memory of an earlier picture is not this one's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        FORGET.write_text("5")  # what to write there is in proc_pid_clear_refs(5)


def peak_memory(device: torch.device) -> int | None:
    """The most memory used, in bytes: by the process on the CPU, by PyTorch on a GPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # The process's own. What getrusage tells is at least what the process that started this one had at that moment.
    with suppress(OSError):
        told = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
        if told:
            return int(told[1]) * 1024
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def translate_memory_errors(shape: tuple[int, int, int]) -> Iterator[None]:
    """Say in a sentence when memory runs out on a picture of this shape, (C, H, W).

    Raises:
        OutOfMemoryError: when it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"There is not enough memory for a picture of {shape[2]}x{shape[1]}: "
            "try --preset fast, a smaller --tile, a narrower --network or a smaller picture."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory ran out: on a GPU it is torch.OutOfMemoryError, on the CPU a plain RuntimeError."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in SIGNS)


def _trouble(name: str) -> str | None:
    """What keeps the device from answering a small computation, in a few words; None when it answers."""
    kind = name.partition(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        return "PyTorch sees no GPU" if built else "this PyTorch is built for the CPU only"
    if kind == "mps" and not torch.backends.mps.is_available():
        return "PyTorch sees no Apple GPU"
    try:
        torch.nn.functional.conv2d(
            torch.ones(1, 1, 4, 4, device=name), torch.ones(1, 1, 3, 3, device=name)
        ).sum().item()
    except (RuntimeError, NotImplementedError) as error:
        return str(error).strip().partition("\n")[0]
    return None
