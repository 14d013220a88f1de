"""The shape of the house: which way the arrows run, and that documents say what is so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dipcli"
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.stem if path.parent == PACKAGE else path.parent.name


def imported(path: Path) -> set[str]:
    """Rooms imported when the module runs, functions included; not those for type checking alone."""
    tree = ast.parse(path.read_text())
    checking = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    rooms = set()
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "dipcli":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dipcli."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("dipcli.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_the_engine_knows_no_file_no_terminal_and_no_task() -> None:
    assert imported(PACKAGE / "engine.py") <= {
        "adam",
        "descent",
        "errors",
        "losses",
        "perturbation",
        "problem",
        "recovery",
        "settings",
        "stopping",
        "warmup",
    }
    assert not re.search(r"\b(open|print|Path)\(|import (typer|rich|pathlib|sys)", (PACKAGE / "engine.py").read_text())


def test_only_cli_commands_and_tasks_know_typer() -> None:
    knowing = {room(path) for path in MODULES if re.search(r"^\s*(import|from) typer", path.read_text(), re.MULTILINE)}
    assert knowing <= {"cli", "commands", "tasks"}


def test_the_reference_is_given_to_the_metrics_alone() -> None:
    """Neither engine nor rules nor problem so much as have a word for it."""
    for name in ("engine", "stopping", "problem", "settings", "networks", "losses", "noise", "restarts"):
        for path in (PACKAGE / name).glob("*.py") if (PACKAGE / name).is_dir() else [PACKAGE / f"{name}.py"]:
            assert not re.search(r"\breference\b", path.read_text()), path


def test_the_command_line_reference_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "make_cli.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
