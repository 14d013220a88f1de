"""`dip doctor`: findings from facts, facts from the system, the probes, and the command itself."""

from __future__ import annotations

import json
import math
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
from command_line import Dip, read_terminal
from hypothesis import given
from hypothesis import strategies as st

import dipcli
from dipcli.cli.doctor import facts as facts_module
from dipcli.cli.doctor import findings as findings_module
from dipcli.cli.doctor import probes
from dipcli.cli.doctor.facts import Disk, Facts, Package, check_disk, gather_facts, list_gpus, list_packages
from dipcli.cli.doctor.findings import TORCH_BUILDS, find_problems, write_pip_line
from dipcli.cli.doctor.probes import Device, Torch
from dipcli.cli.doctor.text import print_report
from dipcli.fitting.machine.arithmetic import choose_precision
from dipcli.fitting.machine.self_test import MAX_GRADIENT_ERROR

GIB = 2**30
PIP = "/v/bin/python -m pip install"
PACKAGE = str(Path(dipcli.__file__).parent.parent)
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for nvidia-smi is a shell script")

CPU = Device("cpu", "cpu", "bf16", {"fp32": 40.0, "bf16": 80.0}, {"fp32": 0.0, "bf16": 0.13})
GPU = Device("cuda:0", "NVIDIA H100", "bf16", {"fp32": 400.0, "bf16": 500.0}, {"fp32": 0.003, "bf16": 0.13})
HEALTHY = Facts(
    dipcli="0.1.0",
    python="3.12.4",
    executable="/v/bin/python",
    system="Linux-6.1-x86_64",
    packages=(
        Package("torch", "2.13.0+cpu", "2.4"),
        Package("numpy", "2.4.6", "1.26"),
        Package("dask", None, "2025", "cluster"),
    ),
    torch=Torch("2.13.0+cpu", threads=8),
    processor="A CPU",
    abilities=("avx2", "avx512_bf16"),
    cores=8,
    allowed=16,
    memory_free=20 * GIB,
    memory_total=32 * GIB,
    disks=(Disk("/images", 90 * GIB, writable=True), Disk("/scratch", 9 * GIB, writable=True)),
    devices=(CPU,),
)
H100 = ("NVIDIA H100, driver 580.65",)
CUDA = Torch("2.13.0+cu130", "CUDA 13.0", threads=8)


def with_package(name: str, installed: str | None, minimum: str, **changed: Any) -> Facts:
    return replace(HEALTHY, packages=(Package(name, installed, minimum, **changed),))


def with_device(device: Device, **changed: Any) -> Facts:
    return replace(HEALTHY, devices=(CPU, replace(device, **changed)) if device is GPU else (replace(CPU, **changed),))


