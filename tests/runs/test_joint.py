"""Pictures of one size fitted together, by the command line."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import Dip, start, wait_for
from samples import noisy, scene

from dipcli.cli.progress.displays import Lines
from dipcli.fitting.machine import memory
from dipcli.fitting.solve import PreparedFit
from dipcli.images.pillow import read_size
from dipcli.records.job import Job
from dipcli.runs.batches import throughput as pace
from dipcli.runs.batches.shared_display import SharedDisplay
from dipcli.runs.display import Expected
from dipcli.tasks.registry import tasks

NEAR = 2  # grey levels: what rounding makes of a few steps in single precision


def draw(path: Path, seed: int = 0, height: int = 20, width: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, noisy(scene(height, width), seed=seed))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five of one size, one larger, one that is no picture."""
    for number in range(5):
        draw(tmp_path / "in" / f"{number}.png", number)
    draw(tmp_path / "in/large.png", 7, 33, 40)
    (tmp_path / "in/bad.png").write_text("not a picture")
    return tmp_path / "in"


def record(output: Path) -> dict[str, Any]:
    return json.loads((output.with_suffix(".dip") / "run.json").read_text())


def test_pictures_of_one_size_are_fitted_together_and_come_to_the_same(
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
    accounts = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(Path(each["input"]).name for each in accounts) == sorted(each.name for each in folder.iterdir())
    for name in ("0", "1", "2", "3", "4", "large"):
        one, other = (iio.imread(place / f"{name}.png").astype(int) for place in (plain, out))
        assert np.abs(one - other).max() <= NEAR
        told, before = record(out / f"{name}.png"), record(plain / f"{name}.png")
        assert told["batch_size"] == (1 if name == "large" else 3)
        assert before["batch_size"] == 1
        assert (told["kept"], told["reason"], told["settings"]) == (
            before["kept"],
            before["reason"],
            before["settings"],
        )
        assert {each.name for each in (out / f"{name}.dip").rglob("*")} == {
            each.name for each in (plain / f"{name}.dip").rglob("*")
        }
        rows = (out / f"{name}.dip/log.csv").read_text().splitlines()
        assert [row.partition(",")[0] for row in rows] == ["iteration", "1", "2", "3"]
    again = dip.quick("denoise", folder, "-o", out, *options, "--batch-size", 3)
    assert "0 restored, 1 failed, 6 skipped" in again.stderr


def test_a_batch_of_one_has_the_bits_of_a_plain_call(dip: Dip, folder: Path, tmp_path: Path) -> None:
    dip.quick("denoise", folder, "-o", tmp_path / "plain")
    dip.quick("denoise", folder, "-o", tmp_path / "one", "--batch-size", 1)
    for each in (tmp_path / "plain").glob("*.png"):
        assert each.read_bytes() == (tmp_path / "one" / each.name).read_bytes()


def test_on_a_cpu_nothing_is_fitted_together_unasked(dip: Dip, folder: Path, tmp_path: Path, passes: list[int]) -> None:
    assert dip.quick("denoise", folder, "-o", tmp_path / "out").exit_code == 3
    assert passes == []
    job = Job(task=tasks()["denoise"], source=folder, given={"device": "cpu"})
    assert not pace.usual(job)


def test_auto_finds_out_how_many(
    dip: Dip, folder: Path, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measured(bench: PreparedFit, together: int, **_: object) -> pace.Throughput:
        tried.append((bench.problem.shape[1:], together))
        return pace.Throughput({1: 10.0, 2: 19.0, 4: 19.5}[together], 1000, None)  # of five there are no eight

    monkeypatch.setattr(pace, "measure_throughput", measured)
    result = dip.quick("denoise", folder, "-o", tmp_path / "out", "--batch-size", "auto")
    assert tried == [((20, 24), 1), ((20, 24), 2), ((20, 24), 4)], "too few of the other size to find out"
    assert "0.png, by pictures together: 1 10.0, 2 19.0, 4 19.5. So 2 together." in result.stderr
    assert set(passes) == {2}


@pytest.mark.parametrize(
    ("paces", "limit", "most", "best"),
    [
        ({1: 10, 2: 20, 4: 40, 8: 60, 16: 61, 32: 62}, None, 64, 8),
        ({1: 10, 2: 10.4, 4: 10}, None, 64, 1),
        ({1: 10, 2: 9, 4: 14, 8: 13, 16: 12}, None, 64, 4),
        ({1: 10, 2: 20, 4: 40}, 700, 64, 4),
        ({1: 10, 2: 20, 4: 40}, None, 7, 4),
    ],
)
def test_the_smallest_number_than_which_more_are_hardly_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, paces: dict[int, float], limit: int | None, most: int, best: int
) -> None:
    tried = []

    def measured(_bench: PreparedFit, together: int, **_: object) -> pace.Throughput:
        tried.append(together)
        return pace.Throughput(paces[together], 100, limit)

    monkeypatch.setattr(pace, "measure_throughput", measured)
    job = Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png"))
    said: list[str] = []
    assert pace.batch_size(job, None, most, said.append) == best
    assert tried == list(paces)
    assert len(said) == 1


def test_a_trial_that_is_cut_short_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pace, "measure_throughput", lambda *_, **__: pace.Throughput(0.0, 100, None))
    said: list[str] = []
    assert pace.batch_size(Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png")), None, 9, said.append) == 1
    assert said == []


def test_as_many_as_there_is_memory_for(dip: Dip, folder: Path, tmp_path: Path, passes: list[int]) -> None:
    tight = ("--max-memory", "1000M", "--batch-size", 5)
    result = dip.quick("denoise", folder, "-o", tmp_path / "out", *tight)
    assert "6 restored" in result.stderr
    (said,) = re.findall(r"there is memory for (\d) of this size together", result.stderr)
    assert set(passes) == {int(said), 5 % int(said)} - {0, 1}
    assert all(not each["tiles"] for each in map(record, (tmp_path / "out").glob("*.png")))


def test_memory_is_shared_out() -> None:
    settings = tasks()["denoise"].settings(max_memory="900M")
    assert memory.read_limit(settings) == 900 * 2**20
    before = memory.FITS_AT_ONCE.set(3)
    try:
        assert memory.read_limit(settings) == 300 * 2**20
    finally:
        memory.FITS_AT_ONCE.reset(before)


def test_what_is_measured_is_real_and_leaves_nothing_behind(tmp_path: Path) -> None:
    given = {"network": "skip:channels=8,8:skips=4,4", "input": "noise", "input_depth": 4, "device": "cpu"}
    job = Job(task=tasks()["denoise"], source=draw(tmp_path / "a.png"), given=given)
    one, two = (pace.measure_throughput(pace.prepare_job(job), count, seconds=0.2) for count in (1, 2))
    assert one.iterations > 0
    assert two.iterations > 0.5 * one.iterations
    assert one.memory == two.memory > 0
    cut = pace.measure_throughput(pace.prepare_job(job), 2, seconds=1000, asked=lambda: "the end")
    assert cut.iterations == 0
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


def test_a_half_done_picture_is_gone_on_with_in_company(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--log-every", 1, "--batch-size", 5)
    logs = [out / f"{number}.dip/log.csv" for number in range(5)]
    wait_for(lambda: all(log.exists() and len(log.read_text().splitlines()) > 3 for log in logs), process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.count("keeping the best pictures so far") == 1
    assert len(stdout.splitlines()) == 5
    assert "0 restored, 0 failed, 0 skipped, 5 cut short, 2 not begun" in stderr
    reached = {number: record(out / f"{number}.png")["iterations"] for number in range(5)}
    assert all(not record(out / f"{number}.png")["finished"] for number in range(5))
    assert max(reached.values()) - min(reached.values()) <= 1, "in lockstep"
    # Where it runs, and with whom, is no matter.
    places = ("--batch-size", 4, "--threads", 1, "--checkpoint-every", "9s")
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--log-every", 1, *places)
    grown = [len(log.read_text().splitlines()) + 5 for log in logs]

    def grew() -> bool:
        return all(len(log.read_text().splitlines()) > more for log, more in zip(logs[:4], grown, strict=False))

    wait_for(grew, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.count("resuming from") == 4
    for number, before in list(reached.items())[:4]:
        assert record(out / f"{number}.png")["iterations"] > before


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_a_second_signal_ends_at_once(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slow = "import dipcli.runs.run; dipcli.runs.run.Results.write_image = lambda *_: __import__('time').sleep(60)"
    process = start("denoise", folder, "-o", out, "--iters", 10**6, "--batch-size", 5, "--log-every", 1, patch=slow)
    log = out / "4.dip/log.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "once more" in line or "again" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not list(out.glob("*.png"))
    assert not [each for each in out.rglob("*") if each.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--batch-size", "0"], "--batch-size 0 is invalid"),
        (["--batch-size", "many"], "--batch-size many is invalid"),
        (["--batch-size", "-2"], "--batch-size -2 is invalid"),
        (["--batch-size", "2", "--time", "9s"], "time budget each"),
    ],
)
def test_what_makes_no_sense_is_said(dip: Dip, folder: Path, options: list[str], sentence: str) -> None:
    result = dip("denoise", folder, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert not list(folder.glob("*.dip"))


def test_one_picture_has_no_company(dip: Dip, folder: Path) -> None:
    result = dip("denoise", folder / "0.png", "--batch-size", "2")
    assert result.exit_code == 2
    assert "--batch-size is for several images" in result.stderr


def test_other_tasks_too(dip: Dip, tmp_path: Path, passes: list[int]) -> None:
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


def test_sizes_are_known_without_reading_the_picture(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.tif", "a.webp", "a.bmp"):
        assert read_size(draw(tmp_path / name)) == (24, 20)
    deep = tmp_path / "deep.tif"
    iio.imwrite(deep, np.zeros((20, 24, 3), np.uint16))
    assert read_size(deep) in ((24, 20), None)
    (tmp_path / "bad.png").write_text("no")
    assert read_size(tmp_path / "bad.png") is None
    assert read_size(tmp_path / "nowhere.png") is None


class Heard(Lines):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def watching(self, title: str, ahead: Expected) -> Any:
        self.said.append(f"begin {title}")
        return super().watching(title, ahead)

    def __call__(self, step: Any, _verdict: Any) -> None:
        self.said.append(f"step {step.number}")

    def note(self, text: str) -> None:
        self.said.append(text)


def test_one_display_shows_one_after_the_other() -> None:
    heard = Heard()
    turns = SharedDisplay(heard)
    first, second = turns.next(), turns.next()

    def step(number: int, event: str | None = None) -> Any:
        return SimpleNamespace(number=number, event=event)

    turns.coming = 1
    with second.watching("b", Expected()):
        with first.watching("a", Expected()):
            turns.coming = 0
            second(step(1), None)
            first(step(1), None)
            first(step(2, "the fit collapsed"), None)
            first.show_row(None)
        second.note("a word")
    with first.watching("a", Expected()):
        first(step(3), None)
    assert heard.said == [
        "begin b and 1 more",
        "step 1",
        "a: iteration 2: the fit collapsed",
        "a word",
        "begin a",
        "step 3",
    ]


def test_where_the_one_that_is_shown_ends_another_is() -> None:
    heard = Heard()
    turns = SharedDisplay(heard)
    first, second = turns.next(), turns.next()
    one, other = first.watching("a", Expected()), second.watching("b", Expected())
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    second(SimpleNamespace(number=5, event=None), None)
    other.__exit__(None, None, None)
    assert heard.said == ["begin a", "begin b", "step 5"]
