"""docs/images.md has the table of formats as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_page_has_the_table_of_formats() -> None:
    script = Path(__file__).parents[2] / "docs/make_formats.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
