"""Choosing the device."""

from __future__ import annotations

from functools import cache

import torch

from dipcli.errors import DipError, UsageError
from dipcli.fitting.machine.arithmetic import choose_precision
from dipcli.fitting.machine.self_test import find_gradient_problem
from dipcli.settings import Settings

DEVICE_TYPES = ("cuda", "mps", "cpu")  # in the order in which auto tries them


def choose_device(name: str) -> torch.device:
    """Return the device to fit on. A GPU must have computed the gradients of a small network right.

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


def explain_choice(asked: Settings, device: torch.device) -> tuple[str, ...]:
    """Return what the user should know about device and precision.

    Args:
        asked: the settings as they were asked for.
        device: the one that was chosen.
    """
    remarks = []
    if asked.device == "auto":
        passed_over = DEVICE_TYPES[: DEVICE_TYPES.index(device.type)]
        problems = {kind: _find_problem(kind) for kind in passed_over if _is_visible(kind)}
        remarks += [f"not using {kind}: {problem}" for kind, problem in problems.items()]
    precision, reason = choose_precision(device)
    if asked.precision == "bf16" != precision:
        remarks.append(f"--precision bf16 may be slow here ({reason}): --precision fp32 is probably faster")
    return tuple(remarks)


def read_name(device: torch.device) -> str:
    """Return the name of the GPU, else the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _is_visible(kind: str) -> bool:
    """Return whether PyTorch sees a GPU of this kind."""
    return torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available()


@cache
def _find_problem(name: str) -> str | None:
    """Return why a device is not used, in a few words; None if it works. Each is tested once."""
    kind = name.partition(":")[0]
    if kind == "cpu":
        return None
    if not _is_visible(kind):
        if kind == "mps":
            return "PyTorch sees no Apple GPU"
        built = torch.version.cuda is not None or torch.version.hip is not None
        return "PyTorch sees no GPU" if built else "this PyTorch is built for the CPU only"
    device = torch.device(name)
    try:
        return find_gradient_problem(device, choose_precision(device)[0])
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        return str(error).strip().partition("\n")[0]
