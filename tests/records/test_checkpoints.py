"""Runs that are cut short, and go on from their checkpoint as if nothing had happened."""

from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from forks import Fork
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli import files
from dipcli.errors import DipError
from dipcli.fitting import estimate as outlook
from dipcli.fitting.control import Control
from dipcli.fitting.engine import fit
from dipcli.fitting.results import Fit
from dipcli.fitting.state import Checkpoint, RunsState
from dipcli.networks import build
from dipcli.problem import Problem
from dipcli.records import checkpoints
from dipcli.records.checkpoints import Checkpoints
from dipcli.settings import Settings
from dipcli.stopping.step import Step

slow = pytest.mark.slow
KILLS = int(os.environ.get("DIP_KILLS", "3"))  # how often a process is killed; 20 by night
SHAPE = (3, 16, 16)
SMALL = Settings(network=TINY, input_depth=4, iterations=60, rate=0.02, stop="none")


def denoising() -> Problem:
    generator = torch.Generator().manual_seed(1)
    return Problem(measured=torch.rand(SHAPE, generator=generator), shape=SHAPE)


def same(one: Fit, other: Fit) -> bool:
    """But for the time it took."""
    return torch.equal(one.image, other.image) and all(
        getattr(one, name) == getattr(other, name) for name in ("kept", "decay", "steps", "reason", "events")
    )


