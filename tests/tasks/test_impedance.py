"""`dip impedance`: the targets, their curves, the chart and the conclusion."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from xml.etree import ElementTree as ET

import imageio.v3 as iio
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import scene

from dipcli import networks
from dipcli.errors import UsageError
from dipcli.images.image import Image, from_array
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks import registry
from dipcli.tasks.case import Case
from dipcli.tasks.figures.learning_curves import TARGETS, Curves
from dipcli.tasks.impedance import choose_threshold, downsample, impedance, make_targets, side_by_side

SIZE = (2, 3)
LABELS = [target.label for target in TARGETS]


def case(image: Image, **given: object) -> Case:
    return impedance(image, **{"seed": 0, **given})


def curves(table: list[list[float]], error: float = 0.01) -> Curves:
    """Curves of outputs with exactly these squared errors, a row for each iteration."""
    truth = torch.rand(4, 3, *SIZE, dtype=torch.float64)
    watching = Curves(truth.flatten(0, 1), error)
    for number, row in enumerate(table, start=1):
        image = truth + torch.tensor(row, dtype=torch.float64).sqrt()[:, None, None, None]
        watching(Step(number, torch.tensor(0.0), image.flatten(0, 1), (torch.zeros(12, *SIZE),), 0.01, 0.0), Verdict())
    return watching


def photo(height: int = 48, width: int = 64, channels: int = 3) -> Image:
    return from_array(scene(height, width, channels))


# The targets


@pytest.mark.parametrize("channels", [1, 3])
def test_the_targets_match_their_names(channels: int) -> None:
    pixels = photo(200, 220, channels).pixels
    clean, noisy, shuffled, uniform = make_targets(pixels, 25 / 255, seed=3).reshape(4, *pixels.shape)
    assert np.array_equal(clean, pixels)
    # The scene's values are two sigmas and more from the ends for the most part: clipping takes little of the noise.
    assert (noisy - pixels).std() == pytest.approx(25 / 255, rel=0.03)
    assert (noisy - pixels).mean() == pytest.approx(0, abs=0.002)
    assert uniform.mean() == pytest.approx(1 / 2, abs=0.01)
    assert uniform.var() == pytest.approx(1 / 12, rel=0.02)
    assert uniform.min() < 0.001
    assert uniform.max() > 0.999
    assert not np.array_equal(shuffled, pixels)


def test_shuffling_moves_whole_pixels() -> None:
    pixels = np.random.default_rng(0).random((3, 20, 30), dtype=np.float32)
    shuffled = make_targets(pixels, 0.1, seed=0)[6:9]
    before, after = ({tuple(colour) for colour in values.reshape(3, -1).T.tolist()} for values in (pixels, shuffled))
    assert before == after
    assert len(before) == 600
    assert (shuffled == pixels).mean() < 0.02


def test_the_targets_are_within_0_and_1() -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (1, 32, 32)).astype(np.float32)
    measured = make_targets(pixels, 100 / 255, seed=0)
    assert measured.dtype == np.float32
    assert measured.min() == 0
    assert measured.max() == 1


def test_targets_depend_on_the_seed() -> None:
    pixels = photo().pixels
    assert np.array_equal(make_targets(pixels, 0.1, seed=5), make_targets(pixels, 0.1, seed=5))
    one, two = (make_targets(pixels, 0.1, seed=seed).reshape(4, *pixels.shape) for seed in (5, 6))
    assert [np.array_equal(a, b) for a, b in zip(one, two, strict=True)] == [True, False, False, False]


def test_more_noise_leaves_the_other_targets_as_they_are() -> None:
    pixels = photo().pixels
    one, two = (make_targets(pixels, sigma, seed=0).reshape(4, *pixels.shape) for sigma in (0.1, 0.2))
    assert [np.array_equal(a, b) for a, b in zip(one, two, strict=True)] == [True, False, True, True]


def test_the_images_are_placed_side_by_side() -> None:
    pixels = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    measured = make_targets(pixels, 0.1, seed=0)
    mosaic = side_by_side(torch.from_numpy(measured)).numpy()
    assert np.array_equal(mosaic, np.concatenate(np.split(measured, 4), axis=2))


# Downsampling


@given(st.integers(16, 90), st.integers(16, 90), st.integers(16, 100))
def test_the_copy_has_the_size_asked_for_and_is_never_larger(height: int, width: int, size: int) -> None:
    pixels = np.full((1, height, width), 0.5, dtype=np.float32)
    try:
        copy = downsample(pixels, size)
    except UsageError as error:
        least = int(str(error).split()[-3])
        assert least > size
        copy, size = downsample(pixels, least), least
    assert max(copy.shape) == min(size, max(height, width))
    assert min(copy.shape[1:]) >= 16
    assert copy.shape[1] / copy.shape[2] == pytest.approx(height / width, rel=0.04)
    assert copy == pytest.approx(0.5, abs=1e-6)


def test_the_copy_is_antialiased_and_within_range() -> None:
    stripes = np.zeros((3, 64, 64), dtype=np.float32)
    stripes[:, :, ::2] = 1
    assert downsample(stripes, 16)[:, :, 2:-2] == pytest.approx(0.5, abs=0.02)
    edge = np.zeros((1, 64, 64), dtype=np.float32)
    edge[:, 32:] = 1
    copy = downsample(edge, 20)
    assert copy.dtype == np.float32
    assert copy.min() == 0
    assert copy.max() == 1


def test_a_smaller_image_is_not_resized() -> None:
    image = photo()
    for size in (None, 64, 1000):
        made = case(image, size=size)
        assert torch.equal(made.problem.measured[:3], torch.from_numpy(image.pixels))
        assert made.remarks == ()
    assert case(image, size=32).remarks == ("fitting a copy of 32x24 pixels",)


def test_a_nearly_constant_image_gets_a_remark() -> None:
    flat = case(from_array(np.full((16, 20), 0.5, dtype=np.float32)))
    assert flat.observers[0].error == 1e-4
    (remark,) = flat.remarks
    assert remark == "a single colour has a mean squared error of only 0: try a smaller --error"
    halves = np.repeat([[0.0, 1.0]], 8, axis=1).repeat(16, axis=0).astype(np.float32)  # its variance is a quarter
    assert case(from_array(halves), error=0.24).remarks == ()
    (remark,) = case(from_array(halves), error=0.26).remarks
    assert "of only 0.25" in remark


def test_the_threshold_lies_between_the_variances_of_noise_and_image() -> None:
    """Of 0.01 and 0.04 that is 0.02."""
    clean, noisy = np.full((2, 8, 8), 0.3), np.full((2, 8, 8), 0.4)
    clean[:, :4] += 0.4
    noisy[:, :4] += 0.4
    assert choose_threshold(np.concatenate([clean, noisy, clean, clean])) == 0.02
    pixels = photo().pixels
    less, more = (case(photo(), noise=sigma).observers[0].error for sigma in (10.0, 20.0))
    assert less < more < pixels.var()
    assert case(photo(), error=0.03).observers[0].error == 0.03


# The case


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_problem_has_four_images_for_four_networks(channels: int) -> None:
    """Grey or colour, with transparency or without."""
    array = scene(48, 64, 4)[..., :channels]
    made = case(from_array(array), size=32)
    colours = 1 if channels < 3 else 3
    assert made.problem.members == 4
    assert made.problem.shape == made.problem.measured.shape == (4 * colours, 24, 32)
    mosaic = made.problem.finish(made.problem.measured).numpy()
    assert mosaic.shape == (colours, 24, 128)
    carried = made.image.with_pixels(mosaic).array()
    assert carried.dtype == np.uint8
    assert carried.shape == ((24, 128) if colours == 1 else (24, 128, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 15}, "--size 15 is too small: use 16 or more."),
        ({"size": 20}, "--size 20 makes 20x15 of an image of 64x48: use 22 or more."),
        ({"noise": 0.0}, "--noise 0 is out of range: use a number above 0, up to 1000."),
        ({"noise": float("nan")}, "--noise nan is out of range: use a number above 0, up to 1000."),
        ({"noise": 1001.0}, "--noise 1001 is out of range: use a number above 0, up to 1000."),
        ({"error": 0.0}, "--error 0 is out of range: use a number above 0 and below 1."),
        ({"error": 1.0}, "--error 1 is out of range: use a number above 0 and below 1."),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        case(photo(), **wrong)
    assert str(caught.value) == message


@pytest.mark.parametrize("preset", ["fast", "balanced", "best", "paper"])
def test_every_preset_has_the_published_network(preset: str) -> None:
    settings = registry.tasks()["impedance"].settings(preset)
    network = networks.build(settings, (3, 64, 64)).network
    assert sum(weights.numel() for weights in network.parameters()) == 572_827
    assert settings.reg_noise == 0


def test_presets_and_seed_reach_the_task() -> None:
    task, image = registry.tasks()["impedance"], photo(150, 300)
    assert [option.name for option in task.arguments()] == ["size", "noise", "error"]
    fast, settings = task.case(image, "fast", {}, {"seed": 7})
    assert settings.iterations == 500
    assert fast.problem.shape == (12, 64, 128)
    assert np.array_equal(fast.problem.measured.numpy(), make_targets(downsample(image.pixels, 128), 25 / 255, seed=7))
    paper, settings = task.case(image, "paper", {}, {})
    assert settings.iterations == 2400
    assert paper.problem.shape == (12, 150, 300)


# The curves


def test_the_curves_are_the_errors_of_single_outputs() -> None:
    table = [[0.04, 0.09, 0.16, 0.25], [0.01, 0.02, 0.15, 0.24]]
    assert curves(table).errors() == pytest.approx(np.array(table))


def test_observing_reads_no_value() -> None:
    """Tensors on the meta device have none: whoever reads one fails."""
    watching = Curves(torch.zeros(12, *SIZE), 0.01)
    image = torch.zeros(12, *SIZE, device="meta")
    for number in (1, 2):
        watching(Step(number, image, image, (image,), 0.01, 0.0), Verdict())
    assert torch.stack(watching.seen).shape == (2, 4)


def test_the_table_can_be_read_back() -> None:
    table = [[0.0412345, 0.09, 1e-7, 0.25], [0.01, 0.02, 0.15, 0.24]]
    header, *rows = csv.reader(io.StringIO(curves(table).render()[".csv"].decode()))
    assert header == ["iteration", "picture", "picture_noise", "shuffled", "noise"]
    assert [int(row[0]) for row in rows] == [1, 2]
    assert np.array([row[1:] for row in rows], dtype=float) == pytest.approx(np.array(table), rel=1e-5)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param([[0.08, 0.09, 0.08, 0.1]], id="one", marks=pytest.mark.slow),
        pytest.param([[0.08, 0.09, 0.08, 0.1], [0.0, 0.0, 0.0, 0.0]], id="zero", marks=pytest.mark.slow),
        pytest.param([[float("nan")] * 4], id="not finite", marks=pytest.mark.slow),
        pytest.param([[0.08, 0.09, 0.08, 0.1], [0.05, float("inf"), 0.0, float("nan")]], id="some not finite"),
    ],
)
def test_any_errors_can_be_drawn(table: list[list[float]]) -> None:
    rendered = curves(table).render()
    assert list(rendered) == [".png", ".svg", ".csv"]
    chart = iio.imread(rendered[".png"])
    assert chart.shape[:2] == (900, 1600)
    ET.fromstring(rendered[".svg"])  # noqa: S314 - our own


def test_each_curve_is_drawn_and_labelled() -> None:
    axes = curves([[0.08, 0.09, 0.07, 0.1], [0.05, 0.05, 0.05, 0.05]]).draw().axes[0]
    _, *drawn = axes.lines  # the first is the error asked for
    pale, strong = drawn[::2], drawn[1::2]
    for lines in (pale, strong):
        for line, first in zip(lines, (0.08, 0.09, 0.07, 0.1), strict=True):
            assert list(line.get_xdata()) == [1, 2]
            assert list(line.get_ydata()) == pytest.approx([first, 0.05])
    for look in ("get_color", "get_linestyle"):
        assert len({getattr(line, look)() for line in strong}) == 4
    _, *names = axes.texts
    assert [name.get_text() for name in names] == LABELS
    assert [name.get_color() for name in names] == [line.get_color() for line in strong]
    # All four end at one point: their labels must not overlap.
    assert np.diff(sorted(name.xy[1] for name in names)).min() > 0.05 * axes.get_ylim()[1]


def test_the_strong_line_is_the_median_of_its_bin() -> None:
    """The bin from 10^1.65 to 10^1.7 has the iterations 45 to 50."""
    table = [[0.5 if number == 47 else number / 1000] * 4 for number in range(1, 60)]
    strong = curves(table).draw().axes[0].lines[2]
    numbers, values = list(strong.get_xdata()), list(strong.get_ydata())
    assert numbers[:4] == [1, 2, 3, 4]
    assert len(numbers) < 30
    place = numbers.index(47.5)
    assert values[place] == pytest.approx(0.0485)
    assert max(values) == values[-1] < 0.06


def test_same_numbers_give_same_bytes_with_any_style() -> None:
    table = [[0.08, 0.09, 0.07, 0.09], [0.01, 0.02, 0.03, 0.09]]
    with mpl.rc_context({"font.size": 30, "savefig.facecolor": "red", "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        styled = curves(table).render()
        assert dict(mpl.rcParams) == before
    assert styled == curves(table).render()


@pytest.mark.slow
def test_same_numbers_give_same_bytes_with_any_style_and_process() -> None:
    script = (
        "import hashlib, sys, torch; from dipcli.tasks.figures.learning_curves import Curves\n"
        "made = Curves(torch.zeros(12, 2, 2), 0.01)\n"
        "made.iterations = [1, 2]\n"
        "made.seen = [torch.tensor([0.08, 0.09, 0.07, 0.09]), torch.tensor([0.01, 0.02, 0.03, 0.09])]\n"
        "digest = hashlib.sha256(b''.join(made.render().values())).hexdigest()\n"
    )
    names: dict[str, object] = {}
    with mpl.rc_context({"font.size": 30, "savefig.facecolor": "red", "svg.hashsalt": "other"}):
        before = dict(mpl.rcParams)
        exec(script, names)  # noqa: S102 - our own
        assert dict(mpl.rcParams) == before
    script += "assert 'matplotlib.pyplot' not in sys.modules; print(digest)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.strip() == names["digest"]


# The sentence


@pytest.mark.parametrize(
    ("last", "ending"),
    [
        (
            [0.004, 0.009, 0.03, 0.08],
            "iteration 2, image + noise at 3; shuffled pixels and uniform noise had not by iteration 3.",
        ),
        (
            [0.004, 0.02, 0.03, 0.08],
            "iteration 2; image + noise, shuffled pixels and uniform noise had not by iteration 3.",
        ),
        (
            [0.02, 0.001, 0.002, 0.08],  # once is enough: the image was fitted at iteration 2
            "iteration 2, image + noise at 3, shuffled pixels at 3; uniform noise had not by iteration 3.",
        ),
        (
            [0.004, 0.009, 0.009, 0.009],
            "iteration 2, image + noise at 3, shuffled pixels at 3, uniform noise at 3.",
        ),
    ],
)
def test_the_conclusion_names_the_fitted_targets_and_their_iterations(last: list[float], ending: str) -> None:
    sentence = curves([[0.08, 0.09, 0.08, 0.1], [0.005, 0.05, 0.05, 0.09], last]).conclude()
    assert sentence == f"The image reached a mean squared error of 0.01 at {ending}"


def test_the_conclusion_when_no_target_was_fitted() -> None:
    watching = curves([[0.08, float("nan"), 0.08, 0.1]])
    assert watching.conclude() == "None of the four reached a mean squared error of 0.01 by iteration 1."
    assert set(watching.find_fitted().values()) == {None}


def test_the_first_target_fitted_is_named_first() -> None:
    sentence = curves([[0.08, 0.09, 0.005, 0.1], [0.005, 0.05, 0.05, 0.09]]).conclude()
    assert sentence.startswith("The shuffled pixels reached a mean squared error of 0.01 at iteration 1, image at 2; ")


def test_the_conclusion_of_the_case_is_that_of_its_curves() -> None:
    made = case(photo(16, 20), error=0.5)
    (watching,) = made.observers
    image = made.problem.measured + 0.1
    watching(Step(1, torch.tensor(0.0), image, (image,), 0.01, 0.0), Verdict())
    assert made.conclude(side_by_side(image).numpy()).startswith("The image reached a mean squared error of 0.5 at")
    assert made.render()[".csv"].decode().splitlines()[1].split(",")[1] == "0.01"


def test_each_network_has_the_gradient_of_a_fit_of_its_own() -> None:
    """The gradient of a member's weights is that of its own mean squared error."""
    from dipcli.problem.losses import squared_error
    from dipcli.tasks.impedance import summed_squared_error

    prediction = torch.rand(12, 5, 6, requires_grad=True)
    measured = torch.rand(12, 5, 6)
    (gradient,) = torch.autograd.grad(summed_squared_error(prediction, measured), prediction)
    for member in range(4):
        own = slice(3 * member, 3 * member + 3)
        (alone,) = torch.autograd.grad(squared_error(prediction[own], measured[own]), prediction)
        assert torch.allclose(gradient[own], alone[own])
