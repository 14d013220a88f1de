"""Precision and memory layout of the network on each device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dipcli.settings.settings import Precision

IEEE = "ieee"  # PyTorch's name for products of fp32 numbers that keep all their bits


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


def choose_layout(network: nn.Module, device: torch.device, *, grouped: bool = False) -> torch.memory_format:
    """Return the memory layout in which convolutions are fast and right.

    Channels last, but not on MPS, where the backward pass of batch norm is wrong in it (PyTorch issue 175189), and not
    for grouped convolutions on CUDA, which are many times slower in it.

    Args:
        network: that is computed.
        device: where.
        grouped: whether it will be grouped with others.
    """
    grouped = grouped or any(getattr(layer, "groups", 1) > 1 for layer in network.modules())
    if device.type == "mps" or (device.type == "cuda" and grouped):
        return torch.contiguous_format
    return torch.channels_last


@contextmanager
def use_ieee_fp32(device: torch.device) -> Iterator[None]:
    """Keep all bits of fp32 in products and convolutions inside the context: by default cuDNN uses TF32, with ten."""
    switches: list[tuple[Any, str, object]] = []
    if device.type == "cuda":
        backends: Any = torch.backends
        if hasattr(backends.cudnn, "conv"):  # PyTorch 2.9 or later; its older switches must not be mixed with these
            switches = [(part, "fp32_precision", IEEE) for part in (backends.cuda.matmul, backends.cudnn.conv)]
        else:
            switches = [(part, "allow_tf32", False) for part in (backends.cuda.matmul, backends.cudnn)]
    before = [getattr(part, name) for part, name, _ in switches]
    try:
        for part, name, value in switches:
            setattr(part, name, value)
        yield
    finally:
        for (part, name, _), value in zip(switches, before, strict=True):
            setattr(part, name, value)


def read_cpu_capabilities() -> dict[str, object]:
    """Return the CPU's name and instruction sets as PyTorch reports them; empty with an older PyTorch."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities
