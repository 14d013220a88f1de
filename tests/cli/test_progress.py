"""Progress on standard error: a live display that fits the terminal, plain lines where there is none."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3 as iio
import pytest
import torch
from command_line import TINY, Dip, wait_for
from forks import Fork
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from samples import noisy, scene

from dipcli import stopping
from dipcli.cli.progress import displays, fit_progress
from dipcli.cli.progress.fit_progress import FitProgress
from dipcli.cli.progress.sparkline import BLOCKS, MAX_STORED_VALUES, Curve, sparkline
from dipcli.cli.progress.terminal import Terminal, drop_parts, shorten, wrap_note
from dipcli.problem import Problem
from dipcli.runs.display import Display, Expected, Silent
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step
from dipcli.text import escape_controls

PTY = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
NAMES = (
    "cat.png",
    "写真の修復.png",
    "👩‍👩‍👧‍👦 🇫🇷 ❤️.png",
    "e\u0301" * 20,
    "3/16 a name that is much longer than any line of it.png",
)


def step(number: int, run: int = 1, tile: tuple[int, int] | None = None, event: str | None = None) -> Any:
    where = SimpleNamespace(number=tile[0], count=tile[1]) if tile else None
    return SimpleNamespace(number=number, run=run, tile=where, event=event)


def row(loss: float = 0.003, fit: float = 24.8, true: float | None = None) -> Any:
    return {"loss": loss, "psnr_noisy": fit, "psnr_noisy_smoothed": fit, "psnr_ref_smoothed": true}


def render(terminal: Terminal, columns: int, lines: int = 24) -> list[str]:
    """The lines of a frame, without escape codes."""
    stream = io.StringIO()
    Console(file=stream, width=columns, height=lines, color_system=None, force_terminal=False).print(terminal, end="")
    return stream.getvalue().splitlines()


def show(title: str, expected: Expected, failed: int = 0) -> Terminal:
    """A display of a fit, without a terminal."""
    terminal = Terminal()
    terminal.title, terminal.progress = title, FitProgress(expected)
    terminal.show_failures(failed)
    return terminal


@given(
    st.one_of(
        st.sampled_from(NAMES), st.text(st.characters(exclude_categories=("Cs",)), max_size=60).map(escape_controls)
    ),
    st.integers(1, 200),
    st.integers(1, 30),
    st.builds(
        Expected,
        st.none() | st.integers(1, 10**7),
        st.none() | st.integers(1, 10**5),
        st.none() | st.integers(1, 10**5),
        st.none() | st.integers(1, 30),
        st.booleans(),
        st.one_of(st.none(), st.floats(0, 1e7)).map(lambda seconds: lambda: seconds),
    ),
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.none() | st.tuples(st.integers(1, 99), st.just(99)),
            st.builds(
                Verdict,
                st.booleans(),
                st.none() | st.just("enough"),
                st.none() | st.tuples(st.sampled_from(["holdout", "写真", "a\nb"]), st.floats()),
                patience_left=st.none() | st.integers(0, 10**6),
                threshold=st.none() | st.floats(0, 255),
            ),
            st.none() | st.builds(row, st.floats(), st.floats(), st.none() | st.floats()),
        ),
        max_size=12,
    ),
    st.integers(0, 500),
)
def test_no_line_is_wider_than_the_terminal(
    title: str, columns: int, lines: int, expected: Expected, iterations: list[Any], failed: int
) -> None:
    terminal = show(title, expected, failed)
    for number, (run, tile, verdict, metrics) in enumerate(iterations, start=1):
        terminal(step(number, run, tile), verdict)
        if metrics:
            terminal.show_row(metrics)
    frame = render(terminal, columns, lines)
    assert len(frame) <= max(1, min(3, lines - 1))
    for line in frame:
        assert cell_len(line) <= columns
        assert escape_controls(line) == line, "nothing in it ends the line or moves the cursor"


def at_640(expected: Expected, true: float | None = None, **verdict: Any) -> Terminal:
    """After 640 iterations at 25 per second, with the best at 530."""
    terminal = show("3/16 a_photograph_of_a_cat.png", expected)
    terminal(step(1), Verdict(keep=True))
    for number in range(100, 600, 100):
        terminal.show_row(row(true=true and true - 600 / number))
    terminal(step(530), Verdict(keep=True, criterion=("holdout", 0.0031)))
    terminal(step(640), Verdict(criterion=("holdout", 0.0032), **verdict))
    terminal.show_row(row(true=true))
    terminal.progress.seconds_per_iteration = 0.04
    return terminal


@pytest.fixture
def _frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_progress, "perf_counter", lambda: 1000.0)


@pytest.mark.usefixtures("_frozen_clock")
def test_a_narrow_terminal_shows_what_matters_most() -> None:
    terminal = at_640(Expected(usual=2000, most=5000), true=29.41, patience_left=90)
    bar = "━━━━━━━━╸".ljust(28)
    assert render(terminal, 120) == [
        f"3/16 a_photograph_of_a_cat.png  {bar}  640/~2000  25.0 it/s  ~0:54 left",
        "loss 0.00300  fit 24.80 dB  true 29.41 dB  ▁▁▃▅▅█",
        "holdout: best at 530 (110 ago), stops in 90 without improvement",
    ]
    assert render(terminal, 40) == [
        "3/16 a_p…_cat.png  640/~2000  ~0:54 left",
        "fit 24.80 dB  true 29.41 dB  ▁▁▃▅▅█",
        "best at 530, stops in 90",
    ]
    narrow = render(terminal, 20)
    assert narrow[0].startswith("640/~2000")
    assert narrow[1].startswith("true 29.41 dB")
    assert narrow[2] == "best at 530"
    assert render(terminal, 80, 3) == render(terminal, 80)[:2], "a line is left for notes"
    assert render(terminal, 80, 1) == render(terminal, 80)[:1]
    terminal.show_failures(2)
    assert "  2 failed  " in render(terminal, 80)[0]


@pytest.mark.parametrize(
    ("expected", "done", "count", "left"),
    [
        (Expected(1000), (100, 1, None), "100/1000", "1:30 left"),
        (Expected(1000, runs=3), (100, 2, None), "100/1000", "3:10 left"),
        (Expected(usual=1000, runs=2), (100, 2, (2, 6)), "100/~1000", "~14:50 left"),
        (Expected(1000, left=lambda: 12.0), (100, 1, None), "100/1000", "0:12 left"),
        (Expected(usual=1000, runs=None, left=lambda: 500.0), (100, 2, None), "100/~1000", "~8:20 left"),
        (Expected(usual=80, most=150), (100, 1, None), "100/~120", "~0:02 left"),
        (Expected(usual=80, most=110), (100, 1, None), "100/~110", "~0:01 left"),
        (Expected(), (100, 1, None), "100/~120", "~0:02 left"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_frozen_clock")
def test_time_left(expected: Expected, done: Any, count: str, left: str) -> None:
    """At ten iterations per second, with a rule that would stop after 20 more."""
    progress = FitProgress(expected)
    progress.update(step(*done), Verdict(criterion=("holdout", 0.1), patience_left=20))
    progress.seconds_per_iteration = 0.1
    assert (progress.describe_count(), progress.describe_time_left()) == (count, left)
    assert progress.fraction is None or 0 < progress.fraction <= 1


def test_throughput_is_that_of_the_current_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(fit_progress, "perf_counter", lambda: now[0])
    progress = FitProgress(Expected(10, runs=2, warmup=True))
    assert (progress.describe_count(), progress.describe_throughput(), progress.describe_time_left()) == (
        "warming up", "", "",
    )  # fmt: skip
    for number, seconds in ((1, 50.0), (2, 50.5), (3, 51.0)):
        now[0] = seconds
        progress.update(step(number), Verdict(keep=True, stop="enough" if number == 3 else None))
    assert progress.describe_throughput() == "2.0 it/s", "the first iteration is slower than all others"
    assert (progress.describe_count(), progress.describe_position()) == ("warming up", "run 2/2"), "another run follows"
    now[0] = 70.0
    assert progress.describe_time_left() == "0:05 left", "the warm-up does not count"
    progress.update(step(1, run=2), Verdict(keep=True))
    assert (progress.describe_count(), progress.describe_position(), progress.describe_throughput()) == (
        "1/10", "run 2/2", "2.0 it/s",
    )  # fmt: skip
    now[0] = 74.0
    progress.update(step(2, run=2), Verdict())
    assert (progress.describe_count(), progress.describe_throughput(), progress.describe_time_left()) == (
        "2/10", "4.0 s/it", "0:32 left",
    )  # fmt: skip
    now[0] = 76.0
    assert progress.describe_time_left() == "0:30 left", "it counts down within an iteration"


def judge(rule: stopping.Rule, images: list[torch.Tensor]) -> FitProgress:
    """The progress of a fit with these outputs, for a grey image with noise of standard deviation 0.1."""
    measured = torch.full((1, 16, 16), 0.5) + 0.1 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    state, _ = rule.start(Problem(measured=measured, shape=(1, 16, 16)))
    progress = FitProgress(Expected())
    for number, image in enumerate(images, start=1):
        iteration = Step(number, torch.tensor(0.1), image, (image,), 0.01, 0.0)
        verdict, state = rule.judge(iteration, state)
        progress.update(iteration, verdict)
    return progress


def test_the_state_of_each_rule_in_words() -> None:
    grey = [torch.full((1, 16, 16), 0.5)] * 40
    forms = judge(stopping.HoldOut(patience=60), grey).describe_rule()
    assert forms[0] == "holdout: best at 40, stops in 25 without improvement", "the latest of equals"
    assert forms[-1] == "best at 40"
    assert [len(form) for form in forms] == sorted((len(form) for form in forms), reverse=True)
    fixed = judge(stopping.exactly(stopping.HoldOut(patience=60), 1000), grey).describe_rule()
    assert re.fullmatch(r"holdout 0\.0\d+, best at 40", fixed[0]), "it does not decide when to stop"
    limited = judge(stopping.at_most(stopping.HoldOut(patience=60), 1000), grey).describe_rule()
    assert limited == forms
    sigma = judge(stopping.Sigma(5.0), grey).describe_rule()[0]
    assert re.fullmatch(r"difference 2\d(\.\d)?, stops at 5", sigma), sigma
    changing = [*grey[:15], *(image + 0.1 * number for number, image in enumerate(grey))][:30]
    emv = judge(stopping.EMV(patience=30, guard=10), changing).describe_rule()[0]
    assert emv == "variance: best at 11 (19 ago), stops in 11 without improvement"
    assert judge(stopping.Never(), grey).describe_rule() == []


def test_a_resumed_run_does_not_know_its_best_iteration() -> None:
    progress = FitProgress(Expected())
    progress.update(step(641), Verdict(criterion=("holdout", 0.1), patience_left=90))
    assert progress.describe_rule() == ["holdout: stops in 90 without improvement", "stops in 90"]


@given(st.sampled_from(NAMES) | st.text(), st.integers(0, 40))
def test_a_shortened_name_keeps_its_ends(name: str, width: int) -> None:
    name = escape_controls(name)
    short = shorten(name, width)
    assert cell_len(short) <= width
    if short != name:
        assert not short or "…" in short
        begin, _, end = short.partition("…") if short.count("…") == 1 else ("", "", "")
        assert name.startswith(begin)
        assert name.endswith(end)
    if cell_len(name) <= width:
        assert short == name


def test_wide_characters_and_graphemes_are_not_split() -> None:
    assert shorten("写真の修復.png", 9) == "写真….png"
    assert shorten("👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 5) == "👩‍👩‍👧‍👦…👩‍👩‍👧‍👦"
    assert shorten("e\u0301" * 9, 5) == "e\u0301e\u0301…e\u0301e\u0301"
    assert shorten("photograph.png", 10, "...") == "phot...png"
    assert escape_controls("a\u202egnp.exe") == "a\\u202egnp.exe", "the direction of writing cannot be changed"


@given(st.lists(st.integers(0, 12), max_size=6), st.integers(0, 40), st.randoms())
def test_the_least_important_parts_are_dropped(lengths: list[int], width: int, random: Any) -> None:
    from rich.text import Text

    priorities = random.sample(range(10), len(lengths))
    parts = [(priority, Text("x" * length)) for priority, length in zip(priorities, lengths, strict=True)]
    kept = drop_parts(parts, width)
    assert Text("  ").join(kept).cell_len <= width
    dropped = [(priority, part) for priority, part in parts if part and not any(part is other for other in kept)]
    if dropped:
        priority = max(priority for priority, _ in dropped)
        important = [other for rank, other in parts if other and rank >= priority]
        assert Text("  ").join(important).cell_len > width


@given(st.lists(st.text("ab", min_size=1, max_size=30), min_size=1, max_size=20), st.integers(1, 40))
def test_notes_break_between_words(words: list[str], width: int) -> None:
    lines = wrap_note(" ".join(words), width).split("\n")
    assert " ".join(lines) == " ".join(words)
    assert all(len(line) <= width or " " not in line for line in lines)


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(0, 40))
def test_a_sparkline_fits_its_width(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) <= width
    assert set(line) <= set(BLOCKS)
    rising = sparkline(sorted(values), width)
    assert list(rising) == sorted(rising, key=BLOCKS.index)


def test_a_sparkline_by_hand() -> None:
    assert sparkline([*range(8)], 8) == "▁▁▁▂▄▅▇█", "the start may lie below the scale"
    assert sparkline([1.0] * 10, 5) == "▅▅▅▅▅"
    assert sparkline([1, 2, 3], 8) == "", "too few"


def test_a_long_curve_is_thinned_out_evenly() -> None:
    curve = Curve()
    for number in range(10 * MAX_STORED_VALUES):
        curve.add(float(number))
    curve.add(float("nan"))
    assert MAX_STORED_VALUES // 2 <= len(curve.values) < MAX_STORED_VALUES
    gaps = {b - a for a, b in zip(curve.values, curve.values[1:], strict=False)}
    assert gaps == {float(curve.stride)}


# In a terminal.


class Screen(io.StringIO):
    """Standard error on a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def emulate(written: str, columns: int, lines: int) -> Any:
    """The screen of a terminal after this was written."""
    import pyte

    screen = pyte.Screen(columns, lines)
    pyte.Stream(screen).feed(written.replace("\n", "\r\n"))
    return screen


