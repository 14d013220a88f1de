"""The shape of the house: which way the arrows run, and that documents say what is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dipcli"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


def test_the_engine_neither_reads_nor_writes_nor_prints() -> None:
    engine = (PACKAGE / "fitting" / "engine.py").read_text()
    assert not re.search(r"\b(open|print|Path)\(|import (typer|rich|pathlib|sys)", engine)


def test_the_reference_is_given_to_the_metrics_alone() -> None:
    """Neither engine nor rules nor problem so much as have a word for it."""
    unaware = ("stopping/*", "settings/settings", "networks/*", "problem/problem", "problem/losses", "problem/noise")
    for pattern in (*unaware, "fitting/engine", "fitting/restarts"):
        for path in PACKAGE.glob(f"{pattern}.py"):
            assert not re.search(r"\breference\b", path.read_text()), path


def test_the_command_line_reference_is_up_to_date() -> None:
    command = [sys.executable, ROOT / "docs" / "make_cli.py", "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
