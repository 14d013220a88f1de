"""Many images at a time: none is lost, none is restored twice, and the bits are those of a plain call."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_line import TINY, Dip
from runs.test_batches import draw, read_files

from dipcli.errors import DipError, UsageError
from dipcli.records.job import Job
from dipcli.settings.outputs import Outputs
from dipcli.settings.scheduler import Scheduler, parse_scheduler
from dipcli.tasks.registry import tasks

pytest.importorskip("distributed", reason="the extra dipcli[cluster] is not installed")

import distributed

import dipcli
from dipcli.cluster import clusters, worker
from dipcli.cluster.clusters import Division, divide_machine
from dipcli.cluster.dispatch import restore_by
from dipcli.fitting.machine import memory
from dipcli.runs.batches.batch import Batch, Outcome, lay_out, restore_all
from dipcli.runs.display import Silent

IMAGES = int(os.environ.get("DIP_CLUSTER", "6"))  # 40 in docs/scale.md
WORKERS = 4 if IMAGES > 10 else 2
# A worker process that opens crash.png kills itself. Other processes can read the image.
CRASHING = """
import os, signal, sys

def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith("crash.png"):
        os.kill(os.getpid(), signal.SIGSEGV)

if "--multiprocessing-fork" in sys.orig_argv:
    sys.addaudithook(watch)
