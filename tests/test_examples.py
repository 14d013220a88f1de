"""The examples run, and show what they say they show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from conftest import noisy, scene

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*command: object, **environment: str) -> str:
    result = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        env={**QUICK, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    iio.imwrite(path, noisy(scene(32, 32)))
    return path


def test_every_example_is_run_by_a_test() -> None:
    mine = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert path.suffix in (".md", ".png") or f'"{path.name}"' in mine, path.name


def test_the_notebook_restores_a_picture(small: Path) -> None:
    told = run(sys.executable, EXAMPLES / "notebook.py", small, 20)
    assert told.startswith("(32, 32, 3) uint8 iteration")
    assert "the loss fell" in told


def test_a_task_of_ones_own_is_a_command_with_every_option(small: Path, tmp_path: Path) -> None:
    script = EXAMPLES / "deblur.py"
    told = run(sys.executable, script, "deblur", small, "--sigma", 1, "--iters", 3, "--json", "-q")
    assert '"task": "deblur"' in told
    assert '"sigma": 1.0' in told
    assert (tmp_path / "small.deblurred.dip" / "run.json").exists()
    help_text = run(sys.executable, script, "deblur", "--help")
    assert "--sigma" in help_text
    assert "--iters" in help_text


def test_the_blur_of_the_example_keeps_the_mean_and_is_linear() -> None:
    import torch

    sys.path.insert(0, str(EXAMPLES))
    try:
        from deblur import blur
    finally:
        sys.path.remove(str(EXAMPLES))
        from dipcli import registry

        registry._tasks.pop("deblur")
    x, y = torch.rand(2, 3, 20, 24)
    assert torch.allclose(blur(2 * x - y, 1.5), 2 * blur(x, 1.5) - blur(y, 1.5), atol=1e-5)
    assert torch.allclose(blur(torch.full((1, 20, 20), 0.3), 1.5), torch.full((1, 20, 20), 0.3))


def test_a_rule_of_ones_own_stops_the_run(tmp_path: Path) -> None:
    flat = tmp_path / "flat.png"
    iio.imwrite(flat, np.full((32, 32), 120, np.uint8))
    told = run(sys.executable, EXAMPLES / "settled.py", flat, 1500)
    assert "grey levels in 50 iterations" in told
    assert 100 <= int(told.split()[2]) < 1500


def test_the_shell_example(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    told = run("bash", EXAMPLES / "denoise.sh", "--iters", 3, "-q", TMPDIR=str(tmp_path), PATH=path)
    assert told.startswith(f"{tmp_path}/cat.png\niteration,seconds,loss")


def test_the_cat_is_the_one_that_make_cat_makes(tmp_path: Path) -> None:
    (tmp_path / "make_cat.py").write_text((EXAMPLES / "make_cat.py").read_text())
    run(sys.executable, tmp_path / "make_cat.py")
    for name in ("cat_clean.png", "cat_noisy.png"):
        assert np.array_equal(iio.imread(tmp_path / name), iio.imread(EXAMPLES / name))
