"""Standard streams that are closed, full or not read; pipes as files; names like options; Ctrl-C at the start."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio.v3 as iio
import pytest
from command_line import TINY, Dip

from dipcli.records.run_files import is_run_folder
from dipcli.text import quote_path

# What the installed command does; the line is printed once Ctrl-C is handled.
LAUNCH = (
    "import signal, sys; from dipcli.__main__ import main; old = signal.signal\n"
    "def tell(*handler): old(*handler); signal.signal = old; print('started', flush=True)\n"
    "signal.signal = tell; main()"
)
QUICK = f"--iters 2 --network {TINY} --input noise --input-depth 4 --fusion none --no-report -q"
RESTORE = f"denoise noisy.png {QUICK}"
# Redirections, and the exit code.
STREAMS = {
    ">&-": 0,
    "2>&-": 0,
    "2>/dev/full": 0,
    ">/dev/full": 1,
    ">/dev/full 2>/dev/full": 1,
    ">&- 2>&-": 0,
}
TAKES_SECONDS = {
    "doctor --json": (">&-", ">/dev/full"),
    RESTORE: (">&-", "2>/dev/full", ">/dev/full 2>/dev/full", ">&- 2>&-"),
}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")


def shell(command: str, folder: Path) -> tuple[int, str, str]:
    """Run a command line in which `dip` stands for the program: exit code, standard output and error."""
    command = f'dip() {{ {shlex.quote(sys.executable)} -m dipcli "$@"; }}; {command}'
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "streams", "code"),
    [
        (command, streams, code)
        for streams, code in STREAMS.items()
        for command in ("--version", "denoise --help", "doctor --json", RESTORE)
        if command not in TAKES_SECONDS or streams in TAKES_SECONDS[command]
    ],
)
def test_a_stream_that_cannot_be_written_is_a_sentence(noisy_png: Path, command: str, streams: str, code: int) -> None:
    found, _, said = shell(f"dip {command} {streams}", noisy_png.parent)
    assert found == code, said
    assert said.count("\n") == (streams == ">/dev/full"), said
    if "noisy" in command:
        assert iio.imread(noisy_png.with_name("noisy.denoised.png")).shape == (37, 53, 3)


@linux
@pytest.mark.slow
def test_reports_and_finished_runs_with_a_closed_stream(dip: Dip, noisy_png: Path) -> None:
    dip.quick("denoise", noisy_png)
    assert shell("dip report noisy.denoised.dip -q >&-", noisy_png.parent) == (0, "", "")
    code, _, said = shell("dip resume noisy.denoised.dip -q >/dev/full", noisy_png.parent)
    assert (code, said.count("\n")) == (1, 1), said


@linux
@pytest.mark.slow
def test_an_image_for_a_stream_that_cannot_take_it(noisy_png: Path) -> None:
    code, _, said = shell(
        f"dip denoise noisy.png -o - {QUICK.replace('--iters 2', '--iters 1000000')} >&-", noisy_png.parent
    )
    assert (code, said) == (1, "dip: Standard output is closed: name a file with -o.\n"), "before the fit"
    code, _, said = shell(f"dip denoise noisy.png -o - {QUICK} >/dev/full", noisy_png.parent)
    assert (code, said.count("\n")) == (1, 1), said


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_end_a_batch(noisy_png: Path) -> None:
    for name in ("a.png", "b.png"):
        noisy_png.with_name(name).write_bytes(noisy_png.read_bytes())
    code, _, said = shell(f"dip denoise a.png b.png {QUICK} | true; exit ${{PIPESTATUS[0]}}", noisy_png.parent)
    assert (code, said) == (1, "")
    assert noisy_png.with_name("b.denoised.png").exists()


@pytest.mark.slow
def test_a_dash_in_a_folder_is_a_file(noisy_png: Path) -> None:
    noisy_png.rename(noisy_png.with_name("-"))
    code, _, said = shell(f"dip denoise ./- -o x.png {QUICK}", noisy_png.parent)
    assert (code, said) == (0, "")
    assert iio.imread(noisy_png.with_name("x.png")).shape == (37, 53, 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_an_interrupt_in_the_first_instant_is_silent(noisy_png: Path, delay: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, "denoise", str(noisy_png), "--iters", "1000000", "--no-run-dir"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"  # before this, it is Python that starts
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (130, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_pipes_are_read_once(dip: Dip, noisy_png: Path, clean_png: Path) -> None:
    data = {"input.png": noisy_png.read_bytes(), "truth.png": clean_png.read_bytes()}
    folder = noisy_png.parent / "pipes"
    folder.mkdir()
    writers = []
    for name, content in data.items():
        os.mkfifo(folder / name)
        writers.append(threading.Thread(target=(folder / name).write_bytes, args=(content,), daemon=True))
        writers[-1].start()
    result = dip.quick(
        "denoise", folder / "input.png", "--reference", folder / "truth.png", "-o", folder / "x.png", report=True
    )
    assert result.exit_code == 0, result.output
    assert iio.imread(folder / "x.png").shape == (37, 53, 3)


def test_standard_input_needs_a_name_in_a_folder(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for output in (f"{tmp_path}/new/", tmp_path / "there"):
        result = dip.quick("denoise", "-", "-o", output, stdin=noisy_png.read_bytes())
        assert result.exit_code == 2
        assert "restored.png" in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["-x", "a b", "it's", "two\nlines", "tab\t", "ü"])
def test_paths_in_hints_are_arguments(tmp_path: Path, name: str) -> None:
    assert "\n" not in quote_path(Path(name))
    assert not quote_path(Path(name)).startswith("-")
    code, shown, _ = shell(f"printf %s {quote_path(Path(name))}", tmp_path)
    assert (code, shown.removeprefix("./")) == (0, name)


@pytest.mark.parametrize("name", ["-x.png", "two\nlines.png"])
def test_the_way_to_resume_is_a_command(dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from dipcli.runs.observers import Log

    monkeypatch.chdir(noisy_png.parent)
    noisy_png.rename(noisy_png.with_name(name))
    plain, signals = Log.__call__, [signal.SIGINT]

    def interrupted(self: Log, row: object) -> None:
        plain(self, row)  # type: ignore[arg-type]
        if signals:
            signal.raise_signal(signals.pop())

    with monkeypatch.context() as patch:
        patch.setattr(Log, "__call__", interrupted)
        result = dip.quick("denoise", f"./{name}", "--log-every", 1, iterations=4)
    assert result.exit_code == 130, result.output
    (hint,) = [line.partition("to resume: dip ")[2] for line in result.stderr.splitlines() if "to resume" in line]
    _, words, _ = shell(f"printf '%s\\0' {hint}", noisy_png.parent)
    assert is_run_folder(Path(words.split("\0")[1]))
    assert dip(*words.split("\0")[:-1]).exit_code == 0


def test_a_record_that_cannot_be_written_does_not_cost_the_image(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipcli import files
    from dipcli.records import run_record

    def write(path: Path, data: bytes) -> None:
        if path.name == "run.json":
            raise files.write_error(f"Cannot write {path}", OSError(28, "No space left on device"))
        files.write(path, data)

    monkeypatch.setattr(run_record, "files", type("Full", (), {"write": staticmethod(write)}))
    result = dip.quick("denoise", noisy_png)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    assert "No space left on device" in result.stderr
