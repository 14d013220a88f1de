"""A large picture in tiles: where they lie, how they are blended, and what is fitted in each."""

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
from torch import Tensor

from dipcli import denoise, stopping
from dipcli.errors import DipError, OutOfMemoryError, UsageError
from dipcli.fitting import solve as bench
from dipcli.fitting import tiled as mosaic
from dipcli.fitting import tiling as tiles
from dipcli.fitting.control import Control
from dipcli.fitting.results import Runs
from dipcli.fitting.solve import PreparedFit, prepare, solve
from dipcli.fitting.tiling import blend, layout
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
TILED = ("--network", NETWORK, "--input", "noise", "--input-depth", 4, "--iters", 4, "--tile", 128, "--warmup", 0)


def picture(height: int = 200, width: int = 240, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 9, 9, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def plain(measured: Tensor, **rest: Any) -> Problem:
    return Problem(measured=measured, shape=tuple(measured.shape), **rest)


def most(side: int) -> Callable[[int, int], bool]:
    return lambda high, wide: max(high, wide) <= side


# Where they lie.


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 3000), st.integers(16, 3000), st.sampled_from([1, 8, 32, 64]), st.integers(128, 1500))
def test_tiles_cover_every_pixel_and_count_for_one_in_all(height: int, width: int, stride: int, side: int) -> None:
    places = layout((height, width), stride, most(side))
    assert places
    sizes = {(place.rows.stop - place.rows.start, place.columns.stop - place.columns.start) for place in places}
    assert len(sizes) == 1
    for length, one in zip((height, width), next(iter(sizes)), strict=True):
        assert one <= side
        assert one == length or (one % stride == 0 and one >= MIN_TILE_SIDE)
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
def test_they_overlap_and_cost_little_more_than_the_whole(height: int, width: int, side: int) -> None:
    places = layout((height, width), 32, most(side))
    columns = sorted({(place.columns.start, place.columns.stop) for place in places})
    for left, right in pairwise(columns):
        assert left[1] - right[0] >= tiles.MIN_OVERLAP
    work = sum((rows.stop - rows.start) * (across.stop - across.start) for rows, across, *_ in places)
    assert work <= 1.3 * height * width


def test_a_24_megapixel_photograph_costs_a_tenth_more() -> None:
    for side in (1056, 2080, 3072):
        places = layout((4000, 6000), 32, most(side))
        work = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns, *_ in places)
        assert 1 < work / 24e6 < 1.2


def test_what_fits_is_one_tile_and_what_never_does_is_none() -> None:
    (place,) = layout((300, 200), 32, most(300))
    assert (place.rows, place.columns) == (slice(0, 300), slice(0, 200))
    assert torch.equal(place.weights, torch.ones(300, 200))
    assert layout((300, 200), 32, most(100)) == []


def test_a_tile_does_not_count_where_it_ends() -> None:
    places = layout((200, 1000), 32, most(320))
    first, second = places[:2]
    assert first.across[-8:].max() == 0
    assert second.across[:8].max() == 0
    assert (first.across.diff() <= 0).all(), "it falls once and never rises"


@settings(max_examples=20, deadline=None)
@given(st.integers(130, 500), st.integers(130, 500))
def test_parts_of_one_picture_blend_into_it(height: int, width: int) -> None:
    whole = picture(height, width, 2)
    places = layout((height, width), 32, most(160))
    blended = blend(whole.shape, [(place, whole[:, place.rows, place.columns]) for place in places])
    assert torch.allclose(blended, whole, atol=1e-6)


def test_a_tile_in_smaller_ones_counts_as_much() -> None:
    whole = picture(400, 400)
    first, *rest = layout((400, 400), 32, most(256))
    parts = tiles.halve_place(first, lambda size: layout(size, 32, most(160)))
    assert len(parts) > 1
    both = [*parts, *rest]
    blended = blend(whole.shape, [(place, whole[:, place.rows, place.columns]) for place in both])
    assert torch.allclose(blended, whole, atol=1e-6)


# Windows of a problem.


def test_a_window_of_a_small_picture_is_what_sees_nothing_else() -> None:
    large, small = (96, 120), (40, 50)
    shrink = operators.Resample(large, small, operators.parse_kernel("lanczos3"))
    x = picture(*large)
    problem = Problem(measured=shrink(x), shape=(1, *large), operator=shrink)
    part = problem.window(slice(16, 80), slice(0, 64))
    assert part.shape == (1, 64, 64)
    assert torch.allclose(part.operator(x[:, 16:80, :64]), part.measured, atol=1e-5)
    high, wide = part.measured.shape[1:]
    assert high >= 64 * 40 / 96 - 2 * 4
    assert wide >= 64 * 50 / 120 - 4, "at the border of the picture nothing is lost"


