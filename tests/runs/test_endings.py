"""How a run ends, from the command line and from Python: rules, restarts, time, and what is said of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip, read_record_of
from samples import noisy, scene

import dipcli
from dipcli import stopping
from dipcli.errors import DipError
from dipcli.fitting.control import Deadline
from dipcli.fitting.results import Fit, Run, Runs
from dipcli.images.image import from_array
from dipcli.problem import Problem, metrics
from dipcli.runs import time_budget
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings
from dipcli.stopping.step import Step
from dipcli.tasks.case import Case
from dipcli.tasks.registry import tasks

RULES = [
    "auto",
    "holdout:patience=10:fraction=0.1",
    "holdout:block=3:fraction=0.1",
    "emv:guard=3:patience=5",
    "wmv:window=10:guard=0:patience=9",
    "sigma:level=40",
    "none",
]
CAT = Path(__file__).parents[2] / "examples" / "cat_clean.png"
SMALL = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--max-iters", 30)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [pytest.param(rule, marks=[] if rule in ("auto", "none") else pytest.mark.slow) for rule in RULES]
)
def test_the_reference_changes_nothing_whatever_the_rule(
    dip: Dip, noisy_png: Path, clean_png: Path, tmp_path: Path, rule: str
) -> None:
    garbage = tmp_path / "garbage.png"
    iio.imwrite(garbage, np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8))
    results, accounts = [], []
    for number, reference in enumerate(([], ["--reference", clean_png], ["--reference", garbage])):
        output = tmp_path / f"{number}.png"
        result = dip("denoise", noisy_png, "-o", output, "--stop", rule, *SMALL, *reference)
        assert result.exit_code == 0, result.output
        results.append(output.read_bytes())
        account = read_record_of(output.with_suffix(".dip"))
        accounts.append([account[key] for key in ("iterations", "kept", "memory", "reason", "psnr_noisy")])
        log = rows(output.with_suffix(".dip"))
        accounts[-1].append([{k: v for k, v in row.items() if "_ref" not in k and k != "seconds"} for row in log])
    assert results[0] == results[1] == results[2]
    assert accounts[0] == accounts[1] == accounts[2]


def tensors(thing: Any, depth: int = 6) -> Iterator[torch.Tensor]:
    """Everything that can be reached from a value: fields, items, what functions close over."""
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, np.ndarray):
        yield torch.from_numpy(thing)
    elif depth:
        inner: list[Any] = []
        if is_dataclass(thing):
            inner = [getattr(thing, field.name) for field in fields(thing)]
        elif isinstance(thing, dict | list | tuple | set):
            inner = [*(thing.values() if isinstance(thing, dict) else thing)]
        elif callable(thing):
            inner = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
            inner += [*vars(thing).values()] if hasattr(thing, "__dict__") else []
            inner += [thing.__self__] if hasattr(thing, "__self__") else []
        for each in inner:
            yield from tensors(each, depth - 1)


def test_nothing_that_a_rule_is_shown_holds_the_truth(
    dip: Dip, clean_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = torch.from_numpy(iio.imread(clean_png)).permute(2, 0, 1) / 255
    seen: list[torch.Tensor] = []

    class Nosy(stopping.Rule):
        def start(self, problem: Problem) -> tuple[None, Problem]:
            seen.extend(tensors(problem))
            return None, problem

        def judge(self, step: Step, state: None) -> tuple[stopping.Verdict, None]:
            seen.extend(tensors(step))
            return stopping.Verdict(keep=True, stop="seen enough" if step.number == 3 else None), state

    def holds_the_truth() -> bool:
        return any(each.shape == truth.shape and torch.allclose(each.float(), truth, atol=1e-4) for each in seen)

    monkeypatch.setattr(Settings, "rule", lambda *_: Nosy())
    result = dip("denoise", clean_png, "--simulate-noise", 25, *SMALL)
    assert result.exit_code == 0, result.output
    assert len(seen) > 5
    assert not holds_the_truth()
    seen.extend(tensors({"a rule that cheats": [lambda: truth]}))
    assert holds_the_truth(), "the search would have found it"


@pytest.mark.parametrize("rule", RULES[1:])
def test_every_rule_ends_or_keeps_to_the_limit(dip: Dip, noisy_png: Path, rule: str) -> None:
    account = json.loads(dip("denoise", noisy_png, "--stop", rule, "--json", *SMALL).stdout)
    assert 1 <= account["kept"] <= account["iterations"] <= 30
    assert account["memory"] in (0.98, 0.99, 0.995, 0.998)


@pytest.mark.slow
def test_auto_says_which_rule_it_chose(dip: Dip, tmp_path: Path) -> None:
    independent = noisy(scene(96, 96))
    smooth = np.stack([np.convolve(row, np.ones(3) / 3, "same") for row in independent.reshape(96, -1).T], axis=1)
    for name, image, words in (
        ("white.png", independent, "rule holdout: the noise is independent"),
        ("smooth.png", smooth.reshape(96, 96, 3).astype(np.uint8), "rule sigma: neighbouring pixels share their noise"),
    ):
        iio.imwrite(tmp_path / name, image)
        result = dip("denoise", tmp_path / name, *SMALL, "--max-iters", 5, "--stop", "auto", "--input", "noise")
        assert words in " ".join(result.stderr.split())
        assert words in read_record_of((tmp_path / name).with_suffix(".denoised.dip"))["rule"]
    result = dip("denoise", tmp_path / name, *SMALL, "--max-iters", 5, "--stop", "emv")
    assert "rule " not in result.stderr.replace(str(tmp_path), ""), "who names a rule need not hear of it"


def test_a_given_level_is_used(dip: Dip, noisy_png: Path) -> None:
    account = json.loads(dip("denoise", noisy_png, "--stop", "sigma", "--sigma", 60, "--json", *SMALL).stdout)
    assert "60 of 255" in account["reason"]
    assert account["iterations"] < 30
    assert account["settings"]["sigma"] == "60"


def test_several_runs_are_logged_apart(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.png"
    rest = ("--runs", 3, "--stop", "none", "--snapshot-at", 2)  # with pixels held out one may be left out
    result = dip.quick("denoise", noisy_png, "-o", output, *rest, iterations=10)
    assert result.exit_code == 0, result.output
    account = read_record_of(tmp_path / "a.dip")
    assert [each["seed"] for each in account["runs"]] == [0, 1, 2]
    assert account["iterations"] == 30
    assert "the mean of 3 of 3 runs" in account["reason"]
    assert "the mean of 3 of 3 runs" in " ".join(result.stderr.split())
    assert [(row["run"], row["iteration"]) for row in rows(tmp_path / "a.dip")] == [
        ("1", "10"),
        ("2", "10"),
        ("3", "10"),
    ]
    snapshots = tmp_path / "a.dip/snapshots"
    files = {str(each.relative_to(snapshots)) for each in snapshots.rglob("*.png")}
    assert files == {f"{run}000002{raw}.png" for run in ("", "run2/", "run3/") for raw in ("", ".raw")}
    dip.quick("denoise", noisy_png, "-o", output, iterations=1)
    assert not list(snapshots.rglob("*.png")), "an earlier run leaves no traces"


@pytest.mark.slow
def test_the_mean_of_runs_is_what_is_written(noisy_png: Path) -> None:
    rest = {"network": TINY, "input": "noise", "input_depth": 4, "iterations": 20, "progress": False}
    image = iio.imread(noisy_png).astype(np.float32) / 255
    alone = [dipcli.denoise(image, seed=seed, **rest).image for seed in (0, 1)]
    both = dipcli.denoise(image, runs=2, **rest)
    assert np.allclose(both.image, np.mean(alone, axis=0), atol=1e-6)
    assert both.steps == 40
    assert "the mean of 2 of 2 runs" in both.reason


@pytest.mark.slow
def test_a_time_budget_is_kept_and_a_preset_chosen_for_it(dip: Dip, noisy_png: Path) -> None:
    result = dip("denoise", noisy_png, "--time", "4s", "--json")
    account = json.loads(result.stdout)
    assert account["seconds"] < 6
    assert account["iterations"] > 1
    assert account["preset"] in ("fast", "balanced")
    assert f"using preset {account['preset']}" in " ".join(result.stderr.split())
    result = dip("denoise", noisy_png, "--time", "1.5s", "--preset", "balanced", "--json")
    assert json.loads(result.stdout)["preset"] == "balanced"
    assert "using preset" not in result.stderr


@pytest.mark.slow
def test_what_time_is_left_goes_into_further_runs(dip: Dip, noisy_png: Path) -> None:
    rest = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--preset", "fast", "--iters", 5, "--json")
    assert len(json.loads(dip("denoise", noisy_png, "--time", "3s", *rest).stdout)["runs"]) > 1
    assert len(json.loads(dip("denoise", noisy_png, "--time", "3s", "--runs", 1, *rest).stdout)["runs"]) == 1


@pytest.mark.slow
def test_from_python_too(noisy_png: Path) -> None:
    rest = {"network": TINY, "input": "noise", "input_depth": 4, "progress": False}
    restored = dipcli.denoise(noisy_png, time=1, sigma=90, stop="sigma", uncertainty=True, **rest)
    assert (restored.settings.time, restored.settings.sigma) == ("1", "90")
    assert restored.uncertainty.shape == (37, 53)
    assert dipcli.denoise(noisy_png, iterations=2, **rest).uncertainty is None


@pytest.mark.parametrize(
    ("arguments", "way_out"),
    [
        (("--time", "soon"), "90s, 15m or 1h30m"),
        (("--time", "0s"), "90s, 15m or 1h30m"),
        (("--time", "-5s"), "90s, 15m or 1h30m"),
        (("--time", "m"), "90s, 15m or 1h30m"),
        (("--runs", 0), "--runs"),
        (("--sigma", "loud"), "--sigma"),
        (("--sigma", "-1"), "--sigma"),
        (("--sigma", "nan"), "--sigma"),
        (("--sigma", "300"), "--sigma"),
        (("--loss", "l3"), "--loss"),
        (("--stop", "sigma"), "--sigma 25"),
        (("--uncertainty", "doubt.jpg"), ".png or .tif"),
        (("--uncertainty", "."), "--uncertainty"),
        (("--uncertainty", "nowhere/doubt.png"), "folder"),
    ],
)
def test_a_slip_is_answered_with_a_way_out(dip: Dip, noisy_png: Path, arguments: tuple[Any, ...], way_out: str) -> None:
    result = dip("denoise", noisy_png, *arguments)
    assert result.exit_code in (1, 2), result.output
    assert way_out in " ".join(result.stderr.replace("\u2502", " ").split())
    assert "Traceback" not in result.output


def test_uncertainty_takes_the_place_of_nothing(dip: Dip, noisy_png: Path) -> None:
    before = noisy_png.read_bytes()
    for name in ("noisy.png", "noisy.denoised.png"):
        result = dip.quick("denoise", noisy_png, "--uncertainty", noisy_png.with_name(name))
        assert result.exit_code == 2
        assert "choose another name" in " ".join(result.stderr.split())
    assert noisy_png.read_bytes() == before
    assert dip.quick("impedance", noisy_png, "--size", 32, "--uncertainty", "a.png").exit_code == 2
    both = dip.quick("denoise", noisy_png, noisy_png.with_name("b.png"), "--uncertainty", noisy_png.with_name("u.png"))
    assert both.exit_code == 2


@pytest.mark.parametrize("runs", [1, 2])
def test_uncertainty_is_written_to_look_at_or_to_compute_with(dip: Dip, noisy_png: Path, runs: int) -> None:
    maps = {}
    for suffix in (".png", ".tif"):
        path = noisy_png.with_name(f"doubt{suffix}")
        result = dip.quick("denoise", noisy_png, "--uncertainty", path, "--runs", runs, iterations=12)
        assert result.exit_code == 0, result.output
        maps[suffix] = iio.imread(path)
    most = read_record_of(noisy_png.with_name("noisy.denoised.dip"))["uncertainty_most"]
    assert maps[".tif"].shape == maps[".png"].shape == (37, 53)
    assert maps[".tif"].dtype == np.float32
    assert 255 * maps[".tif"].max() == pytest.approx(most, rel=1e-5)
    assert maps[".png"].dtype == np.uint16
    assert maps[".png"].max() == 65535
    assert np.allclose(maps[".png"] / 65535 * most / 255, maps[".tif"], atol=1e-4)


@pytest.mark.slow
def test_uncertainty_is_of_the_size_of_the_image_and_zero_where_it_is_known(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a.jpg", noisy(scene(37, 53)))
    doubt = tmp_path / "doubt.tif"
    result = dip("dejpeg", tmp_path / "a.jpg", "--uncertainty", doubt, "--iters", 3, "--network", TINY)
    assert result.exit_code == 0, result.output
    assert iio.imread(doubt).shape == (37, 53)
    mask = np.zeros((37, 53), np.uint8)
    mask[10:14, 20:30] = 255
    iio.imwrite(tmp_path / "mask.png", mask)
    rest = ("--mask", tmp_path / "mask.png", "--iters", 3, "--network", TINY)
    assert dip("inpaint", tmp_path / "a.jpg", "-o", tmp_path / "b.png", "--uncertainty", doubt, *rest).exit_code == 0
    assert np.array_equal(iio.imread(doubt) > 0, mask > 0)


def made_up(step: int, value: float, run: int = 1, event: str | None = None) -> Step:
    image = torch.full((3, 4, 4), value)
    return Step(step, torch.zeros(()), image, (image,), 0.01, 0.0, event, run)


def spread_of(steps: list[Step], *runs: int) -> float:
    watching = Uncertainty()
    for step in steps:
        watching(step, stopping.Verdict(keep=True))
    image = torch.zeros(3, 4, 4)
    ended = Fit(image, image, 1, 0.99, 1, "made up", 0.0)
    found = watching.map(Runs(image, tuple(Run(run, 0, ended) for run in runs or (1,)), "", 0.0, image))
    assert found.shape == (4, 4)
    return float(found.mean())


def test_the_spread_is_the_standard_deviation_of_the_outputs() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.03, 60)
    steps = [made_up(number, float(value)) for number, value in enumerate(values, start=1)]
    assert spread_of(steps) == pytest.approx(values.std(), rel=1e-3)


@pytest.mark.parametrize("wild", [0.9, float("nan")])
def test_a_collapse_leaves_no_trace_in_the_spread(wild: float) -> None:
    values = np.random.default_rng(0).normal(0.5, 0.03, 80)
    steps = [made_up(number, float(value)) for number, value in enumerate(values[:40], start=1)]
    steps += [made_up(number, wild) for number in range(41, 50)] + [made_up(50, wild, event="it collapsed")]
    assert spread_of(steps) == pytest.approx(values[:30].std(), rel=1e-3), "the last that was trusted"
    steps += [made_up(number, float(value)) for number, value in enumerate(values[40:], start=51)]
    assert spread_of(steps) == pytest.approx(values[40:].std(), rel=1e-3)


def test_what_a_rule_refuses_costs_no_earlier_record(dip: Dip, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png, "--snapshot-at", 1)
    folder = noisy_png.with_name("noisy.denoised.dip")
    before = {each: each.read_bytes() for each in folder.rglob("*.*") if each.is_file()}
    result = dip.quick("denoise", noisy_png, "--stop", "sigma")
    assert result.exit_code == 2
    assert {each: each.read_bytes() for each in folder.rglob("*.*") if each.is_file()} == before


def test_planning_goes_by_what_there_is() -> None:
    task = tasks()["denoise"]
    measured = torch.rand(3, 32, 32)
    image = from_array(np.zeros((32, 32, 3), np.uint8))
    tried: list[str] = []

    def pose(preset: str) -> tuple[Case, Settings]:
        tried.append(preset)
        if preset == "best":
            raise DipError("There is not enough memory: try another preset.")
        settings = replace(task.settings(preset), network=TINY, input="noise", input_depth=4, threads=1)
        return Case(problem=Problem(measured=measured, shape=(3, 32, 32)), image=image), settings

    assert time_budget.choose_preset(task, pose, Deadline(1e6)) == "balanced"
    assert tried == ["fast", "balanced", "best"]
    tried.clear()
    assert time_budget.choose_preset(task, pose, Deadline(0)) == "fast"
    assert tried == ["fast"]
    alone = replace(task, presets={"balanced": task.presets["balanced"]})
    assert time_budget.choose_preset(alone, pose, Deadline(1e6)) == "balanced"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "loss"),
    [
        pytest.param(task, loss, marks=[] if task == "denoise" or loss == "l1" else pytest.mark.slow)
        for task in ("denoise", "inpaint", "superres", "flash")
        for loss in ("l1", "huber", "poisson")
    ],
)
def test_other_losses_lead_elsewhere(dip: Dip, noisy_png: Path, clean_png: Path, task: str, loss: str) -> None:
    mask = noisy_png.with_name("mask.png")
    holes = np.zeros((37, 53), np.uint8)
    holes[10:14, 20:30] = 255
    iio.imwrite(mask, holes)
    own = {"inpaint": ["--mask", mask], "superres": ["--scale", 2], "flash": ["--guide", clean_png]}.get(task, [])
    results = []
    for chosen in ("l2", loss):
        output = noisy_png.with_name(f"{chosen}.png")
        quick = ("--network", TINY, "--iters", 6, "--fusion", "none", "--no-report")
        result = dip(task, noisy_png, "-o", output, "--loss", chosen, *quick, *own)
        assert result.exit_code == 0, result.output
        results.append(iio.imread(output))
    assert not np.array_equal(*results)


@pytest.mark.slow
def test_the_absolute_error_is_the_one_for_impulse_noise() -> None:
    """With free pixels and a smooth prior: wild pixels pull the square far, the distance hardly."""
    clean = scene(32, 32).astype(np.float32) / 255
    generator = np.random.default_rng(0)
    wild = np.where(generator.random((32, 32, 1)) < 0.15, generator.integers(0, 2, (32, 32, 1)), clean)
    rest = {"network": "pixels", "iterations": 600, "rate": 0.01, "ema": 0.9, "stop": "none", "progress": False}
    rest["fusion"] = "none"
    reached = {
        loss: metrics.psnr(
            dipcli.denoise(wild.astype(np.float32), loss=loss, tv=tv, reg_noise=0.0, **rest).image, clean
        )
        for loss, tv in (("l2", 0.2), ("l1", 0.7))
    }
    assert reached["l1"] > reached["l2"] + 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "words"),
    [
        pytest.param(np.zeros((96, 96, 3), np.uint8), "the input is kept as it is", id="black", marks=pytest.mark.slow),
        pytest.param(np.full((96, 96, 3), 200, np.uint8), "the input is kept as it is", id="constant"),
        pytest.param(scene(96, 96), "the input is kept as it is", id="noise-free"),
        pytest.param(iio.imread(CAT)[80:176, 80:176], "the noise where the image is flat has sigma", id="photograph"),
    ],
)
def test_an_image_with_nothing_to_remove_ends_soundly_and_it_is_said(
    dip: Dip, tmp_path: Path, image: np.ndarray, words: str
) -> None:
    path = tmp_path / "calm.png"
    iio.imwrite(path, image)
    result = dip("denoise", path, "--preset", "fast", "--max-iters", 400, "--network", TINY)
    assert result.exit_code == 0, result.output
    assert words in " ".join(result.stderr.split())
    restored = iio.imread(tmp_path / "calm.denoised.png").astype(int)
    account = read_record_of(tmp_path / "calm.denoised.dip")
    assert account["events"] == []
    if "kept as it is" in words:
        assert account["iterations"] == 1
        assert np.array_equal(restored, image)
    else:
        assert abs(restored - image).mean() < 16  # fur is the texture most easily taken for noise


def test_impulse_noise_is_noticed(dip: Dip, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    wild = np.where(generator.random((64, 64, 1)) < 0.1, 255 * generator.integers(0, 2, (64, 64, 1)), scene(64, 64))
    iio.imwrite(tmp_path / "wild.png", wild.astype(np.uint8))
    assert "try --loss l1" in " ".join(dip.quick("denoise", tmp_path / "wild.png").stderr.split())
    assert "try --loss l1" not in dip.quick("denoise", tmp_path / "wild.png", "--loss", "l1").stderr
    iio.imwrite(tmp_path / "plain.png", noisy(scene(64, 64), 50))
    assert "try --loss l1" not in dip.quick("denoise", tmp_path / "plain.png").stderr
