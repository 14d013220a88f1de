"""Findings: what is wrong with this machine, each with one remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias

from dipcli.cli.doctor.facts import Facts, Package
from dipcli.fitting.machine.self_test import MAX_GRADIENT_ERROR

GIB = 2**30
MIN_MEMORY_BYTES, MIN_DISK_BYTES = 2 * GIB, GIB // 4
TORCH_BUILDS = "https://pytorch.org/get-started/locally/"
Grade: TypeAlias = Literal["broken", "hint"]


@dataclass(frozen=True)
class Finding:
    """A problem and its remedy."""

    grade: Grade  # broken: dipcli does not work, or computes wrong values; hint: it could do better
    problem: str
    remedy: str
    command: str = ""  # for the remedy, to be copied


def find_problems(facts: Facts) -> list[Finding]:
    """Judge the facts; broken first."""
    checks = (_check_packages, _check_gpu, _check_devices, _check_threads, _check_memory, _check_disks)
    return sorted((finding for check in checks for finding in check(facts)), key=lambda finding: finding.grade)


def _check_packages(facts: Facts) -> Iterator[Finding]:
    for package in facts.packages:
        error = package.error or (facts.error if package.name == "torch" and facts.torch is None else None)
        if package.extra:
            continue
        if package.version is None:
            problem, option = "is not installed", ""
        elif _numbers(package.version) < _numbers(package.minimum):
            problem, option = f"{package.version} is too old: dipcli needs {package.minimum}", "--upgrade "
        elif error:
            problem, option = f"does not work: {error}", "--force-reinstall "
        else:
            continue
        remedy = f"Install it (or another build, {TORCH_BUILDS}):" if package.name == "torch" else "Install it:"
        yield Finding("broken", f"{package.name} {problem}.", remedy, write_pip_line(facts.executable, package, option))


def write_pip_line(executable: str, package: Package, option: str = "") -> str:
    """The command that installs a package beside dipcli, for sh and cmd; with uv if the environment has no pip."""
    python = f'"{executable}"' if " " in executable else executable
    installer = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
    return f"{installer} {option}" + (f'"{package.name}>={package.minimum}"' if package.minimum else package.name)


def _check_gpu(facts: Facts) -> Iterator[Finding]:
    torch = facts.torch
    if torch is None or not facts.gpus or any(device.name.startswith("cuda") for device in facts.devices):
        return
    reason = (torch.warning or "it sees no GPU; check CUDA_VISIBLE_DEVICES") if torch.built_for else "it is a CPU build"
    problem = f"PyTorch {torch.version} does not use the {facts.gpus[0]}: {reason.rstrip('.')}."
    yield Finding("hint", problem, f"Install the build for this GPU and driver: {TORCH_BUILDS}")


def _check_devices(facts: Facts) -> Iterator[Finding]:
    for device in facts.devices:
        grade: Grade = "broken" if device.name == "cpu" else "hint"
        remedy, command = "Until that is repaired, use the CPU:", "dip denoise noisy.png --device cpu"
        if device.name == "cpu":
            remedy, command = f"Install another build of PyTorch: {TORCH_BUILDS}", ""
        for kind in ("device", "fp32", *({device.precision} - {"fp32"})):
            where = device.name if kind == "device" else f"{device.name} in {kind}"
            error = device.gradient_error.get(kind, 0.0)
            if failure := device.failures.get(kind):
                yield Finding(grade, f"The probe of {where} failed: {failure}.", remedy, command)
            elif error > MAX_GRADIENT_ERROR.get(kind, 1.0):
                yield Finding("broken", f"The gradients on {where} are wrong: off by {error:.2g}.", remedy, command)


def _check_threads(facts: Facts) -> Iterator[Finding]:
    usable, threads = facts.usable_cores, facts.torch.threads if facts.torch else facts.usable_cores
    command = f"dip denoise noisy.png --threads {usable}"
    if threads > max(usable, facts.quota or facts.allowed):
        problem = (
            f"PyTorch uses {threads} threads, but this process may use {facts.quota or facts.allowed:g} processors."
        )
        yield Finding("hint", problem, "Use fewer threads:", command)
    elif threads < usable and facts.variable:
        problem = f"{facts.variable} limits PyTorch to {threads} of {usable} cores."
        yield Finding("hint", problem, "Unset the variable, or override it:", command)


def _check_memory(facts: Facts) -> Iterator[Finding]:
    memory = min(filter(None, (facts.memory_free, facts.memory_limit)), default=MIN_MEMORY_BYTES)
    if memory < MIN_MEMORY_BYTES:
        problem = f"Only {memory / GIB:.1f} GiB of memory: enough for small images."
        yield Finding("hint", problem, "Close other programs, or use less:", "dip denoise noisy.png --preset fast")


def _check_disks(facts: Facts) -> Iterator[Finding]:
    remedies = ("Name another folder with -o.", "Clear it, or name another folder with TMPDIR.")
    for disk, remedy in zip(facts.disks, remedies, strict=False):
        if not disk.writable:
            yield Finding("hint", f"{disk.folder} is not writable.", remedy)
        elif disk.free is not None and disk.free < MIN_DISK_BYTES:
            yield Finding("hint", f"Only {disk.free / 2**20:.0f} MiB of disk space in {disk.folder}.", remedy)


def _numbers(version: str) -> list[int]:
    """2.13.0+cpu as [2, 13, 0]."""
    return [int(number) for number in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0])]