def test_windows_of_a_small_picture_miss_none_of_it() -> None:
    large, small = (520, 128), (130, 32)
    shrink = operators.Resample(large, small, operators.parse_kernel("lanczos3"))
    problem = Problem(measured=torch.zeros(1, *small), shape=(1, *large), operator=shrink)
    seen = torch.zeros(130)
    assert shrink.reach == 24, "three pixels of the small picture to either side"
    for place in layout(large, 32, lambda high, _wide: high <= 256, 2 * shrink.reach):
        _, rows, _ = shrink.window(place.rows, place.columns)
        seen[rows] += 1
    assert problem.tileable
    assert (seen > 0).all()


def test_a_sketch_of_a_window_is_the_window_of_the_sketch() -> None:
    pixels = noisy(scene(90, 80)).transpose(2, 0, 1) / np.float32(255)
    sketch = PrefilteredGuide(pixels, 25 / 255)
    rows, columns = slice(30, 70), slice(0, 45)
    known = torch.ones(1, 90, 80)
    known[:, 40:60:3, 5:40:4] = 0
    for weight, own in ((None, None), (known, known[:, rows, columns])):
        whole, part = sketch(weight), sketch.window(rows, columns)(own)
        assert torch.allclose(part, whole[:, rows, columns], atol=1e-3)


def test_what_cannot_be_cut_says_so() -> None:
    y = picture()
    assert plain(y).tileable
    assert plain(y, guide=y, weight=torch.ones(1, 1, 1)).tileable
    assert not plain(y, operator=torch.nn.AvgPool2d(2)).tileable
    assert not plain(y, guide=lambda _weight: y).tileable
    assert not plain(y, members=4).tileable


# Fitting them.


def together(problem: Problem, **given: Any) -> tuple[Runs, list[Step], PreparedFit]:
    laid = prepare(problem, Settings(**{**TINY, **given}))
    steps: list[Step] = []
    result = solve(laid, observers=[lambda step, _verdict: steps.append(step)])
    return result, steps, laid


def test_free_pixels_fitted_in_tiles_are_those_of_the_whole() -> None:
    y = picture()
    free = {"network": "pixels", "ema": 0.0, "rate": 0.05, "iterations": 150}
    apart, _, laid = together(plain(y), **free)
    whole, _, _ = together(plain(y), **{**free, "tile": "none"})
    assert len(laid.estimate.places) == 6
    assert torch.allclose(whole.image, y, atol=1e-3)
    assert torch.allclose(apart.image, whole.image, atol=1e-3)


def test_a_tile_is_the_fit_of_its_window_and_knows_no_other() -> None:
    y = picture()
    result, steps, laid = together(plain(y))
    numbers = [step.tile.number for step in steps if step.tile]
    assert numbers == [number for number in range(1, 7) for _ in range(4)]
    place = laid.estimate.places[4]
    alone = solve(prepare(plain(y[:, place.rows, place.columns].contiguous()), replace(laid.settings, tile="none")))
    assert torch.equal(result.runs[4].fit.average, alone.image)
    assert [run.tile for run in result.runs] == [1, 2, 3, 4, 5, 6]
    assert {run.seed for run in result.runs} == {0}


def test_the_whole_decides_what_the_rule_leaves_open() -> None:
    y = torch.from_numpy(noisy(scene(160, 160)).transpose(2, 0, 1) / np.float32(255))
    rule = Settings(stop="auto:patience=7").rule().resolve(plain(y))
    assert isinstance(rule, stopping.Ending)
    assert rule.rule == stopping.HoldOut(patience=7)
    level = stopping.Sigma().resolve(plain(y))
    assert isinstance(level, stopping.Sigma)
    assert level.level == pytest.approx(25, rel=0.1)


def test_an_end_that_is_asked_for_leaves_the_input_where_no_tile_was_fitted() -> None:
    y = picture()
    laid = prepare(plain(y), Settings(**TINY))
    seen: list[Step] = []
    result = solve(
        laid,
        observers=[lambda step, _verdict: seen.append(step)],
        control=Control(interrupted=lambda: "enough" if len(seen) >= 6 else None),
    )
    assert [run.fit.steps for run in result.runs] == [4, 3]
    assert "2 of them fitted; those that were not reached show the input" in result.reason
    last = laid.estimate.places[-1]
    alone = (last.weights == 1).nonzero()[-1]
    at = (0, last.rows.start + int(alone[0]), last.columns.start + int(alone[1]))
    assert result.image[at] == y[at]


def test_the_time_is_shared_among_the_tiles() -> None:
    result, _, _ = together(plain(picture()), iterations=None, max_iterations=100_000, time="3s", runs=1)
    assert [run.tile for run in result.runs] == [1, 2, 3, 4, 5, 6]
    assert all(run.fit.steps > 1 for run in result.runs)
    assert result.seconds < 6


