"""The layout of the code: sizes, imports, the reference image, and a generated document that is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "dipcli"
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in SOURCE.rglob("__init__.py"))
# Modules that must not import torch, as patterns below src/dipcli.
WITHOUT_TORCH = {
    "images": ["images/*.py"],
    "report": ["report/*.py"],
    "tasks": ["tasks/*.py"],
    "stopping": ["stopping/*.py"],
    "settings": ["settings/*.py"],
    "cli": ["cli/*.py"],
    "problem": [f"problem/{name}.py" for name in ("problem", "losses", "noise", "prefilter")],
}


def relative(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_there_are_at_most_twelve_packages_and_seven_files() -> None:
    assert len([path for path in PACKAGES if path.parent == SOURCE]) <= 12
    assert len([path for path in SOURCE.iterdir() if path.is_file()]) <= 7


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_a_package_has_at_most_16_modules(package: Path) -> None:
    assert len(list(package.glob("*.py"))) <= 16


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_a_light_package_does_not_import_torch(name: str) -> None:
    paths = [path for pattern in WITHOUT_TORCH[name] for path in sorted(SOURCE.glob(pattern))]
    assert paths
    modules = [".".join(["dipcli", *path.relative_to(SOURCE).with_suffix("").parts]) for path in paths]
    code = (
        "import importlib, sys\n"
        f"for name in {[module.removesuffix('.__init__') for module in modules]}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_the_engine_reads_writes_and_prints_nothing() -> None:
    engine = (SOURCE / "fitting" / "engine.py").read_text()
    assert not re.search(r"\b(open|print|Path)\(|import (typer|rich|pathlib|sys)", engine)


def test_only_the_metrics_receive_the_reference() -> None:
    """Engine, rules and problem do not even contain the word."""
    unaware = ("stopping/*", "settings/settings", "networks/*", "problem/problem", "problem/losses", "problem/noise")
    for pattern in (*unaware, "fitting/engine", "fitting/restarts"):
        paths = list(SOURCE.glob(f"{pattern}.py"))
        assert paths, pattern
        for path in paths:
            assert not re.search(r"\breference\b", path.read_text()), path


def test_the_command_line_reference_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "make_cli.py", "--check"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
