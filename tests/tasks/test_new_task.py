"""A task from outside the package needs nothing but `from dipcli import ...`."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import typer
from command_line import TINY, Dip
from samples import noisy, scene

import dipcli
from dipcli import Baseline, Case, Problem, Step, UsageError, Verdict, task
from dipcli.cli.app import command
from dipcli.tasks import registry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dipcli import Image

PRESETS = {"balanced": {"network": TINY, "input_depth": 4, "reg_noise": 0.01, "iterations": 30}}


@pytest.fixture(autouse=True)
def _forget_tasks() -> Iterator[None]:
    before = registry.tasks()
    yield
    for name in registry.DECLARED.keys() - before.keys():
        del registry.DECLARED[name]
        vars(dipcli).pop(name, None)


@pytest.fixture
def factors() -> list[tuple[float, str, int]]:
    """Declare the task `brighten` and return the values it is called with."""
    values: list[tuple[float, str, int]] = []
    interrupts = [True]

    @task(presets=PRESETS, result="brightened")
    def brighten(
        image: Image,
        factor: float = 2.0,
        curve: Literal["linear", "square"] = "linear",
        at: Annotated[int | None, typer.Option(help="Interrupt once at this iteration.")] = None,
        *,
        seed: int,
    ) -> Case:
        """Undo a change of brightness.

        Examples:

            dip brighten dark.png --factor 2
        """
        if not factor > 0:
            raise UsageError(f"--factor {factor} is out of range: use a number above 0.")
        values.append((factor, curve, seed))

        def darken(x: Tensor) -> Tensor:
            return x / factor

        def interrupt(step: Step, _verdict: Verdict) -> None:
            if step.number == at and interrupts:
                interrupts.pop()
                signal.raise_signal(signal.SIGINT)

        def multiply(_budget: object) -> NDArray[np.float32]:
            return np.clip(image.pixels * np.float32(factor), 0, 1)

        return Case(
            problem=Problem(measured=torch.from_numpy(image.pixels), shape=image.pixels.shape, operator=darken),
            image=image,
            observers=(interrupt,),
            baselines=lambda: [Baseline("multiplication", "multiplied", multiply)],
        )

    return values


@pytest.fixture
def dark_png(tmp_path: Path) -> Path:
    path = tmp_path / "dark.png"
    iio.imwrite(path, noisy(scene(32, 40), sigma=5) // 2)
    return path


def test_it_is_a_command_with_its_options(factors: list[Any], dip: Dip, dark_png: Path) -> None:
    text = " ".join(dip("brighten", "--help").output.split())
    for word in ("--factor", "--curve", "--at", "Interrupt once", "--iters", "Undo a change of brightness"):
        assert word in text
    assert "--seed" in text, "the setting's own option"
    arguments = ("--factor", 1.5, "--curve", "square", "--seed", 3, "--iters", 3, "--no-report")
    result = dip("brighten", dark_png, *arguments)
    assert result.exit_code == 0, result.output
    assert set(factors) == {(1.5, "square", 3)}
    assert iio.imread(dark_png.with_name("dark.brightened.png")).shape == (32, 40, 3)
    assert dip("brighten", dark_png, "--factor", 0).exit_code == 2
    assert dip("brighten", dark_png, "--factor", "much").exit_code == 2


def test_it_is_a_python_function(factors: list[Any], dark_png: Path) -> None:
    restored = dipcli.brighten(iio.imread(dark_png), factor=3.0, iterations=2, progress=False)
    assert restored.image.shape == (32, 40, 3)
    assert set(factors) == {(3.0, "linear", 0)}
    assert "Interrupt once at this iteration." in dipcli.brighten.__doc__
    assert "factor" in dipcli.brighten.__doc__
    with pytest.raises(AttributeError, match="darken"):
        dipcli.darken  # noqa: B018 - looking it up is the test


def test_an_interrupted_run_is_resumed(factors: list[Any], dip: Dip, dark_png: Path) -> None:
    arguments = ("--factor", 1.5, "--curve", "square", "--seed", 3, "--no-report")
    whole = dark_png.with_name("whole.png")
    assert dip("brighten", dark_png, "-o", whole, *arguments).exit_code == 0
    result = dip("brighten", dark_png, *arguments, "--at", 12)
    assert result.exit_code == 130, result.output
    factors.clear()
    result = dip("resume", dark_png.with_name("dark.brightened.dip"))
    assert result.exit_code == 0, result.output
    assert set(factors) == {(1.5, "square", 3)}
    assert dark_png.with_name("dark.brightened.png").read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("factors")
def test_its_baseline_is_compared_and_cleared_by_a_later_run(dip: Dip, dark_png: Path) -> None:
    folder = dark_png.with_name("dark.brightened.dip")
    result = dip("brighten", dark_png, "--iters", 2, "--compare", "--no-report")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads((folder / "run.json").read_text())["comparison"]
    assert (answer["name"], answer["file"]) == ("multiplication", "compare/multiplied.png")
    (folder / "compare" / "mine.png").write_bytes(b"mine")
    assert dip("brighten", dark_png, "--iters", 2, "--no-report").exit_code == 0
    assert [file.name for file in (folder / "compare").iterdir()] == ["mine.png"]


def sharpen(image: Image, width: float = 1.0) -> Tensor:  # type: ignore[empty-body]
    """Sharpen; `Image` and `Tensor` are unknown at run time."""


def test_only_the_annotations_of_options_are_evaluated() -> None:
    task(presets=PRESETS, result="sharp")(sharpen)
    (option,) = registry.tasks()["sharpen"].arguments()
    assert (option.name, option.annotation.__origin__, option.default) == ("width", float, 1.0)


def option_with_unknown_type(image: Image, width: Tensor) -> Problem:  # type: ignore[empty-body]
    """The type of an option has to be known."""


def option_without_type(image, width=1.0):  # type: ignore[no-untyped-def]
    """An option needs a type."""


def positional_setting(image: Image, sigma: float = 1.0) -> Problem:  # type: ignore[empty-body]
    """`sigma` is a setting."""


def setting_with_option(image: Image, *, sigma: Annotated[float, typer.Option()] = 1.0) -> Problem:  # type: ignore[empty-body]
    """`sigma` is a setting."""


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (positional_setting, "'sigma' has the name of a setting.*keyword-only"),
        (setting_with_option, "'sigma' has the name of a setting"),
        (option_with_unknown_type, "'width' has an unknown type.*Tensor"),
        (option_without_type, "'width' needs a type"),
    ],
)
def test_a_parameter_that_cannot_be_an_option_is_refused_at_declaration(pose: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        task(presets=PRESETS, result="sharp")(pose)
    assert pose.__name__ not in registry.DECLARED


def test_the_names_of_common_options_are_refused(factors: list[Any]) -> None:  # noqa: ARG001 - declares the task
    brighten = registry.tasks()["brighten"]
    own = {option.name for option in brighten.arguments()}
    for name in command(brighten).__signature__.parameters.keys() - own:  # type: ignore[attr-defined]
        assert name in registry.COMMON_NAMES | registry.SETTING_NAMES


def test_the_preset_balanced_is_required() -> None:
    with pytest.raises(ValueError, match="balanced"):
        task(presets={"fast": {}}, result="sharp")(sharpen)