def failing(times: int) -> Callable[..., Runs]:
    """In the place of `fit_runs`: memory runs out so many times."""
    left, real = [times], mosaic.fit_runs

    def run(problem: Problem, *rest: Any, **given: Any) -> Runs:
        if left[0] and problem.shape[1] * problem.shape[2] > 100 * 200:
            left[0] -= 1
            raise OutOfMemoryError("There is not enough memory: try less.")
        return real(problem, *rest, **given)

    return run


def test_when_memory_runs_out_it_steps_down_to_tiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    y = picture(300, 300)
    told: list[str] = []
    monkeypatch.setattr(bench, "fit_runs", failing(1))
    result = solve(prepare(plain(y), Settings(**{**TINY, "tile": "auto"})), control=Control(notify=told.append))
    assert len(result.places) == 4
    assert result.image.shape == y.shape
    assert told == ["memory ran out: going on in 4 tiles"]
    monkeypatch.setattr(bench, "fit_runs", failing(1))
    monkeypatch.setattr(mosaic, "fit_runs", failing(1))
    with pytest.raises(OutOfMemoryError, match="not enough memory"):
        solve(prepare(plain(y), Settings(**{**TINY, "tile": "auto"})))


def test_when_memory_runs_out_tiles_become_smaller_and_what_is_done_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    y = picture(300, 600)
    told: list[str] = []
    laid = prepare(plain(y), Settings(**{**TINY, "tile": "320"}))
    assert len(laid.estimate.places) == 2
    real, begun = mosaic.fit_runs, []

    def run(problem: Problem, *rest: Any, **given: Any) -> Runs:
        begun.append(problem.shape)
        if len(begun) == 2:
            raise OutOfMemoryError("There is not enough memory: try less.")
        return real(problem, *rest, **given)

    monkeypatch.setattr(mosaic, "fit_runs", run)
    result = solve(laid, control=Control(notify=told.append))
    assert told == [f"memory ran out: going on in {len(result.places) - 1} smaller tiles"]
    assert begun[0] == begun[1]
    assert len(begun) == len(result.places) + 1
    assert all(high * wide <= begun[0][1] * begun[0][2] / 2 for _, high, wide in begun[2:])
    ones = [(place, torch.ones(1, len(place.down), len(place.across))) for place in result.places]
    assert torch.allclose(blend((1, 300, 600), ones), torch.ones(1, 300, 600), atol=1e-6)


# Those who watch.


