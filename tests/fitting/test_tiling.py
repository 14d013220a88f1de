"""A large image in tiles: where they lie, how they are blended, and what is fitted in each."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import Dip
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import noisy, scene
from torch import Tensor, nn

from dipcli import denoise, stopping
from dipcli.errors import DipError, OutOfMemoryError, UsageError
from dipcli.fitting.control import Control
from dipcli.fitting.passes.evaluate import evaluate_alone
from dipcli.fitting.results import Runs
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.fitting.tiles.tiling import MIN_OVERLAP, blend, halve_place, layout
from dipcli.images.image import from_array
from dipcli.problem import Problem, operators
from dipcli.problem.prefilter import PrefilteredGuide
from dipcli.runs.observers import Metrics, Row
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings
from dipcli.settings.settings import MIN_TILE_SIDE
from dipcli.stopping import Verdict
from dipcli.stopping.step import Place, Step
from dipcli.tasks.inpaint import inpaint

NETWORK = "skip:channels=8,8:skips=4,4"
TINY: dict[str, Any] = {"network": NETWORK, "input_depth": 4, "iterations": 4, "stop": "none", "tile": "128"}
TILED = (
    "--network",
    NETWORK,
    "--input",
    "noise",
    "--input-depth",
    4,
    "--iters",
    4,
    "--fusion",
    "none",
    "--tile",
    128,
    "--warmup",
    0,
)


def make_image(height: int = 200, width: int = 240, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 9, 9, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def denoising(measured: Tensor, **rest: Any) -> Problem:
    return Problem(measured=measured, shape=tuple(measured.shape), **rest)


def at_most(side: int) -> Callable[[int, int], bool]:
    return lambda high, wide: max(high, wide) <= side


# Layout.


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 3000), st.integers(16, 3000), st.sampled_from([1, 8, 32, 64]), st.integers(128, 1500))
def test_tiles_cover_every_pixel_with_weights_of_sum_one(height: int, width: int, stride: int, side: int) -> None:
    places = layout((height, width), stride, at_most(side))
    assert places
    sizes = {(place.rows.stop - place.rows.start, place.columns.stop - place.columns.start) for place in places}
    assert len(sizes) == 1
    for length, tile_side in zip((height, width), next(iter(sizes)), strict=True):
        assert tile_side <= side
        assert tile_side == length or (tile_side % stride == 0 and tile_side >= MIN_TILE_SIDE)
    down, across = torch.zeros(height, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for rows, weights in {(place.rows.start, place.rows.stop): place.down for place in places}.items():
        assert 0 <= rows[0] < rows[1] <= height
        assert (weights >= 0).all()
        down[slice(*rows)] += weights
    for columns, weights in {(place.columns.start, place.columns.stop): place.across for place in places}.items():
        across[slice(*columns)] += weights
    assert torch.allclose(down, torch.ones_like(down), atol=1e-6)
    assert torch.allclose(across, torch.ones_like(across), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(700, 8000), st.integers(700, 8000), st.integers(512, 3000))
def test_tiles_overlap_and_have_few_more_pixels_than_the_image(height: int, width: int, side: int) -> None:
    places = layout((height, width), 32, at_most(side))
    columns = sorted({(place.columns.start, place.columns.stop) for place in places})
    for left, right in pairwise(columns):
        assert left[1] - right[0] >= MIN_OVERLAP
    work = sum((rows.stop - rows.start) * (across.stop - across.start) for rows, across, *_ in places)
    assert work <= 1.3 * height * width


def test_tiles_of_24_megapixels_have_at_most_a_fifth_more() -> None:
    for side in (1056, 2080, 3072):
        places = layout((4000, 6000), 32, at_most(side))
        work = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns, *_ in places)
        assert 1 < work / 24e6 < 1.2


def test_an_image_that_fits_is_one_tile_and_no_tile_is_too_large() -> None:
    (place,) = layout((300, 200), 32, at_most(300))
    assert (place.rows, place.columns) == (slice(0, 300), slice(0, 200))
    assert torch.equal(place.weights, torch.ones(300, 200))
    assert layout((300, 200), 32, at_most(100)) == []


def test_a_tile_has_no_weight_at_its_border() -> None:
    places = layout((200, 1000), 32, at_most(320))
    first, second = places[:2]
    assert first.across[-8:].max() == 0
    assert second.across[:8].max() == 0
    assert (first.across.diff() <= 0).all(), "it falls once and never rises"


@settings(max_examples=20, deadline=None)
@given(st.integers(130, 500), st.integers(130, 500))
def test_windows_of_an_image_blend_into_it(height: int, width: int) -> None:
    whole = make_image(height, width, 2)
    places = layout((height, width), 32, at_most(160))
    blended = blend(whole.shape, [(place, whole[:, place.rows, place.columns]) for place in places])
    assert torch.allclose(blended, whole, atol=1e-6)


def test_smaller_tiles_have_the_weights_of_the_one_they_replace() -> None:
    whole = make_image(400, 400)
    first, *rest = layout((400, 400), 32, at_most(256))
    parts = halve_place(first, lambda size: layout(size, 32, at_most(160)))
    assert len(parts) > 1
    both = [*parts, *rest]
    blended = blend(whole.shape, [(place, whole[:, place.rows, place.columns]) for place in both])
    assert torch.allclose(blended, whole, atol=1e-6)


# Windows of a problem.


def test_a_window_of_superresolution_depends_on_nothing_else() -> None:
    large, small = (96, 120), (40, 50)
    shrink = operators.Resample(large, small, operators.parse_kernel("lanczos3"))
    x = make_image(*large)
    problem = Problem(measured=shrink(x), shape=(1, *large), operator=shrink)
    part = problem.window(slice(16, 80), slice(0, 64))
    assert part.shape == (1, 64, 64)
    assert torch.allclose(part.operator(x[:, 16:80, :64]), part.measured, atol=1e-5)
    high, wide = part.measured.shape[1:]
    assert high >= 64 * 40 / 96 - 2 * 4
    assert wide >= 64 * 50 / 120 - 4, "nothing is lost at the border of the image"


def test_windows_of_superresolution_cover_the_small_image() -> None:
    large, small = (520, 128), (130, 32)
    shrink = operators.Resample(large, small, operators.parse_kernel("lanczos3"))
    problem = Problem(measured=torch.zeros(1, *small), shape=(1, *large), operator=shrink)
    seen = torch.zeros(130)
    assert shrink.reach == 24, "three pixels of the small image to either side"
    for place in layout(large, 32, lambda high, _wide: high <= 256, 2 * shrink.reach):
        _, rows, _ = shrink.window(place.rows, place.columns)
        seen[rows] += 1
    assert problem.tileable
    assert (seen > 0).all()


def test_the_guide_of_a_window_is_the_window_of_the_guide() -> None:
    pixels = noisy(scene(90, 80)).transpose(2, 0, 1) / np.float32(255)
    guide = PrefilteredGuide(pixels, 25 / 255)
    rows, columns = slice(30, 70), slice(0, 45)
    known = torch.ones(1, 90, 80)
    known[:, 40:60:3, 5:40:4] = 0
    for weight, own in ((None, None), (known, known[:, rows, columns])):
        whole, part = guide(weight), guide.window(rows, columns)(own)
        assert torch.allclose(part, whole[:, rows, columns], atol=1e-3)


def test_a_problem_says_whether_it_can_be_cut() -> None:
    y = make_image()
    assert denoising(y).tileable
    assert denoising(y, guide=y, weight=torch.ones(1, 1, 1)).tileable
    assert not denoising(y, operator=torch.nn.AvgPool2d(2)).tileable
    assert not denoising(y, guide=lambda _weight: y).tileable
    assert not denoising(y, members=4).tileable


# Fits in tiles.


def fit_in_tiles(problem: Problem, **given: Any) -> tuple[Runs, list[Step], PreparedFit]:
    prepared = prepare(problem, Settings(**{**TINY, **given}))
    steps: list[Step] = []
    result = solve(prepared, observers=[lambda step, _verdict: steps.append(step)])
    return result, steps, prepared


def test_free_pixels_in_tiles_are_those_of_the_whole_fit() -> None:
    y = make_image()
    free = {"network": "pixels", "ema": 0.0, "rate": 0.05, "iterations": 150}
    apart, _, prepared = fit_in_tiles(denoising(y), **free)
    whole, _, _ = fit_in_tiles(denoising(y), **{**free, "tile": "none"})
    assert len(prepared.estimate.places) == 6
    assert torch.allclose(whole.image, y, atol=1e-3)
    assert torch.allclose(apart.image, whole.image, atol=1e-3)


def test_a_tile_is_the_fit_of_its_window_alone() -> None:
    y = make_image()
    result, steps, prepared = fit_in_tiles(denoising(y))
    numbers = [step.tile.number for step in steps if step.tile]
    assert numbers == [number for number in range(1, 7) for _ in range(4)]
    place = prepared.estimate.places[4]
    alone = solve(
        prepare(denoising(y[:, place.rows, place.columns].contiguous()), replace(prepared.settings, tile="none"))
    )
    assert torch.equal(result.runs[4].fit.average, alone.image)
    assert [run.tile for run in result.runs] == [1, 2, 3, 4, 5, 6]
    assert {run.seed for run in result.runs} == {0}


def test_a_rule_is_resolved_for_the_whole_image() -> None:
    y = torch.from_numpy(noisy(scene(160, 160)).transpose(2, 0, 1) / np.float32(255))
    rule = Settings(stop="auto:patience=7").rule().resolve(denoising(y))
    assert isinstance(rule, stopping.Ending)
    assert rule.rule == stopping.HoldOut(patience=7)
    level = stopping.Sigma().resolve(denoising(y))
    assert isinstance(level, stopping.Sigma)
    assert level.level == pytest.approx(25, rel=0.1)


def test_after_an_interrupt_tiles_that_were_not_reached_show_the_input() -> None:
    y = make_image()
    prepared = prepare(denoising(y), Settings(**TINY))
    seen: list[Step] = []
    result = solve(
        prepared,
        observers=[lambda step, _verdict: seen.append(step)],
        control=Control(interrupted=lambda: "enough" if len(seen) >= 6 else None),
    )
    assert [run.fit.steps for run in result.runs] == [4, 3]
    assert "not reached show the input" in result.reason
    assert "2 of them fitted" in result.reason
    last = prepared.estimate.places[-1]
    alone = (last.weights == 1).nonzero()[-1]
    at = (0, last.rows.start + int(alone[0]), last.columns.start + int(alone[1]))
    assert result.image[at] == y[at]


@pytest.mark.slow
def test_the_time_is_shared_among_the_tiles() -> None:
    result, _, _ = fit_in_tiles(denoising(make_image()), iterations=None, max_iterations=100_000, time="3s", runs=1)
    assert [run.tile for run in result.runs] == [1, 2, 3, 4, 5, 6]
    assert all(run.fit.steps > 1 for run in result.runs)
    assert result.seconds < 4.5


def run_out_of_memory(min_pixels: int, first: int, times: int) -> Callable[..., Tensor]:
    """An `evaluate` that runs out of memory from a fit's number on, on inputs of this many pixels or more."""
    networks: list[nn.Module] = []
    failures = [times]

    def evaluate(network: nn.Module, precision: str, z: Tensor, compute_loss: Callable[[Tensor], Tensor]) -> Tensor:
        if network not in networks:
            networks.append(network)
        if failures[0] and len(networks) >= first and z.shape[-2] * z.shape[-1] >= min_pixels:
            failures[0] -= 1
            raise RuntimeError("can't allocate memory: 1 byte")
        return evaluate_alone(network, precision, z, compute_loss)

    return evaluate


