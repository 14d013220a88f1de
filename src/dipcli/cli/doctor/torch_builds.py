"""Which of PyTorch's builds suits a machine, and the line that installs it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple

from dipcli.cli.doctor.facts import Capability, Facts, Home

INDEX = "https://download.pytorch.org/whl/"


class Wheel(NamedTuple):
    """One of PyTorch's published builds for CUDA.

    Attributes:
        tag: of its index, such as cu130.
        driver: the first branch of NVIDIA's driver that runs it: any of its major version of CUDA will do.
        oldest: the smallest compute capability that it has kernels for.
        newest: the largest.
        python: the last Python it was made for, where its index gets no new versions.
    """

    tag: str
    driver: str
    oldest: Capability
    newest: Capability
    python: tuple[int, int] | None = None


# The support matrix in RELEASE.md of PyTorch 2.14, and before it of 2.11 (the last with cu128) and 2.7 (cu118); drivers
# by NVIDIA's table of CUDA's minor version compatibility. The first that fits is the one to take.
WHEELS = (
    Wheel("cu130", "580", (7, 5), (12, 9)),
    Wheel("cu126", "525", (5, 0), (9, 9)),
    Wheel("cu128", "525", (7, 5), (12, 9), (3, 14)),
    Wheel("cu118", "450", (5, 0), (9, 9), (3, 13)),
)
DRIVERS = {11: "450", 12: "525", 13: "580"}  # the first branch for each major version of CUDA


def fitting(facts: Facts, *, updated: bool = False) -> Wheel | None:
    """The build for the machine's newest NVIDIA card; None when there is none that its driver runs.

    Args:
        facts: of the machine.
        updated: take it that the driver is a new one.
    """
    branch = numbers(WHEELS[0].driver if updated else facts.nvidia.driver or "")[:1]
    told = [each.capability for each in facts.nvidia.cards] + [each.capability for each in facts.devices]
    known = [each for each in told if each]
    for wheel in WHEELS:
        new_enough = branch >= numbers(wheel.driver)
        covered = not known or wheel.oldest <= max(known) <= wheel.newest
        made = wheel.python is None or numbers(facts.home.python)[:2] <= wheel.python
        if new_enough and covered and made:
            return wheel
    return None


def suited(facts: Facts) -> str | None:
    """The tag of the build that the machine can make the most of; None where there is but one."""
    if facts.system == "Darwin":
        return None
    wheel = fitting(facts) if facts.nvidia.state == "works" else None
    return wheel.tag if wheel else "cpu"


def covers(arches: Iterable[str], capability: Capability) -> bool:
    """Whether one of the architectures that kernels were compiled for runs on a card.

    Machine code (sm_86) runs on its own major version from its own minor version on, intermediate code (compute_86)
    on everything from there on; with an a behind it (sm_90a) only on the very same.
    """
    for each in arches:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", each)
        if not match:
            continue
        own = int(match[2]), int(match[3])
        same = (
            own == capability if match[4] == "a" else own[0] == capability[0] or (match[1], match[4]) == ("compute", "")
        )
        if same and own <= capability:
            return True
    return False


def installing(home: Home, *words: str) -> str:
    """The line that has pip install something into the environment of dipcli."""
    return _line(home, ["install", *words])


def uninstalling(home: Home, *names: str) -> str:
    """The line that has pip remove packages from the environment of dipcli."""
    return _line(home, ["uninstall", *([] if home.installer == "uv" else ["-y"]), *names])


def torch_line(facts: Facts, tag: str | None) -> str:
    """The line that puts a build of PyTorch in the place of the one there is.

    Args:
        facts: of the machine.
        tag: of the build: cpu, cu130 ...; None for what is published under the plain name.
    """
    there = any(each.name == "torch" and each.version for each in facts.packages)
    # To pip one build of a version is as good as another: it must be told to install anew.
    again = ["--force-reinstall"] if there else []
    return installing(facts.home, *again, "torch", *(["--index-url", INDEX + tag] if tag else []))


def numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cpu as (2, 13, 0), to compare it."""
    return tuple(int(each) for each in re.findall(r"\d+", re.split(r"[^\d.]", version, maxsplit=1)[0]))


def _line(home: Home, words: list[str]) -> str:
    if home.installer == "pipx":
        command = ["pipx", "runpip", home.name, *words]
    elif home.installer == "uv":
        command = ["uv", "pip", words[0], "--python", home.executable, *words[1:]]
    else:
        command = [home.executable, "-m", "pip", *words]
    if PurePath(home.executable).suffix == ".exe":
        return " ".join(f'"{each}"' if re.search(r"[\s<>&|]", each) else each for each in command)
    return shlex.join(command)