def test_numbers_are_of_the_tile_and_its_part_of_the_truth() -> None:
    y = picture(channels=3)
    truth = y.numpy()
    laid = prepare(plain(y), Settings(**TINY))
    rows: list[Row] = []
    images: dict[int, Tensor] = {}

    def watch(step: Step, _verdict: Verdict) -> None:
        assert step.tile is not None
        images[step.tile.number] = step.image

    solve(laid, observers=[Metrics(laid.problem, truth, 4, [rows.append]), watch])
    assert [row["tile"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        place = laid.estimate.places[int(row["tile"] or 0) - 1]
        part = y[:, place.rows, place.columns]
        error = float(((images[int(row["tile"] or 0)].clamp(0, 1) - part) ** 2).mean())
        assert row["psnr_ref"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
        assert row["psnr_noisy"] == pytest.approx(-10 * np.log10(error), abs=1e-3)


def test_the_spread_is_blended_as_the_tiles_are() -> None:
    laid = prepare(plain(picture()), Settings(**{**TINY, "runs": 2}))
    watching = Uncertainty()
    result = solve(laid, observers=[watching])
    spread = watching.map(result)
    assert spread.shape == (200, 240)
    assert (spread > 0).all()
    first = laid.estimate.places[0]
    pictures = torch.stack([run.fit.average for run in result.runs if run.tile == 1])
    within = torch.stack([watching.kept[1, 1], watching.kept[1, 2]]).mean(dim=0)
    variance = within.mean(dim=0) + pictures.var(dim=0).mean(dim=0)
    alone = first.weights == 1
    expected = variance.sqrt()[alone].numpy()
    assert np.allclose(spread[first.rows, first.columns][alone.numpy()], expected, atol=1e-6)


# From the command line.


@pytest.fixture
def large_png(tmp_path: Path) -> Path:
    path = tmp_path / "large.png"
    iio.imwrite(path, noisy(scene(200, 240)))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_in_tiles_leaves_picture_log_snapshots_and_record(dip: Dip, large_png: Path) -> None:
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
    assert not list((folder / "snapshots").glob("tile*/*.png")), "an earlier run leaves no traces"
    assert {row["tile"] for row in rows(folder / "log.csv")} == {""}
    assert json.loads((folder / "run.json").read_text())["tiles"] == []


def test_the_same_seed_gives_the_same_bits_in_tiles(dip: Dip, large_png: Path) -> None:
    pictures = []
    for name in ("a.png", "b.png"):
        dip("denoise", large_png, "-o", large_png.with_name(name), *TILED)
        pictures.append(iio.imread(large_png.with_name(name)))
    assert np.array_equal(*pictures)


def test_little_memory_means_tiles_and_much_the_whole(dip: Dip, large_png: Path) -> None:
    rest = ("--network", "skip:channels=64,8:skips=4,4", "--input", "noise", "--iters", 2, "--warmup", 0, "--json")
    there = json.loads(dip("denoise", large_png, *rest).stdout)
    assert there["tiles"] == []
    whole = there["estimate"]["memory_bytes"]
    less = dip("denoise", large_png, *rest, "--max-memory", f"{whole / 2**20 - 5:.0f}M")
    told = json.loads(less.stdout)
    assert len(told["tiles"]) > 1
    assert told["estimate"]["memory_bytes"] <= told["estimate"]["limit_bytes"] < whole
    assert "to stay below" in less.stderr
    none = dip("denoise", large_png, *rest, "--max-memory", "100M", "--tile", "none")
    assert json.loads(none.stdout)["tiles"] == []
    refused = dip("denoise", large_png, *rest, "--max-memory", "100M")
    assert refused.exit_code == 1
    assert "0.1 GiB may be used (--max-memory), and even the smallest tiles take too much" in refused.stderr


def test_known_pixels_come_back_and_tiles_without_a_gap_are_not_fitted(dip: Dip, tmp_path: Path) -> None:
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
    told = json.loads(result.stdout)
    assert len(told["tiles"]) == 8
    assert {run["tile"] for run in told["runs"]} == {1}
    assert "8 tiles, 1 of them fitted" in told["reason"]


def test_a_hole_too_large_for_tiles_is_refused() -> None:
    clean = from_array(scene(400, 400))
    mask = np.zeros((400, 400), bool)
    mask[150:250, 150:250] = True
    problem = inpaint(clean, mask).problem
    with pytest.raises(DipError, match="hole in the picture is too large for tiles of 128x128"):
        prepare(problem, Settings(**TINY))
    mask[:] = False
    mask[150:170, 10:390] = True
    prepare(inpaint(clean, mask).problem, Settings(**TINY))


def test_small_pictures_are_enlarged_in_tiles(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "small.png", scene(60, 90))
    result = dip("superres", tmp_path / "small.png", "--scale", 2.5, "-o", tmp_path / "large.png", *TILED, "--json")
    assert result.exit_code == 0, result.output
    assert iio.imread(tmp_path / "large.png").shape == (150, 225, 3)
    assert len(json.loads(result.stdout)["tiles"]) == 6


def test_flash_pictures_are_cut_too(dip: Dip, large_png: Path, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "flash.png", scene(200, 240))
    rest = ("--network", NETWORK, "--iters", 2, "--tile", 128, "--json")
    result = dip("flash", large_png, "--guide", tmp_path / "flash.png", *rest)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["tiles"]) == 6


def test_what_cannot_be_cut_is_refused(dip: Dip, large_png: Path) -> None:
    jpeg = large_png.with_suffix(".jpg")
    iio.imwrite(jpeg, scene(200, 240))
    rest = ("--network", NETWORK, "--iters", 2)
    asked = dip("dejpeg", jpeg, *rest, "--tile", 128)
    assert asked.exit_code == 2
    assert "--tile is of no use here" in asked.stderr
    refused = dip("dejpeg", jpeg, *rest, "--max-memory", "100M")
    assert refused.exit_code == 1
    assert "such a measurement cannot be cut into tiles" in refused.stderr
    assert "0.1 GiB may be used" in refused.stderr
    assert dip("dejpeg", jpeg, *rest, "--max-memory", "100M", "--tile", "none").exit_code == 0


def test_from_python() -> None:
    rest: dict[str, Any] = {"warmup": 0, "progress": False}
    restored = denoise(noisy(scene(200, 240)), network=NETWORK, input="noise", iterations=2, tile=128, **rest)
    assert restored.image.shape == (200, 240, 3)
    assert restored.steps == 12


@pytest.mark.parametrize("tile", ["0", "64", "-128", "x", "1.5"])
def test_tiles_that_make_no_sense_are_said(tile: str) -> None:
    with pytest.raises(UsageError, match=r"--tile .* auto, none or 128"):
        Settings(tile=tile)


def test_a_place_is_more_than_rows_and_columns() -> None:
    (place,) = layout((130, 140), 32, most(200))
    assert isinstance(place, Place)
    assert place.weights.shape == (130, 140)