# Facts, the grade of the finding, words of the problem, and the command.
PROBLEMS: dict[str, tuple[Facts, str, str, str]] = {
    "torch is not installed": (
        replace(with_package("torch", None, "2.4"), torch=None, devices=()),
        "broken",
        "torch is not installed",
        f'{PIP} "torch>=2.4"',
    ),
    "torch is too old": (
        with_package("torch", "2.3.1+cpu", "2.4"),
        "broken",
        "torch 2.3.1+cpu is too old: dipcli needs 2.4",
        f'{PIP} --upgrade "torch>=2.4"',
    ),
    "torch cannot be imported": (
        replace(with_package("torch", "2.13", "2.4", error="ImportError: libgomp.so.1"), torch=None, devices=()),
        "broken",
        "torch does not work: ImportError: libgomp.so.1",
        f'{PIP} --force-reinstall "torch>=2.4"',
    ),
    "torch ends its process": (
        replace(HEALTHY, torch=None, devices=(), error="importing torch (SIGILL)"),
        "broken",
        "torch does not work: importing torch (SIGILL)",
        f'{PIP} --force-reinstall "torch>=2.4"',
    ),
    "a package is missing": (
        with_package("numpy", None, "1.26"),
        "broken",
        "numpy is not installed",
        f'{PIP} "numpy>=1.26"',
    ),
    "a package is too old": (
        with_package("numpy", "1.9.3", "1.26"),
        "broken",
        "numpy 1.9.3 is too old: dipcli needs 1.26",
        f'{PIP} --upgrade "numpy>=1.26"',
    ),
    "a package cannot be imported": (
        with_package("numpy", "2.0", "1.26", error="ImportError: bad"),
        "broken",
        "numpy does not work: ImportError: bad.",
        f'{PIP} --force-reinstall "numpy>=1.26"',
    ),
    "a GPU and a CPU build": (replace(HEALTHY, gpus=H100), "hint", "NVIDIA H100, driver 580.65: it is a CPU build", ""),
    "a GPU that torch cannot use": (
        replace(HEALTHY, gpus=H100, torch=replace(CUDA, warning="CUDA initialization: error 802.")),
        "hint",
        "does not use the NVIDIA H100, driver 580.65: CUDA initialization: error 802.",
        "",
    ),
    "a hidden GPU": (replace(HEALTHY, gpus=H100, torch=CUDA), "hint", "check CUDA_VISIBLE_DEVICES", ""),
    "the CPU fails": (
        with_device(CPU, failures={"fp32": "RuntimeError: no"}),
        "broken",
        "cpu in fp32 failed: RuntimeError: no.",
        "",
    ),
    "the CPU is wrong": (
        with_device(CPU, gradient_error={"bf16": 0.9}),
        "broken",
        "cpu in bf16 are wrong: off by 0.9",
        "",
    ),
    "the CPU ends its process": (
        with_device(CPU, failures={"device": "probing cpu (SIGILL)"}),
        "broken",
        "The probe of cpu failed: probing cpu (SIGILL).",
        "",
    ),
    "the GPU fails": (
        with_device(GPU, failures={"fp32": "CUDA error: ecc"}),
        "hint",
        "cuda:0 in fp32 failed: CUDA error: ecc.",
        "dip denoise noisy.png --device cpu",
    ),
    "the GPU is wrong": (
        with_device(GPU, gradient_error={"fp32": 1.5}),
        "broken",
        "cuda:0 in fp32 are wrong: off by 1.5",
        "dip denoise noisy.png --device cpu",
    ),
    "the driver hangs": (
        with_device(GPU, failures={"device": "probing cuda:0 (no answer in 120 seconds)"}),
        "hint",
        "cuda:0 failed: probing cuda:0 (no answer in 120 seconds)",
        "dip denoise noisy.png --device cpu",
    ),
    "more threads than the quota": (
        replace(HEALTHY, quota=2.0),
        "hint",
        "8 threads, but this process may use 2 processors",
        "dip denoise noisy.png --threads 2",
    ),
    "OMP_NUM_THREADS is small": (
        replace(HEALTHY, variable="OMP_NUM_THREADS=1", torch=Torch("2.13.0+cpu", threads=1)),
        "hint",
        "OMP_NUM_THREADS=1 limits PyTorch to 1 of 8 cores",
        "dip denoise noisy.png --threads 8",
    ),
    "little memory": (
        replace(HEALTHY, memory_limit=GIB),
        "hint",
        "1.0 GiB of memory",
        "dip denoise noisy.png --preset fast",
    ),
    "a read-only folder": (
        replace(HEALTHY, disks=(Disk("/", 9 * GIB, writable=False), HEALTHY.disks[1])),
        "hint",
        "/ is not writable",
        "",
    ),
    "little disk space": (
        replace(HEALTHY, disks=(HEALTHY.disks[0], Disk("/scratch", 10**6, writable=True))),
        "hint",
        "disk space in /scratch",
        "",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_gives_one_finding(name: str) -> None:
    facts, grade, problem, command = PROBLEMS[name]
    (finding,) = find_problems(facts)
    assert finding.grade == grade
    assert problem in finding.problem
    assert finding.problem.endswith(".")
    assert finding.command == command
    assert finding.remedy.endswith(":" if command else ("-o.", "TMPDIR.", TORCH_BUILDS))


NO_PROBLEMS = {
    "the CPU alone": HEALTHY,
    "a GPU in use": replace(HEALTHY, gpus=H100, torch=CUDA, devices=(CPU, GPU)),
    "a precision that auto does not take fails": with_device(
        CPU, precision="fp32", gradient_error={"fp32": 0.0}, failures={"bf16": "not supported"}
    ),
    "an AMD GPU": replace(HEALTHY, torch=Torch("2.13.0+rocm7", "HIP 7.0", threads=8)),
    "the quota covers all threads": replace(HEALTHY, quota=8.0),
    "a variable asks for all cores": replace(HEALTHY, variable="OMP_NUM_THREADS=8"),
}


@pytest.mark.parametrize("name", NO_PROBLEMS)
def test_a_healthy_machine_gives_no_finding(name: str) -> None:
    assert find_problems(NO_PROBLEMS[name]) == []


def test_broken_findings_come_first() -> None:
    facts = replace(HEALTHY, memory_free=GIB, quota=2.0, packages=(Package("numpy", None),))
    assert [finding.grade for finding in find_problems(facts)] == ["broken", "hint", "hint"]


def test_the_pip_line_suits_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = Package("numpy", None, "2")
    assert write_pip_line("/v/bin/python", Package("numpy", None)) == f"{PIP} numpy"
    assert write_pip_line("/my v/bin/python", numpy) == '"/my v/bin/python" -m pip install "numpy>=2"'
    monkeypatch.setattr(findings_module, "find_spec", lambda _: None)
    assert write_pip_line("/v/bin/python", numpy) == 'uv pip install --python /v/bin/python "numpy>=2"'


@given(st.integers(1, 64), st.integers(1, 128), st.none() | st.floats(0.1, 200))
def test_usable_cores_are_within_every_limit(cores: int, allowed: int, quota: float | None) -> None:
    usable = replace(HEALTHY, cores=cores, allowed=allowed, quota=quota).usable_cores
    assert 1 <= usable <= min(cores, allowed)
    assert quota is None or usable <= max(1, quota + 0.5)


# Facts from the system.


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def install_nvidia_smi(folder: Path, script: str) -> None:
    write_files(folder, {"nvidia-smi": f"#!/bin/sh\n{script}"}).joinpath("nvidia-smi").chmod(0o755)


@posix
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 535.104.05'; echo 'Orin, 540.4'",
         ("NVIDIA H100 80GB HBM3, driver 535.104.05", "Orin, driver 540.4")),
        ("echo 'NVIDIA-SMI has failed because.'; exit 9", ()),
        ("echo No devices were found; exit 6", ()),
    ],
    ids=["two GPUs", "a failing driver", "no GPU"],
)  # fmt: skip
def test_gpus_are_listed_by_nvidia_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: tuple[str, ...]
) -> None:
    install_nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    assert list_gpus() == expected


