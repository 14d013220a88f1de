"""The examples run, and show what they say they show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from samples import noisy, scene

EXAMPLES = Path(__file__).parents[2] / "examples"
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
    told = run(sys.executable, script, "deblur", small, "--width", 1, "--iters", 3, "--json", "-q")
    assert '"task": "deblur"' in told
    assert '"width": 1.0' in told
    assert (tmp_path / "small.deblurred.dip" / "run.json").exists()
    help_text = run(sys.executable, script, "deblur", "--help")
    assert "--width" in help_text
    assert "--iters" in help_text


def test_the_blur_of_the_example_keeps_the_mean_and_is_linear() -> None:
    import torch

    sys.path.insert(0, str(EXAMPLES))
    try:
        from deblur import blur
    finally:
        sys.path.remove(str(EXAMPLES))
        from dipcli.tasks import registry

        registry.DECLARED.pop("deblur")
    x, y = torch.rand(2, 3, 20, 24)
    assert torch.allclose(blur(2 * x - y, 1.5), 2 * blur(x, 1.5) - blur(y, 1.5), atol=1e-5)
    assert torch.allclose(blur(torch.full((1, 20, 20), 0.3), 1.5), torch.full((1, 20, 20), 0.3))


def test_a_rule_of_ones_own_stops_the_run(tmp_path: Path) -> None:
    flat = tmp_path / "flat.png"
    iio.imwrite(flat, np.full((32, 32), 120, np.uint8))
    told = run(sys.executable, EXAMPLES / "settled.py", flat, 1500)
    assert "grey levels in 50 iterations" in told
    assert 100 <= int(told.split()[2]) < 1500


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        ("denoise.sh", [], "{}/cat.png\niteration,seconds,loss"),
        ("inpaint.sh", [], "{0}/cat.hole.png\n{0}/cat.half.png\n"),
        ("superres.sh", [], "{}/"),
        ("dejpeg.sh", [], "{}/"),
        ("flash.sh", [], "{}/cat.relit.png\n"),
        ("invert.sh", [], "{}/"),
        ("impedance.sh", ["--size", 32], "{}/"),
    ],
)
def test_the_shell_examples(tmp_path: Path, script: str, options: list[object], told: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = run("bash", EXAMPLES / script, "--iters", 3, "-q", *options, TMPDIR=str(tmp_path), PATH=path)
    assert shown.startswith(told.format(tmp_path))


def test_the_ablation_draws_a_sheet(tmp_path: Path) -> None:
    clean = scene(64, 96)
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 20:50] = 255
    for name, array in (("in.png", clean), ("mask.png", mask)):
        iio.imwrite(tmp_path / name, array)
    told = run(
        sys.executable, EXAMPLES / "ablation.py", tmp_path / "in.png", tmp_path / "mask.png",
        "--iters", 2, "-o", tmp_path / "sheet.png",
    )  # fmt: skip
    assert [line.partition(":")[0] for line in told.splitlines()[:5]] == [
        "depth 2", "depth 4", "depth 6", "U-Net", "ResNet",
    ]  # fmt: skip
    assert iio.imread(tmp_path / "sheet.png").shape[1] == 1800


def test_the_cat_is_the_one_that_make_cat_makes(tmp_path: Path) -> None:
    (tmp_path / "make_cat.py").write_text((EXAMPLES / "make_cat.py").read_text())
    run(sys.executable, tmp_path / "make_cat.py")
    for name in ("cat_clean.png", "cat_noisy.png"):
        assert np.array_equal(iio.imread(tmp_path / name), iio.imread(EXAMPLES / name))