@pytest.mark.slow
def test_when_memory_runs_out_the_whole_is_fitted_in_tiles_once() -> None:
    y = make_image(300, 300)
    messages: list[str] = []
    prepared = prepare(denoising(y), Settings(**{**TINY, "tile": "auto"}))
    control = Control(notify=messages.append, evaluate=run_out_of_memory(100 * 200, first=1, times=1))
    result = solve(prepared, control=control)
    assert len(result.places) == 4
    assert result.image.shape == y.shape
    assert len(messages) == 1
    assert "memory ran out" in messages[0]
    assert "4 tiles" in messages[0]
    prepared = prepare(denoising(y), Settings(**{**TINY, "tile": "auto"}))
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        solve(prepared, control=Control(evaluate=run_out_of_memory(100 * 100, first=1, times=2)))


@pytest.mark.slow
def test_when_memory_runs_out_tiles_become_smaller_and_finished_ones_stay() -> None:
    messages: list[str] = []
    shapes: dict[int, tuple[int, ...]] = {}
    numbers: list[int] = []
    prepared = prepare(denoising(make_image(300, 600)), Settings(**{**TINY, "tile": "320"}))
    assert len(prepared.estimate.places) == 2

    def watch(step: Step, _verdict: Verdict) -> None:
        assert step.tile is not None
        numbers.append(step.tile.number)
        shapes[step.tile.number] = step.image.shape

    evaluate = run_out_of_memory(200 * 200, first=2, times=1)
    result = solve(prepared, observers=[watch], control=Control(notify=messages.append, evaluate=evaluate))
    assert len(messages) == 1
    assert f"{len(result.places) - 1} smaller tiles" in messages[0]
    assert numbers == [number for number in range(1, len(result.places) + 1) for _ in range(4)], "none is fitted twice"
    assert all(
        height * width <= shapes[1][1] * shapes[1][2] / 2 for number, (_, height, width) in shapes.items() if number > 1
    )
    ones = [(place, torch.ones(1, len(place.down), len(place.across))) for place in result.places]
    assert torch.allclose(blend((1, 300, 600), ones), torch.ones(1, 300, 600), atol=1e-6)


