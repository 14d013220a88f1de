"""Images of one size fitted together, by the command line."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import Dip, start, wait_for
from samples import noisy, scene

from dipcli.cli.progress.displays import Lines
from dipcli.fitting.machine import memory
from dipcli.fitting.solve import PreparedFit
from dipcli.images.pillow import read_size
from dipcli.records.job import Job
from dipcli.runs.batches import throughput
from dipcli.runs.batches.joint import JointDisplay
from dipcli.runs.batches.throughput import choose_batch_size
from dipcli.runs.display import Expected
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.tasks.registry import tasks

MAX_DIFFERENCE = 2  # grey levels, by rounding in a few steps of single precision


def draw(path: Path, seed: int = 0, height: int = 20, width: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, noisy(scene(height, width), seed=seed))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of one size, a larger one, and a file that is not an image."""
    for number in range(5):
        draw(tmp_path / "in" / f"{number}.png", number)
    draw(tmp_path / "in/large.png", 7, 33, 40)
    (tmp_path / "in/bad.png").write_text("not an image")
    return tmp_path / "in"


def read_record(output: Path) -> dict[str, Any]:
    return json.loads((output.with_suffix(".dip") / "run.json").read_text())


@pytest.mark.slow
def test_images_of_one_size_are_fitted_together_with_the_same_results(
    dip: Dip, folder: Path, tmp_path: Path, passes: list[int]
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    options = ("--precision", "fp32", "--snapshot-at", 2, "--log-every", 1)
    assert dip.quick("denoise", folder, "-o", plain, *options).exit_code == 3
    assert passes == []
    result = dip.quick("denoise", folder, "-o", out, *options, "--batch-size", 3, "--json")
    assert result.exit_code == 3
    assert "6 restored, 1 failed, 0 skipped; failed: 6/7" in result.stderr
    assert result.stderr.count("bad.png") == 1
    assert passes == [3] * 3 + [2] * 3
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(Path(record["input"]).name for record in records) == sorted(path.name for path in folder.iterdir())
    for name in ("0", "1", "2", "3", "4", "large"):
        one, other = (iio.imread(place / f"{name}.png").astype(int) for place in (plain, out))
        assert np.abs(one - other).max() <= MAX_DIFFERENCE
        joint, before = read_record(out / f"{name}.png"), read_record(plain / f"{name}.png")
        assert joint["batch_size"] == (1 if name == "large" else 3)
        assert before["batch_size"] == 1
        assert (joint["kept"], joint["reason"], joint["settings"]) == (
            before["kept"],
            before["reason"],
            before["settings"],
        )
        assert {path.name for path in (out / f"{name}.dip").rglob("*")} == {
            path.name for path in (plain / f"{name}.dip").rglob("*")
        }
        rows = (out / f"{name}.dip/log.csv").read_text().splitlines()
        assert [row.partition(",")[0] for row in rows] == ["iteration", "1", "2", "3"]
    again = dip.quick("denoise", folder, "-o", out, *options, "--batch-size", 3)
    assert "0 restored, 1 failed, 6 skipped" in again.stderr


@pytest.mark.slow
def test_a_batch_size_of_one_has_the_bits_of_a_plain_call(dip: Dip, folder: Path, tmp_path: Path) -> None:
    dip.quick("denoise", folder, "-o", tmp_path / "plain")
    dip.quick("denoise", folder, "-o", tmp_path / "one", "--batch-size", 1)
    for path in (tmp_path / "plain").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_on_a_cpu_images_are_fitted_alone_by_default(dip: Dip, folder: Path, tmp_path: Path, passes: list[int]) -> None:
    assert dip.quick("denoise", folder, "-o", tmp_path / "out").exit_code == 3
    assert passes == []
    job = Job(task=tasks()["denoise"], source=folder, given={"device": "cpu"})
    assert not throughput.is_default(job)


def test_auto_measures_how_many_for_each_size(
    dip: Dip, folder: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measure(fit: PreparedFit, together: int, **_: object) -> float:
        tried.append((fit.problem.shape[1:], together))
        return {1: 10.0, 4: 19.5}[together]  # there are no sixteen

    monkeypatch.setattr(throughput, "measure_throughput", measure)
    result = dip.quick("denoise", folder, "-o", tmp_path / "out", "--batch-size", "auto")
    assert tried == [((20, 24), 1), ((20, 24), 4)], "there are too few of the other size to measure"
    assert re.search(r"0\.png: .*1 together 10\.0, 4 together 19\.5\. Fitting 4 together\.", result.stderr)
    assert set(passes) == {4}


@pytest.mark.parametrize(
    ("rates", "memory_limit", "count", "best"),
    [
        ({1: 10, 4: 40, 16: 61}, None, 64, 16),
        ({1: 10, 4: 40, 16: 41}, None, 64, 4),
        ({1: 10, 4: 10.4, 16: 10}, None, 64, 1),
        ({1: 10, 4: 9, 16: 14}, None, 64, 16),
        ({1: 10, 4: 40}, 7, 64, 4),
        ({1: 10, 4: 40}, None, 7, 4),
    ],
)
def test_the_smallest_batch_that_no_larger_one_clearly_beats_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rates: dict[int, float],
    memory_limit: int | None,
    count: int,
    best: int,
) -> None:
    tried = []

    def measure(_fit: PreparedFit, together: int, **_: object) -> float:
        tried.append(together)
        return rates[together]

    monkeypatch.setattr(throughput, "measure_throughput", measure)
    job = Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png"))
    if memory_limit:
        needed = throughput.prepare_job(job).estimate.whole
        monkeypatch.setattr(memory, "read_limit", lambda _settings: memory_limit * needed)
    notes: list[str] = []
    assert choose_batch_size(job, None, count, notes.append) == best
    assert tried == list(rates)
    assert len(notes) == 1


def test_an_interrupted_measurement_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(throughput, "measure_throughput", lambda *_, **__: 0.0)
    notes: list[str] = []
    job = Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png"))
    assert choose_batch_size(job, None, 9, notes.append) == 1
    assert notes == []


@pytest.mark.slow
def test_memory_limits_the_batch_size(dip: Dip, folder: Path, tmp_path: Path, passes: list[int]) -> None:
    tight = ("--max-memory", "1000M", "--batch-size", 5)
    result = dip.quick("denoise", folder, "-o", tmp_path / "out", *tight)
    assert "6 restored" in result.stderr
    (count,) = re.findall(r"there is memory for (\d) images of this size together", result.stderr)
    assert set(passes) == {int(count), 5 % int(count)} - {0, 1}
    assert all(not record["tiles"] for record in map(read_record, (tmp_path / "out").glob("*.png")))


def test_the_memory_limit_is_divided_among_the_fits() -> None:
    settings = tasks()["denoise"].settings(max_memory="900M")
    assert memory.read_limit(settings) == 900 * 2**20
    before = memory.FITS_AT_ONCE.set(3)
    try:
        assert memory.read_limit(settings) == 300 * 2**20
    finally:
        memory.FITS_AT_ONCE.reset(before)


def test_throughput_is_measured_and_nothing_is_written(tmp_path: Path) -> None:
    given = {"network": "skip:channels=8,8:skips=4,4", "input": "noise", "input_depth": 4, "device": "cpu"}
    job = Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png"), given=given)
    one, two = (throughput.measure_throughput(throughput.prepare_job(job), count, seconds=0.2) for count in (1, 2))
    assert one > 0
    assert two > 0.5 * one
    cut = throughput.measure_throughput(throughput.prepare_job(job), 2, seconds=1000, interrupted=lambda: "the end")
    assert cut == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.slow
def test_interrupted_images_are_resumed_together(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--log-every", 1, "--batch-size", 5)
    logs = [out / f"{number}.dip/log.csv" for number in range(5)]
    wait_for(lambda: all(log.exists() and len(log.read_text().splitlines()) > 3 for log in logs), process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.count("keeping the best images so far") == 1
    assert len(stdout.splitlines()) == 5
    assert "0 restored, 0 failed, 0 skipped, 5 cut short, 2 not started" in stderr
    reached = {number: read_record(out / f"{number}.png")["iterations"] for number in range(5)}
    assert all(not read_record(out / f"{number}.png")["finished"] for number in range(5))
    assert max(reached.values()) - min(reached.values()) <= 1, "they run in lockstep"
    # Where it runs, and how many images are fitted together, may change.
    places = ("--batch-size", 4, "--threads", 1, "--checkpoint-every", "9s")
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--log-every", 1, *places)
    grown = [len(log.read_text().splitlines()) + 5 for log in logs]

    def grew() -> bool:
        return all(len(log.read_text().splitlines()) > more for log, more in zip(logs[:4], grown, strict=False))

    wait_for(grew, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.count("resuming from iteration") == 4
    for number, before in list(reached.items())[:4]:
        assert read_record(out / f"{number}.png")["iterations"] > before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_second_signal_stops_immediately(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = "from dipcli.runs.results import Results; Results.write_image = lambda *_: __import__('time').sleep(60)"
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--batch-size", 5, "--log-every", 1, code=slow)
    log = out / "4.dip/log.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3, process)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "again to stop immediately" in process.err.read_text(), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(out.glob("*.png"))
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size 0 is invalid"),
        (["--batch-size", "many"], "--batch-size many is invalid"),
        (["--batch-size", "-2"], "--batch-size -2 is invalid"),
        (["--batch-size", "2", "--time", "9s"], "leave --time or --batch-size out"),
    ],
)
def test_invalid_batch_sizes_are_refused(dip: Dip, folder: Path, options: list[str], sentence: str) -> None:
    result = dip("denoise", folder, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(folder.glob("*.dip"))


def test_batch_size_is_refused_for_one_image(dip: Dip, folder: Path) -> None:
    result = dip("denoise", folder / "0.png", "--batch-size", "2")
    assert result.exit_code == 2
    assert "--batch-size is for several images" in result.stderr


def test_other_tasks_are_fitted_together(dip: Dip, tmp_path: Path, passes: list[int]) -> None:
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.png", number)
    iio.imwrite(tmp_path / "mask.png", (np.arange(20 * 24).reshape(20, 24) % 3 == 0).astype(np.uint8) * 255)
    result = dip.quick(
        "inpaint", tmp_path / "in", "-o", tmp_path / "out", "--mask", tmp_path / "mask.png", "--batch-size", 3
    )
    assert result.exit_code == 0, result.stderr
    assert passes == [3] * 3
    known = iio.imread(tmp_path / "mask.png") == 0
    for number in range(3):
        before, after = (iio.imread(tmp_path / place / f"{number}.png") for place in ("in", "out"))
        assert (before[known] == after[known]).all()


def test_sizes_are_read_from_the_header(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"):
        assert read_size(draw(tmp_path / name)) == (24, 20)
    deep = tmp_path / "deep.tif"
    iio.imwrite(deep, np.zeros((20, 24, 3), np.uint16))
    assert read_size(deep) in ((24, 20), None)
    (tmp_path / "bad.png").write_text("no")
    assert read_size(tmp_path / "bad.png") is None
    assert read_size(tmp_path / "nowhere.png") is None


class RecordingDisplay(Lines):
    """Records what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[Any] = []

    def watching(self, title: str, expected: Expected) -> Any:
        self.received.append((title, expected.iterations, expected.usual, expected.runs))
        return super().watching(title, expected)

    def __call__(self, step: Step, verdict: Verdict) -> None:
        assert verdict == Verdict()
        assert (step.event, step.run, step.tile) == (None, 1, None)
        self.received.append(step.number)

    def note(self, text: str) -> None:
        self.received.append(text)


def test_one_display_shows_all_fits_of_a_size() -> None:
    received = RecordingDisplay()

    def step(number: int, event: str | None = None) -> Step:
        image = torch.zeros(1, 2, 2)
        return Step(number, torch.zeros(()), image, (image,), 0.01, 1.0, event=event, run=2)

    with JointDisplay(received, 16, 8) as joint:
        first, second = joint.for_image(), joint.for_image()
        with first.watching("a.png", Expected(iterations=100, runs=2)), second.watching("b.png", Expected(100)):
            first(step(1), Verdict(keep=True))
            second(step(1), Verdict(keep=True))
            second(step(2, "the fit collapsed"), Verdict(stop="done"))
            second.show_row({})
            second.note("a message")
    assert received.received == [
        ("16 images, 8 at a time", 3200, None, 1),
        1,
        2,
        3,
        "b.png: iteration 2: the fit collapsed",
        "a message",
    ]