def test_no_gpus_are_listed_without_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_gpus() == ()


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


def test_requirements_are_read_from_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_files(tmp_path, {"made_up-1.dist-info/METADATA": REQUIRED}))
    assert list_packages("made-up") == (
        Package("torch", version("torch"), "2.4"),
        Package("scikit-image", version("scikit-image"), "0.24"),
        Package("numpy", version("numpy")),
        Package("no-such-thing", None, "3"),
        Package("dask-no-such", None, "2025.1", "cluster"),
    )
    assert list_packages("not-there-at-all") == ()


def test_disks_that_exist_and_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = check_disk(tmp_path)
    assert (disk.folder, disk.writable) == (str(tmp_path), True)
    assert (disk.free or 0) > 0
    if sys.platform != "win32":
        (removed := tmp_path / "removed").mkdir()
        monkeypatch.chdir(removed)
        removed.rmdir()
        assert check_disk(Path()) == Disk(".", None, writable=False)


# The probes, in this process.


def test_the_cpu_computes_the_same_gradients_twice_and_similar_ones_in_bf16() -> None:
    device = probes.probe_device("cpu")
    precision, reason = choose_precision(torch.device("cpu"))
    assert device.precision == precision
    assert reason in device.title
    assert device.failures == {}
    assert device.gradient_error["fp32"] == 0, "the same bits"
    assert 0 < device.gradient_error["bf16"] < MAX_GRADIENT_ERROR["bf16"]
    assert all(rate > 0 for rate in device.iterations_per_second.values())
    assert json.loads(json.dumps(asdict(device))) == asdict(device)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: (torch.tensor([math.nan]), 0.1), "not finite"),
        (lambda *_: (torch.rand(9), 0.1), "are wrong: off by"),
    ],
    ids=["an error", "not finite", "other gradients each time"],
)
def test_a_failing_probe_gives_findings(
    monkeypatch: pytest.MonkeyPatch, broken: Callable[..., object], words: str
) -> None:
    monkeypatch.setattr(probes, "compute_gradients", broken)
    findings = find_problems(replace(HEALTHY, devices=(probes.probe_device("cpu"),)))
    assert findings
    assert all(finding.grade == "broken" and words in finding.problem for finding in findings)