"""


def call(folder: Path, *arguments: object, iterations: int) -> subprocess.Popen[str]:
    """Start `dip denoise in ...` in this folder, in a session of its own, as from a terminal."""
    tiny = ["--network", TINY, "--input", "noise", "--input-depth", "4", "--threads", "1"]
    tiny += ["--fusion", "none", "--no-report"]
    return subprocess.Popen(
        [sys.executable, "-m", "dipcli", "denoise", "in", *map(str, arguments), "--iters", str(iterations), *tiny],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))},
    )


def dask(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{program}", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def wait_until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not ready():
        assert time.monotonic() < deadline, "nothing happened for 100 s"
        time.sleep(0.05)


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def worker_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = [child for child in descendants(process) if "--multiprocessing-fork" in child.cmdline()]
    return sorted(found, key=lambda child: child.pid)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are put here are killed at the end, whatever happens."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_none_is_lost_none_is_restored_twice_and_all_have_the_bits_of_a_plain_call(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]
) -> None:
    """Workers are killed during the call, and one image always crashes its process."""
    for number in range(IMAGES - 1):
        draw(tmp_path / f"in/{number:02d}.png", number)
    draw(tmp_path / "in/crash.png")
    (tmp_path / "sitecustomize.py").write_text(CRASHING)
    restored = IMAGES - 1

    process = call(tmp_path, "-o", "out", "--scheduler", f"local:{WORKERS}", "--json", iterations=30)
    started.append(process)
    for done in (1, IMAGES // 3) if WORKERS > 2 else (1,):
        wait_until(lambda done=done: len(list(tmp_path.glob("out/*.png"))) >= done and worker_processes(process))
        worker_processes(process)[-1].kill()
    seen = descendants(process)
    stdout, stderr = process.communicate()
    assert process.returncode == 3, stderr
    assert stderr.endswith(f"{restored} restored, 1 failed, 0 skipped; failed: {IMAGES}/{IMAGES}\n")
    assert "in/crash.png: 2 worker processes died while restoring it" in stderr
    printed = [json.loads(line) for line in stdout.splitlines()]
    assert sorted(record["input"] for record in printed) == sorted(
        f"in/{path.name}" for path in (tmp_path / "in").iterdir()
    ), "each image is reported once"
    names = {f"worker {number + 1}" for number in range(WORKERS)}
    assert {record["worker"] for record in printed if "error" not in record} <= names
    wait_until(lambda: not living(seen))

    for lock in (tmp_path / "out").rglob(".*dip-lock"):
        lock.unlink()  # of processes that were killed
    before = read_files(tmp_path / "out")
    (tmp_path / "in/crash.png").rename(tmp_path / "in/sound.png")
    monkeypatch.chdir(tmp_path)
    plain = ("denoise", "in", "--threads", 1)
    again = dip.quick(*plain, "-o", "out", "--scheduler", "local:1", iterations=30)
    assert again.exit_code == 0, again.stderr
    assert f"1 restored, 0 failed, {restored} skipped" in again.stderr
    assert before.items() <= read_files(tmp_path / "out").items(), "finished images are not restored again"

    assert dip.quick(*plain, "-o", "plain", "-q", iterations=30).exit_code == 0
    for path in (tmp_path / "plain").glob("*.png"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_after_the_scheduler_is_killed_the_same_call_does_the_rest(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
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
        scheduler, nanny = started[-2:]
        process = call(tmp_path, "-o", "out", "--scheduler", address, "--checkpoint-every", "1s", iterations=100)
        started.append(process)
        if attempt == 0:
            wait_until(lambda: len(list(tmp_path.glob("out/*.png"))) >= 2)
            at_work = psutil.Process(nanny.pid).children(recursive=True)
            scheduler.kill()
        _, stderr = process.communicate()
        if attempt == 0:
            assert process.returncode == 1
            assert stderr.splitlines()[-1].startswith(f"dip: The scheduler at {address} is gone: start it again")
            nanny.terminate()
            nanny.communicate()
            wait_until(lambda at_work=at_work: not living(at_work))
            before = {
                path: path.stat().st_mtime_ns
                for path in tmp_path.glob("out/*.png")
                if not path.with_name(f"{path.stem}.dip").joinpath("checkpoint.pt").exists()
            }
    assert process.returncode == 0, stderr
    assert before
    assert f"{4 - len(before)} restored, 0 failed, {len(before)} skipped" in stderr
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    assert not list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "code", "fits", "kept"),
    [
        pytest.param([signal.SIGINT], 130, 2, True, id="Ctrl-C"),
        pytest.param([signal.SIGTERM, signal.SIGTERM], -signal.SIGTERM, 1, False, id="SIGTERM twice"),
        pytest.param([signal.SIGKILL], -9, 1, False, id="SIGKILL"),
    ],
)
def test_a_signal_ends_the_call_and_leaves_no_process(
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    signals: list[signal.Signals],
    code: int,
    fits: int,
    kept: bool,
) -> None:
    for number in range(4):
        draw(tmp_path / f"in/{number}.png", number)
    process = call(tmp_path, "-o", "out", "--scheduler", f"local:{fits}", iterations=100_000)
    started.append(process)
    wait_until(lambda: len(list(tmp_path.glob("out/*.dip/log.csv"))) == fits)
    wait_until(lambda: all(len(log.read_text().splitlines()) > 2 for log in tmp_path.glob("out/*.dip/log.csv")))
    seen = descendants(process)
    connections = [each for one in (*seen, psutil.Process(process.pid)) for each in one.net_connections()]
    listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    for number in signals:
        os.killpg(process.pid, number)
        time.sleep(0.2)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    wait_until(lambda: not living(seen))
    done = len(list(tmp_path.glob("out/*.png")))
    assert done == fits if kept else done <= fits, "the second signal may come after the fit has ended by the first"
    assert len(list(tmp_path.rglob("checkpoint.pt"))) == fits
    if kept:
        assert stderr.endswith("0 restored, 0 failed, 0 skipped, 2 cut short, 2 not started\n")
        assert stderr.count("interrupted by SIGINT. (worker ") == 2


@pytest.mark.slow
def test_a_crash_costs_none_of_the_images_in_the_same_pass(
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
    assert "in/crash.png: 2 worker processes died while restoring it" in stderr
    assert len(stdout.splitlines()) == 5
    assert not list((tmp_path / "out").glob(".*"))
    monkeypatch.chdir(tmp_path)
    again = dip.quick("denoise", "in", "--threads", 1, "-o", "out", iterations=30)
    assert "1 restored, 0 failed, 4 skipped" in again.stderr


@pytest.mark.slow
def test_the_images_of_a_lost_worker_are_restored_together_by_another(
    tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    for number in range(6):
        draw(tmp_path / f"in/{number}.png", number)
    process = call(tmp_path, "-o", "out", "--scheduler", "local:2", "--batch-size", "3", "--json", iterations=200)
    started.append(process)
    wait_until(lambda: len(list(tmp_path.glob("out/*.dip/log.csv"))) == 6)
    assert len(worker_processes(process)) == 2, "three images in each"
    worker_processes(process)[0].kill()
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "6 restored, 0 failed, 0 skipped" in stderr
    assert {json.loads(line)["batch_size"] for line in stdout.splitlines()} == {3}


SBATCH = """#!/bin/bash
cp "$1" job.sh
setsid bash job.sh > job.log 2>&1 &
echo $! > job.pid
echo Submitted batch job 1
"""
SCANCEL = """#!/bin/bash
kill -- -$(cat job.pid)
"""


@pytest.mark.slow
def test_slurm_jobs_restore_images_and_are_cancelled(
    tmp_path: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts that run the job here stand in for Slurm."""
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "jobqueue.yaml").write_text("jobqueue: {slurm: {cores: 1, memory: 2GB}}")
    monkeypatch.setenv("PATH", os.pathsep.join((str(tmp_path), os.environ["PATH"])))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(2):
        draw(tmp_path / f"in/{number}.png", number)
    process = call(tmp_path, "-o", "out", "--scheduler", "slurm:1", iterations=100_000)
    started.append(process)
    wait_until((tmp_path / "out/0.dip/log.csv").exists)
    keys = list(tmp_path.glob(".dask-jobqueue.worker.*"))
    assert len(keys) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys), "only the user can read them"
    assert "--tls-key" in (tmp_path / "job.sh").read_text()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stderr.endswith("0 restored, 0 failed, 0 skipped, 1 cut short, 1 not started\n")
    assert not list(tmp_path.glob(".dask-jobqueue.worker.*"))
    job = int((tmp_path / "job.pid").read_text())
    wait_until(lambda: not psutil.pid_exists(job) or psutil.Process(job).status() == psutil.STATUS_ZOMBIE)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scheduler and a worker in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=100
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with distributed.Client(address, set_as_default=False) as client:
        yield client


