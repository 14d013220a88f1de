"""The Python API."""

from __future__ import annotations

import inspect
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import TINY
from samples import noisy, scene

import dipcli
from dipcli import denoise
from dipcli.errors import DipError, UsageError
from dipcli.problem import Problem
from dipcli.stopping import Verdict

QUICK: dict[str, Any] = {"network": TINY, "input_depth": 4, "iterations": 3, "progress": False}


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(layout, dtype, marks=[] if dtype == "uint8" or layout == (24, 30, 3) else pytest.mark.slow)
        for layout in ((24, 30), (24, 30, 1), (24, 30, 3), (24, 30, 4))
        for dtype in ("uint8", "uint16", ">u2", "float32", "float64")
    ],
    ids=str,
)
def test_the_result_has_the_type_and_layout_of_the_array(dtype: str, layout: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(layout)
    array = (array if "float" in dtype else array * np.iinfo(dtype).max).astype(dtype)
    before = array.copy()
    restored = denoise(array, input="noise", **QUICK)
    assert (restored.image.shape, restored.image.dtype) == (layout, dtype)
    assert np.array_equal(array, before)
    assert restored.steps == 3
    assert 1 <= restored.kept <= 3


def test_the_result_is_that_of_the_command_line(dip: Any, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png)
    expected = iio.imread(noisy_png.with_name("noisy.denoised.png"))
    assert np.array_equal(denoise(noisy_png, **QUICK).image, expected)
    assert np.array_equal(denoise(iio.imread(noisy_png), **QUICK).image, expected)


def test_earlier_fits_do_not_change_the_result() -> None:
    first, second = noisy(scene(20, 24)), noisy(scene(24, 20), seed=1)
    alone = denoise(second, **QUICK).image
    denoise(first, **QUICK)
    assert np.array_equal(denoise(second, **QUICK).image, alone)


def test_the_bar_changes_nothing_and_shows_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    image = noisy(scene(20, 24))
    silent = denoise(image, **QUICK).image
    assert capsys.readouterr() == ("", "")
    shown = denoise(image, **{**QUICK, "progress": True}).image
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loss" in printed.err
    assert np.array_equal(silent, shown)


def test_the_user_s_own_rule_and_observers() -> None:
    @dataclass(frozen=True)
    class Second:
        def start(self, problem: Problem) -> tuple[None, Problem]:
            return None, problem

        def judge(self, step: dipcli.Step, state: None) -> tuple[Verdict, None]:
            return Verdict(keep=step.number == 2, stop="two is enough" if step.number == 2 else None), state

    seen = []
    rest = {**QUICK, "iterations": None}
    restored = denoise(
        noisy(scene(20, 24)), stop=Second(), observers=[lambda step, _: seen.append(step.number)], **rest
    )
    assert seen == [1, 2]
    assert (restored.kept, restored.reason) == (2, "two is enough")
    named = denoise(noisy(scene(20, 24)), stop="emv:patience=2:guard=1", **{**rest, "max_iterations": 5})
    assert named.settings.stop == "emv:patience=2:guard=1"


def test_an_interrupt_returns_the_best_image_so_far() -> None:
    def interrupt(step: dipcli.Step, _verdict: Verdict) -> None:
        if step.number == 2:
            signal.raise_signal(signal.SIGINT)

    restored = denoise(noisy(scene(20, 24)), observers=[interrupt], **{**QUICK, "iterations": 1000})
    assert restored.reason == "it was interrupted by SIGINT"
    assert restored.steps == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_signature_and_docstring_list_the_settings() -> None:
    parameters = inspect.signature(denoise).parameters
    assert parameters["rate"].default == 0.02
    assert parameters["preset"].default is None
    assert "given" not in parameters
    assert "Learning rate." in denoise.__doc__
    assert "denoise" in dir(dipcli)


def test_invalid_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fast, balanced"):
        denoise(noisy(scene(20, 24)), preset="quick")
    with pytest.raises(DipError, match="check the name"):
        denoise(tmp_path / "gone.png", **QUICK)
    with pytest.raises(TypeError, match="learning_rate"):
        denoise(noisy(scene(20, 24)), learning_rate=1)
    with pytest.raises(AttributeError, match="sharpen"):
        dipcli.sharpen  # noqa: B018 - looking it up is the test


def test_the_function_is_a_singleton_and_can_be_pickled() -> None:
    assert dipcli.denoise is denoise
    assert pickle.loads(pickle.dumps(denoise)) is denoise  # noqa: S301 - our own


def test_the_number_of_threads_is_restored() -> None:
    import torch

    before = torch.get_num_threads()
    restored = denoise(noisy(scene(20, 24)), threads=2, **{**QUICK, "iterations": 1})
    assert restored.settings.threads == 2
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_importing_dipcli_imports_nothing_heavy() -> None:
    code = "import dipcli, sys; print([m for m in ('torch', 'numpy', 'typer') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"


def test_settings_may_be_numbers() -> None:
    restored = denoise(
        noisy(scene(20, 24)), sigma=25, time=90, tile=256, max_memory=8e9, input="noise", runs=1, **QUICK
    )
    assert (restored.settings.noise_level(), restored.settings.time_budget()) == (25, 90)
    assert (restored.settings.tile_side(), restored.settings.memory_limit()) == (256, 8 * 10**9)


def test_public_names_can_be_imported() -> None:
    for name in (
        "Problem",
        "Settings",
        "Prior",
        "Step",
        "Verdict",
        "Fit",
        "fit",
        "build",
        "task",
        "DipError",
        "UsageError",
        "Task",
        "Case",
        "Image",
        "Operator",
        "Rule",
        "Baseline",
        "main",
    ):
        assert getattr(dipcli, name).__name__ == name


def test_a_simulation_is_measured_against_the_truth() -> None:
    from dipcli import superres

    result = superres(scene(48, 40), scale=2, simulate=True, input="noise", **QUICK)
    assert result.image.shape == (48, 40, 3)
    error = ((result.image.astype(float) - scene(48, 40)) ** 2).mean() / 255**2
    assert result.measures["psnr_ref"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert result.measures["baselines"]["bicubic"]["psnr"] > 20
    assert "matches the input" in result.measures["conclusion"]


def test_figures_are_returned_as_files() -> None:
    from dipcli import impedance

    result = impedance(scene(32, 32), iterations=2, progress=False)
    assert result.image.shape == (32, 128, 3)
    assert set(result.files) == {".png", ".svg", ".csv"}


def test_pillow_images_are_accepted() -> None:
    from PIL import Image

    clean = scene(20, 24)
    arrays = [denoise(source, **QUICK).image for source in (clean, Image.fromarray(clean))]
    assert np.array_equal(*arrays)
