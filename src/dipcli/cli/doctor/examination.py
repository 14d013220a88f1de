"""Gathering the facts about a machine."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import dipcli
from dipcli.cli.doctor import host
from dipcli.cli.doctor.facts import Device, Facts, Torch, Trial

PATIENCE = 120  # seconds for all trials: the first contact with a GPU may take some
MODULES = {
    "pillow": "PIL",
    "scikit-image": "skimage",
    "pywavelets": "pywt",
}  # those not imported by their package's name


def examine() -> Facts:
    """Look at the machine: some seconds, most of them for loading PyTorch in a process of its own."""
    needed = host.packages()
    always = [each.name for each in needed if not each.extra]
    told, broken = _tried([MODULES.get(name, name) for name in always or ["torch"]])
    troubles = told.get("troubles", {})
    size, along = host.burden()
    built = told.get("torch")
    processor = host.processor()
    return Facts(
        dipcli=dipcli.__version__,
        home=host.home(),
        system=platform.system(),
        release=host.release(),
        machine=platform.machine(),
        translated=host.translated(),
        packages=tuple(replace(each, trouble=troubles.get(MODULES.get(each.name, each.name))) for each in needed),
        processor=replace(processor, abilities=tuple(told.get("abilities", ()))),
        memory=replace(host.memory(), kept=told.get("kept")),
        rooms=host.rooms(),
        nvidia=host.nvidia(),
        torch=built and Torch(**{**built, "arches": tuple(built["arches"]), "size": size, "libraries": along}),
        devices=tuple(_device(each) for each in told.get("devices", ())),
        broken=broken or troubles.get("torch"),
    )


def _tried(modules: list[str]) -> tuple[dict[str, Any], str | None]:
    """What `dipcli.cli.doctor.probes` tells, and what ended it before its time."""
    command = [sys.executable, "-m", "dipcli.cli.doctor.probes", *modules]
    path = os.pathsep.join(each for each in sys.path if each)
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired as error:
        said = error.stderr or b""
        return {}, f"no answer after {PATIENCE} seconds of {_last(said if isinstance(said, str) else said.decode())}"
    if done.returncode == 0:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told, None
    names = {-each.value: each.name for each in signal.Signals}
    return {}, f"{_last(done.stderr)} ({names.get(done.returncode, f'exit code {done.returncode}')})"


def _last(said: str) -> str:
    return (said.strip().splitlines() or ["Python"])[-1]


def _device(told: dict[str, Any]) -> Device:
    capability = told["capability"] and (told["capability"][0], told["capability"][1])
    return Device(**{**told, "capability": capability, "trials": tuple(Trial(**each) for each in told["trials"])})
