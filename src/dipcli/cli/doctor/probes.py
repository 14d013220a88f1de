"""Probes of PyTorch and its devices, each in a process of its own, `python -m dipcli.cli.doctor.probes`.

A library that does not load, a driver that hangs or an instruction that the CPU does not have ends that process alone.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from dipcli.errors import describe_error
from dipcli.fitting.machine.self_test import compute_gradients

TIMEOUT_SECONDS = 120  # the first use of a GPU may take a minute
TIMED_ITERATIONS = 3
ABILITIES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "neon", "bf16", "sve", "sme")  # as PyTorch names them


@dataclass(frozen=True)
class Torch:
    """The installed PyTorch: version, what GPUs it is built for, CPU threads, its warning about CUDA."""

    version: str
    built_for: str | None = None  # CUDA 13.0, HIP 7.0; None for a CPU build
    threads: int = 1
    warning: str | None = None


@dataclass(frozen=True)
class Device:
    """A device and its probes. The dicts are by precision, fp32 and bf16."""

    name: str  # as for `--device`
    title: str = ""  # model, and the choice of `--precision auto`
    precision: str = "fp32"  # that choice
    iterations_per_second: dict[str, float] = field(default_factory=dict)  # of the small network
    gradient_error: dict[str, float] = field(default_factory=dict)  # relative L2 distance to the CPU in fp32
    failures: dict[str, str] = field(default_factory=dict)  # by "device" if there was no probe


def run_child(*arguments: str, timeout: float = TIMEOUT_SECONDS) -> tuple[dict[str, Any], str | None]:
    """Run this module in a child process: its report, and how it failed (None if it did not)."""
    command = [sys.executable, "-m", "dipcli.cli.doctor.probes", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run(command, capture_output=True, timeout=timeout, check=False, env=environment)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        log, ending = error.stderr or b"", f"no answer in {timeout:g} seconds"
    else:
        if child.returncode == 0:
            return json.loads(child.stdout.splitlines()[-1]), None
        names = {-number: number.name for number in signal.Signals}
        log, ending = child.stderr, names.get(child.returncode, f"exit code {child.returncode}")
    last_line = (log.decode(errors="replace").strip().splitlines() or ["Python"])[-1]
    return {}, f"{last_line} ({ending})"


def probe_in_child(name: str, timeout: float = TIMEOUT_SECONDS) -> Device:
    """Probe a device in a child process."""
    report, failure = run_child("device", name, timeout=timeout)
    return Device(name, failures={"device": failure}) if failure else Device(**report)


def import_modules(names: list[str]) -> dict[str, Any]:
    """Import modules and report the errors; if PyTorch works, report its build and devices."""
    errors = {}
    for name in names:
        print(f"importing {name}", file=sys.stderr, flush=True)  # noqa: T201 - the parent reads how far it came
        try:
            import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken installation raises anything
            errors[name] = describe_error(error)
    if "torch" in errors:
        return {"errors": errors}
    import torch

    from dipcli.fitting.machine.arithmetic import read_cpu_capabilities

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    warning = next((str(record.message).partition("\n")[0] for record in caught), None)
    versions = {"CUDA": torch.version.cuda, "HIP": torch.version.hip}
    built_for = next((f"{name} {version}" for name, version in versions.items() if version), None)
    abilities = [name for name in ABILITIES if read_cpu_capabilities().get(name)]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return {
        "errors": errors,
        "torch": asdict(Torch(torch.__version__, built_for, torch.get_num_threads(), warning)),
        "abilities": abilities or [torch.backends.cpu.get_cpu_capability()],
        "devices": ["cpu", *(f"cuda:{index}" for index in range(gpus)), *mps],
    }


def probe_device(name: str) -> Device:
    """Probe a device in this process."""
    import torch

    from dipcli.fitting.machine.arithmetic import choose_precision
    from dipcli.fitting.machine.device import read_name

    print(f"probing {name}", file=sys.stderr, flush=True)  # noqa: T201 - the parent reads how far it came
    device = torch.device(name)
    try:
        precision, reason = choose_precision(device)
        report = Device(name, f"{read_name(device)}, --precision auto takes {precision}: {reason}", precision)
    except Exception as error:  # noqa: BLE001 - drivers raise anything
        return Device(name, failures={"device": describe_error(error)})
    for kind in ("fp32", "bf16"):
        try:
            reference, _ = compute_gradients(torch.device("cpu"), "fp32")
            gradients, seconds = compute_gradients(device, kind, TIMED_ITERATIONS)
        except Exception as error:  # noqa: BLE001 - drivers raise anything
            report.failures[kind] = describe_error(error)
        else:
            report.iterations_per_second[kind] = round(1 / seconds, 1)
            distance = float((gradients - reference).norm() / reference.norm())
            if math.isfinite(distance):
                report.gradient_error[kind] = distance
            else:
                report.failures[kind] = "the gradients are not finite"
    return report


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    what, *arguments = sys.argv[1:]
    result = import_modules(arguments) if what == "import" else asdict(probe_device(*arguments))
    sys.stdout.write(json.dumps(result) + "\n")