def make_job(place: Path, /, **changes: Any) -> Job:
    given = {"network": TINY, "input": "noise", "input_depth": 4, "iterations": 3, "threads": 1, "device": "cpu"}
    outputs = Outputs(no_report=True)
    return Job(**{"task": tasks()["denoise"], "source": place / "a.png", "given": given, "outputs": outputs} | changes)


def make_request(*jobs: Job, call: str = "call") -> dict[str, Any]:
    return {
        "call": call,
        "version": dipcli.__version__,
        "cwd": str(Path.cwd()),
        "threads": 1,
        "jobs": [job.to_json() for job in jobs],
    }


def make_batch(folder: Path, output: Path, **changes: Any) -> Batch:
    return lay_out(make_job(folder, **changes), [folder], str(output))


@pytest.mark.slow
def test_a_call_by_a_scheduler_restores_skips_and_reports_like_a_plain_one(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        draw(Path("in", f"{number}.png"), number)
    Path("in/bad.png").write_text("not an image")
    scheduler = Scheduler("address", address)

    def fates(outcomes: list[Outcome]) -> dict[str, str]:
        return {outcome.source: outcome.fate for outcome in outcomes}

    plain = list(restore_all(make_batch(Path("in"), Path("plain")), display=Silent()))
    outcomes = list(restore_by(scheduler, make_batch(Path("in"), Path("out")), display=Silent()))
    assert fates(outcomes) == fates(plain) == {
        "in/0.png": "restored", "in/1.png": "restored", "in/2.png": "restored", "in/bad.png": "failed",
    }  # fmt: skip
    messages = {outcome.message for outcome in outcomes if outcome.error}
    assert messages == {outcome.message for outcome in plain if outcome.error}
    for number in range(3):
        assert Path("out", f"{number}.png").read_bytes() == Path("plain", f"{number}.png").read_bytes()
    assert all(outcome.to_json()["worker"] == outcome.worker for outcome in outcomes if outcome.record)
    again = list(restore_by(scheduler, make_batch(Path("in"), Path("out")), display=Silent()))
    assert [outcome.fate for outcome in again].count("skipped") == 3
    together = list(restore_by(scheduler, make_batch(Path("in"), Path("joint")), batch_size=3, display=Silent()))
    assert fates(together) == fates(plain)
    assert {outcome.record.batch_size for outcome in together if outcome.record} == {3}


def test_a_worker_reports_what_is_wrong_with_it_or_with_an_image(tmp_path: Path, client: Any) -> None:
    request = make_request(make_job(tmp_path))
    for change, message in (
        ({"version": "0"}, "the caller has 0: install the same version"),
        ({"cwd": str(tmp_path / "elsewhere")}, "This worker cannot see the folder"),
    ):
        with pytest.raises(DipError, match=message):
            client.submit(worker.restore_images, request | change, pure=False).result()
    (outcome,) = client.submit(worker.restore_images, request, pure=False).result()
    assert outcome.fate == "failed"
    assert "a.png" in outcome.message


@pytest.mark.parametrize("together", [1, 2])
def test_an_interrupted_call_keeps_its_best_images_and_starts_no_others(
    tmp_path: Path, client: Any, together: int
) -> None:
    endless = make_job(tmp_path).given | {"iterations": 100_000}
    jobs = [make_job(tmp_path, source=draw(tmp_path / f"{number}.png"), given=endless) for number in range(together)]
    running = client.submit(worker.restore_images, make_request(*jobs, call=f"{together} images"), pure=False)
    wait_until(lambda: len(list(tmp_path.glob("*.dip/log.csv"))) == together)
    client.run(worker.end_call, f"{together} images", signal.SIGTERM)
    outcomes = running.result(60)
    assert [outcome.ended_by for outcome in outcomes] == [signal.SIGTERM] * together
    assert [outcome.record.finished for outcome in outcomes] == [False] * together
    assert len(list(tmp_path.glob("*.denoised.png"))) == len(list(tmp_path.rglob("checkpoint.pt"))) == together
    late = make_job(tmp_path, source=draw(tmp_path / "late.png"), given=endless)
    (outcome,) = client.submit(worker.restore_images, make_request(late, call=f"{together} images")).result(60)
    assert outcome.fate == "not started"


def test_a_fit_ends_when_its_task_is_cancelled(tmp_path: Path, client: Any) -> None:
    draw(tmp_path / "a.png")
    endless = make_job(tmp_path, given=make_job(tmp_path).given | {"iterations": 100_000})
    running = client.submit(worker.restore_images, make_request(endless), pure=False)
    wait_until((tmp_path / "a.denoised.dip/log.csv").exists)
    running.cancel()
    wait_until((tmp_path / "a.denoised.png").exists)
    assert list(tmp_path.rglob("checkpoint.pt"))


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["a.png"], "--scheduler", 2),
        (["a.png", "-o", "-"], "--scheduler", 2),
        (["-"], "--scheduler", 2),
        ([".", "--scheduler", "mars"], "local, slurm", 2),
        ([".", "--scheduler", "local:0"], "local:1 or more", 2),
        ([".", "--scheduler", "tcp://host"], "tcp://host:8786", 2),
        ([".", "--scheduler", "tcp://host:x"], "tcp://host:8786", 2),
        ([".", "--scheduler", "local", "--batch-size", "auto"], "--batch-size auto", 2),
        ([".", "--scheduler", "tcp://127.0.0.1:1"], "There is no Dask scheduler at tcp://127.0.0.1:1", 1),
        ([".", "--scheduler", "slurm"], "there is no sbatch here", 1),
    ],
)
def test_an_impossible_scheduler_is_refused_in_a_sentence(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, code: int
) -> None:
    monkeypatch.setattr(clusters, "CONNECT_TIMEOUT", "1s")
    monkeypatch.setenv("PATH", "")
    image = draw(tmp_path / "a.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    chosen = [] if "--scheduler" in arguments else ["--scheduler", "local"]
    result = dip("denoise", *arguments, *chosen, stdin=image)
    assert result.exit_code == code, result.stderr
    assert result.stderr.startswith("dip: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("text", ["local", "slurm:3", "tcp://host:8786"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("dipcli.settings.scheduler.find_spec", lambda _: None)
    with pytest.raises(DipError, match=r"needs distributed: .*dipcli\[cluster\]"):
        parse_scheduler(text)


def test_schedulers_are_parsed() -> None:
    assert parse_scheduler("local") == Scheduler("local")
    assert parse_scheduler("local:12") == Scheduler("local", count=12)
    assert parse_scheduler("tls://host:1/") == Scheduler("address", "tls://host:1")
    with pytest.raises(UsageError):
        parse_scheduler("local:")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"folder": Path("out/sub"), "stem": "a.png", "title": "3/4 a.png", "reference": Path("true.png")},
        {"preset": "fast", "given": {"iterations": 3, "stop": "emv:patience=5"}, "output": Path("with \udcff.png")},
        {"arguments": {"simulate_noise": 25.0}, "outputs": Outputs(snapshot_at="1,2", overwrite=True)},
    ],
)
def test_a_job_travels_as_plain_json(tmp_path: Path, changes: dict[str, Any]) -> None:
    before = make_job(tmp_path, **changes)
    assert Job.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize("change", [{"task": 3}, {"source": 5}, {"given": {"evil": 1}}, {"outputs": None}])
