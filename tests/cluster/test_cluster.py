"""Many pictures at a time: nothing is lost, nothing is done twice, and the bits are those of a plain call."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from command_line import TINY, Dip
from runs.test_batches import draw, written

from dipcli.errors import DipError, UsageError
from dipcli.records import checkpoints
from dipcli.records import job_json as manifest
from dipcli.records.job import Job
from dipcli.settings.outputs import Outputs
from dipcli.settings.scheduler import Scheduler, parse_scheduler
from dipcli.tasks.registry import tasks

pytest.importorskip("distributed", reason="the extra dipcli[cluster] is not installed")

from dipcli.cluster import clusters as sites
from dipcli.cluster import messages as orders
from dipcli.cluster import sharing as ways
from dipcli.cluster.child_handle import Child
from dipcli.cluster.sharing import Way

PICTURES = int(os.environ.get("DIP_CLUSTER", "6"))  # 40 in docs/scale.md
WORKERS = 4 if PICTURES > 10 else 2
# A picture that ends whatever process reads it, and is sound for all others.
CRASHING = """
import os, signal, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("crash.png"):
        os.kill(os.getpid(), signal.SIGSEGV)

if "dipcli.cluster.child" in sys.orig_argv:
    sys.addaudithook(watch)
"""


def call(folder: Path, *arguments: object, iterations: int) -> subprocess.Popen[str]:
    """`dip denoise in ...` in this folder, in a session of its own, as from a terminal."""
    tiny = ["--network", TINY, "--input", "noise", "--input-depth", "4", "--threads", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "dipcli", "denoise", "in", *map(str, arguments), "--iters", str(iterations), *tiny],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))},
    )


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < deadline, "nothing happened for long"
        time.sleep(0.05)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Dask's: those that have children which restore pictures."""
    found = {each.parent() for each in family(process) if "dipcli.cluster.child" in each.cmdline()}
    return sorted(found, key=lambda each: each.pid)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """What is put here is killed in the end, whatever happens."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        each.kill()
        each.communicate()


def test_none_is_lost_none_done_twice_and_all_have_the_bits_of_a_plain_call(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]
) -> None:
    """Workers are killed during the call, and one picture always crashes its process."""
    for number in range(PICTURES - 1):
        draw(tmp_path / f"in/{number:02d}.png", number)
    draw(tmp_path / "in/crash.png")
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    restored = PICTURES - 1

    process = call(tmp_path, "-o", "out", "--scheduler", f"local:{WORKERS}", "--json", iterations=30)
    started.append(process)
    for done in (1, PICTURES // 3) if WORKERS > 2 else (1,):
        wait_until(lambda done=done: len(list(tmp_path.glob("out/*.png"))) >= done and workers(process))
        workers(process)[-1].kill()
    seen = family(process)
    stdout, stderr = process.communicate()
    assert process.returncode == 3, stderr
    assert stderr.endswith(f"{restored} restored, 1 failed, 0 skipped; failed: {PICTURES}/{PICTURES}\n")
    assert "in/crash.png: The process was killed by SIGSEGV, twice" in stderr
    told = [json.loads(line) for line in stdout.splitlines()]
    assert sorted(each["input"] for each in told) == sorted(
        f"in/{each.name}" for each in (tmp_path / "in").iterdir()
    ), "each is told of once"
    assert {each["worker"] for each in told if "error" not in each} <= {f"worker {n + 1}" for n in range(WORKERS)}
    wait_until(lambda: not living(seen))

    for lock in (tmp_path / "out").rglob(".*dip-lock"):
        lock.unlink()  # of those that were killed
    before = written(tmp_path / "out")
    (tmp_path / "in/crash.png").rename(tmp_path / "in/sound.png")
    monkeypatch.chdir(tmp_path)
    plain = ("denoise", "in", "--threads", 1)
    again = dip.quick(*plain, "-o", "out", "--scheduler", "local:2", iterations=30)
    assert again.exit_code == 0, again.stderr
    assert f"1 restored, 0 failed, {restored} skipped" in again.stderr
    assert before.items() <= written(tmp_path / "out").items(), "nothing is done again"

    assert dip.quick(*plain, "-o", "plain", "-q", iterations=30).exit_code == 0
    for each in (tmp_path / "plain").glob("*.png"):
        assert (tmp_path / "out" / each.name).read_bytes() == each.read_bytes(), each.name


def test_a_scheduler_is_killed_and_the_call_repeated(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    """Only what was not finished is done then, from where it stood; and without a scheduler there is a sentence."""
    for number in range(4):
        draw(tmp_path / f"in/{number}.png", number)
    for attempt in range(2):
        place = tmp_path / f"scheduler{attempt}.json"
        started.append(
            dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", place)
        )
        wait_until(place.exists)
        address = json.loads(place.read_text())["address"]
        started.append(dask("worker", address, "--nthreads", 1, "--no-dashboard"))
        scheduler, crew = started[-2:]
        process = call(tmp_path, "-o", "out", "--scheduler", address, "--checkpoint-every", "1s", iterations=100)
        started.append(process)
        if attempt == 0:
            wait_until(lambda: len(list(tmp_path.glob("out/*.png"))) >= 2)
            at_work = psutil.Process(crew.pid).children(recursive=True)
            scheduler.kill()
        _, stderr = process.communicate()
        if attempt == 0:
            assert process.returncode == 1
            assert stderr.splitlines()[-1].startswith(f"dip: The scheduler at {address} is gone: start it again"), (
                stderr
            )
            crew.terminate()
            crew.communicate()
            wait_until(lambda at_work=at_work: not living(at_work))
            before = {
                each: each.stat().st_mtime_ns
                for each in tmp_path.glob("out/*.png")
                if not each.with_name(f"{each.stem}.dip").joinpath("checkpoint.pt").exists()
            }
    assert process.returncode == 0, stderr
    assert before
    assert f"{4 - len(before)} restored, 0 failed, {len(before)} skipped" in stderr
    assert all(each.stat().st_mtime_ns == then for each, then in before.items())
    assert not list(tmp_path.rglob("checkpoint.pt"))


def dask(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{program}", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize(
    ("signals", "code", "crew", "kept"),
    [
        pytest.param([signal.SIGINT], 130, 2, True, id="Ctrl-C"),
        pytest.param([signal.SIGTERM, signal.SIGTERM], 143, 1, False, id="SIGTERM twice"),
        pytest.param([signal.SIGKILL], -9, 1, False, id="SIGKILL"),
    ],
)
def test_a_signal_ends_all_and_leaves_nobody_behind(
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    signals: list[signal.Signals],
    code: int,
    crew: int,
    kept: bool,
) -> None:
    for number in range(4):
        draw(tmp_path / f"in/{number}.png", number)
    process = call(tmp_path, "-o", "out", "--scheduler", f"local:{crew}", iterations=100_000)
    started.append(process)
    wait_until(lambda: len(list(tmp_path.glob("out/*.dip/log.csv"))) == crew)
    wait_until(lambda: all(len(each.read_text().splitlines()) > 2 for each in tmp_path.glob("out/*.dip/log.csv")))
    seen = family(process)
    listening = [each.laddr.ip for one in seen for each in one.net_connections() if each.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) == {"127.0.0.1"}
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.2)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    wait_until(lambda: not living(seen))
    done = len(list(tmp_path.glob("out/*.png")))
    assert done == crew if kept else done <= crew, "the second signal may come after the fit has heeded the first"
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == crew
    if kept:
        assert stderr.endswith("0 restored, 0 failed, 0 skipped, 2 cut short, 2 not begun\n")
        assert stderr.count("ended because it was interrupted by SIGINT. (worker ") == 2


@pytest.mark.parametrize(
    ("arguments", "sentence", "code"),
    [
        (["a.png"], "--scheduler is for several pictures: name a folder or more than one, or leave it out.", 2),
        (["a.png", "-o", "-"], "--scheduler is for several pictures", 2),
        (["-"], "--scheduler is for several pictures", 2),
        ([".", "--scheduler", "mars"], "--scheduler 'mars' is unknown: choose local, slurm, or the address", 2),
        ([".", "--scheduler", "local:0"], "--scheduler local:0 has no workers", 2),
        (
            [".", "--scheduler", "tcp://host"],
            "--scheduler tcp://host is not a complete address: use tcp://host:8786.",
            2,
        ),
        ([".", "--scheduler", "tcp://host:x"], "is not a complete address", 2),
        ([".", "--scheduler", "tcp://127.0.0.1:1"], "There is no Dask scheduler at tcp://127.0.0.1:1", 1),
        ([".", "--scheduler", "slurm"], "there is no sbatch here", 1),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str, code: int
) -> None:
    monkeypatch.setattr("dipcli.cluster.clusters.ANSWER", "1s")
    monkeypatch.setattr("dipcli.cluster.clusters.shutil.which", lambda _: None)
    picture = draw(tmp_path / "a.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    chosen = [] if "--scheduler" in arguments else ["--scheduler", "local"]
    result = dip("denoise", *arguments, *chosen, stdin=picture)
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("dip: ")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("text", ["local", "slurm:3", "tcp://host:8786"])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("dipcli.settings.scheduler.find_spec", lambda _: None)
    with pytest.raises(DipError, match=r"needs distributed: install dip as dipcli\[cluster\]"):
        parse_scheduler(text)


def test_an_engine_is_named() -> None:
    assert parse_scheduler("local") == Scheduler("local")
    assert parse_scheduler("local:12") == Scheduler("local", count=12)
    assert parse_scheduler("tls://host:1/") == Scheduler("address", "tls://host:1")
    with pytest.raises(UsageError):
        parse_scheduler("local:")


def job(place: Path, **more: object) -> Job:
    return Job(task=tasks()["denoise"], source=place / "a.png", argv=("dip", "denoise"), **more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"folder": Path("out/sub"), "stem": "a.png", "title": "3/4 a.png", "reference": Path("true.png")},
        {"preset": "fast", "given": {"iterations": 3, "stop": "emv:patience=5"}, "output": Path("with \udcff.png")},
        {"arguments": {"simulate_noise": 25.0}, "record": Outputs(snapshot_at="1,2", overwrite=True)},
    ],
)
def test_a_job_travels_as_plain_json(tmp_path: Path, more: dict[str, object]) -> None:
    before = job(tmp_path, **more)
    travelling = json.dumps(orders.order(before, "restore")["job"])
    assert manifest.from_json(checkpoints.restored(json.loads(travelling))) == before


@pytest.mark.parametrize("change", [{"task": 3}, {"source": "a"}, {"given": {"evil": 1}}, {"record": None}])
def test_what_is_no_job_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        manifest.from_json(manifest.to_json(job(tmp_path)) | change)


def test_a_child_answers_in_sentences(tmp_path: Path) -> None:
    """Of another version, in a folder it cannot see, about a picture that is not there; and it goes on."""
    order = orders.order(job(tmp_path), "restore", threads=1, memory=None)
    child = Child()
    assert child.answer() == {"ready": True}
    for change, said in (
        ({"version": "0"}, "on this worker, 0 where it was called: install the same"),
        ({"cwd": str(tmp_path / "elsewhere")}, "This worker cannot see the folder"),
        ({}, "a.png"),
    ):
        child.ask(order | change)
        answer = child.answer()
        assert answer
        assert said in answer["error"]
    child.close()
    assert child.process.returncode == 1


def test_a_child_ends_with_who_started_it_in_the_middle_of_a_fit(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    child = Child()
    endless = {"iterations": 100_000, "network": TINY, "input": "noise", "input_depth": 4}
    child.ask(orders.order(job(tmp_path, given=endless), "restore", threads=1, memory=None))
    wait_until((tmp_path / "a.denoised.dip/log.csv").exists)
    child.orders.close()
    assert child.process.wait(20) == 1
    child.close()
    assert not (tmp_path / "a.denoised.png").exists()


def test_the_best_way_is_measured_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "SECONDS", 0.1)
    monkeypatch.setattr(ways, "cores", lambda: 2)
    draw(tmp_path / "a.png")
    tiny = {"iterations": 3, "network": TINY, "input": "noise", "input_depth": 4}
    said: list[str] = []
    one = job(tmp_path, given=tiny)
    way = ways.measured(one, ways.divided(9), 9, said.append)
    assert way in (Way(1, 2), Way(2, 1))
    assert re.fullmatch(
        rf"Iterations a second on .*a\.png, by fits at once: 1 with 2 threads each \d+\.\d, 2 with 1 thread each "
        rf"\d+\.\d\. So {way.fits} at once\.",
        said[0],
    )
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"], "nothing is written"
    assert ways.divided(1) == [Way(1, 2)], "of one picture there is nothing to share out"
    assert ways.measured(one, [Way(1, 2)], 1, said.append, wanted=None) == Way(1, 2)
    assert len(said) == 1

    monkeypatch.setattr(ways, "MORE", 0.01)  # then more together are always better
    way = ways.measured(one, ways.divided(8), 8, said.append, wanted=None)
    told = re.findall(r"(\d) with (\d) threads? each(?: and (\d) together)? \d+\.\d", said[-1])
    assert told[:4] == [("1", "2", ""), ("1", "2", "2"), ("1", "2", "4"), ("1", "2", "8")]
    assert told[4:] in ([], [("2", "1", ""), ("2", "1", "2"), ("2", "1", "4")])
    assert said[-1].endswith(
        f"So {way.fits} at once{f', {way.together} together in each' if way.together > 1 else ''}."
    )
    asked = ways.measured(one, ways.divided(8), 8, said.append, wanted=3)
    assert asked in (Way(1, 2, 3), Way(2, 1, 3))
    monkeypatch.setattr(ways, "free", lambda: 700 * 2**20)
    assert 1 <= ways.measured(one, [Way(1, 2)], 99, said.append, wanted=90).together < 90, "as memory allows"


@pytest.mark.parametrize(
    ("text", "given", "gpus", "pictures", "way", "pins"),
    [
        ("local", {}, ["0", "1"], 9, Way(2, 4), ["0", "1"]),
        ("local", {}, ["5", "7"], 1, Way(1, 8), ["5"]),
        ("local:3", {"threads": 2}, ["5", "7"], 9, Way(3, 2), ["5", "7", "5"]),
        ("local", {"device": "cuda:1"}, ["0", "1"], 9, Way(1, 8), []),
        ("local", {"threads": 3}, [], 9, Way(2, 3), []),
        ("local:4", {"device": "cpu"}, ["0"], 9, Way(4, 2), []),
        ("local:4", {}, [], 3, Way(3, 2), []),
    ],
)
def test_one_worker_a_gpu_and_on_a_cpu_as_many_as_were_asked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    given: dict[str, object],
    gpus: list[str],
    pictures: int,
    way: Way,
    pins: list[str],
) -> None:
    monkeypatch.setattr(ways, "cores", lambda: 8)
    monkeypatch.setattr(sites, "_gpus", lambda: gpus)
    monkeypatch.setattr(ways, "_tried", lambda *_: None)  # no GPU is there to try it
    assert sites.shared_out(parse_scheduler(text), job(tmp_path, given=given), pictures, None, print) == (way, pins)


def test_the_gpus_are_those_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert sites._gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    assert sites._gpus() == ["3", "GPU-8a"]


def test_what_crashes_in_company_costs_the_others_nothing(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]
) -> None:
    """All are in one process, and one of them always ends it."""
    for number in range(4):
        draw(tmp_path / f"in/{number}.png", number)
    draw(tmp_path / "in/crash.png")
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    process = call(tmp_path, "-o", "out", "--scheduler", "local:1", "--batch-size", "5", "--json", iterations=30)
    started.append(process)
    stdout, stderr = process.communicate()
    assert process.returncode == 3, stderr
    assert "4 restored, 1 failed, 0 skipped" in stderr
    assert "in/crash.png: The process was killed by SIGSEGV, twice" in stderr
    told = [json.loads(line) for line in stdout.splitlines()]
    assert len(told) == 5
    assert {each["batch_size"] for each in told if "error" not in each} == {5}
    assert not list((tmp_path / "out").glob(".*"))
    monkeypatch.chdir(tmp_path)
    again = dip.quick("denoise", "in", "--threads", 1, "-o", "out", iterations=30)
    assert "1 restored, 0 failed, 4 skipped" in again.stderr


def test_a_worker_is_lost_with_all_that_it_has_together(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    for number in range(6):
        draw(tmp_path / f"in/{number}.png", number)
    many = {"iterations": 400}
    process = call(tmp_path, "-o", "out", "--scheduler", "local:2", "--batch-size", "3", **many)
    started.append(process)
    wait_until(lambda: len(list(tmp_path.glob("out/*.dip/log.csv"))) == 6)
    assert len(workers(process)) == 2
    children = [each for each in family(process) if "dipcli.cluster.child" in each.cmdline()]
    assert len(children) == 2, "three pictures in each"
    workers(process)[0].kill()
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "6 restored, 0 failed, 0 skipped" in stderr


def test_a_child_takes_orders_while_others_are_carried_out(tmp_path: Path) -> None:
    for number in range(3):
        draw(tmp_path / f"{number}.png", number)
    child = Child()
    endless = {"iterations": 100_000, "network": TINY, "input": "noise", "input_depth": 4}
    jobs = [replace(job(tmp_path, given=endless), source=tmp_path / f"{number}.png") for number in range(3)]
    for ticket, each in enumerate(jobs, start=1):
        child.ask(orders.order(each, "restore", threads=1, memory=None, sharing=3), ticket)
    wait_until(lambda: len(list(tmp_path.glob("*.dip/log.csv"))) == 3)
    child.send(signal.SIGTERM)
    for ticket in range(1, 4):
        answer = child.answer(20, ticket)
        assert answer
        assert answer["ended_by"] == signal.SIGTERM
        assert answer["account"]["batch_size"] == 3
    # Once they are over it is as good as new.
    quick = replace(jobs[0], given=endless | {"iterations": 2}, output=tmp_path / "quick.png")
    child.ask(orders.order(quick, "restore", threads=1, memory=None), 4)
    answer = child.answer(20, 4)
    assert answer
    assert answer["account"]["finished"] is True
    child.close()
    assert child.answer(1, 5) is None, "who is gone says so"


def test_auto_is_for_this_machine(dip: Dip, tmp_path: Path) -> None:
    draw(tmp_path / "in/a.png")
    draw(tmp_path / "in/b.png")
    result = dip("denoise", tmp_path / "in", "--scheduler", "tcp://127.0.0.1:1", "--batch-size", "auto")
    assert result.exit_code == 2
    assert "--batch-size auto tries this machine" in result.stderr