def through_a_file(checkpoint: Checkpoint, settings: Settings, path: Path) -> Checkpoint:
    """As it comes back from disk."""
    writer = Checkpoints(path, {}, 0.0, lambda: True)
    writer(lambda: RunsState((), (), checkpoint), last=False)
    state, _ = settings.rule().start(denoising())
    back: RunsState = checkpoints.to_device(checkpoints.load(path).progress, torch.device("cpu"), state)
    return back.current


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        pytest.param({"precision": "bf16"}, marks=slow),
        pytest.param({"ema": 0.9, "tv": 0.1}, marks=slow),
        {"optimize": "net,input"},
        pytest.param({"reg_noise": 0.0}, marks=slow),
        pytest.param({"optimizer": "lbfgs", "iterations": 130}, marks=slow),
        pytest.param({"stop": "holdout"}, marks=slow),
        pytest.param({"stop": "emv:guard=5"}, marks=slow),
        {"stop": "wmv:window=20:guard=5"},
        pytest.param({"stop": "sigma:level=60"}, marks=slow),
        pytest.param({"stop": "auto", "iterations": None, "max_iterations": 200}, marks=slow),
        {"warmup": 5, "input_depth": 2},
        {"network": "pixels", "rate": 0.1},
        {"mosaic": 2},
        {"rate": 3.0, "stop": "holdout"},
    ],
    ids=lambda changed: "-".join(f"{key}={value}" for key, value in changed.items()) or "plain",
)
def test_a_fit_goes_on_bit_for_bit(changed: dict[str, Any], tmp_path: Path) -> None:
    settings = replace(SMALL, **changed)
    taken: list[Checkpoint] = []

    def hold(take: Callable[[], Checkpoint], last: bool) -> None:
        if not last:
            taken.append(through_a_file(take(), settings, tmp_path / "c.pt"))

    whole = fit(denoising(), build(settings, SHAPE), settings, control=Control(checkpoint=hold))
    assert len(taken) >= 3
    for checkpoint in (taken[0], taken[len(taken) // 2], taken[-1]):
        seen: list[int] = []

        def watch(step: Step, _: object, seen: list[int] = seen) -> None:
            seen.append(step.number)

        again = fit(
            denoising(), build(settings, SHAPE), settings, observers=[watch], control=Control(resume_from=checkpoint)
        )
        assert same(whole, again)
        assert seen[0] == checkpoint.guard.newest.reached.number + 1
        assert again.seconds > checkpoint.seconds


def test_a_checkpoint_of_another_fit_is_refused() -> None:
    taken: list[Checkpoint] = []
    fit(denoising(), build(SMALL, SHAPE), SMALL, control=Control(checkpoint=lambda take, _: taken.append(take())))
    larger = (3, 32, 16)
    wide = replace(SMALL, network="skip:channels=8,12:skips=4,4")
    for settings, shape in ((SMALL, larger), (wide, SHAPE)):
        problem = Problem(measured=torch.rand(shape), shape=shape)
        with pytest.raises(DipError, match="start the run again"):
            fit(problem, build(settings, shape), settings, control=Control(resume_from=taken[0]))


class Cut(BaseException):
    """The power is gone."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From now on the process is gone right after its so-manyth checkpoint, the one before the fit not counted."""

    def after(count: int) -> None:
        write, written = Checkpoints._write, []

        def counted(self: Checkpoints, progress: Any) -> None:
            write(self, progress)
            written.append(1)
            if len(written) == count + 1:
                raise Cut

        monkeypatch.setattr(Checkpoints, "_write", counted)

    return after


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


@pytest.mark.parametrize("count", [pytest.param(0, marks=slow), 1, pytest.param(3, marks=slow)])
@pytest.mark.parametrize(
    "arguments",
    [
        ("denoise", "--snapshot-every", 20),
        ("denoise", "--stop", "holdout", "--fusion", "auto"),
        ("denoise", "--runs", 2, "--uncertainty", "{}.doubt.png", "--reference", "truth.png"),
        ("superres", "--scale", 2),
        ("impedance", "--runs", 1, "--size", 32),
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_what_was_cut_short_goes_on(
    dip: Dip,
    noisy_png: Path,
    clean_png: Path,
    cut: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[Any, ...],
    count: int,
) -> None:
    folder = noisy_png.parent
    monkeypatch.chdir(folder)
    assert clean_png.exists()

    def call(name: str) -> tuple[Any, ...]:
        task, *others = (each.format(name) if isinstance(each, str) else each for each in arguments)
        return (task, "noisy.png", "-o", f"{name}.png", *others, "--checkpoint-every", "0.000001s")

    whole = dip.quick(*call("whole"), iterations=35)
    assert whole.exit_code == 0, whole.output
    with monkeypatch.context() as _:
        cut(count)
        with pytest.raises(Cut):
            dip.quick(*call("parts"), iterations=35)
    monkeypatch.undo()
    assert not (folder / "parts.png").exists()
    assert (folder / "parts.dip/checkpoint.pt").exists()
    result = dip("resume", folder / "parts.dip")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{folder / 'parts.png'}\n"
    for one in folder.glob("whole*.*"):
        other = folder / one.name.replace("whole", "parts")
        assert one.is_dir() or one.read_bytes() == other.read_bytes(), one.name
    for one in (folder / "whole.dip").rglob("*"):
        other = folder / "parts.dip" / one.relative_to(folder / "whole.dip")
        assert other.exists(), other
        assert one.is_dir() or one.suffix in (".json", ".csv") or one.read_bytes() == other.read_bytes(), one.name
    assert rows(folder / "whole.dip/log.csv") == rows(folder / "parts.dip/log.csv")
    assert not list(folder.rglob("*.pt"))
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(0, marks=slow), 1, *(pytest.param(n, marks=slow) for n in (2, 3, 4))])
def test_an_image_in_tiles_goes_on_where_it_was(
    dip: Dip, tmp_path: Path, cut: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(140, 230)))

    def call(name: str) -> tuple[Any, ...]:
        doubt = tmp_path / f"{name}.doubt.tif"
        every = ("--checkpoint-every", "0.000001s", "--uncertainty", doubt, "--warmup", 5)
        return ("denoise", tmp_path / "noisy.png", "-o", tmp_path / f"{name}.png", "--tile", 140, *every)

    assert dip.quick(*call("whole"), iterations=25).exit_code == 0
    with monkeypatch.context():
        cut(count)
        with pytest.raises(Cut):
            dip.quick(*call("parts"), iterations=25)
    monkeypatch.undo()
    if count:  # memory may look otherwise by now: what was started in these tiles goes on in them
        monkeypatch.setattr(outlook, "_choose_tiles", lambda *_: ())
    result = dip("resume", tmp_path / "parts.dip")
    assert result.exit_code == 0, result.output
    for suffix in (".png", ".doubt.tif"):
        assert (tmp_path / f"whole{suffix}").read_bytes() == (tmp_path / f"parts{suffix}").read_bytes()
    assert rows(tmp_path / "whole.dip/log.csv") == rows(tmp_path / "parts.dip/log.csv")
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole.dip", "parts.dip")]
    assert len(records[0]["tiles"]) == 2
    for name in ("tiles", "iterations", "kept", "reason"):
        assert records[0][name] == records[1][name], name


@pytest.mark.slow
def test_a_folder_goes_on_with_what_was_cut_short(
    dip: Dip, tmp_path: Path, cut: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("abc"):
        files.make_folder(tmp_path / "in")
        iio.imwrite(tmp_path / f"in/{name}.png", noisy(scene(37, 53), seed=number))

    def call(to: str, *more: object) -> tuple[Any, ...]:
        return ("denoise", tmp_path / "in", "-o", tmp_path / to, "--checkpoint-every", "0.000001s", *more)

    assert dip.quick(*call("whole"), iterations=35).exit_code == 0
    for again in (5, 1):  # in the second image, and once more in it
        with monkeypatch.context():
            cut(again)
            with pytest.raises(Cut):
                dip.quick(*call("parts"), iterations=35)
        monkeypatch.undo()
    result = dip.quick(*call("parts"), iterations=35)
    assert result.exit_code == 0
    assert result.stderr.count("already restored") == 1
    assert result.stderr.count("resuming from") == 1
    for name in "abc":
        assert (tmp_path / f"whole/{name}.png").read_bytes() == (tmp_path / f"parts/{name}.png").read_bytes()
        assert rows(tmp_path / f"whole/{name}.dip/log.csv") == rows(tmp_path / f"parts/{name}.dip/log.csv")
    with monkeypatch.context():
        cut(2)
        with pytest.raises(Cut):
            dip.quick(*call("parts", "--overwrite"), iterations=35)
    monkeypatch.undo()
    other = dip.quick(*call("parts"), iterations=36)
    assert "resuming" not in other.stderr, "other options start a new run"
    assert json.loads((tmp_path / "parts/a.dip/run.json").read_text())["iterations"] == 36


TINY_FIT = ("--network", TINY, "--input-depth", 4, "--input", "noise", "--threads", 1, "--fusion", "none")


def run(*arguments: object, cwd: Path) -> None:
    _, said = (running := Fork(*arguments, folder=cwd)).communicate()
    assert running.returncode == 0, said


@slow
def test_killed_at_random_moments_and_resumed_each_time_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(48, 64)))
    options = (*TINY_FIT, "--iters", 60 * KILLS)
    run("denoise", "noisy.png", "-o", "whole.png", *options, cwd=tmp_path)
    parts, chance = tmp_path / "parts.dip", np.random.default_rng(0)
    killed = 0
    while True:
        resumable = (parts / "checkpoint.pt").exists()
        begin = ("resume", parts) if resumable else ("denoise", "noisy.png", "-o", "parts.png", *options)
        more = () if resumable else ("--checkpoint-every", "0.05s")
        running = Fork(*begin, *more, folder=tmp_path)
        if killed < KILLS:
            time.sleep(chance.uniform(0.2, 1.6))
            if running.poll() is None:
                running.send_signal(signal.SIGKILL)
                killed += 1
        _, said = running.communicate()
        for file in (*tmp_path.glob("*.png"), *parts.glob("*.png")):
            iio.imread(file)  # whole, if it is there
        if running.returncode == 0:
            break
        assert running.returncode == -signal.SIGKILL, said
    assert killed
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "parts.png").read_bytes()
    assert rows(tmp_path / "whole.dip/log.csv") == rows(parts / "log.csv")
    assert json.loads((parts / "run.json").read_text())["iterations"] == 60 * KILLS
    assert not list(tmp_path.rglob("*.tmp"))