def test_invalid_job_descriptions_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Job.from_json(make_job(tmp_path).to_json() | change)


@pytest.mark.parametrize(
    ("text", "given", "gpus", "images", "division"),
    [
        ("local", {}, ["0", "1"], 9, Division(2, 4, ("0", "1"))),
        ("local", {}, ["5", "7"], 1, Division(1, 8, ("5",))),
        ("local:3", {"threads": 2}, ["5", "7"], 9, Division(3, 2, ("5", "7", "5"))),
        ("local", {"device": "cuda:1"}, ["0", "1"], 9, Division(1, 8)),
        ("local", {"threads": 3}, [], 9, Division(2, 3)),
        ("local", {"threads": 9}, [], 9, Division(1, 9)),
        ("local:4", {"device": "cpu"}, ["0"], 9, Division(4, 2)),
        ("local:4", {}, [], 3, Division(3, 2)),
        ("local", {}, [], 99, Division(8, 1)),
        ("local", {}, [], 3, Division(3, 2)),
    ],
)
def test_a_machine_runs_one_fit_per_gpu_or_core(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    given: dict[str, object],
    gpus: list[str],
    images: int,
    division: Division,
) -> None:
    draw(tmp_path / "a.png")
    monkeypatch.setattr(clusters, "count_cores", lambda: 8)
    monkeypatch.setattr(clusters, "visible_gpus", lambda: gpus)
    tiny = {name: value for name, value in make_job(tmp_path).given.items() if name not in ("threads", "device")}
    monkeypatch.setattr(memory, "read_free", lambda _device: 64 * 2**30)
    assert divide_machine(parse_scheduler(text), make_job(tmp_path, given=tiny | given), images) == division


def test_workers_on_one_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr(clusters, "SpecCluster", lambda workers, **_: started.update(workers) or nullcontext())
    with clusters._start_local(Division(3, 2, ("5", "7", "5"))):
        pins = [worker["options"]["env"] for worker in started.values()]
    assert [pin["CUDA_VISIBLE_DEVICES"] for pin in pins] == ["5", "7", "5"]
    assert [pin[memory.GPU_SHARE_VARIABLE] for pin in pins] == ["2", "1", "2"]


def test_no_more_fits_run_than_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "a.png")
    monkeypatch.setattr(clusters, "count_cores", lambda: 8)
    monkeypatch.setattr(clusters, "visible_gpus", list)
    monkeypatch.setattr(memory, "read_free", lambda _device: 1000 * 2**20)
    given = {name: value for name, value in make_job(tmp_path).given.items() if name != "threads"}
    division = divide_machine(Scheduler("local"), make_job(tmp_path, given=given), 99)
    assert division == Division(2, 4), "each takes 300 MiB for Python and PyTorch"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"], "nothing is written"


def test_the_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert clusters.visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    assert clusters.visible_gpus() == ["3", "GPU-8a"]