def test_a_device_that_does_not_answer_gives_a_finding() -> None:
    if torch.cuda.is_available():
        pytest.skip("cuda:0 answers here")
    (finding,) = find_problems(replace(HEALTHY, devices=(CPU, probes.probe_device("cuda:0"))))
    assert finding.grade == "hint"
    assert "The probe of cuda:0 failed: " in finding.problem


@pytest.mark.gpu
def test_the_gpu_computes_the_gradients_of_the_cpu() -> None:
    device = probes.probe_device("cuda:0")
    assert set(device.gradient_error) == {"fp32", "bf16"}
    assert find_problems(replace(HEALTHY, devices=(CPU, device))) == []


def test_modules_that_cannot_be_imported_are_reported() -> None:
    report = probes.import_modules(["json", "no_such_module"])
    assert report["errors"] == {"no_such_module": "ModuleNotFoundError: No module named 'no_such_module'"}
    assert report["torch"]["version"] == torch.__version__
    assert report["devices"][0] == "cpu"


# The text.


def read_text(facts: Facts, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    print_report(facts, find_problems(facts))
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_text_fits_and_its_command_is_one_line(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts, _, _, command = PROBLEMS[name]
    lines = read_text(facts, width, monkeypatch, capsys).splitlines()
    assert all(len(line) <= width or " " not in line.strip() or line.strip() == command for line in lines)
    assert not any(line != line.rstrip() for line in lines)
    if command:
        assert f"  {command}" in lines
        assert shlex.split(command)


def test_the_text_contains_the_facts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    facts = replace(HEALTHY, gpus=H100, torch=CUDA, devices=(CPU, GPU), quota=8.0)
    text = read_text(facts, 200, monkeypatch, capsys)
    for words in (
        "PyTorch    2.13.0+cu130, built for CUDA 13.0",
        "numpy 2.4.6",
        "[cluster]  dask missing",
        "avx2 avx512_bf16",
        "PyTorch uses 8 of 8 cores, 16 processors allowed, 8 at a time; OMP_NUM_THREADS is not set",
        "20.0 GiB free, 32.0 GiB in all",
        "/images: 90.0 GiB free",
        "NVIDIA H100, driver 580.65",
        "fp32 400.0 it/s, gradients off by 0.003",
        "bf16 500.0 it/s, gradients off by 0.13",
        "No problems found.",
    ):
        assert words in text
    assert "\x1b" not in text


# The command.


def test_the_findings_decide_the_exit_code(dip: Dip, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("little disk space", 0), ("torch is too old", 1)):
        facts = PROBLEMS[name][0]
        monkeypatch.setattr(facts_module, "gather_facts", lambda facts=facts: facts)
        result = dip("doctor")
        assert result.exit_code == code
        assert f"{'broken' if code else 'hint'}: " in result.stdout
        assert result.stderr == ""
        report = json.loads(dip("doctor", "--json").stdout)
        assert report["findings"] == [asdict(finding) for finding in find_problems(facts)]


@pytest.mark.slow
def test_doctor_examines_this_machine(dip: Dip) -> None:
    result = dip("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["torch"]["version"] == torch.__version__
    assert report["dipcli"] == dipcli.__version__
    assert report["devices"][0]["name"] == "cpu"
    assert report["devices"][0]["gradient_error"]["fp32"] == 0
    assert report["memory_total"] > report["memory_free"] > 0
    assert report["cores"] >= 1
    assert {package["name"] for package in report["packages"]} >= {"torch", "numpy", "pillow", "scikit-image"}
    assert all(package["error"] is None for package in report["packages"])
    assert report["disks"][0]["folder"] == str(Path.cwd())
    assert all(finding["grade"] == "hint" for finding in report["findings"])


def run_doctor(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dipcli", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300", **environment},
        check=False,
    )


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "torch does not work: ImportError: libcudart.so.13"),
        ("import os; os.kill(os.getpid(), 4)", "importing torch (SIGILL)"),
        ("raise SystemExit(3)", "importing torch (exit code 3)"),
    ],
    ids=["import error", "illegal instruction", "exit"],
)
def test_doctor_survives_a_torch_that_does_not_load(tmp_path: Path, code: str, words: str) -> None:
    write_files(tmp_path, {"torch/__init__.py": code})
    result = run_doctor(PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE}")
    assert result.returncode == 1
    assert words in result.stdout
    assert "broken: torch does not work" in result.stdout
    assert 'install --force-reinstall "torch>=' in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.slow