def read(screen: Any) -> list[str]:
    """The lines of a screen; pyte leaves an empty cell behind a wide character."""
    return [line.rstrip() for line in screen.display]


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_frames_replace_each_other(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Screen()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "12")
    terminal = Terminal()
    with terminal.watching("写真 of a cat with a long name.png", Expected(400)):
        for number in range(1, 8):
            terminal(step(number), Verdict(keep=True, criterion=("holdout", 0.1 / number)))
            terminal.show_row(row(true=20.0 + number))
            terminal.note(f"note {number}")
        screen = emulate(stream.getvalue(), columns, 12)
    seen = [line for line in read(screen) if line]
    assert seen[:7] == [f"note {number}" for number in range(1, 8)]
    assert len(seen) == 10
    assert "7/400" in seen[7]
    assert "true 27.00 dB" in seen[8]
    assert "best at 7" in seen[9]
    after = emulate(stream.getvalue(), columns, 12)
    assert [line for line in read(after) if line] == seen[:7], "the display is gone"
    assert (after.cursor.x, after.cursor.y, after.cursor.hidden) == (0, 7, False)


def test_what_others_write_goes_above(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Screen()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with terminal.watching("cat.png", Expected(100)):
        terminal(step(50), Verdict())
        sys.stderr.write("a warning from elsewhere\n")
        terminal.note("a long note is broken between words, and not within them")
        terminal.note("/a/path/that/is/longer/than/the/terminal/is/wide.png: to go on: dip resume '/a/folder/of it'")
    assert [line for line in read(emulate(stream.getvalue(), 40, 12)) if line] == [
        "a warning from elsewhere",
        "a long note is broken between words, and",
        "not within them",
        "/a/path/that/is/longer/than/the/terminal",
        "/is/wide.png:",
        "to go on:",
        "dip resume '/a/folder/of it'",
    ]


def test_ctrl_c_leaves_a_clean_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Screen()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with pytest.raises(KeyboardInterrupt), terminal.watching("cat.png", Expected(100)):  # noqa: PT012
        terminal(step(50), Verdict())
        raise KeyboardInterrupt
    screen = emulate(stream.getvalue(), 40, 12)
    assert not any(read(screen))
    assert (screen.cursor.x, screen.cursor.y, screen.cursor.hidden) == (0, 0, False)
    assert sys.stderr is stream


def read_environment(**changed: str) -> dict[str, str]:
    removed = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return {**kept, "TERM": "xterm-256color", **changed}


class Recorder:
    """`dip` in a pseudo-terminal."""

    FRAME_START = b"\r\x1b[2K"

    def __init__(self, columns: int, lines: int, *arguments: object, folder: Path) -> None:
        import pty

        import pyte

        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        tiny = ("--network", TINY, "--input", "noise", "--input-depth", "4", "--no-report")
        tiny = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--no-report", "--fusion", "none")
        self.process = Fork(
            *arguments, *tiny, terminal=os.ttyname(slave), environment=read_environment(), folder=folder
        )
        wait_for(self.process.out.exists, self.process)
        os.close(slave)

    def resize(self, columns: int, lines: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def frames(self) -> Iterator[list[str]]:
        """The screen before each new frame, and at the end."""
        pending = b""
        with suppress(OSError):  # the other end is closed
            while True:
                pending += os.read(self.master, 4096)
                while (end := pending.find(self.FRAME_START, 1)) > 0:
                    self.stream.feed(pending[:end])
                    pending = pending[end:]
                    yield read(self.screen)
        self.stream.feed(pending)
        os.close(self.master)
        self.output, _ = self.process.communicate(timeout=60)
        yield read(self.screen)


TITLE = r"(写真[ \w.…]*  )?"
PROGRESS = TITLE + r"([━╸╺]+ *  )?(starting|\d+/400)(  \d+\.\d it/s)?(  \d:\d\d left)?"
METRICS = r"(loss \d\.\d+  )?(fit \d+\.\d\d dB  )?(true \d+\.\d\d dB)?(  ▁?[▁-█]+)?"
RULE = r"(holdout \S+, )?best at \d+"


@pytest.mark.slow
@PTY
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (40, 24), (20, 24), (40, 3)])
def test_no_line_is_broken_or_left_over_in_a_terminal(tmp_path: Path, columns: int, lines: int) -> None:
    name = "写真 of a cat with a long name"
    iio.imwrite(tmp_path / "truth.png", scene(40, 48))
    iio.imwrite(tmp_path / f"{name}.png", noisy(scene(40, 48)))
    options = ("--reference", "truth.png", "--iters", 400, "--log-every", 1)
    recorder = Recorder(columns, lines, "denoise", f"{name}.png", *options, folder=tmp_path)
    heights = set()
    for seen in recorder.frames():
        shown = [[form for form in (PROGRESS, METRICS, RULE) if line and re.fullmatch(form, line)] for line in seen]
        display = [form for forms in shown for form in forms[:1]]
        assert display == [PROGRESS, METRICS, RULE][: len(display)] or not display, seen
        heights.add(len(display))
    assert recorder.process.returncode == 0, seen
    assert max(heights) == min(3, lines - 1), "nothing is missing"
    assert not display, "after the end the screen holds the notes only"
    assert any(seen)
    assert not recorder.screen.cursor.hidden
    assert recorder.output == f"{name}.denoised.png\n"


