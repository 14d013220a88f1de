"""The Python API: a handful of lines."""

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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32", "float64"])
@pytest.mark.parametrize("layout", [(24, 30), (24, 30, 1), (24, 30, 3), (24, 30, 4)], ids=str)
def test_an_array_comes_back_as_it_went_in(dtype: str, layout: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(layout)
    array = (array if "float" in dtype else array * np.iinfo(dtype).max).astype(dtype)
    before = array.copy()
    restored = denoise(array, **QUICK)
    assert (restored.image.shape, restored.image.dtype) == (layout, dtype)
    assert np.array_equal(array, before)
    assert restored.steps == 3
    assert 1 <= restored.kept <= 3


def test_it_does_what_the_command_line_does(dip: Any, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png)
    expected = iio.imread(noisy_png.with_name("noisy.denoised.png"))
    assert np.array_equal(denoise(noisy_png, **QUICK).image, expected)
    assert np.array_equal(denoise(iio.imread(noisy_png), **QUICK).image, expected)


def test_one_after_the_other_is_as_one_alone() -> None:
    first, second = noisy(scene(20, 24)), noisy(scene(24, 20), seed=1)
    alone = denoise(second, **QUICK).image
    denoise(first, **QUICK)
    assert np.array_equal(denoise(second, **QUICK).image, alone)


def test_the_bar_changes_nothing_and_shows_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    picture = noisy(scene(20, 24))
    silent = denoise(picture, **QUICK).image
    assert capsys.readouterr() == ("", "")
    shown = denoise(picture, **{**QUICK, "progress": True}).image
    told = capsys.readouterr()
    assert told.out == ""
    assert "loss" in told.err
    assert np.array_equal(silent, shown)


def test_a_rule_of_ones_own_and_observers() -> None:
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


def test_interrupting_returns_the_best_so_far() -> None:
    def interrupt(step: dipcli.Step, _verdict: Verdict) -> None:
        if step.number == 2:
            signal.raise_signal(signal.SIGINT)

    restored = denoise(noisy(scene(20, 24)), observers=[interrupt], **{**QUICK, "iterations": 1000})
    assert restored.reason == "it was interrupted by SIGINT"
    assert restored.steps == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_its_signature_and_help_tell_the_settings() -> None:
    parameters = inspect.signature(denoise).parameters
    assert parameters["rate"].default == 0.02
    assert parameters["preset"].default is None
    assert "given" not in parameters
    assert "Learning rate." in denoise.__doc__
    assert "denoise" in dir(dipcli)


def test_bad_input_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fast, balanced"):
        denoise(noisy(scene(20, 24)), preset="quick")
    with pytest.raises(DipError, match="check the name"):
        denoise(tmp_path / "gone.png", **QUICK)
    with pytest.raises(TypeError, match="learning_rate"):
        denoise(noisy(scene(20, 24)), learning_rate=1)
    with pytest.raises(AttributeError, match="sharpen"):
        dipcli.sharpen  # noqa: B018 - looking it up is the test


def test_the_function_is_one_and_can_be_pickled() -> None:
    assert dipcli.denoise is denoise
    assert pickle.loads(pickle.dumps(denoise)) is denoise  # noqa: S301 - our own


def test_the_threads_are_as_before_afterwards() -> None:
    import torch

    before = torch.get_num_threads()
    restored = denoise(noisy(scene(20, 24)), threads=2, **QUICK)
    assert restored.settings.threads == 2
    assert torch.get_num_threads() == before


def test_importing_costs_nothing() -> None:
    code = "import dipcli, sys; print([m for m in ('torch', 'numpy', 'typer') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


def test_the_parts_are_there_by_name() -> None:
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
    ):
        assert getattr(dipcli, name).__name__ == name


def test_what_was_simulated_is_measured() -> None:
    from dipcli import superres

    result = superres(scene(48, 40), scale=2, simulate=True, **QUICK)
    assert result.image.shape == (48, 40, 3)
    error = ((result.image.astype(float) - scene(48, 40)) ** 2).mean() / 255**2
    assert result.measures["psnr_ref"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
    assert result.measures["baselines"]["bicubic"]["psnr"] > 20
    assert "shrinks back" in result.measures["conclusion"]


def test_figures_come_as_files() -> None:
    from dipcli import impedance

    result = impedance(scene(32, 32), iterations=2, progress=False)
    assert result.image.shape == (32, 128, 3)
    assert set(result.files) == {".png", ".svg", ".csv"}


def test_lists_and_pillows_pictures_are_pictures_too() -> None:
    from PIL import Image

    clean = scene(20, 24)
    arrays = [denoise(each, **QUICK).image for each in (clean, Image.fromarray(clean))]
    assert np.array_equal(*arrays)