@slow
def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(48, 64)))
    options = (*TINY_FIT, "--iters", 150)
    run("denoise", "noisy.png", "-o", "whole.png", *options, cwd=tmp_path)
    running = Fork("denoise", "noisy.png", "-o", "some parts.png", *options, folder=tmp_path)
    while not (tmp_path / "some parts.dip/log.csv").exists():
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate()
    assert running.returncode == 130
    assert "dip resume 'some parts.dip'" in said
    assert iio.imread(tmp_path / "some parts.png").shape == (48, 64, 3)
    run("resume", "some parts.dip", cwd=tmp_path)
    assert (tmp_path / "whole.png").read_bytes() == (tmp_path / "some parts.png").read_bytes()


@pytest.fixture
def half_done(dip: Dip, noisy_png: Path, cut: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was cut short."""
    with monkeypatch.context():
        cut(1)
        with pytest.raises(Cut):
            dip.quick("denoise", noisy_png, "--checkpoint-every", "0.000001s", iterations=30)
    monkeypatch.undo()
    return noisy_png.with_name("noisy.denoised.dip")


def test_a_changed_input_is_refused(dip: Dip, half_done: Path, noisy_png: Path) -> None:
    iio.imwrite(noisy_png, scene(37, 53))
    result = dip("resume", half_done)
    assert result.exit_code == 1
    assert f"{noisy_png} has changed" in result.stderr
    assert "start again with" in result.stderr
    noisy_png.unlink()
    result = dip("resume", half_done)
    assert result.exit_code == 1
    assert "There is no file" in result.stderr


def load_raw(path: Path) -> Any:
    """The content of a checkpoint, unchecked."""
    return torch.load(path, weights_only=False)


def children(value: Any) -> dict[str, Any]:
    """The fields of a dict or a dataclass; a change of one changes the value."""
    return value if isinstance(value, dict) else vars(value) if is_dataclass(value) else {}


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("place", ["everything", "header", "progress", "seen"])
def test_a_malicious_checkpoint_runs_nothing(
    dip: Dip, half_done: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(half_done)
    path = half_done / "checkpoint.pt"
    content = load_raw(path)
    torch.save(Evil() if place == "everything" else content | {place: Evil()}, path)
    result = dip("resume", half_done)
    assert result.exit_code == 1
    assert "not a checkpoint of dip" in result.stderr
    path.write_bytes(pickle.dumps(Evil()))
    assert dip("resume", half_done).exit_code == 1
    assert not (half_done / "harmed").exists()


def test_only_known_classes_are_loaded(tmp_path: Path) -> None:
    for unknown in (Step, subprocess.Popen, np.zeros(3), print):
        torch.save({"layout": checkpoints.LAYOUT, "header": {}, "progress": None, "seen": [unknown]}, tmp_path / "c.pt")
        with pytest.raises(DipError, match="not a checkpoint"):
            checkpoints.load(tmp_path / "c.pt")


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Ways to spoil a file."""
    where, how = draw(st.floats(0, 0.9999)), draw(st.sampled_from(["cut", "flip", "zero", "more"]))

    def spoil(data: bytes) -> bytes:
        place = int(where * len(data))
        return {
            "cut": data[:place],
            "flip": data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :],
            "zero": data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :],
            "more": data + data[:place],
        }[how]

    return spoil