# Observers.


def test_metrics_of_a_tile_compare_with_its_part_of_the_truth() -> None:
    y = make_image(channels=3)
    truth = y.numpy()
    prepared = prepare(denoising(y), Settings(**TINY))
    rows: list[Row] = []
    images: dict[int, Tensor] = {}

    def watch(step: Step, _verdict: Verdict) -> None:
        assert step.tile is not None
        images[step.tile.number] = step.image

    solve(prepared, observers=[Metrics(prepared.problem, truth, 4, [rows.append]), watch])
    assert [row["tile"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        place = prepared.estimate.places[int(row["tile"] or 0) - 1]
        part = y[:, place.rows, place.columns]
        error = float(((images[int(row["tile"] or 0)].clamp(0, 1) - part) ** 2).mean())
        assert row["psnr_ref"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
        assert row["psnr_noisy"] == pytest.approx(-10 * np.log10(error), abs=1e-3)


@pytest.mark.slow
def test_the_uncertainty_is_blended_like_the_image() -> None:
    prepared = prepare(denoising(make_image()), Settings(**{**TINY, "runs": 2}))
    uncertainty = Uncertainty()
    result = solve(prepared, observers=[uncertainty])
    deviation = uncertainty.map(result)
    assert deviation.shape == (200, 240)
    assert (deviation > 0).all()
    first = prepared.estimate.places[0]
    images = torch.stack([run.fit.average for run in result.runs if run.tile == 1])
    within = torch.stack([uncertainty.kept[1, 1], uncertainty.kept[1, 2]]).mean(dim=0)
    variance = within.mean(dim=0) + images.var(dim=0).mean(dim=0)
    alone = first.weights == 1
    expected = variance.sqrt()[alone].numpy()
    assert np.allclose(deviation[first.rows, first.columns][alone.numpy()], expected, atol=1e-6)


# From the command line.


@pytest.fixture
def large_png(tmp_path: Path) -> Path:
    path = tmp_path / "large.png"
    iio.imwrite(path, noisy(scene(200, 240)))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_in_tiles_writes_image_log_snapshots_and_record(dip: Dip, large_png: Path) -> None:
    output = large_png.with_name("clean.png")
    doubt = large_png.with_name("doubt.tif")
    result = dip(
        "denoise", large_png, "-o", output, *TILED, "--snapshot-at", 3, "--log-every", 2,
        "--uncertainty", doubt, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "fitted in 6 tiles of 128x128" in result.stderr
    assert iio.imread(output).shape == (200, 240, 3)
    assert iio.imread(doubt).shape == (200, 240)
    folder = large_png.with_name("clean.dip")
    log = rows(folder / "log.csv")
    assert [row["tile"] for row in log] == [str(tile) for tile in range(1, 7) for _ in range(2)]
    for tile in range(1, 7):
        assert iio.imread(folder / f"snapshots/tile{tile}/000003.png").shape == (128, 128, 3)
    record = json.loads((folder / "run.json").read_text())
    assert len(record["tiles"]) == 6
    assert record["tiles"][0] == {"left": 0, "top": 0, "width": 128, "height": 128}
    assert record["estimate"]["memory_bytes"] > 300 * 2**20
    assert record["iterations"] == 24
    assert [run["tile"] for run in record["runs"]] == [1, 2, 3, 4, 5, 6]
    assert json.loads(result.stdout)["tiles"] == record["tiles"]
    dip("denoise", large_png, "-o", output, *TILED[:-4], "--tile", "none", "--warmup", 0)
    assert not list((folder / "snapshots").glob("tile*/*.png")), "those of an earlier run are deleted"
    assert {row["tile"] for row in rows(folder / "log.csv")} == {""}
    assert json.loads((folder / "run.json").read_text())["tiles"] == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_in_tiles(dip: Dip, large_png: Path) -> None:
    images = []
    for name in ("a.png", "b.png"):
        dip("denoise", large_png, "-o", large_png.with_name(name), *TILED)
        images.append(iio.imread(large_png.with_name(name)))
    assert np.array_equal(*images)


@pytest.mark.slow
def test_little_memory_means_tiles_and_enough_the_whole(dip: Dip, large_png: Path) -> None:
    rest = ("--network", "skip:channels=64,8:skips=4,4", "--input", "noise", "--fusion", "none", "--iters", 2)
    rest += ("--warmup", 0, "--json")
    whole_fit = json.loads(dip("denoise", large_png, *rest).stdout)
    assert whole_fit["tiles"] == []
    whole = whole_fit["estimate"]["memory_bytes"]
    less = dip("denoise", large_png, *rest, "--max-memory", f"{whole / 2**20 - 5:.0f}M")
    record = json.loads(less.stdout)
    assert len(record["tiles"]) > 1
    assert record["estimate"]["memory_bytes"] <= record["estimate"]["limit_bytes"] < whole
    assert "to stay below" in less.stderr
    none = dip("denoise", large_png, *rest, "--max-memory", "100M", "--tile", "none")
    assert json.loads(none.stdout)["tiles"] == []
    refused = dip("denoise", large_png, *rest, "--max-memory", "100M")
    assert refused.exit_code == 1
    assert "0.1 GiB may be used (--max-memory)" in refused.stderr
    assert "smallest tiles" in refused.stderr


def test_known_pixels_are_unchanged_and_tiles_without_unknown_ones_are_not_fitted(dip: Dip, tmp_path: Path) -> None:
    clean = noisy(scene(200, 400))
    mask = np.zeros((200, 400), np.uint8)
    mask[20:60:3, 20:60] = 255
    for name, array in (("clean.png", clean), ("mask.png", mask)):
        iio.imwrite(tmp_path / name, array)
    result = dip(
        "inpaint", tmp_path / "clean.png", "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.png", *TILED, "--json"
    )
    assert result.exit_code == 0, result.output
    filled = iio.imread(tmp_path / "out.png")
    assert np.array_equal(filled[mask == 0], clean[mask == 0])
    assert not np.array_equal(filled[mask > 0], clean[mask > 0])
    record = json.loads(result.stdout)
    assert len(record["tiles"]) == 8
    assert {run["tile"] for run in record["runs"]} == {1}
    assert "8 tiles, 1 of them fitted" in record["reason"]


def test_a_hole_too_large_for_tiles_is_refused() -> None:
    clean = from_array(scene(400, 400))
    mask = np.zeros((400, 400), bool)
    mask[150:250, 150:250] = True
    problem = inpaint(clean, mask).problem
    with pytest.raises(DipError, match="too large for tiles of 128x128"):
        prepare(problem, Settings(**TINY))
    mask[:] = False
    mask[150:170, 10:390] = True
    prepare(inpaint(clean, mask).problem, Settings(**TINY))


def test_superresolution_in_tiles(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "small.png", scene(60, 90))
    result = dip("superres", tmp_path / "small.png", "--scale", 2.5, "-o", tmp_path / "large.png", *TILED, "--json")
    assert result.exit_code == 0, result.output
    assert iio.imread(tmp_path / "large.png").shape == (150, 225, 3)
    assert len(json.loads(result.stdout)["tiles"]) == 6


def test_flash_in_tiles(dip: Dip, large_png: Path, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "flash.png", scene(200, 240))
    rest = ("--network", NETWORK, "--iters", 2, "--tile", 128, "--json")
    result = dip("flash", large_png, "--guide", tmp_path / "flash.png", *rest)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["tiles"]) == 6


@pytest.mark.slow
def test_tiles_are_refused_if_the_measurement_cannot_be_cut(dip: Dip, large_png: Path) -> None:
    jpeg = large_png.with_suffix(".jpg")
    iio.imwrite(jpeg, scene(200, 240))
    rest = ("--network", NETWORK, "--iters", 2, "--fusion", "none")
    tiled = dip("dejpeg", jpeg, *rest, "--tile", 128)
    assert tiled.exit_code == 2
    assert "--tile" in tiled.stderr
    refused = dip("dejpeg", jpeg, *rest, "--max-memory", "100M")
    assert refused.exit_code == 1
    assert "cannot be cut into tiles" in refused.stderr
    assert "0.1 GiB may be used" in refused.stderr
    assert dip("dejpeg", jpeg, *rest, "--max-memory", "100M", "--tile", "none").exit_code == 0


def test_tiles_from_python() -> None:
    rest: dict[str, Any] = {"warmup": 0, "progress": False, "fusion": "none"}
    restored = denoise(noisy(scene(200, 240)), network=NETWORK, input="noise", iterations=2, tile=128, **rest)
    assert restored.image.shape == (200, 240, 3)
    assert restored.steps == 12


@pytest.mark.parametrize("tile", ["0", "64", "-128", "x", "1.5"])
def test_an_invalid_tile_is_refused(tile: str) -> None:
    with pytest.raises(UsageError, match=r"--tile .* auto, none or 128"):
        Settings(tile=tile)


def test_the_weights_of_a_place_have_its_shape() -> None:
    (place,) = layout((130, 140), 32, at_most(200))
    assert isinstance(place, Place)
    assert place.weights.shape == (130, 140)
