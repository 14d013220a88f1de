"""The command line as a shell sees it: streams, files and exit codes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import TINY, Dip, read_terminal, start, wait_for
from forks import Fork
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli import images
from dipcli.cli.app import SPIN_COUNT, app, share_cores
from dipcli.images.image import from_array
from dipcli.problem import metrics
from dipcli.runs.observers import COLUMNS
from dipcli.tasks.registry import tasks


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_image_log_snapshots_and_record(dip: Dip, noisy_png: Path, clean_png: Path) -> None:
    output = noisy_png.with_name("clean.png")
    result = dip.quick(
        "denoise", noisy_png, "-o", output, "--reference", clean_png, "--snapshot-at", "1,4",
        "--snapshot-every", 10, "--log-every", 5, "--ema", 0.9, iterations=15,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{output}\n"
    restored = iio.imread(output)
    assert (restored.shape, restored.dtype) == ((37, 53, 3), np.uint8)

    folder = noisy_png.with_name("clean.dip")
    names = sorted(each.name for each in (folder / "snapshots").iterdir())
    assert names == [f"{n:06d}{raw}.png" for n in (1, 4, 10) for raw in ("", ".raw")]
    assert all(iio.imread(folder / "snapshots" / name).shape == (37, 53, 3) for name in names)

    log = rows(folder / "log.csv")
    assert tuple(log[0]) == COLUMNS
    assert [row["iteration"] for row in log] == ["5", "10", "15"], "every 5 and the last"
    assert all(float(row["holdout"]) > 0 and float(row["psnr_ref_smoothed"]) > 0 for row in log)

    record = json.loads((folder / "run.json").read_text())
    assert (record["iterations"], record["kept"], record["seed"]) == (15, 15, 0)
    assert record["settings"]["network"] == TINY
    assert "15 iterations" in record["reason"]
    for name, other in (("psnr_ref", clean_png), ("psnr_noisy", noisy_png)):
        written = metrics.psnr(images.read(output)[0].pixels, images.read(other)[0].pixels)
        assert record[name] == pytest.approx(written, abs=1e-6), "of the file, not of what was rounded away"
    assert float(log[-1]["psnr_ref_smoothed"]) == pytest.approx(record["psnr_ref"], abs=0.02)


def test_a_snapshot_is_what_the_run_would_have_kept_there(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    dip.quick("denoise", noisy_png, "-o", tmp_path / "a.png", "--snapshot-at", "4", "--stop", "none", iterations=8)
    dip.quick("denoise", noisy_png, "-o", tmp_path / "b.png", "--stop", "none", iterations=4)
    assert np.array_equal(iio.imread(tmp_path / "a.dip/snapshots/000004.png"), iio.imread(tmp_path / "b.png"))


def test_the_log_leaves_empty_what_is_not_known(dip: Dip, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png, "--stop", "emv", "--log-every", 1)
    log = rows(noisy_png.with_name("noisy.denoised.dip") / "log.csv")
    assert len(log) == 3
    for row in log:
        assert row["holdout"] == row["psnr_ref"] == row["psnr_ref_smoothed"] == row["ssim_ref_smoothed"] == ""
        assert float(row["psnr_noisy"]) > 0


def test_without_iterations_the_rule_ends_the_run(dip: Dip, noisy_png: Path) -> None:
    iio.imwrite(noisy_png, noisy(scene(20, 24)))
    rest = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--fusion", "none", "--json")
    printed = json.loads(dip("denoise", noisy_png, "--stop", "holdout:patience=5:fraction=0.2", *rest).stdout)
    assert printed["iterations"] == printed["kept"] + 5
    assert "not predicted better for 5 iterations" in printed["reason"]
    printed = json.loads(dip("denoise", noisy_png, "--max-iters", 4, *rest).stdout)
    assert printed["iterations"] == 4


def test_an_earlier_run_in_the_same_place_leaves_no_traces(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.png"
    dip.quick("denoise", noisy_png, "-o", output, "--snapshot-at", "2,3")
    (tmp_path / "a.dip" / "mine.txt").write_text("keep")
    dip.quick("denoise", noisy_png, "-o", output, "--snapshot-at", "1")
    assert {each.name for each in (tmp_path / "a.dip/snapshots").iterdir()} == {
        "000001.png",
        "000001.raw.png",
    }
    assert (tmp_path / "a.dip" / "mine.txt").exists()
    assert len(rows(tmp_path / "a.dip/log.csv")) == 1


OWN: dict[str, list[object]] = {
    "deblur": ["--kernel", "motion:5:30"],
    "inpaint": ["--mask", "mask.png"],
    "superres": ["--scale", 2],
    "flash": ["--guide", "truth.png"],
    "invert": ["--weights", "random", "--layer", "conv1", "--size", 32],
    "impedance": ["--size", 32],
}
SHAPES = {"superres": (74, 106, 3), "invert": (32, 32, 3)}


@pytest.mark.parametrize(
    ("name", "companion"),
    [
        *((name, ["--fusion", "none"]) for name in sorted(tasks())),
        *(pytest.param(name, [], marks=pytest.mark.slow) for name in ("deblur", "dejpeg", "inpaint", "superres")),
    ],
)
def test_every_task_runs_from_the_command_line(
    dip: Dip, noisy_png: Path, clean_png: Path, monkeypatch: pytest.MonkeyPatch, name: str, companion: list[str]
) -> None:
    monkeypatch.chdir(clean_png.parent)
    mask = np.zeros((37, 53), np.uint8)
    mask[10:15, 10:30] = 255
    iio.imwrite("mask.png", mask)
    options = (*OWN.get(name, []), *companion, "--iters", 2, "--preset", "fast", "-q", "--snapshot-at", 1)
    result = dip(name, noisy_png, *options)
    assert result.exit_code == 0, result.output
    output = noisy_png.with_name(f"noisy.{tasks()[name].result}.png")
    assert result.stdout == f"{output}\n"
    assert result.stderr == ""
    record = json.loads((output.with_suffix(".dip") / "run.json").read_text())
    assert (record["task"], record["iterations"]) == (name, 2)
    assert (output.with_suffix(".dip") / "snapshots/000001.png").exists()
    if name == "impedance":
        assert {each.suffix for each in noisy_png.parent.glob("noisy.impedance.*")} == {".png", ".svg", ".csv", ".dip"}
    else:
        assert iio.imread(output).shape == SHAPES.get(name, (37, 53, 3))


@pytest.mark.parametrize("preset", ["fast", "balanced", "best", "paper"])
def test_every_preset_runs(dip: Dip, noisy_png: Path, preset: str) -> None:
    result = dip("denoise", noisy_png, "--iters", 1, "--preset", preset, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["preset"] == preset


@pytest.mark.parametrize(
    "shape", [(16, 16, 3), (37, 53, 3), (53, 37), (16, 70), (33, 20, 4), (20, 33, 2), (64, 64, 1)], ids=str
)
def test_sizes_and_modes_come_back(dip: Dip, tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = tmp_path / "x.png"
    iio.imwrite(source, array[..., 0] if shape[2:] == (1,) else array)
    assert dip.quick("denoise", source).exit_code == 0
    restored = iio.imread(tmp_path / "x.denoised.png")
    assert restored.shape == iio.imread(source).shape
    if shape[2:] in ((2,), (4,)):
        assert np.array_equal(restored[..., -1], array[..., -1]), "transparency is carried through"


@given(st.integers(16, 70), st.integers(16, 70), st.sampled_from([1, 3]))
@hypothesis_settings(max_examples=8, deadline=None)
def test_any_size_goes_through_the_published_depth(height: int, width: int, channels: int) -> None:
    array = noisy(scene(height, width, channels))
    data = images.encode(from_array(array), ".png")
    network = "skip:channels=2x5:skips=1x5"
    arguments = ("denoise", "-", "--iters", 1, "--network", network, "--input", "noise", "--input-depth", 2, "-q")
    arguments += ("--fusion", "none")
    result = Dip(app)(*arguments, stdin=data)
    assert result.exit_code == 0, result.output
    assert images.decode(result.stdout_bytes).array().shape == from_array(array).array().shape


def test_16_bits_and_floats_come_back_as_such(dip: Dip, tmp_path: Path) -> None:
    deep = (np.random.default_rng(0).random((20, 24, 4)) * 65535).astype(np.uint16)
    files = {
        "grey.png": (deep[..., 0], ".png"),
        "faint.png": (deep[..., :2], ".png"),
        "deep.png": (deep[..., :3], ".png"),
        "glass.png": (deep, ".png"),
        "deeper.tif": (deep[..., :3], ".tif"),
        "float.tif": (deep[..., :3].astype(np.float32) / 65535, ".tif"),
    }
    for name, (array, suffix) in files.items():
        source = tmp_path / name
        source.write_bytes(images.encode(from_array(array), source.suffix))
        result = dip.quick("denoise", source)
        assert result.exit_code == 0, result.output
        restored = images.read(source.with_suffix(f".denoised{suffix}"))[0].array()
        assert (restored.dtype, restored.shape) == (array.dtype, array.shape)
        assert len(np.unique(restored)) > 256, "more than 8 bits of it"
        assert (restored.astype(float) % 257 != 0).mean() > 0.9, "not 8 bits made larger"
        if array.shape[2:] in ((2,), (4,)):
            assert np.array_equal(restored[..., -1], array[..., -1]), "transparency is carried through"


def test_known_pixels_of_16_bits_come_back_bit_for_bit(dip: Dip, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), dtype=np.uint16)
    mask = np.zeros((20, 24), np.uint8)
    mask[4:8, 4:20] = 255
    for name, array in (("deep.png", deep), ("mask.png", mask)):
        (tmp_path / name).write_bytes(images.encode(from_array(array), ".png"))
    result = dip.quick("inpaint", tmp_path / "deep.png", "--mask", tmp_path / "mask.png")
    assert result.exit_code == 0, result.output
    restored = images.read(tmp_path / "deep.inpainted.png")[0].array()
    assert np.array_equal(restored[mask == 0], deep[mask == 0])
    assert not np.array_equal(restored, deep)


def test_pipes(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    result = dip.quick("denoise", "-", "-o", "-", stdin=noisy_png.read_bytes())
    assert result.exit_code == 0
    assert images.decode(result.stdout_bytes).pixels.shape == (3, 37, 53)
    dip.quick("denoise", noisy_png, "-o", tmp_path / "file.png")
    assert result.stdout_bytes == (tmp_path / "file.png").read_bytes()


def test_standard_input_may_replace_an_earlier_result(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    for _ in range(2):
        result = dip.quick("denoise", "-", "-o", tmp_path / "x.png", stdin=noisy_png.read_bytes())
        assert result.exit_code == 0, result.output


KNOB_BASE: dict[str, object] = {
    "--network": TINY,
    "--input": "noise",
    "--input-depth": 4,
    "--precision": "fp32",
    "--stop": "none",
    "--fusion": "none",
}


@pytest.fixture(scope="module")
def base_result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], bytes]:
    """A function from a number of iterations to the result of `KNOB_BASE`, which is computed once."""
    folder = tmp_path_factory.mktemp("base")
    iio.imwrite(folder / "noisy.png", noisy(scene(37, 53)))

    @cache
    def restore(iterations: int) -> bytes:
        options = {"--iters": iterations, **KNOB_BASE}
        words = [each for pair in options.items() for each in pair]
        result = Dip(app)("denoise", folder / "noisy.png", *words, "--no-report")
        assert result.exit_code == 0, result.output
        return (folder / "noisy.denoised.png").read_bytes()

    return restore


@pytest.mark.parametrize(
    "knob",
    [
        pytest.param(["--optimizer", "lbfgs"], marks=pytest.mark.slow),
        ["--optimize", "net,input"],
        ["--input", "meshgrid"],
        ["--input", "fourier"],
        ["--input-depth", "8"],
        ["--pad", "reflection"],
        ["--network", "pixels"],
        ["--network", "skip:channels=8,8:skips=4,0"],
        ["--network", "skip:channels=8,8:skips=4,4:up=nearest"],
        ["--lr", "0.001"],
        ["--beta2", "0.5"],
        ["--reg-noise", "0"],
        ["--ema", "0"],
        ["--tv", "0.1"],
        ["--seed", "7"],
        ["--stop", "holdout:fraction=0.3"],
        ["--precision", "bf16"],
    ],
    ids=" ".join,
)
def test_every_knob_runs_and_makes_a_difference(
    dip: Dip, noisy_png: Path, base_result: Callable[[int], bytes], knob: list[str]
) -> None:
    steps = 103 if "lbfgs" in knob else 6  # L-BFGS begins after 100 steps of Adam
    changed = {"--iters": steps, **KNOB_BASE, knob[0]: knob[1]}
    if "meshgrid" in knob:
        del changed["--input-depth"]
    result = dip("denoise", noisy_png, *[each for pair in changed.items() for each in pair], "--no-report")
    assert result.exit_code == 0, result.output
    output = noisy_png.with_name("noisy.denoised.png")
    assert base_result(steps) != output.read_bytes()
    record = json.loads((output.with_suffix(".dip") / "run.json").read_text())
    name = {"lr": "rate"}.get(knob[0][2:], knob[0][2:].replace("-", "_"))
    assert str(record["settings"][name]) in (knob[1], f"{float(knob[1])}" if knob[1][0].isdigit() else "")


def test_same_seed_same_file_and_another_seed_another(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        dip.quick("denoise", noisy_png, "-o", tmp_path / f"{name}.png", "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_the_reference_never_changes_the_result(dip: Dip, noisy_png: Path, clean_png: Path, tmp_path: Path) -> None:
    dip.quick("denoise", noisy_png, "-o", tmp_path / "a.png", iterations=8)
    dip.quick("denoise", noisy_png, "-o", tmp_path / "b.png", "--reference", clean_png, iterations=8)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_is_written_down_never_changes_the_result(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    dip.quick("denoise", noisy_png, "-o", tmp_path / "a.png", "--no-run-dir", "-q", iterations=8)
    dip.quick("denoise", noisy_png, "-o", tmp_path / "b.png", "--log-every", 1, "--snapshot-every", 1, iterations=8)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not (tmp_path / "a.dip").exists()


def test_image_two_after_image_one_is_image_two_alone(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    iio.imwrite(other, noisy(scene(40, 32), seed=5))
    together = dip.quick("denoise", noisy_png, other, "-o", tmp_path / "both", "--no-run-dir")
    assert together.exit_code == 0, together.output
    assert together.stdout.split() == [str(tmp_path / "both" / name) for name in ("noisy.png", "other.png")]
    dip.quick("denoise", other, "-o", tmp_path / "alone.png")
    assert (tmp_path / "both" / "other.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


def test_one_bad_image_does_not_end_a_batch(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    result = dip.quick("denoise", bad, noisy_png, tmp_path / "gone.png", "--json")
    assert result.exit_code == 3
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in each for each in printed] == [True, False, True]
    assert result.stderr.count("bad.png") == 1
    assert "1 restored, 2 failed, 0 skipped; failed: 1/3, 3/3" in result.stderr
    assert noisy_png.with_name("noisy.denoised.png").exists()
    assert dip.quick("denoise", bad, tmp_path / "gone.png").exit_code == 1, "none restored is a failure"


@pytest.mark.parametrize(
    ("arguments", "code", "way_out"),
    [
        (["gone.png"], 1, "check the name"),
        (["text.png"], 1, "check the file"),
        (["empty"], 1, "check the name"),
        ([300 * "a" + ".png"], 1, "check the name"),
        (["noisy.png", "-o", 300 * "a" + ".png"], 1, "another name"),
        (["noisy.png", "-o", "text.png/x.png"], 1, "another name"),
        ([".", "-o", "."], 2, "leave it out"),
        ([".", "-o", "x.png"], 2, "name a folder"),
        ([".", "-o", "-"], 2, "name a folder"),
        ([".", "--run-dir", "x"], 2, "one image"),
        (["tiny.png"], 1, "16x16"),
        (["noisy.png", "--device", "cuda"], 1, "--device cpu"),
        (["noisy.png", "--device", "abacus"], 2, "cuda:N"),
        (["noisy.png", "--stop", "hope"], 2, "auto, emv, holdout, none"),
        (["noisy.png", "--preset", "quick"], 2, "fast, balanced, best, paper"),
        (["noisy.png", "--network", "brain"], 2, "pixels, resnet, skip, unet"),
        (["noisy.png", "--ema", "1"], 2, "below 1"),
        (["noisy.png", "--iters", "0"], 2, "--iters"),
        (["noisy.png", "--iters", str(10**20)], 2, "--iters"),
        (["noisy.png", "--max-iters", str(10**20)], 2, "--max-iters"),
        (["noisy.png", "--max-iters", "1"], 2, "--iters"),
        (["noisy.png", "--iters", "9", "--snapshot-at", "1,10"], 2, "beyond the last iteration, 9"),
        (["noisy.png", "--iters", "9", "--snapshot-every", "10"], 2, "beyond the last iteration, 9"),
        (["noisy.png", "--threads", str(10**9)], 2, "1024"),
        (["noisy.png", "--runs", str(10**9)], 2, "1000"),
        (["noisy.png", "--tile", str(10**20)], 2, "128 to"),
        (["noisy.png", "--time", f"{10**20}h"], 2, "1h30m"),
        (["noisy.png", "--max-memory", 400 * "9" + "T"], 2, "8G"),
        (["noisy.png", "--checkpoint-every", f"{10**20}h"], 2, "1h"),
        (["noisy.png", "--snapshot-at", "soon"], 2, "1,10,100"),
        (["noisy.png", "--reference", "tiny.png"], 1, "16x16"),
        (["noisy.png", "--reference", "grey.png"], 1, "matching image"),
        (["noisy.png", "-o", "gone/x.png"], 1, "make it first"),
        (["noisy.png", "-o", "."], 2, "name a file in it"),
        (["noisy.png", "-o", "x.doc"], 1, ".png"),
        (["noisy.png", "-o", "noisy.png"], 2, "--overwrite"),
        (["noisy.png", "grey.png", "-o", "-"], 2, "name a folder"),
        (["noisy.png", "grey.png", "-o", "text.png"], 2, "name a folder"),
        (["noisy.png", "grey.png", "--reference", "noisy.png"], 2, "one image"),
        (["noisy.png", "empty/../noisy.png", "sub/noisy.png", "-o", "out"], 2, "one at a time"),
        (["-", "--json"], 2, "leave --json out"),
        (["noisy.png", "-o", "-", "--snapshot-at", "1"], 2, "--run-dir"),
        (["noisy.png", "-o", "x.png", "--run-dir", "x.png"], 2, "another folder"),
        (["noisy.png", "--seed", str(10**30)], 2, "--seed"),
        (["noisy.png", "-"], 2, "Standard input"),
        (["noisy.png", "--input", "meshgrid", "--input-depth", "7"], 2, "leave --input-depth out"),
        (["noisy.png", "--run-dir", "text.png"], 1, "another place"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_one_sentence_with_a_way_out(
    dip: Dip,
    noisy_png: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    way_out: str,
) -> None:
    import torch

    if arguments[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    monkeypatch.chdir(noisy_png.parent)
    Path("text.png").write_text("not an image")
    iio.imwrite("tiny.png", np.zeros((5, 9, 3), np.uint8))
    iio.imwrite("grey.png", np.zeros((37, 53), np.uint8))
    Path("empty").mkdir()
    before = {each.name: each.read_bytes() for each in Path().iterdir() if each.is_file()}
    result = dip("denoise", *arguments, *([] if "--iters" in arguments else ["--iters", 2]))
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    said = [line for line in result.stderr.splitlines() if line.startswith("dip: ")]
    assert len(said) == 1
    assert way_out in said[0]
    assert "Traceback" not in result.stderr
    assert {name: Path(name).read_bytes() for name in before} == before, "nothing is lost"


def test_words_that_are_no_options_are_a_usage_error(dip: Dip, noisy_png: Path) -> None:
    for wrong in (["--itres", 5], ["--iters", "many"], ["--pad", "mirror"]):
        result = dip("denoise", noisy_png, *wrong)
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


def test_debugging_shows_the_traceback(dip: Dip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIP_DEBUG", "1")
    assert "Traceback" in dip("denoise", "gone.png").stderr


def test_nothing_of_an_earlier_run_is_lost_to_a_mistake(dip: Dip, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png, "--snapshot-at", 1, "--no-report")
    folder = noisy_png.with_name("noisy.denoised.dip")
    before = {each: each.read_bytes() for each in folder.rglob("*.*")}
    assert len(before) == 4
    mistakes = [["--network", "brain"], ["--device", "mps:9"], ["--input", "fourier", "--input-depth", 6]]
    for mistake in mistakes:
        assert dip("denoise", noisy_png, *mistake).exit_code in (1, 2)
    assert {each: each.read_bytes() for each in folder.rglob("*.*")} == before


def test_a_log_that_cannot_be_written_does_not_cost_the_image(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipcli.runs.observers import Log

    plain, written = Log.write, []

    def full(self: Log, cells: object) -> None:
        written.append(cells)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        plain(self, cells)

    monkeypatch.setattr(Log, "write", full)
    result = dip.quick("denoise", noisy_png, "--log-every", 1, iterations=8)
    assert result.exit_code == 0
    assert len(written) == 4, "it is not tried again"
    assert "No space left on device (log is disabled, the fit goes on)" in result.stderr.replace("[Errno 28] ", "")
    assert noisy_png.with_name("noisy.denoised.png").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp"])
def test_the_psnr_of_the_record_is_that_of_the_file(dip: Dip, tmp_path: Path, suffix: str) -> None:
    truth = scene(32, 40).astype(np.float32) / 255
    iio.imwrite(tmp_path / "truth.tif", truth)
    damaged = truth + np.random.default_rng(0).normal(0, 0.1, truth.shape).astype(np.float32)
    source = tmp_path / "noisy.tif"
    iio.imwrite(source, damaged if suffix == ".tif" else (damaged.clip(0, 1) * 255).astype(np.uint8))
    output = tmp_path / f"clean{suffix}"
    printed = dip.quick("denoise", source, "-o", output, "--reference", tmp_path / "truth.tif", "--json")
    restored = iio.imread(output)
    restored = restored if suffix == ".tif" else restored / 255
    span = damaged.max() - damaged.min() if suffix == ".tif" else 1
    expected = -10 * np.log10(np.mean((restored - truth) ** 2) / span**2)
    assert json.loads(printed.stdout)["psnr_ref"] == pytest.approx(expected, abs=1e-3)


def test_a_folder_may_be_asked_for_with_a_slash(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    result = dip.quick("denoise", noisy_png, "-o", f"{tmp_path}/new/")
    assert result.stdout == f"{tmp_path}/new/noisy.png\n"


def test_a_bug_keeps_its_traceback(dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "write", lambda *_: 1 // 0)
    assert isinstance(dip.quick("denoise", noisy_png).exception, ZeroDivisionError)


# The process may have this much more address space than it has taken to import PyTorch: between the 1.4 GB that the
# tiles below need and the 2.7 GB that the whole image needs.
LIMITED = """
import pathlib, resource
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 10**9, taken + 2 * 10**9))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_running_out_of_memory_means_tiles_or_is_a_sentence(tmp_path: Path) -> None:
    source, output = tmp_path / "large.png", tmp_path / "large.denoised.png"
    iio.imwrite(source, np.random.default_rng(0).integers(60, 200, (760, 760, 3), np.uint8))
    wide = ("--network", "skip:channels=128:skips=4", "--input", "noise", "--iters", 1, "--warmup", 0)
    wide += ("--fusion", "none", "--no-report", "--max-memory", "100G", "--precision", "fp32")
    refused = Fork("denoise", source, *wide, "--tile", "none", code=LIMITED)
    _, stderr = refused.communicate()
    assert refused.returncode == 1, stderr
    assert "not enough memory" in stderr
    assert "Traceback" not in stderr
    assert not output.exists()
    done = Fork("denoise", source, *wide, code=LIMITED)
    _, stderr = done.communicate()
    assert done.returncode == 0, stderr
    assert "memory ran out: continuing in 4 tiles" in stderr
    assert iio.imread(output).shape == (760, 760, 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_there_is_a_live_display_and_stdout_stays_clean(noisy_png: Path) -> None:
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    options = ("--iters", 400, "--network", TINY, "--fusion", "none")
    process = Fork("denoise", noisy_png, *options, terminal=os.ttyname(slave), environment=environment)
    wait_for(process.out.exists, process)
    os.close(slave)
    shown = read_terminal(master)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    assert b"/400" in shown, "the bar"
    assert b"400 iterations in" in b" ".join(shown.split()), "the summary, wherever its lines end"


def test_the_input_is_overwritten_only_on_request(dip: Dip, noisy_png: Path) -> None:
    before = noisy_png.read_bytes()
    assert dip.quick("denoise", noisy_png, "-o", noisy_png).exit_code == 2
    assert noisy_png.read_bytes() == before
    assert dip.quick("denoise", noisy_png, "-o", noisy_png, "--overwrite").exit_code == 0
    assert noisy_png.read_bytes() != before


def test_names_with_brackets_spaces_and_letters(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "[bold] Prüfung 2.png"
    iio.imwrite(source, noisy(scene(16, 20)))
    result = dip.quick("denoise", source)
    assert result.stdout == f"{tmp_path / '[bold] Prüfung 2.denoised.png'}\n"
    assert "[bold]" in result.stderr


def test_a_name_that_grows_too_long_is_found_before_the_fit(dip: Dip, noisy_png: Path) -> None:
    source = noisy_png.rename(noisy_png.with_name("ü" * 122 + ".png"))
    result = dip.quick("denoise", source, iterations=10**7)
    assert result.exit_code == 1
    assert "Choose another name with -o" in result.stderr
    longest = source.with_name("y" * 251 + ".png")
    assert dip.quick("denoise", source, "-o", longest).exit_code == 0
    assert longest.exists()


def test_verbose_says_settings_and_machine(dip: Dip, noisy_png: Path) -> None:
    printed = dip.quick("denoise", noisy_png, "-v").stderr
    assert "lr=0.02" in printed
    assert "parameters, seed 0" in printed


def test_version_and_help(dip: Dip) -> None:
    from dipcli import __version__

    assert dip("--version").stdout == f"dip {__version__}\n"
    printed = dip("denoise", "--help").stdout
    for option in ("--iters", "--stop", "--reference", "--snapshot-at", "--network", "--device"):
        assert option in printed
    assert "dip denoise noisy.png" in printed


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_within_this_process_keeps_the_image(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    from dipcli.runs.observers import Log

    plain, written = Log.write, []

    def interrupted(self: Log, cells: object) -> None:
        plain(self, cells)
        written.append(cells)
        if len(written) == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(Log, "write", interrupted)
    output = noisy_png.with_name("kept.png")
    result = dip.quick("denoise", noisy_png, "-o", output, "--log-every", 1, iterations=10**6)
    assert result.exit_code == code, result.output
    assert result.stdout == f"{output}\n"
    assert iio.imread(output).shape == (37, 53, 3)
    record = json.loads((output.with_suffix(".dip") / "run.json").read_text())
    assert record["iterations"] == int(rows(output.with_suffix(".dip") / "log.csv")[-1]["iteration"])
    assert record["reason"] == f"it was interrupted by {number.name}"
    assert f"dip resume {output.with_suffix('.dip')}" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [False, True], ids=["", "in the background of a script"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_keeps_the_image(noisy_png: Path, number: signal.Signals, code: int, ignored: bool) -> None:
    output, log = noisy_png.with_name("kept.png"), noisy_png.with_name("kept.dip") / "log.csv"
    process = start(
        "denoise", noisy_png, "-o", output, "--iters", 10**6, "--log-every", 1, code=IGNORING if ignored else ""
    )
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 5, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == f"{output}\n"
    assert iio.imread(output).shape == (37, 53, 3)
    record = json.loads((output.with_suffix(".dip") / "run.json").read_text())
    assert record["iterations"] == int(rows(log)[-1]["iteration"])
    assert record["reason"] == f"it was interrupted by {number.name}"
    assert "Traceback" not in stderr


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_second_signal_ends_at_once(noisy_png: Path, number: signal.Signals, code: int) -> None:
    """The first one is held up by an iteration that never ends."""
    output = noisy_png.with_name("kept.png")
    process = start("denoise", noisy_png, "-o", output, "--iters", 9, code=STUCK)
    wait_for((output.with_suffix(".dip") / "log.csv").exists, process)
    time.sleep(0.5)
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode in (code, -number)
    assert not output.exists()


IGNORING = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
STUCK = "import dipcli.runs.run as r, time; r.solve = lambda *a, **k: [time.sleep(0.05) for _ in range(2000)]"


HEAVY = (
    "torch",
    "numpy",
    "skimage",
    "imageio",
    "imagecodecs",
    "psutil",
    "filelock",
    "PIL",
    "scipy",
    "tifffile",
    "tqdm",
)


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        pytest.param(["--help"], {}, marks=pytest.mark.slow),
        (["denoise", "--help"], {}),
        pytest.param(["doctor", "--help"], {}, marks=pytest.mark.slow),
        pytest.param(["denoise"], {}, marks=pytest.mark.slow),
        pytest.param(["denoise", "x.png", "--preset", "quick"], {}, marks=pytest.mark.slow),
        pytest.param(
            [],
            {"_DIP_COMPLETE": "complete_bash", "COMP_WORDS": "dip den", "COMP_CWORD": "1"},
            marks=pytest.mark.slow,
        ),
        ([], {"_DIP_COMPLETE": "complete_bash", "COMP_WORDS": "dip denoise --pre", "COMP_CWORD": "2"}),
    ],
    ids=["help", "task help", "doctor help", "usage", "bad preset", "complete task", "complete option"],
)
def test_help_and_completion_import_nothing_heavy(arguments: list[str], environment: dict[str, str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        "sys.argv[0] = 'dip'\nfrom dipcli.cli.app import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.stderr.splitlines()[-1] == "[]"
    if environment:
        assert "denoise" in result.stdout or "--preset" in result.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_simulated_noise_is_measured_and_written(dip: Dip, clean_png: Path, tmp_path: Path) -> None:
    result = dip.quick("denoise", clean_png, "--simulate-noise", 25, "-o", tmp_path / "a.png", "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    damaged = iio.imread(tmp_path / "a.dip/damaged.png").astype(float)
    error = ((damaged - iio.imread(clean_png)) ** 2).mean() / 255**2
    assert printed["baselines"]["noisy"]["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    assert 20 < printed["baselines"]["noisy"]["psnr"] < 21
    assert f"noisy {printed['baselines']['noisy']['psnr']:.2f} dB" in result.stderr
    assert f"restored {printed['psnr_ref']:.2f} dB" in result.stderr
    # What is written there is what was fitted: the same run again, to the last bit.
    dip.quick("denoise", tmp_path / "a.dip/damaged.png", "-o", tmp_path / "b.png")
    assert np.array_equal(iio.imread(tmp_path / "a.png"), iio.imread(tmp_path / "b.png"))


@pytest.mark.parametrize("level", ["0", "-3", "nan", "1001"])
def test_simulated_noise_has_a_range(dip: Dip, clean_png: Path, level: str) -> None:
    result = dip.quick("denoise", clean_png, f"--simulate-noise={level}")
    assert result.exit_code == 2
    assert "--simulate-noise" in result.stderr


def test_a_reference_beside_a_simulation_is_one_too_many(dip: Dip, clean_png: Path) -> None:
    result = dip.quick("denoise", clean_png, "--simulate-noise", 25, "--reference", clean_png)
    assert result.exit_code == 2
    assert "--reference" in result.stderr


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_more_channels_than_colours_go_through_tiff(dip: Dip, tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(0).random((20, 24, 7))
    array = (array if dtype == "float32" else array * np.iinfo(dtype).max).astype(dtype)
    source = tmp_path / "bands.tif"
    iio.imwrite(source, array, photometric="minisblack", planarconfig="contig")
    result = dip.quick("denoise", source, "--snapshot-at", "1")
    assert result.exit_code == 0, result.output
    restored = iio.imread(tmp_path / "bands.denoised.tif")
    assert (restored.shape, restored.dtype) == ((20, 24, 7), array.dtype)
    assert iio.imread(tmp_path / "bands.denoised.dip/snapshots/000001.png").shape == (20, 24, 3)
    refused = dip.quick("denoise", source, "-o", tmp_path / "bands.png")
    assert refused.exit_code == 1
    assert "cannot hold 7 channels" in refused.stderr


def test_the_log_and_the_record_tell_of_a_collapse(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dipcli.fitting import optimizers
    from dipcli.fitting.optimizers import Adam

    class Spiking(Adam):
        calls = 0

        def step(self, closure: object = None) -> object:
            self.calls += 1
            group = self.param_groups[0]
            rate, group["lr"] = group["lr"], 30.0 if 93 <= self.calls < 105 else group["lr"]
            loss = super().step(closure)
            group["lr"] = rate
            return loss

    monkeypatch.setattr(optimizers, "Adam", Spiking)
    iio.imwrite(tmp_path / "small.png", noisy(scene(20, 24)))
    result = dip.quick("denoise", tmp_path / "small.png", "--log-every", 25, iterations=130)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "small.denoised.dip"
    log = rows(folder / "log.csv")
    assert [row["iteration"] for row in log] == ["25", "50", "75", "100", "110", "125", "130"]
    assert [row["event"] for row in log] == [
        *4 * [""],
        "the fit collapsed: back to iteration 80, half the step",
        "",
        "",
    ]
    assert [float(row["lr"]) for row in log] == [0.02, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01]
    assert json.loads((folder / "run.json").read_text())["events"] == [f"iteration 110: {log[4]['event']}"]
    assert "the fit collapsed" in result.stderr


def test_what_a_run_reads_is_not_lost_to_its_folder(dip: Dip, clean_png: Path, tmp_path: Path) -> None:
    """Not even where a file is called what the run's own are called, in the folder of an earlier run."""
    run, output = tmp_path / "run", tmp_path / "x.png"
    assert dip.quick("denoise", clean_png, "--simulate-noise", 9, "--run-dir", run, "-o", output).exit_code == 0
    source = run / "damaged.png"
    before = source.read_bytes()
    refused = dip.quick("denoise", source, "--simulate-noise", 9, "--run-dir", run, "-o", output)
    assert refused.exit_code == 2
    assert "choose another --run-dir" in refused.stderr
    assert dip.quick("denoise", source, "--run-dir", run, "-o", output).exit_code == 0
    assert source.read_bytes() == before


def test_a_snapshot_of_an_earlier_run_may_be_the_input(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    dip.quick("denoise", noisy_png, "-o", tmp_path / "a.png", "--snapshot-at", "2,3")
    source = tmp_path / "a.dip/snapshots/000002.png"
    assert dip.quick("denoise", source, "-o", tmp_path / "a.png", "--overwrite").exit_code == 0
    assert source.exists()
    assert not (tmp_path / "a.dip/snapshots/000003.png").exists()


@pytest.mark.slow
def test_who_names_a_rule_or_a_limit_leaves_the_end_to_it(dip: Dip, noisy_png: Path) -> None:
    quick = ("superres", noisy_png, "--scale", 1.5, "--network", TINY, "--input", "noise", "--input-depth", 4, "--json")
    quick += ("--fusion", "none")
    printed = json.loads(dip(*quick, "--stop", "emv:patience=2:guard=1", "--max-iters", 50).stdout)
    assert printed["iterations"] <= 50
    assert printed["reason"].startswith(("the variance", "the limit"))
    assert json.loads(dip(*quick, "--max-iters", 4).stdout)["iterations"] == 4
    assert json.loads(dip(*quick, "--stop", "holdout", "--iters", 5).stdout)["iterations"] == 5


def test_a_perfect_baseline_is_said_to_be_identical(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "flat.png", np.full((64, 64), 90, np.uint8))
    result = dip.quick("superres", tmp_path / "flat.png", "--simulate", "--scale", 2)
    assert result.exit_code == 0, result.output
    assert "bicubic identical, nearest identical, restored" in result.stderr


@pytest.mark.parametrize("suffix", [".webp", ".png", ".jpg"])
def test_grey_images_go_into_any_format(dip: Dip, tmp_path: Path, suffix: str) -> None:
    iio.imwrite(tmp_path / "grey.png", scene(20, 24, 1)[..., 0])
    result = dip.quick("denoise", tmp_path / "grey.png", "-o", tmp_path / f"out{suffix}", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["psnr_noisy"] > 0


@pytest.mark.slow
def test_a_figure_takes_no_other_files_place(dip: Dip, clean_png: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("keep")
    command = ("impedance", clean_png, "--preset", "fast", "--size", 32, "--iters", 1)
    command = (*command, "--network", TINY, "-o", tmp_path / "data.PNG")
    refused = dip(*command)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "data.csv").read_text() == "keep"
    assert dip(*command, "--overwrite").exit_code == 0
    assert dip(*command).exit_code == 0, "its own may be replaced"
    assert (tmp_path / "data.csv").read_text().startswith("iteration,picture")
    for wrong in (["--reference", clean_png], ["--tv", "0.1"], ["--optimize", "net,input"], ["-o", tmp_path / "x.jpg"]):
        assert dip(*command, *wrong).exit_code == 2, wrong


def test_classifiers_look_at_colours(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "six.tif", np.zeros((40, 40, 6), np.uint8), photometric="minisblack", planarconfig="contig")
    result = dip("invert", tmp_path / "six.tif", "--weights", "random", "--layer", "conv1", "--size", 32, "--iters", 1)
    assert result.exit_code == 1
    assert "6 channels" in result.stderr
