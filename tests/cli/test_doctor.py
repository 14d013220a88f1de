"""`dip doctor`: from facts to advice, from the system to facts, and the command itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Dip
from hypothesis import given
from hypothesis import strategies as st

import dipcli
from dipcli.cli.doctor import advice, examination, host
from dipcli.cli.doctor import probes as trials
from dipcli.cli.doctor import text as sheet
from dipcli.cli.doctor import torch_builds as wheels
from dipcli.cli.doctor.advice import Finding, advise
from dipcli.cli.doctor.facts import Card, Device, Facts, Home, Memory, Nvidia, Package, Processor, Room, Torch, Trial
from dipcli.fitting.machine import cgroups as groups
from dipcli.fitting.machine import device as machine

GIBI = 2**30
PIP = "/v/bin/python -m pip"
CPU = f"{PIP} install --force-reinstall torch --index-url https://download.pytorch.org/whl/cpu"


def cuda(tag: str) -> str:
    return CPU.replace("whl/cpu", f"whl/{tag}")


SOUND = Facts(
    dipcli="0.1.0",
    home=Home("3.12.4", "/v/bin/python"),
    system="Linux",
    release="Debian GNU/Linux 12, kernel 6.1, glibc 2.36",
    machine="x86_64",
    processor=Processor("A CPU", ("avx2", "avx512_bf16"), cores=8, allowed=16),
    packages=(
        Package("torch", "2.13.0+cpu", "2.4"),
        Package("numpy", "2.4.6", "1.26"),
        Package("dask", None, "2025", "cluster"),
    ),
    memory=Memory(32 * GIBI, 20 * GIBI, None, kept=True),
    rooms=(Room("/pictures", 90 * GIBI, writable=True), Room("/scratch", 9 * GIBI, writable=True)),
    torch=Torch("2.13.0+cpu", threads=8, size=700 * 2**20),
    devices=(
        Device(
            "cpu",
            "cpu",
            "bf16",
            "the CPU has avx512_bf16",
            trials=(Trial("fp32", 4.1, 0.0), Trial("bf16", 2.5, 0.0048)),
            repeats=True,
        ),
    ),
)
ONE = SOUND.devices[0]
H100 = Card("NVIDIA H100", 80 * GIBI, (9, 0))
RTX = Card("NVIDIA GeForce RTX 5090", 32 * GIBI, (12, 0))
PASCAL = Card("NVIDIA GeForce GTX 1080", 8 * GIBI, (6, 1))
KEPLER = Card("Tesla K80", 12 * GIBI, (3, 7))
NEWEST = Torch("2.13.0+cu130", "13.0", arches=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"), threads=8)


def gpu(card: Card, **changed: Any) -> Device:
    trial = (Trial("fp32", 0.2, 0.0003), Trial("bf16", 0.1, 0.005))
    usual = {"trials": trial, "repeats": True, "memory": card.memory, "capability": card.capability}
    return Device("cuda:0", card.name, "bf16", "the GPU computes in it", **{**usual, **changed})


def on(
    card: Card, driver: str | None, built: Torch | None = SOUND.torch, *, seen: bool = False, **nvidia: Any
) -> Facts:
    devices = (ONE, gpu(card)) if seen else (ONE,)
    return replace(SOUND, nvidia=Nvidia("works", (card,), driver, **nvidia), torch=built, devices=devices)


def having(version: str | None, **changed: Any) -> Facts:
    return replace(SOUND, packages=(Package("torch", version, "2.4"),), **changed)


LARGE = replace(NEWEST, size=5 * GIBI, libraries=("nvidia-cublas", "triton"))
APPLE = replace(SOUND, system="Darwin", machine="x86_64", translated=True)
# Facts, the grade of what is found, what the problem says, and the lines to type.
ADVICE: dict[str, tuple[Facts, str, str, list[str]]] = {
    "torch is not installed": (
        having(None, torch=None, devices=()),
        "broken",
        "not installed",
        [CPU.replace("--force-reinstall ", "")],
    ),
    "torch does not load": (
        replace(SOUND, torch=None, devices=(), broken="ImportError: libgomp.so.1: no such file"),
        "broken",
        "libgomp.so.1",
        [CPU],
    ),
    "torch does not load beside a card": (
        replace(on(H100, "580.65", None), devices=(), broken="loading torch (SIGILL)"),
        "broken",
        "SIGILL",
        [cuda("cu130")],
    ),
    "torch is too old": (
        having("2.3.1+cpu", torch=replace(NEWEST, cuda=None)),
        "broken",
        "2.3.1+cpu is too old: dipcli needs 2.4",
        [CPU],
    ),
    "torch is too old on a Mac": (
        having("2.2.2", system="Darwin"),
        "broken",
        "2.2.2 is too old",
        [f"{PIP} install --force-reinstall torch"],
    ),
    "a package is missing": (
        replace(SOUND, packages=(Package("numpy", None, "1.26"),)),
        "broken",
        "numpy is not installed",
        [f"{PIP} install 'numpy>=1.26'"],
    ),
    "a package is too old": (
        replace(SOUND, packages=(Package("numpy", "1.9.3", "1.26"),)),
        "broken",
        "numpy 1.9.3 is too old: dipcli needs 1.26",
        [f"{PIP} install --upgrade 'numpy>=1.26'"],
    ),
    "a package does not load": (
        replace(SOUND, packages=(Package("numpy", "2.0", "1.26", trouble="ImportError: bad"),)),
        "broken",
        "numpy does not import: ImportError: bad.",
        [f"{PIP} install --force-reinstall 'numpy>=1.26'"],
    ),
    "Rosetta": (APPLE, "hint", "Rosetta", ["arch -arm64 python3 -m venv dip-arm64"]),
    "a CPU build, a new driver": (on(H100, "580.65.06"), "hint", "There is NVIDIA H100 here", [cuda("cu130")]),
    "a CPU build, an older driver": (on(H100, "535.104.05"), "hint", "built for the CPU", [cuda("cu126")]),
    "a CPU build, Blackwell, an older driver": (on(RTX, "570.10"), "hint", "built for the CPU", [cuda("cu128")]),
    "a CPU build, an old card": (on(PASCAL, "580.65"), "hint", "built for the CPU", [cuda("cu126")]),
    "a CPU build, an old driver": (on(H100, "470.82"), "hint", "built for the CPU", [cuda("cu118")]),
    "a CPU build, a driver too old for any": (on(H100, "418.1"), "hint", "built for the CPU", [cuda("cu130")]),
    "a CPU build, an old driver, a Python too new for it": (
        replace(on(PASCAL, "470.82"), home=Home("3.14.0", "/v/bin/python")),
        "hint",
        "built for the CPU",
        [cuda("cu126")],
    ),
    "a CUDA build without a card": (
        replace(SOUND, torch=LARGE),
        "hint",
        "takes 5.0 GiB, but there is no such GPU",
        [CPU, f"{PIP} uninstall -y nvidia-cublas triton"],
    ),
    "a driver too old for the build": (
        on(H100, "535.104", NEWEST),
        "hint",
        "driver 535.104 is too old for PyTorch's CUDA 13.0",
        [cuda("cu126")],
    ),
    "a driver too old for any build": (on(RTX, "418.1", NEWEST), "hint", "418.1 is too old", [cuda("cu130")]),
    "a card hidden": (
        on(H100, "580.65", NEWEST, hidden=""),
        "hint",
        "hides NVIDIA H100",
        ["unset CUDA_VISIBLE_DEVICES"],
    ),
    "a card that torch cannot use": (
        on(H100, "580.65", replace(NEWEST, trouble="CUDA initialization: error 802.")),
        "hint",
        "cannot use NVIDIA H100: CUDA initialization: error 802.",
        [cuda("cu130")],
    ),
    "no kernels for an old card": (
        on(PASCAL, "580.65", NEWEST, seen=True),
        "hint",
        "no kernels for NVIDIA GeForce GTX 1080 (compute capability 6.1)",
        [cuda("cu126")],
    ),
    "no kernels for a new card": (
        on(RTX, "570.86", replace(NEWEST, cuda="12.6", arches=("sm_50", "sm_80", "sm_90")), seen=True),
        "hint",
        "no kernels",
        [cuda("cu128")],
    ),
    "no kernels in any build": (on(KEPLER, "470.82", NEWEST, seen=True), "hint", "no kernels for Tesla K80", [CPU]),
    "a card without a driver": (replace(SOUND, nvidia=Nvidia("driverless", (H100,))), "hint", "no driver", []),
    "a driver that does not answer": (
        replace(SOUND, nvidia=Nvidia("silent", (), words="NVIDIA-SMI has failed.")),
        "hint",
        "does not answer: NVIDIA-SMI has failed.",
        [],
    ),
    "a container without the card": (
        replace(SOUND, nvidia=Nvidia("withheld", (H100,))),
        "hint",
        "this container was not given it",
        ["docker run --gpus all IMAGE"],
    ),
    "the CPU fails": (
        replace(SOUND, devices=(replace(ONE, trials=(Trial("fp32", trouble="RuntimeError: no"), ONE.trials[1])),)),
        "broken",
        "fails on cpu in fp32: RuntimeError: no.",
        [CPU],
    ),
    "the CPU is wrong": (
        replace(SOUND, devices=(replace(ONE, trials=(ONE.trials[0], Trial("bf16", 1.0, 0.3))),)),
        "broken",
        "off by 0.3",
        [CPU],
    ),
    "the CPU is never the same": (
        replace(SOUND, devices=(replace(ONE, repeats=False),)),
        "broken",
        "different bits",
        ["dip denoise noisy.png --threads 1"],
    ),
    "a fit fails": (
        replace(SOUND, devices=(replace(ONE, repeats=None, trouble="ImportError: no scipy"),)),
        "broken",
        "no scipy",
        [CPU],
    ),
    "the GPU fails": (
        replace(
            on(H100, "580.65", NEWEST), devices=(ONE, gpu(H100, trials=(Trial("fp32", trouble="CUDA error: ecc"),)))
        ),
        "hint",
        "fails on cuda:0 in fp32: CUDA error: ecc.",
        ["dip denoise noisy.png --device cpu"],
    ),
    "the GPU is wrong": (
        replace(on(H100, "580.65", NEWEST), devices=(ONE, gpu(H100, trials=(Trial("fp32", 0.1, 1.5),)))),
        "broken",
        "goes wrong on cuda:0",
        ["dip denoise noisy.png --device cpu"],
    ),
    "more threads than the group allows": (
        replace(SOUND, processor=replace(SOUND.processor, quota=2.0)),
        "hint",
        "8 threads, but the control group allows 2 processors",
        ["dip denoise noisy.png --threads 2"],
    ),
    "a variable holds threads back": (
        replace(
            SOUND,
            processor=replace(SOUND.processor, variable=("OMP_NUM_THREADS", "1")),
            torch=Torch("2.13.0+cpu", threads=1),
        ),
        "hint",
        "OMP_NUM_THREADS=1 keeps PyTorch to 1 thread; there are 8 cores",
        ["unset OMP_NUM_THREADS"],
    ),
    "a variable on Windows": (
        replace(
            SOUND,
            system="Windows",
            processor=replace(SOUND.processor, variable=("MKL_NUM_THREADS", "2")),
            torch=Torch("2.13.0+cpu", threads=2),
        ),
        "hint",
        "MKL_NUM_THREADS=2",
        ["set MKL_NUM_THREADS="],
    ),
    "little memory": (
        replace(SOUND, memory=Memory(32 * GIBI, 20 * GIBI, GIBI)),
        "hint",
        "1.0 GiB of memory",
        ["dip denoise noisy.png --preset fast"],
    ),
    "no place to write": (
        replace(SOUND, rooms=(Room("/", 9 * GIBI, writable=False), SOUND.rooms[1])),
        "hint",
        "Nothing can be written to /.",
        [],
    ),
    "little room": (
        replace(SOUND, rooms=(SOUND.rooms[0], Room("/scratch", 10**6, writable=True))),
        "hint",
        "/scratch",
        [],
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_each_trouble_has_its_advice(name: str) -> None:
    facts, grade, problem, lines = ADVICE[name]
    (finding,) = advise(facts)
    assert finding.grade == grade
    assert problem in finding.problem
    assert finding.problem.endswith(".")
    assert list(finding.lines) == lines
    assert finding.remedy.endswith(":" if lines else ("-o.", "TMPDIR.", advice.NVIDIA))


WELL = {
    "the CPU alone": SOUND,
    "a GPU in use": on(H100, "580.65", NEWEST, seen=True),
    "a GPU that is not the same twice": replace(on(H100, "580.65", NEWEST), devices=(ONE, gpu(H100, repeats=False))),
    "a precision that nobody asks for fails": replace(
        SOUND, devices=(replace(ONE, precision="fp32", trials=(ONE.trials[0], Trial("bf16", trouble="no"))),)
    ),
    "a small build for CUDA": replace(SOUND, torch=replace(LARGE, size=GIBI // 2)),
    "an AMD GPU": replace(SOUND, torch=Torch("2.13.0+rocm7", hip="7.0", threads=8, size=9 * GIBI)),
    "a Mac": replace(SOUND, system="Darwin", machine="arm64"),
    "an old card, which no build is for": on(KEPLER, "470.82"),
    "the group allows all": replace(SOUND, processor=replace(SOUND.processor, quota=8.0)),
    "threads as the processor has cores": replace(
        SOUND, processor=replace(SOUND.processor, variable=("OMP_NUM_THREADS", "8"))
    ),
}


@pytest.mark.parametrize("name", WELL)
def test_where_nothing_is_amiss_nothing_is_said(name: str) -> None:
    assert advise(WELL[name]) == []


def test_two_like_cards_are_spoken_of_once() -> None:
    facts = ADVICE["no kernels for an old card"][0]
    assert advise(replace(facts, devices=(*facts.devices, replace(facts.devices[1], name="cuda:1")))) == advise(facts)


def test_what_is_broken_comes_first() -> None:
    facts = replace(SOUND, memory=Memory(GIBI, GIBI), packages=(Package("numpy", None),), translated=True)
    assert [each.grade for each in advise(facts)] == ["broken", "hint", "hint"]


@pytest.mark.parametrize(
    ("home", "line"),
    [
        (Home("3.12", "/v/bin/python"), "/v/bin/python -m pip install numpy"),
        (Home("3.12", "/my v/bin/python"), "'/my v/bin/python' -m pip install numpy"),
        (Home("3.12", "C:\\my v\\python.exe"), '"C:\\my v\\python.exe" -m pip install numpy'),
        (Home("3.12", "/v/bin/python", "pipx", "dipcli"), "pipx runpip dipcli install numpy"),
        (Home("3.12", "/v/bin/python", "uv"), "uv pip install --python /v/bin/python numpy"),
    ],
)
def test_the_line_is_for_whoever_installed_dipcli(home: Home, line: str) -> None:
    assert wheels.installing(home, "numpy") == line
    if home.executable.endswith(".exe"):
        assert wheels.installing(home, "numpy>=2").endswith('install "numpy>=2"'), "no file called =2"
    removed = wheels.uninstalling(home, "numpy")
    assert removed == line.replace(" install", " uninstall" if home.installer == "uv" else " uninstall -y")


capabilities = st.tuples(st.integers(3, 13), st.integers(0, 9))


@given(capabilities, capabilities)
def test_machine_code_runs_on_its_own_major_version_and_intermediate_code_on_later_ones(
    own: tuple[int, int], card: tuple[int, int]
) -> None:
    digits = "{}{}".format(*own)
    assert wheels.covers([f"sm_{digits}"], card) == (own[0] == card[0] and own[1] <= card[1])
    assert wheels.covers([f"compute_{digits}"], card) == (own <= card)
    assert wheels.covers([f"sm_{digits}a"], card) == (own == card)
    assert wheels.covers(["sm_", "gfx90a", f"sm_{digits}"], own)


@given(capabilities, st.sampled_from(["", "418.87", "450.80", "470.82.01", "525.60.13", "570.86", "580.65", "610.1"]))
def test_a_build_that_is_advised_runs_on_card_and_driver(card: tuple[int, int], driver: str) -> None:
    facts = on(Card("a card", None, card), driver)
    wheel = wheels.fitting(facts)
    if wheel is None:
        able = [each for each in wheels.WHEELS if each.oldest <= card <= each.newest and not each.driver > driver]
        assert not able
    else:
        assert wheel.oldest <= card <= wheel.newest
        assert wheels.numbers(driver)[0] >= int(wheel.driver)
    assert wheels.suited(facts) == (wheel.tag if wheel else "cpu")


def test_versions_are_compared_as_numbers() -> None:
    assert wheels.numbers("2.13.0+cpu") == (2, 13, 0)
    assert wheels.numbers("2.4.0a0+git12") == (2, 4, 0)
    assert wheels.numbers("2.13") > wheels.numbers("2.4.1")
    assert wheels.numbers("") == ()


# From the system to facts.


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("named", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n", "memory.max": "1073741824\n"}, (2.0, GIBI)),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, (None, None)),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/b/memory.max": "5"}, (0.5, 5)),
        ("0::/a/b\n", {"a/memory.max": "4", "a/b/memory.max": "5"}, (None, 4)),
        ("0::/outside/of/the/container\n", {"memory.max": "7"}, (None, 7)),
        (
            "3:cpu,cpuacct:/x\n2:memory:/x\n1:name=systemd:/\n0::/\n",
            {
                "cpu/x/cpu.cfs_quota_us": "150000\n",
                "cpu/x/cpu.cfs_period_us": "100000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/x/memory.limit_in_bytes": "12345678\n",
            },
            (1.5, 12345678),
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, (None, None)),
        ("nonsense\n\n", {"cpu.max": "", "memory.max": "many"}, (None, None)),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, named: str, files: dict[str, str], expected: tuple[float | None, int | None]
) -> None:
    root = put(tmp_path, {"groups": named, **{f"root/{name}": text for name, text in files.items()}})
    assert groups.read_limits(root / "root", root / "groups") == expected


def test_limits_where_there_are_no_groups(tmp_path: Path) -> None:
    assert groups.read_limits(tmp_path / "no", tmp_path / "none") == (None, None)


@given(st.integers(1, 64), st.integers(1, 128), st.none() | st.floats(0.1, 200))
def test_usable_threads_are_within_every_limit(cores: int, allowed: int, quota: float | None) -> None:
    usable = Processor("x", cores=cores, allowed=allowed, quota=quota).usable
    assert 1 <= usable <= min(cores, allowed)
    assert quota is None or usable <= max(1, quota + 0.5)


SMI = "#!/bin/sh\n"
H100_ROW = "NVIDIA H100 80GB HBM3, 81559, 535.104.05"
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")


@posix
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            f"echo '{H100_ROW}, 9.0'; echo '{H100_ROW}, 9.0'",
            Nvidia("works", (Card("NVIDIA H100 80GB HBM3", 81559 * 2**20, (9, 0)),) * 2, "535.104.05"),
        ),
        (
            f"case $1 in *compute_cap*) echo Field; exit 2;; *) echo '{H100_ROW}';; esac",
            Nvidia("works", (Card("NVIDIA H100 80GB HBM3", 81559 * 2**20),), "535.104.05"),
        ),
        ("echo 'Orin, [N/A], 540.4, [N/A]'", Nvidia("works", (Card("Orin"),), "540.4")),
        (
            "echo 'NVIDIA-SMI has failed because.'; echo more; exit 9",
            Nvidia("silent", words="NVIDIA-SMI has failed because."),
        ),
        ("echo No devices were found; exit 6", Nvidia()),
    ],
    ids=["works", "old driver", "unknown numbers", "silent", "no card"],
)
def test_what_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: Nvidia) -> None:
    put(tmp_path, {"bin/nvidia-smi": SMI + script}).joinpath("bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert host.nvidia(tmp_path) == expected


MODULE = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100\nIRQ: 3\n",
}
BUS = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n", "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, Nvidia()),
        (MODULE, Nvidia("withheld", (Card("NVIDIA A100"),), "550.54.14")),
        ({**MODULE, "dev/nvidiactl": ""}, Nvidia("works", (Card("NVIDIA A100"),), "550.54.14")),
        (BUS, Nvidia("driverless", (Card("an NVIDIA card"),))),
        ({**BUS, "sys/bus/pci/devices/0000:01:00.0/class": "0x040300"}, Nvidia()),  # its sound
        ({**BUS, "sys/bus/pci/devices/0000:01:00.0/vendor": "0x8086"}, Nvidia()),
    ],
    ids=["nothing", "kernel alone", "kernel and device", "bus", "sound", "another maker"],
)
def test_cards_without_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: Nvidia
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert host.nvidia(put(tmp_path, files)) == replace(expected, hidden="1")


def test_who_installed_dipcli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.home() == Home(".".join(map(str, sys.version_info[:3])), sys.executable)
    monkeypatch.setattr(host.importlib.util, "find_spec", lambda _: None)
    assert host.home().installer == "uv", "where there is no pip"
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "dipcli-3"))
    put(tmp_path, {"dipcli-3/pipx_metadata.json": "{}"})
    assert (host.home().installer, host.home().name) == ("pipx", "dipcli-3")


REQUIRED = """\
Metadata-Version: 2.4
Name: made-up
Version: 1
Requires-Dist: torch>=2.4
Requires-Dist: scikit-image<1,>=0.24
Requires-Dist: numpy
Requires-Dist: no-such-thing[fast]>=3
Requires-Dist: elsewhere>=3; sys_platform == "win32"
Requires-Dist: dask-no-such>=2025.1; extra == 'cluster'
Provides-Extra: cluster
"""


def test_what_is_needed_is_read_from_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(put(tmp_path, {"made_up-1.dist-info/METADATA": REQUIRED}))
    assert host.packages("made-up") == (
        Package("torch", version("torch"), "2.4"),
        Package("scikit-image", version("scikit-image"), "0.24"),
        Package("numpy", version("numpy")),
        Package("no-such-thing", None, "3"),
        Package("dask-no-such", None, "2025.1", "cluster"),
    )
    assert host.packages("not-there-at-all") == ()


def test_the_weight_of_torch_counts_what_came_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "torch-9.dist-info/METADATA": "Name: torch\nRequires-Dist: nvidia-made-up==1\nRequires-Dist: numpy\n",
        "torch-9.dist-info/RECORD": "torch/a.so,sha256=x,1000\ntorch/b.so,sha256=x,\n",
        "nvidia_made_up-1.dist-info/METADATA": "Name: nvidia-made-up\nVersion: 1\n",
        "nvidia_made_up-1.dist-info/RECORD": "nvidia/c.so,sha256=x,234\n",
    }
    put(tmp_path, {**files, "torch/a.so": "", "torch/b.so": "", "nvidia/c.so": ""})
    monkeypatch.syspath_prepend(tmp_path)
    assert host.burden() == (1234, ("nvidia-made-up",))


def test_rooms_that_are_and_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    here, temporary = host.rooms()
    assert (here.folder, here.writable) == (str(gone), True)
    assert (here.free or 0) > 0
    assert temporary.writable
    if sys.platform != "win32":
        gone.rmdir()
        assert host.rooms()[0] == Room(".", None, writable=False)


# What PyTorch makes of this machine.


def test_the_cpu_computes_in_both_precisions_and_repeats_itself() -> None:
    found = trials.tried("cpu")
    assert (found.precision, found.reason) == machine.choose_precision(torch.device("cpu"))
    assert found.precision == machine.choose_precision(torch.device("cpu"))[0]
    fp32, bf16 = found.trials
    assert (fp32.precision, fp32.error, fp32.trouble) == ("fp32", 0, None)
    assert 0 < bf16.error < advice.ASTRAY["bf16"], "another arithmetic, the same computation"
    assert all(0 < each.milliseconds < 5000 for each in found.trials)
    assert (found.repeats, found.trouble) == (True, None)


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        ("_computed", lambda *_: 1 / 0, "ZeroDivisionError"),
        ("_computed", lambda *_: (torch.tensor([float("nan")]), 0.1), "not finite"),
        ("_fitted", lambda *_: 1 / 0, "ZeroDivisionError"),
        ("_fitted", lambda *_: torch.rand(9), "different bits"),
    ],
)
def test_what_fails_in_the_trials_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., object], words: str
) -> None:
    monkeypatch.setattr(trials, name, broken)
    facts = replace(SOUND, devices=(trials.tried("cpu"),))
    findings = advise(facts)
    assert findings
    assert all(each.grade == "broken" for each in findings)
    assert all(words in each.problem for each in findings)


def test_a_device_that_does_not_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "choice", lambda _: 1 / 0)
    found = trials.tried("cpu")
    (finding,) = advise(replace(SOUND, devices=(ONE, replace(found, name="cuda:0"))))
    assert (finding.grade, finding.problem) == (
        "hint",
        "A small computation fails on cuda:0 in fp32: ZeroDivisionError: division by zero.",
    )


@pytest.mark.gpu
def test_the_gpu_computes_in_both_precisions() -> None:
    found = trials.tried("cuda:0")
    assert found.capability == torch.cuda.get_device_capability(0)
    assert not advice.advise(replace(SOUND, devices=(found,)))


@pytest.mark.skipif(sys.platform != "linux", reason="an option of the GNU C library")
def test_whether_memory_is_kept_is_told() -> None:
    assert machine.keep_memory(torch.device("cpu")) is True
    assert machine.keep_memory(torch.device("meta")) is False


# The text.


def text(facts: Facts, findings: list[Finding], width: int) -> list[str]:
    return [each.text for each in sheet.written(facts, findings, width)]


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", ADVICE)
def test_the_text_fits_and_its_commands_can_be_copied(name: str, width: int) -> None:
    facts = ADVICE[name][0]
    findings = advise(facts)
    lines = text(facts, findings, width)
    assert all(len(each) <= width or " " not in each.strip() for each in lines if "whl" not in each)
    assert not any(each != each.rstrip() for each in lines)
    if facts.system == "Windows":
        return
    shell = "\n".join(each.text for each in sheet.written(facts, findings, width) if each.kind == "command")
    commands = [shlex.split(each) for each in shell.replace("\\\n", " ").splitlines()]
    assert commands == [shlex.split(each) for finding in findings for each in finding.lines]


def test_the_text_tells_the_facts() -> None:
    facts = on(H100, "580.65", NEWEST, seen=True)
    whole = "\n".join(text(facts, [], 200))
    for words in (
        "PyTorch    2.13.0+cu130, for CUDA 13.0",
        "numpy 2.4.6",
        "[cluster]  not installed",
        "PyTorch uses 8; 8 cores, processors open to this process: 16; OMP_NUM_THREADS is not set",
        "20.0 GiB free, 32.0 GiB in all, kept between iterations by mallopt",
        "/pictures: 90.0 GiB free",
        "NVIDIA H100, 80.0 GiB; driver 580.65",
        "--precision auto takes bf16: the GPU computes in it",
        "fp32 0.2 ms, bf16 0.1 ms",
        "a small fit, twice: the same bits",
        "compute capability 9.0",
        "All is well.",
    ):
        assert words in whole
    assert sheet.TIED not in whole
    half = replace(facts, packages=(Package("dask", "2026", "", "cluster"), Package("bokeh", None, "", "cluster")))
    assert "  [cluster]  without bokeh" in text(half, [], 200)


# The command itself.


def test_doctor_examines_this_machine(dip: Dip) -> None:
    result = dip("doctor", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["torch"]["version"] == torch.__version__
    assert told["dipcli"] == dipcli.__version__
    assert told["devices"][0]["name"] == "cpu"
    assert told["devices"][0]["repeats"] is True
    assert told["memory"]["total"] > told["memory"]["free"] > 0
    assert told["processor"]["cores"] >= 1
    assert {each["name"] for each in told["packages"]} >= {"torch", "numpy", "pillow", "scikit-image"}
    assert all(each["trouble"] is None for each in told["packages"])
    assert told["rooms"][0]["folder"] == str(Path.cwd())
    assert all(each["grade"] == "hint" for each in told["findings"])


def test_the_findings_decide_on_the_exit_code(dip: Dip, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("little room", 0), ("torch is too old", 1)):
        monkeypatch.setattr(examination, "examine", lambda name=name: ADVICE[name][0])
        result = dip("doctor")
        assert result.exit_code == code
        assert f"{'broken' if code else 'hint'}: " in result.stdout
        assert result.stderr == ""
        told = json.loads(dip("doctor", "--json").stdout)
        assert told["findings"] == json.loads(json.dumps([asdict(each) for each in advise(ADVICE[name][0])]))


def doctored(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dipcli", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300", **environment},
        check=False,
    )


PACKAGE = str(Path(sheet.__file__).parent.parent)


@posix
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "PyTorch does not work: ImportError: libcudart.so.13"),
        ("import os; os.kill(os.getpid(), 4)", "loading torch (SIGILL)"),
        ("raise SystemExit(3)", "loading torch (exit code 3)"),
    ],
    ids=["import error", "an instruction that the CPU lacks", "exit"],
)
def test_doctor_survives_a_torch_that_does_not(tmp_path: Path, code: str, words: str) -> None:
    put(tmp_path, {"torch/__init__.py": code})
    result = doctored(PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE}")
    assert result.returncode == 1
    assert words in result.stdout
    assert "broken: PyTorch does not work" in result.stdout
    assert "install --force-reinstall torch --index-url https://download.pytorch.org/whl/cpu" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_doctor_survives_a_torch_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"torch/__init__.py": "import time; time.sleep(60)"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(examination, "PATIENCE", 3)
    facts = examination.examine()
    assert facts.torch is None
    assert facts.broken == "no answer after 3 seconds of loading torch"


@posix
def test_doctor_sees_a_card_that_torch_was_not_built_for(tmp_path: Path) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this PyTorch is built for it")
    put(tmp_path, {"nvidia-smi": SMI + f"echo '{H100_ROW}, 9.0'"}).joinpath("nvidia-smi").chmod(0o755)
    result = doctored(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=PACKAGE)
    assert result.returncode == 0, result.stderr
    assert "hint: There is NVIDIA H100 80GB HBM3 here, but PyTorch is built for the CPU." in result.stdout
    assert "torch --index-url https://download.pytorch.org/whl/cu126\n" in result.stdout
    assert "\x1b" not in result.stdout


@posix
def test_there_are_colours_on_a_terminal_alone() -> None:
    import pty

    code = (
        "import dipcli.cli.doctor.examination as e; from dipcli.cli.doctor.facts import *\n"
        "e.examine = lambda: Facts('0', Home('3', '/python'), 'Darwin', 'macOS', 'arm64', Processor('M4'),"
        " translated=True, torch=Torch('2.13'))\nfrom dipcli.cli.app import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    for plain in ({}, {"NO_COLOR": "1"}):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-c", code, "doctor"], stdout=slave, env={**environment, "COLUMNS": "80", **plain}
        )
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 4096):
                shown += piece
        except OSError:  # the other end is closed
            pass
        assert process.wait() == 0
        assert b"arch -arm64 python3" in shown
        assert (b"\x1b[33m" in shown) == (not plain), "yellow"


def test_help_does_without_the_doctor() -> None:
    code = (
        "import sys; from dipcli.cli import app; app()(['--help'], standalone_mode=False)\nprint(sorted(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "doctor" in told.partition("['")[0]
    loaded = re.findall(r"'([\w.]+)'", told.partition("['")[2])
    assert not {"torch", "numpy", "psutil", "dipcli.doctor"} & set(loaded)


# Completion.


@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dip", "do"], ["doctor"]),
        (["dip", "de"], ["dejpeg", "denoise"]),
        (["dip", "denoise", "--pre"], ["--preset", "--precision"]),
        (["dip", "denoise", "--preset", ""], ["fast", "balanced", "best", "paper"]),
        (["dip", "superres", "--preset", "b"], ["balanced", "best"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """By the script that `dip --install-completion` installs."""
    dip = put(tmp_path, {"dip": f'#!/bin/sh\nexec {sys.executable} {tmp_path}/dip.py "$@"\n'}) / "dip"
    dip.chmod(0o755)
    put(tmp_path, {"dip.py": "import sys; sys.argv[0] = 'dip'; from dipcli.cli.app import main; main()"})
    line = " ".join(map(shlex.quote, words))
    script = (
        f"source <(_DIP_COMPLETE=source_bash dip); COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        '_dip_completion dip; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": PACKAGE},
        check=False,
    )
    assert result.stdout.split() == expected, result.stderr
