"""Choosing the device and the precision."""

from __future__ import annotations

import torch

from dipcli.errors import DipError, UsageError
from dipcli.settings.settings import Precision

DEVICE_TYPES = ("cuda", "mps", "cpu")  # in the order in which auto tries them


def choose_device(name: str) -> torch.device:
    """Return the device to fit on, after a small computation on it.

    Args:
        name: auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: if the name is invalid.
        DipError: if the device is missing or does not work.
    """
    if name == "auto":
        return torch.device(next(kind for kind in DEVICE_TYPES if _find_problem(kind) is None))
    kind, _, index = name.partition(":")
    if kind not in DEVICE_TYPES or not (index.isdecimal() or name == kind):
        raise UsageError(f"--device {name} is unknown: choose auto, cpu, cuda, cuda:N or mps.")
    if problem := _find_problem(name):
        raise DipError(f"--device {name} is not available ({problem}): use --device cpu or omit the option.")
    return torch.device(name)


def choose_precision(device: torch.device) -> tuple[Precision, str]:
    """Return bf16 if the hardware computes in it, else fp32, and the reason.

    The choice depends on the reported capabilities, not on a timing: the same machine always gets the same answer.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "the GPU computes in it") if supported else ("fp32", "the GPU would only emulate bf16")
    if device.type == "cpu":
        extensions = [name for name in ("avx512_bf16", "amx_bf16") if read_cpu_capabilities().get(name)]
        return ("bf16", f"the CPU has {extensions[0]}") if extensions else ("fp32", "PyTorch finds no bf16 in this CPU")
    return "fp32", "bf16 is not tried on MPS"


def read_cpu_capabilities() -> dict[str, object]:
    """Return the CPU's name and instruction sets as PyTorch reports them; empty with an older PyTorch."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities


def read_name(device: torch.device) -> str:
    """Return the name of the GPU, else the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _find_problem(name: str) -> str | None:
    """Return why a small computation on the device fails, in a few words; None if it works."""
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