@pytest.mark.slow
@PTY
def test_a_resized_terminal_is_followed(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "a photograph of a cat.png", noisy(scene(40, 48)))
    recorder = Recorder(80, 24, "denoise", "a photograph of a cat.png", "--iters", 10_000, folder=tmp_path)
    for number, seen in enumerate(recorder.frames()):
        if number == 3:
            recorder.resize(40, 24)
        if number == 10:
            recorder.process.send_signal(signal.SIGINT)
        if number > 6 and any("/10000" in line for line in seen):
            assert any(re.match(r"a phot.*…", line) for line in seen), "shortened"
    assert recorder.process.returncode == 130
    assert number > 10


@pytest.mark.slow
@PTY
def test_signals_leave_a_clean_terminal(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "cat.png", noisy(scene(40, 48)))
    recorder = Recorder(80, 24, "denoise", "cat.png", "--iters", 10**6, folder=tmp_path)
    for number, frame in enumerate(recorder.frames()):
        seen = frame
        if number == 6:
            recorder.process.send_signal(signal.SIGINT)
    assert recorder.process.returncode == 130
    assert not any("/1000000" in line for line in seen), seen
    assert any("dip resume" in line for line in seen)
    assert not recorder.screen.cursor.hidden


# Without a terminal.


def write_each_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "SECONDS_BETWEEN_LINES", 0.0)


