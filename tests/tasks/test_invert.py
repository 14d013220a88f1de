"""`dip invert`: the cropped image, the classifiers, and the conclusion."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import scene

from dipcli.errors import DipError, UsageError
from dipcli.fitting.solve import prepare, solve
from dipcli.images.image import Image, from_array
from dipcli.networks import build
from dipcli.tasks.case import Case
from dipcli.tasks.invert import crop_square
from dipcli.tasks.registry import tasks

INVERT = tasks()["invert"]
IMAGE = from_array(scene(40, 60))
NETWORK = """
import torch
from torch import nn

print("building")

def build():
    first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True))
    return nn.Sequential(first, nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())

def broken():
    raise ValueError("no such\\nplan")

def leaving():
    raise SystemExit(2)

number = 3
three = lambda: 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A network in a file of the current folder."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "mynet"
    sys.modules.pop("mynet", None)


def make_case(image: Image = IMAGE, **given: object) -> Case:
    arguments = {"model": "alexnet", "layer": "conv1", "weights": "random", "size": 64} | given
    case, _ = INVERT.case(image, "balanced", arguments, {})
    return case


def tensor(case: Case) -> torch.Tensor:
    assert case.truth is not None
    return torch.from_numpy(case.truth)


def test_the_image_itself_has_zero_loss() -> None:
    case = make_case()
    problem = case.problem
    found = problem.operator(tensor(case))
    assert problem.shape == (3, 64, 64)
    assert problem.measured.shape == (64, 15, 15)
    assert float(problem.measured.abs().max()) == pytest.approx(1)
    assert float(problem.loss(found, problem.measured, None)) == 0
    assert case.conclude is not None
    assert case.conclude(case.truth) == "Its features at conv1 differ from the image's by 0 % (relative error)."


def test_the_conclusion_states_the_distance_of_the_features(own: str) -> None:
    """With the identity as network, half of the image is 50 % away, and black is 100 % away."""
    Path("mynet.py").write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Identity())\n")
    case = make_case(model=f"{own}:build", layer="0", weights=None)
    assert case.conclude is not None
    assert case.truth is not None
    assert "by 50 % " in case.conclude(case.truth / 2)
    assert "by 100 % " in case.conclude(0 * case.truth)


def test_random_weights_get_a_remark_and_depend_on_the_seed() -> None:
    case = make_case()
    assert any("random" in remark for remark in case.remarks)
    other, _ = INVERT.case(IMAGE, "balanced", {"layer": "conv1", "weights": "random", "size": 64}, {"seed": 1})
    assert not torch.equal(case.problem.measured, other.problem.measured)