def test_doctor_survives_a_torch_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"torch/__init__.py": "import time; time.sleep(60)"})
    monkeypatch.syspath_prepend(tmp_path)
    facts = gather_facts(timeout=5)
    assert facts.torch is None
    assert facts.error == "importing torch (no answer in 5 seconds)"


@pytest.mark.slow
@posix
def test_doctor_finds_a_gpu_that_torch_does_not_use(tmp_path: Path) -> None:
    if torch.version.cuda is not None:
        pytest.skip("this PyTorch is built for CUDA")
    install_nvidia_smi(tmp_path, "echo 'NVIDIA H100 80GB HBM3, 535.104.05'")
    result = run_doctor(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}", PYTHONPATH=PACKAGE)
    assert result.returncode == 0, result.stderr
    assert re.search(r"hint: .*NVIDIA H100 80GB HBM3, driver 535.104.05: it is a CPU build", result.stdout)
    assert TORCH_BUILDS in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.slow
@posix
def test_colours_on_a_terminal_only() -> None:
    import pty

    code = (
        "from dipcli.cli.doctor.facts import Facts; from dipcli.cli.doctor.text import print_report\n"
        "from dipcli.cli.doctor.findings import find_problems\n"
        "facts = Facts(dipcli='0', python='3', executable='', system='macOS', processor='M4', memory_free=2**30)\n"
        "print_report(facts, find_problems(facts))"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "TERM": "xterm", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    for plain in ({}, {"NO_COLOR": "1"}):
        master, slave = pty.openpty()
        process = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env={**environment, **plain})
        os.close(slave)
        shown = read_terminal(master)
        assert process.wait() == 0
        os.close(master)
        assert b"dip denoise noisy.png --preset fast" in shown
        assert (b"\x1b[33m" in shown) == (not plain), "yellow"


@pytest.mark.slow
def test_help_does_not_import_the_doctor() -> None:
    code = "import sys; from dipcli.cli.app import app; app()(['--help'], standalone_mode=False)"
    code += "; print(sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "doctor" in output.partition("['")[0]
    loaded = re.findall(r"'([\w.]+)'", output.partition("['")[2])
    assert not {"torch", "numpy", "psutil", "dipcli.cli.doctor"} & set(loaded)
