"""The examples run, and show what their descriptions say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from documentation.fast_fits import fast_fits
from documentation.in_process import call
from documentation.shell import run_in_shell
from samples import noisy, scene

from dipcli.tasks import registry

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_script(name: str, *arguments: object) -> str:
    """Run an example in this process; returns its standard output."""
    code, out, err = call(["python", str(EXAMPLES / name), *map(str, arguments)])
    assert code == 0, err
    return out


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    iio.imwrite(path, noisy(scene(32, 32)))
    return path


@pytest.fixture
def sharpen_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    declared = registry.tasks()  # imports those of the package, which are declared once
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import sharpen

    yield sharpen
    registry.DECLARED.clear()
    registry.DECLARED.update(declared)


def test_every_example_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        assert path.suffix in (".md", ".png", "") or f'"{path.name}"' in source, path.name


def test_notebook_restores_an_image(small: Path) -> None:
    out = run_script("notebook.py", small, 20)
    assert out.startswith("(32, 32, 3) uint8 iteration")
    assert "the loss fell" in out


def test_sharpen_is_a_command_with_every_option(small: Path, tmp_path: Path) -> None:
    out = run_script("sharpen.py", "sharpen", small, "--width", 1, "--iters", 3, "--json", "-q")
    assert '"task": "sharpen"' in out
    assert '"width": 1.0' in out
    assert (tmp_path / "small.sharpened.dip" / "run.json").exists()
    help_text = run_script("sharpen.py", "sharpen", "--help")
    assert "--width" in help_text
    assert "--iters" in help_text


def test_sharpen_operator_keeps_the_mean_and_is_linear(sharpen_module: object) -> None:
    blur = sharpen_module.blur  # type: ignore[attr-defined]
    x, y = torch.rand(2, 3, 20, 24)
    assert torch.allclose(blur(2 * x - y, 1.5), 2 * blur(x, 1.5) - blur(y, 1.5), atol=1e-5)
    assert torch.allclose(blur(torch.full((1, 20, 20), 0.3), 1.5), torch.full((1, 20, 20), 0.3))


@pytest.mark.parametrize("name", ["sharpen.py", "settled.py", "notebook.py", "ablation.py"])
def test_examples_import_only_from_dipcli_itself(name: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert "from dipcli import" in source
    assert "from dipcli." not in source
    assert "import dipcli." not in source


@pytest.mark.slow
def test_settled_stops_the_run(tmp_path: Path) -> None:
    flat = tmp_path / "flat.png"
    iio.imwrite(flat, np.random.default_rng(0).normal(120, 10, (64, 64)).clip(0, 255).astype(np.uint8))
    out = run_script("settled.py", flat, 1500)
    assert "grey levels in 50 iterations" in out
    assert 100 <= int(out.split()[2]) < 1500


def test_settled_stops_where_the_average_no_longer_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from settled import Settled

    from dipcli import Problem, Step

    rule = Settled(gap=2, levels=1.5)
    image = torch.full((1, 4, 4), 0.5)
    state, problem = rule.start(Problem(measured=image, shape=(1, 4, 4)))
    assert problem.measured is image
    changes = {1: 0.0, 2: 0.0, 3: 0.1, 4: 0.2, 5: 0.3, 6: 0.204}
    stops = []
    for number, change in changes.items():
        average = image + change
        step = Step(number=number, image=average, averages=(average,), loss=torch.tensor(0.0), rate=0.1, seconds=0.0)
        verdict, state = rule.judge(step, state)
        stops.append(bool(verdict.stop))
    assert stops == [False] * 5 + [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "output"),
    [
        ("denoise.sh", [], "{}/cat.png\niteration,seconds,loss"),
        ("inpaint.sh", [], "{0}/cat.hole.png\n{0}/cat.half.png\n"),
        ("superres.sh", [], "{}/"),
        ("dejpeg.sh", [], "{}/"),
        ("flash.sh", [], "{}/cat.relit.png\n"),
        ("invert.sh", [], "{}/"),
        ("impedance.sh", ["--size", "32"], "{}/"),
    ],
)
def test_shell_examples(tmp_path: Path, script: str, options: list[str], output: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "PATH": path}
    with fast_fits():
        code, out, err = run_in_shell(["bash", str(EXAMPLES / script), "--iters", "3", "-q", *options], environment)
    assert code == 0, err
    assert out.startswith(output.format(tmp_path))


def test_ablation_draws_a_sheet(tmp_path: Path) -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40, 20:50] = 255
    for name, array in (("in.png", scene(64, 96)), ("mask.png", mask)):
        iio.imwrite(tmp_path / name, array)
    sheet = tmp_path / "sheet.png"
    with fast_fits():
        out = run_script("ablation.py", tmp_path / "in.png", tmp_path / "mask.png", "--iters", 2, "-o", sheet)
    names = [line.partition(":")[0] for line in out.splitlines()[:5]]
    assert names == ["depth 2", "depth 4", "depth 6", "U-Net", "ResNet"]
    assert iio.imread(sheet).shape[1] == 1800


def test_make_cat_makes_the_shipped_cat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "make_cat.py").write_text((EXAMPLES / "make_cat.py").read_text())
    code, _, err = call(["python", str(tmp_path / "make_cat.py")])
    assert code == 0, err
    for name in ("cat_clean.png", "cat_noisy.png"):
        assert np.array_equal(iio.imread(tmp_path / name), iio.imread(EXAMPLES / name))