@pytest.mark.parametrize(("height", "width"), [(60, 60), (16, 40), (40, 17), (100, 61)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_output_is_an_opaque_8_bit_image(height: int, width: int, channels: int) -> None:
    samples = np.dstack([scene(height, width, channels), np.full((height, width), 90, np.uint8)])
    profile = b"a profile"
    case = make_case(replace(from_array(samples.astype(np.uint16) * 257), profile=profile), size=48)
    written = case.image.with_pixels(np.zeros((3, 48, 48), np.float32)).array()
    assert written.shape == (48, 48, 3)
    assert written.dtype == np.uint8
    assert case.image.profile == (profile if channels == 3 else None), "a grey profile is none for three colours"


def test_the_central_square_is_cropped_without_scaling_at_its_own_size() -> None:
    pixels = IMAGE.pixels
    assert np.array_equal(crop_square(pixels, 40), pixels[:, :, 10:50])
    assert np.array_equal(crop_square(pixels.transpose(0, 2, 1), 40), pixels.transpose(0, 2, 1)[:, 10:50])
    grey = crop_square(pixels[:1], 40)
    assert np.array_equal(grey, np.repeat(pixels[:1, :, 10:50], 3, axis=0))


def test_downsampling_averages() -> None:
    stripes = np.zeros((3, 96, 96), np.float32)
    stripes[:, :, ::2] = 1
    assert np.allclose(crop_square(stripes, 24)[:, :, 2:-2], 0.5, atol=0.02)


@given(st.integers(16, 50), st.integers(16, 50), st.sampled_from([1, 3]), st.integers(16, 60))
@hypothesis_settings(max_examples=30, deadline=None)
def test_any_image_becomes_a_square(height: int, width: int, channels: int, size: int) -> None:
    pixels = np.random.default_rng(0).random((channels, height, width), dtype=np.float32)
    cut = crop_square(pixels, size)
    assert cut.shape == (3, size, size)
    assert cut.dtype == np.float32
    assert 0 <= cut.min() <= cut.max() <= 1
    flat = crop_square(np.full_like(pixels, 0.25), size)
    assert np.allclose(flat, 0.25, atol=1e-5)


def test_the_fit_brings_the_features_closer() -> None:
    case, settings = INVERT.case(
        IMAGE,
        "balanced",
        {"layer": "relu1", "weights": "random", "size": 32},
        {"iterations": 60, "network": TINY, "input_depth": 4, "rate": 0.02, "device": "cpu"},
    )
    losses: list[float] = []
    fit = solve(prepare(case.problem, settings), observers=[lambda step, _: losses.append(float(step.loss))])
    assert fit.image.shape == (3, 32, 32)
    assert losses[-1] < losses[0] / 4


def test_free_pixels_with_total_variation_are_smooth() -> None:
    arguments = {"layer": "relu1", "weights": "random", "size": 32}
    given = {"iterations": 120, "network": "pixels", "rate": 0.02, "device": "cpu"}

    def reached(tv: float) -> tuple[float, float]:
        case, settings = INVERT.case(IMAGE, "balanced", arguments, given | {"tv": tv})
        x = solve(prepare(case.problem, settings)).image
        loss = float(case.problem.loss(case.problem.operator(x), case.problem.measured, None))
        return loss, float((x[:, 1:] - x[:, :-1]).abs().mean())

    (exact, rough), (_, smooth) = reached(0), reached(1)
    assert exact < 0.01
    assert smooth < rough / 2


def test_the_paper_preset_is_the_published_method() -> None:
    paper = INVERT.settings("paper")
    prior = build(paper, (3, 224, 224))
    assert sum(weights.numel() for weights in prior.network.parameters()) == 2_606_763
    assert prior.code.shape == (1, 32, 256, 256)
    assert (paper.rate, paper.reg_noise, paper.ema, paper.iterations) == (0.001, 0, 0.99, 3100)
    assert (paper.stop, paper.pad, paper.input, paper.optimizer, paper.optimize) == (
        "none", "zero", "noise", "adam", "net",
    )  # fmt: skip


@pytest.mark.parametrize("preset", ["fast", "balanced", "best"])
def test_no_feature_is_held_out(preset: str) -> None:
    """There is no noise in them that could be learned."""
    settings = INVERT.settings(preset)
    assert settings.stop == "none"
    assert settings.iterations is not None
    assert settings.reg_noise == 0


def test_the_user_s_own_network(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    path, before = list(sys.path), torch.get_rng_state()
    case = make_case(model=f"{own}:build", layer="0.1", weights=None)
    assert case.problem.measured.shape == (6, 64, 64)
    assert float(case.problem.measured.min()) == 0, "a rectified layer"
    again = make_case(model=f"{own}:build", layer="0.1", weights=None)
    assert torch.equal(case.problem.measured, again.problem.measured), "its random weights are the seed's"
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr().out == "", "standard output is for images"
    assert not case.remarks
    flat = make_case(model=f"{own}:build", layer="4", weights=None)
    assert flat.problem.measured.shape == (16,)


def test_the_user_s_own_network_gets_the_image_unnormalised(own: str) -> None:
    Path("mynet.py").write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Identity())\n")
    case = make_case(model=f"{own}:build", layer="0", weights=None)
    assert torch.allclose(case.problem.measured, tensor(case) / tensor(case).max())


def test_weights_are_loaded_into_the_user_s_own_network(own: str, tmp_path: Path) -> None:
    plain = make_case(model=f"{own}:build", layer="2", weights=None)
    weights = {f"module.{name}": -values for name, values in plain.problem.operator.network.state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "mine.pth")
    network = make_case(model=f"{own}:build", layer="2", weights=str(tmp_path / "mine.pth")).problem.operator.network
    assert all(torch.equal(values, weights[f"module.{name}"]) for name, values in network.state_dict().items())


@pytest.mark.parametrize(
    ("given", "kind", "sentence"),
    [
        ({"weights": None}, UsageError, r"--model alexnet needs --weights: a FILE .* download .* or random"),
        ({"model": "resnet50"}, UsageError, r"choose from alexnet, vgg16, vgg19, or name a function .*module:function"),
        ({"layer": "conv9"}, UsageError, r"no --layer conv9 .*choose from conv1, .*fc8"),
        ({"layer": "features.99"}, UsageError, r"no --layer features\.99"),
        ({"layer": ""}, UsageError, r"no --layer"),
        ({"size": 15}, UsageError, r"--size 15 is out of range: use 16 to 2048"),
        ({"size": 5000}, UsageError, r"--size 5000 is out of range"),
        ({"layer": "pool5", "size": 24}, DipError, r"fails on an image of 24x24 .*another --size"),
        ({"weights": "nothing.pth"}, DipError, r"Cannot read --weights nothing\.pth"),
        ({"model": "mynet:build", "weights": "random"}, UsageError, r"--weights random is for the built-in models"),
        ({"model": "mynet:build", "weights": "download"}, UsageError, r"--weights download is for the built-in models"),
        ({"model": "nowhere:build", "weights": None}, DipError, r"does not work \(ModuleNotFound.*as mynet:build"),
        ({"model": "mynet:bild", "weights": None}, DipError, r"does not work \(AttributeError: .*bild"),
        ({"model": "mynet:", "weights": None}, DipError, r"does not work \(AttributeError"),
        ({"model": ":build", "weights": None}, DipError, r"does not work \(ValueError"),
        ({"model": "mynet:number", "weights": None}, DipError, r"does not work \(TypeError: .*not callable"),
        ({"model": "mynet:broken", "weights": None}, DipError, r"does not work \(ValueError: no such\)"),
        ({"model": "mynet:leaving", "weights": None}, DipError, r"does not work \(SystemExit: 2\)"),
        ({"model": "mynet:three", "weights": None}, DipError, r"returns a int: return a torch\.nn\.Module"),
        ({"model": "mynet:build", "weights": None, "layer": "fc6"}, UsageError, r"no --layer fc6 .*from 0, 0\.0, 0\.1"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("own")
def test_invalid_options_are_refused_with_a_hint(given: dict[str, object], kind: type[DipError], sentence: str) -> None:
    with pytest.raises(DipError, match=sentence) as caught:
        make_case(**given)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_from_the_command_line(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "cat.png", scene(40, 60))
    result = dip.quick("invert", tmp_path / "cat.png", "--layer", "conv1", "--weights", "random", "--size", 48)
    assert result.exit_code == 0, result.output
    written = tmp_path / "cat.inverted.png"
    assert str(written) in result.stdout
    assert iio.imread(written).shape == (48, 48, 3)
    assert "Its features at conv1 differ from the image's by" in result.output


def test_missing_weights_are_refused_with_a_hint(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "cat.png", scene(40, 60))
    result = dip.quick("invert", tmp_path / "cat.png")
    assert result.exit_code == 2
    assert "--weights" in result.output
    assert not (tmp_path / "cat.inverted.png").exists()


def test_help_mentions_code_execution_and_downloads(dip: Dip) -> None:
    text = " ".join(dip("invert", "--help").output.split())
    for word in ("module:function", "download", "random", "--network pixels --tv"):
        assert word in text


def test_the_seed_is_not_an_option_of_the_task() -> None:
    assert [option.name for option in INVERT.arguments()] == ["model", "layer", "weights", "size"]