def test_a_pipe_gets_plain_lines(dip: Dip, noisy_png: Path, clean_png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_each_iteration(monkeypatch)
    result = dip.quick("denoise", noisy_png, "--reference", clean_png, "--log-every", 1, "--runs", 2, iterations=4)
    assert result.exit_code == 0
    assert all(line.isprintable() for line in result.stderr.splitlines()), "no control characters"
    form = r"noisy\.png: run 2/2  4/4  \d+\.\d it/s  0:00 left  loss \S+  fit \S+ dB  true \S+ dB.*"
    assert any(re.fullmatch(form, line) for line in result.stderr.splitlines()), result.stderr
    assert dip.quick("denoise", noisy_png, "-q").stderr == ""


@pytest.mark.parametrize(
    ("environment", "escapes"), [({}, 0), ({"FORCE_COLOR": "1"}, 2), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, 0)]
)
def test_a_pipe_gets_bold_titles_only_on_request(
    environment: dict[str, str], escapes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_each_iteration(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines = displays.choose(quiet=False)
    lines.show_failures(1)
    with lines.watching("2/3 cat.png", Expected(10)):
        lines(step(1), Verdict())
    written = capsys.readouterr().err
    assert written.count("\x1b") == escapes
    assert re.sub(r"\x1b\[\dm", "", written) == "2/3 cat.png: 1 failed  1/10\n"


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({"TERM": "xterm"}, Terminal),
        ({"TERM": "xterm", "NO_COLOR": "1"}, Terminal),
        ({"TERM": "xterm", "FORCE_COLOR": ""}, Terminal),
        ({"TERM": "dumb"}, displays.Lines),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, displays.Lines),
    ],
)
def test_the_environment_decides_the_display(
    environment: dict[str, str], kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Screen())
    display = displays.choose(quiet=False)
    assert isinstance(display, kind)
    assert isinstance(displays.choose(quiet=True), Silent)
    if isinstance(display, Terminal):
        with display.watching("cat.png", Expected(10)):
            display(step(1), Verdict(criterion=("holdout", 0.1)))
        written = sys.stderr.getvalue()
        styles = set(re.findall(r"\x1b\[[\d;]*m", written))
        assert styles, "bold and dim are not colours"
        assert not [style for style in styles if "3" in style] or "NO_COLOR" not in environment