@pytest.mark.slow
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(spoil=changes())
def test_a_damaged_checkpoint_is_answered_with_a_sentence(
    dip: Dip, half_done: Path, tmp_path_factory: pytest.TempPathFactory, spoil: Callable[[bytes], bytes]
) -> None:
    folder = tmp_path_factory.mktemp("spoilt") / "x.dip"
    shutil.copytree(half_done, folder)
    path = folder / "checkpoint.pt"
    path.write_bytes(spoil(path.read_bytes()))
    result = dip("resume", folder)
    assert result.exit_code in (0, 1), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda content: content | {"layout": 0}, "not written by this version"),
        (lambda content: [content], "not written by this version"),
        (lambda content: content | {"header": {}}, "cannot be read by this version"),
        (lambda content: content | {"progress": [1]}, "no progress"),
        (lambda content: content | {"seen": [1]}, "does not belong to a run with these options"),
    ],
)
def test_a_checkpoint_of_something_else_is_reported(
    dip: Dip, half_done: Path, change: Callable[[Any], Any], sentence: str
) -> None:
    path = half_done / "checkpoint.pt"
    torch.save(change(load_raw(path)), path)
    result = dip("resume", half_done)
    assert result.exit_code == 1
    assert sentence in result.stderr


@pytest.mark.slow
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(chance=st.randoms(use_true_random=False), nonsense=st.sampled_from([None, 7, "x", [], {}, torch.zeros(2), (1,)]))
def test_a_checkpoint_of_nonsense_is_reported(dip: Dip, half_done: Path, chance: Any, nonsense: Any) -> None:
    path = half_done / "checkpoint.pt"
    whole = path.read_bytes()
    content = load_raw(path)
    here, key = content, chance.choice(["header", "progress", "seen"])
    while (inner := children(here[key])) and chance.random() < 0.9:
        here, key = inner, chance.choice(list(inner))
    here[key] = nonsense
    torch.save(content, path)
    result = dip("resume", half_done)
    path.write_bytes(whole)
    assert result.exit_code in (0, 1, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), (key, result.exc_info)


