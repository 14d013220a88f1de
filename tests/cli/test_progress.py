"""Progress on a terminal and through a pipe."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pyte
import pytest
import torch
from command_line import Dip
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from dipcli.cli.progress import displays
from dipcli.cli.progress.displays import Lines, choose
from dipcli.cli.progress.sparkline import sparkline
from dipcli.cli.progress.terminal import Terminal, shorten, wrap_note
from dipcli.runs.display import Expected, Silent
from dipcli.runs.observers import COLUMNS
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step

NAMES = ["noisy.png", "a very long name of a photograph of a cat.png", "猫の写真.png", "bad\x1b[2Jname\n.png"]


class Tty(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def step(number: int) -> Step:
    image = torch.zeros(3, 4, 4)
    return Step(number, torch.tensor(0.1), image, (image,), 0.01, number / 10)


def row(number: int) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS) | {"iteration": number, "loss": 0.0123, "psnr_noisy": 20.0}


def fit(display: Any, title: str = "noisy.png", count: int = 30) -> None:
    with display.watching(title, Expected(iterations=count)):
        for number in range(1, count + 1):
            display(step(number), Verdict(keep=True, criterion=("holdout", 1 / number)))
            display.show_row(row(number))
        display.note("a remark")


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize("title", NAMES)
def test_nothing_is_left_on_the_terminal_but_notes(title: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    fit(Terminal(), title)
    screen = pyte.Screen(width, 24)
    pyte.Stream(screen).feed(stream.getvalue().replace("\n", "\r\n"))
    assert [line.strip() for line in screen.display if line.strip()] == ["a remark"]


@pytest.mark.parametrize("width", [80, 40, 20])
@pytest.mark.parametrize("title", NAMES)
def test_a_frame_fits_the_terminal(title: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Tty()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    display = Terminal()
    with display.watching(title, Expected(iterations=30)):
        display(step(7), Verdict(keep=True, criterion=("holdout", 0.1)))
        display.show_row(row(7))
        lines = display.console.render_lines(display, pad=False)
    texts = ["".join(segment.text for segment in line if not segment.control) for line in lines]
    assert all(cell_len(text) <= width for text in texts), texts
    assert any("7/30" in text for text in texts)


def test_through_a_pipe_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(displays, "SECONDS_BETWEEN_LINES", 0.0)
    fit(choose(quiet=False), "bad\x1b[2Jname.png")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 10
    assert "7/30" in lines[6]
    assert "a remark" in lines
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "dumb", "FORCE_COLOR": "1"}, {"TERM": "unknown"}])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert isinstance(choose(quiet=False), Lines)
    assert isinstance(choose(quiet=True), Silent)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(choose(quiet=False), Terminal)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error")])
def test_a_closed_terminal_does_not_end_the_fit(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Tty):
        def write(self, _text: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Closed())
    fit(Terminal())


def test_a_broken_pipe_does_not_end_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(displays, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(sys, "stderr", Closed())
    fit(choose(quiet=False))


@given(st.text("abc猫.", min_size=1, max_size=40), st.integers(1, 45))
def test_a_shortened_name_fits_and_keeps_its_ends(name: str, width: int) -> None:
    short = shorten(name, width)
    assert cell_len(short) <= width
    if cell_len(name) <= width:
        assert short == name
    elif short:
        head, _, tail = short.partition("…")
        assert name.startswith(head)
        assert name.endswith(tail)


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1), st.integers(10, 60))
def test_words_of_a_note_are_not_broken(words: list[str], width: int) -> None:
    wrapped = wrap_note(" ".join(words), width)
    assert wrapped.split() == words
    assert all(cell_len(line) <= width for line in wrapped.splitlines())


def test_a_command_in_a_note_stays_whole() -> None:
    note = "noisy.png: to resume: dip resume 'a very long folder name.dip'"
    assert "dip resume 'a very long folder name.dip'" in wrap_note(note, 30).splitlines()


@given(st.lists(st.floats(-1e6, 1e6), max_size=100), st.integers(0, 40))
def test_a_sparkline_is_no_wider_than_its_room(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) <= width


def test_a_batch_reports_failures(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"not an image")
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code in (1, 3)
    assert "1 failed" in result.stderr
