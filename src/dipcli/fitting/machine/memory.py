"""The machine's memory: what is free, what was used, and what to say when it runs out."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import psutil
import torch

from dipcli.errors import OutOfMemoryError
from dipcli.fitting.machine import cgroups
from dipcli.settings import Settings

BASE_BYTES = 340 * 2**20  # of the process without images: Python, PyTorch and the libraries they load
FREE_MEMORY_FRACTION = 0.8  # of the free memory, used unless --max-memory is given
# Set by a batch for the fits of this process:
PROCESS_LIMIT_BYTES: ContextVar[int | None] = ContextVar("process_limit_bytes", default=None)
FITS_AT_ONCE: ContextVar[int] = ContextVar("fits_at_once", default=1)  # they share the limit evenly
GPU_SHARE_VARIABLE = "DIP_PROCESSES_PER_GPU"  # of the environment: processes that share the GPU's memory evenly

# Messages of a failed allocation. The last is oneDNN's, whose convolutions of any size need memory too.
OUT_OF_MEMORY_MESSAGES = (
    "out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a primitive",
)  # fmt: skip
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # option numbers in malloc.h of the GNU C library
PROCESS_STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # Linux only


def read_limit(settings: Settings) -> int | None:
    """Return the bytes that a fit may use; None if no limit is given and the free memory is not known.

    Args:
        settings: `max_memory` and `device` are used.
    """
    given, fits = settings.memory_limit(), FITS_AT_ONCE.get()
    if given is not None:
        return given // fits
    device = torch.device(settings.device)
    available = read_free(device)
    if available is None:
        return None
    process_limit = PROCESS_LIMIT_BYTES.get()
    if device.type == "cuda":
        available //= int(os.environ.get(GPU_SHARE_VARIABLE, "1"))
    elif process_limit is not None:
        available = min(available, process_limit)
    return int(FREE_MEMORY_FRACTION * available) // fits


def read_free(device: torch.device) -> int | None:
    """Return the bytes that this process can use in all: those it has already and those free for it.

    On a CPU the control groups limit it; on a GPU it is the memory that PyTorch has and can get.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device)
    own = int(psutil.Process().memory_info().rss)
    free_sizes = [int(psutil.virtual_memory().available)]
    if sys.platform == "linux":
        free_sizes += cgroups.read_free_memory()
    return own + max(0, min(free_sizes))


def keep_freed(device: torch.device) -> bool:
    """Make the C library keep the memory of freed CPU tensors for the next iteration.

    By default the GNU C library returns every large block to the system, which clears each page of the next one: a
    fifth of an iteration of the published network at 512x512. Only Linux with the GNU C library can do this.

    Returns:
        Whether freed memory is kept now.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = [mallopt(M_MMAP_THRESHOLD, 2**31 - 1), mallopt(M_TRIM_THRESHOLD, -1)]  # -1: never trim
    return all(accepted)


def release(device: torch.device) -> None:
    """Return the memory of freed tensors to the system: the next ones have other sizes."""
    gc.collect()  # the traceback of a handled error keeps local variables alive
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def reset_peak(device: torch.device) -> None:
    """Measure the peak from now on, so that it is not that of an earlier image. Linux and CUDA only.

    Fits at the same time share one peak, which goes on.
    """
    if FITS_AT_ONCE.get() > 1:
        return
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        CLEAR_REFS.write_text("5")  # resets the peak: proc_pid_clear_refs(5)


def read_peak(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of the process on a CPU, of PyTorch on a GPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage would also count what the parent process had when it started this one.
    with suppress(OSError):
        match = re.search(r"VmHWM:\s*(\d+) kB", PROCESS_STATUS.read_text())
        if match:
            return int(match[1]) * 1024
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out. PyTorch raises torch.OutOfMemoryError on a GPU, a RuntimeError on a CPU."""
    return isinstance(error, MemoryError) or any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES)


@contextmanager
def translate_memory_errors(shape: tuple[int, int, int]) -> Iterator[None]:
    """Replace the errors of a failed allocation by one with advice, for an image of shape (C, H, W).

    Raises:
        OutOfMemoryError: if memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # else the error keeps the tensors of the fit alive
        raise OutOfMemoryError(
            f"There is not enough memory for an image of {shape[2]}x{shape[1]}: "
            "try --preset fast, a smaller --tile, a narrower --network or a smaller image."
        ) from error