def test_there_is_nothing_to_go_on_with(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    result = dip("resume", tmp_path)
    assert result.exit_code == 1
    assert "There is no checkpoint" in result.stderr
    assert dip.quick("denoise", noisy_png).exit_code == 0
    result = dip("resume", noisy_png.with_name("noisy.denoised.dip"))
    assert result.exit_code == 0
    assert result.stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    assert "is finished already" in result.stderr


def test_a_checkpoint_is_left_where_it_is_wanted(dip: Dip, noisy_png: Path) -> None:
    assert dip.quick("denoise", noisy_png, "--keep-checkpoint").exit_code == 0
    assert (noisy_png.with_name("noisy.denoised.dip") / "checkpoint.pt").exists()
    assert dip.quick("denoise", noisy_png).exit_code == 0
    assert not (noisy_png.with_name("noisy.denoised.dip") / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--checkpoint-every", "soon"),
        ("--no-run-dir", "--keep-checkpoint"),
        ("--no-run-dir", "--checkpoint-every", "9s"),
    ],
)
def test_options_that_make_no_sense(dip: Dip, noisy_png: Path, arguments: tuple[str, ...]) -> None:
    result = dip.quick("denoise", noisy_png, *arguments)
    assert result.exit_code == 2
    assert "checkpoint" in result.stderr


def test_a_checkpoint_that_cannot_be_written_costs_no_image(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = files.open_atomically
    written: list[Path] = []

    def full(path: Path) -> Any:
        written.append(path)
        if path.name == "checkpoint.pt" and written.count(path) > 1:
            raise DipError("Cannot write: no space. Make room.")
        return opened(path)

    monkeypatch.setattr(files, "open_atomically", full)
    result = dip.quick("denoise", noisy_png, "--checkpoint-every", "0.000001s", iterations=40)
    assert result.exit_code == 0
    assert result.stderr.count("no space") == 1
    assert noisy_png.with_name("noisy.denoised.png").exists()
