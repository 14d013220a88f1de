"""The benchmark for a GPU works before there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_dry(tmp_path: Path) -> None:
    out = tmp_path / "dry.json"
    command = [sys.executable, ROOT / "benchmarks/gpu.py", "--dry-run", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr
    printed = json.loads(out.read_text())
    assert printed["failures"] == {}
    assert "DRY RUN" in printed["machine"]
    parts = {figure["part"] for figure in printed["figures"]}
    assert parts == {"tests", "gradients", "quality", "iteration", "fit", "memory", "together"}
    assert "| memory | balanced" in done.stdout
