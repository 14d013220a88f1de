"""Tab completion in bash."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dipcli

PACKAGE = str(Path(dipcli.__file__).parent.parent)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dip", "do"], ["doctor"]),
        (["dip", "de"], ["deblur", "dejpeg", "denoise"]),
        (["dip", "denoise", "--pre"], ["--preset", "--precision"]),
        (["dip", "denoise", "--preset", ""], ["fast", "balanced", "best", "paper"]),
        (["dip", "superres", "--preset", "b"], ["balanced", "best"]),
    ],
    ids=" ".join,
)
def test_bash_completes_commands_options_and_values(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    """With the script that `dip --install-completion` installs."""
    dip = tmp_path / "dip"
    dip.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/dip.py "$@"\n')
    dip.chmod(0o755)
    (tmp_path / "dip.py").write_text("import sys; sys.argv[0] = 'dip'; from dipcli.cli.app import main; main()")
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