def test_an_ascii_terminal_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Screen()
    monkeypatch.setattr(Screen, "encoding", "ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with terminal.watching("Prüfung 写真 with a long name.png", Expected(100)):
        terminal(step(50), Verdict())
        for number in range(8):
            terminal.show_row(row(fit=20.0 + number))
        terminal.note("Prüfung")
    assert terminal.title.isascii()
    drawn = stream.getvalue()
    assert "50/100" in drawn
    assert "..." in drawn
    assert not set(drawn) & {*BLOCKS, "━", "…"}


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (displays.Lines, BrokenPipeError(32, "Broken pipe")),
        (displays.Lines, ValueError("I/O operation on closed file.")),
        (Terminal, BrokenPipeError(32, "Broken pipe")),
        (Terminal, OSError(5, "Input/output error")),
        (Terminal, ValueError("I/O operation on closed file.")),
    ],
)
def test_a_closed_stream_does_not_end_the_fit(kind: type, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(Screen):
        def write(self, text: str) -> int:  # noqa: ARG002
            raise error

        def flush(self) -> None:
            raise error

    monkeypatch.setattr(sys, "stderr", Closed())
    write_each_iteration(monkeypatch)
    display: Display = kind()
    with display.watching("cat.png", Expected(100)):
        display(step(50), Verdict())
        display.note("a note")


def test_standard_error_may_be_closed_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    displays.choose(quiet=False).note("a note")
    monkeypatch.setattr(sys, "stderr", None)
    displays.choose(quiet=False).note("a note")


# What a run says to a display.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "known"),
    [
        (("--iters", 2, "--runs", 2), Expected(iterations=2, most=5000, runs=2)),
        (("--max-iters", 2), Expected(usual=2, most=2)),
        (("--iters", 2, "--warmup", 1), Expected(iterations=2, most=5000, warmup=True)),
        (("--iters", 2, "--preset", "paper", "--time", "1h", "--runs", 1), Expected(iterations=2, most=5000)),
        (("--iters", 2, "--time", "0.001s"), Expected(iterations=2, most=5000, runs=None)),
    ],
)
def test_what_is_expected_of_a_fit(
    options: tuple[Any, ...], known: Expected, dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_to_display: list[Expected] = []
    watching = displays.Lines.watching

    def record(self: displays.Lines, title: str, expected: Expected) -> Any:
        given_to_display.append(expected)
        return watching(self, title, expected)

    monkeypatch.setattr(displays.Lines, "watching", record)
    iio.imwrite(tmp_path / "in.png", noisy(scene(130, 130)))
    tiny = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--fusion", "none", "--no-report")
    rest = () if "--warmup" in options else ("--warmup", 0)
    preset = () if "--preset" in options else ("--preset", "balanced")
    result = dip("denoise", tmp_path / "in.png", *tiny, *options, *rest, *preset)
    assert result.exit_code == 0, result.stderr
    (expected,) = given_to_display
    assert (expected.left() is None) is ("--time" not in options)
    usual = expected.usual if expected.iterations else None  # it does not matter with --iters
    assert replace(expected, left=known.left, usual=known.usual if usual else expected.usual) == known


def test_a_batch_reports_how_many_images_failed(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    monkeypatch.setattr(displays.Lines, "show_failures", lambda _, failed: counts.append(failed))
    for name in ("a", "b", "c"):
        iio.imwrite(tmp_path / f"{name}.png", noisy(scene(20, 24)))
    (tmp_path / "b.png").write_bytes(b"not an image")
    assert dip.quick("denoise", tmp_path).exit_code == 3
    assert counts == [0, 1, 1]
