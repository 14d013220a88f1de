"""What people see of a run: lines as wide as the terminal, whatever happens to it; plain ones where there is none."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
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
from command_line import TINY, Dip
from hypothesis import given
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli import stopping
from dipcli.cli.progress import displays
from dipcli.cli.progress import live as pane
from dipcli.cli.progress import progress as standing
from dipcli.cli.progress.layout import cells, fitted, part, shortened, wrapped
from dipcli.cli.progress.progress import Standing
from dipcli.cli.progress.sparkline import BLOCKS, MOST, Curve, sparkline
from dipcli.cli.progress.terminal import Terminal
from dipcli.problem import Problem
from dipcli.runs.display import Expected, Silent
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
    return {
        "loss": loss,
        "psnr_noisy": fit,
        "psnr_noisy_smoothed": fit,
        "psnr_ref_smoothed": true,
    }


def plain(terminal: Terminal, columns: int, lines: int = 24) -> list[str]:
    return [each.plain for each in terminal.lines(columns, lines)]


def shown(title: str, ahead: Expected, failed: int = 0) -> Terminal:
    """A display of a fit, without a terminal."""
    terminal = Terminal()
    terminal.title, terminal.standing = title, Standing(ahead)
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
                left=st.none() | st.integers(0, 10**6),
                aim=st.none() | st.floats(0, 255),
            ),
            st.none() | st.builds(row, st.floats(), st.floats(), st.none() | st.floats()),
        ),
        max_size=12,
    ),
    st.integers(0, 500),
)
def test_no_line_is_wider_than_the_terminal(
    title: str, columns: int, lines: int, ahead: Expected, seen: list[Any], failed: int
) -> None:
    terminal = shown(title, ahead, failed)
    for number, (run, tile, verdict, numbers) in enumerate(seen, start=1):
        terminal(step(number, run, tile), verdict)
        if numbers:
            terminal.show_row(numbers)
    drawn = plain(terminal, columns, lines)
    assert 1 <= len(drawn) <= max(1, min(3, lines - 1))
    for each in drawn:
        assert cells(each) <= columns
        assert escape_controls(each) == each, "nothing in it ends the line or moves the cursor"


def at_640(ahead: Expected, true: float | None = None, **said: Any) -> Terminal:
    """After 640 iterations at 25 a second, the best of them 110 ago."""
    terminal = shown("3/16 a_photograph_of_a_cat.png", ahead)
    terminal(step(1), Verdict(keep=True))
    for number in range(100, 600, 100):
        terminal.show_row(row(true=true and true - 600 / number))
    terminal(step(530), Verdict(keep=True, criterion=("holdout", 0.0031)))
    terminal(step(640), Verdict(criterion=("holdout", 0.0032), **said))
    terminal.show_row(row(true=true))
    terminal.standing.pace = 0.04
    return terminal


@pytest.fixture
def _no_time_goes_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "perf_counter", lambda: 1000.0)


@pytest.mark.usefixtures("_no_time_goes_by")
def test_what_matters_most_stays() -> None:
    terminal = at_640(Expected(usual=2000, most=5000), true=29.41, left=90)
    assert plain(terminal, 120) == [
        " 3/16 a_photograph_of_a_cat.png  ━━━━━━━━╸───────────────────  640 of about 2000  25.0/s  about 0:54 left",
        " loss 0.00300  fit 24.80 dB  true 29.41 dB  ▁▁▃▅▅█",
        " holdout: best so far at 530, 110 ago; ends in 90 without a better one",
    ]
    assert plain(terminal, 40) == [
        " 3/16 a_p…cat.png  640/~2000  0:54 left",
        " fit 24.80 dB  true 29.41 dB  ▁▁▃▅▅█",
        " best at 530; ends in 90 unless better",
    ]
    assert plain(terminal, 20) == [" 640/~2000  0:54", " true 29.41 dB", " best at 530"]
    assert plain(terminal, 5) == [" 640"]
    assert plain(terminal, 80, 3) == plain(terminal, 80)[:2], "a line is left for what is said"
    assert plain(terminal, 80, 1) == plain(terminal, 80)[:1]
    terminal.show_failures(2)
    assert "  2 failed  " in plain(terminal, 80)[0]


@pytest.mark.parametrize(
    ("ahead", "done", "count", "left"),
    [
        (Expected(1000), (100, 1, None), "100/1000", "1:30 left"),
        (Expected(1000, runs=3), (100, 2, None), "100/1000", "3:10 left"),
        (Expected(usual=1000, runs=2), (100, 2, (2, 6)), "100 of about 1000", "about 14:50 left"),
        (Expected(1000, left=lambda: 12.0), (100, 1, None), "100/1000", "0:12 left"),
        (Expected(usual=1000, runs=None, left=lambda: 500.0), (100, 2, None), "100 of about 1000", "about 8:20 left"),
        (Expected(usual=80, most=150), (100, 1, None), "100 of about 120", "about 0:02 left"),
        (Expected(usual=80, most=110), (100, 1, None), "100 of about 110", "about 0:01 left"),
        (Expected(), (100, 1, None), "100 of about 120", "about 0:02 left"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_no_time_goes_by")
def test_how_long_it_will_take(ahead: Expected, done: Any, count: str, left: str) -> None:
    """At ten iterations a second; the rule would end after 20 more."""
    stand = Standing(ahead)
    stand.learn(step(*done), Verdict(criterion=("holdout", 0.1), patience_left=20))
    stand.pace = 0.1
    assert (stand.count(), stand.left()) == (count, left)
    assert stand.share is None or 0 < stand.share <= 1


def test_the_pace_is_that_of_the_fit_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(standing, "perf_counter", lambda: now[0])
    stand = Standing(Expected(10, runs=2, warmup=True))
    assert (stand.count(), stand.rate(), stand.left()) == ("warming up", "", "")
    for number, at in ((1, 50.0), (2, 50.5), (3, 51.0)):
        now[0] = at
        stand.learn(step(number), Verdict(keep=True, stop="enough" if number == 3 else None))
    assert stand.rate() == "2.0/s", "the first iteration is slower than all others"
    assert (stand.count(), stand.place()) == ("warming up", "run 2/2"), "another run follows"
    now[0] = 70.0
    assert stand.left() == "0:05 left", "what comes before its first iteration does not count"
    stand.learn(step(1, run=2), Verdict(keep=True))
    assert (stand.count(), stand.place(), stand.rate()) == ("1/10", "run 2/2", "2.0/s")
    now[0] = 74.0
    stand.learn(step(2, run=2), Verdict())
    assert (stand.count(), stand.rate(), stand.left()) == ("2/10", "4.0 s each", "0:32 left")
    now[0] = 76.0
    assert stand.left() == "0:30 left", "it goes on while an iteration takes its time"


def judged(rule: stopping.Rule, pictures: list[torch.Tensor]) -> Standing:
    """How a fit stands that made these pictures of a grey one with noise of 0.1."""
    measured = torch.full((1, 16, 16), 0.5) + 0.1 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    state, _ = rule.start(Problem(measured=measured, shape=(1, 16, 16)))
    stand = Standing(Expected())
    for number, picture in enumerate(pictures, start=1):
        seen = Step(number, torch.tensor(0.1), picture, (picture,), 0.01, 0.0)
        verdict, state = rule.judge(seen, state)
        stand.learn(seen, verdict)
    return stand


def test_the_opinion_of_each_rule_in_words() -> None:
    grey = [torch.full((1, 16, 16), 0.5)] * 40
    short = judged(stopping.HoldOut(patience=60), grey).opinion()
    assert short[:2] == [
        "holdout: best so far at 5, 35 ago; ends in 25 without a better one",
        "best so far at 5, 35 ago; ends in 25 without a better one",
    ]
    assert short[-1] == "best at 5"
    assert [len(each) for each in short] == sorted((len(each) for each in short), reverse=True)
    asked = judged(stopping.exactly(stopping.HoldOut(patience=60), 1000), grey).opinion()
    assert re.fullmatch(r"holdout 0\.0\d+, best so far at 5", asked[0]), "it has no say in when to end"
    limited = judged(stopping.at_most(stopping.HoldOut(patience=60), 1000), grey).opinion()
    assert limited == short
    told = judged(stopping.Sigma(5.0), grey).opinion()[0]
    assert re.fullmatch(r"difference 2\d(\.\d)?; ends at 5", told), told
    emv = judged(
        stopping.EMV(patience=30, guard=10), [*grey[:15], *(each + 0.1 * i for i, each in enumerate(grey))][:30]
    )
    assert emv.opinion()[0] == "variance: best so far at 11, 19 ago; ends in 11 without a better one"
    assert judged(stopping.Never(), grey).opinion() == []


def test_a_run_that_is_gone_on_with_does_not_know_its_best_yet() -> None:
    stand = Standing(Expected())
    stand.learn(step(641), Verdict(criterion=("holdout", 0.1), patience_left=90))
    assert stand.opinion() == ["holdout: ends in 90 without a better one", "ends in 90 without a better one",
                               "ends in 90 unless better", "ends in 90"]  # fmt: skip


@given(st.sampled_from(NAMES) | st.text(), st.integers(0, 40))
def test_a_shortened_name_keeps_its_ends(name: str, width: int) -> None:
    name = escape_controls(name)
    short = shortened(name, width)
    assert cells(short) <= width
    if short != name:
        assert not short or "…" in short
        begin, _, end = short.partition("…") if short.count("…") == 1 else ("", "", "")
        assert name.startswith(begin)
        assert name.endswith(end)
    if cells(name) <= width:
        assert short == name


def test_wide_letters_and_pictures_made_of_several() -> None:
    assert cells("写真") == 4
    assert shortened("写真の修復.png", 9) == "写真….png"
    assert shortened("👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦", 5) == "👩‍👩‍👧‍👦…👩‍👩‍👧‍👦"
    assert shortened("e\u0301" * 9, 5) == "e\u0301e\u0301…e\u0301e\u0301"
    assert escape_controls("a\u202egnp.exe") == "a\\u202egnp.exe", "what turns the direction of writing is told"


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), max_size=5), st.integers(0, 40))
def test_a_line_is_as_full_as_it_can_be(lengths: list[list[int]], width: int) -> None:
    """No part could be in a longer form without another one giving way."""
    letters = "abcde"
    parts = [
        part("", *((number, letter * length) for number, length in enumerate(sorted(each, reverse=True))))
        for letter, each in zip(letters, lengths, strict=False)
    ]
    line = "".join(text for text, _ in fitted(parts, width))
    assert len(line) <= width
    for letter, each in zip(letters, lengths, strict=False):
        longer = [length for length in each if length > line.count(letter)]
        gap = 2 if line and letter not in line else 0
        assert not longer or len(line) + gap + min(longer) - line.count(letter) > width


@given(st.lists(st.text("ab", min_size=1, max_size=30), max_size=20), st.integers(1, 40))
def test_words_are_not_broken(words: list[str], width: int) -> None:
    lines = wrapped(words, width)
    assert " ".join(lines) == " ".join(words)
    assert all(len(each) <= width or " " not in each for each in lines)


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(0, 40))
def test_a_sparkline_is_no_longer_than_there_is_room(values: list[float], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) <= width
    assert set(drawn) <= set(BLOCKS)
    rising = sparkline(sorted(values), width)
    assert list(rising) == sorted(rising, key=BLOCKS.index)


def test_a_sparkline_by_hand() -> None:
    assert sparkline([*range(8)], 8) == "▁▁▁▂▄▅▇█", "the beginning may lie below the scale"
    assert sparkline([1.0] * 10, 5) == "▅▅▅▅▅"
    assert sparkline([1, 2, 3], 8) == "", "too few"
    assert sparkline([*range(100)], 8, "") == "", "no such letters"


def test_a_curve_forgets_no_stretch_of_itself() -> None:
    curve = Curve()
    for number in range(10 * MOST):
        curve.add(float(number))
    curve.add(float("nan"))
    assert len(curve.values) < MOST
    gaps = {b - a for a, b in zip(curve.values, curve.values[1:], strict=False)}
    assert gaps == {float(curve.stride)}


def environment(**changed: str) -> dict[str, str]:
    gone = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return {**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **changed}


END = pane.END.encode()


class Recorder:
    """A terminal, with `dip` in it."""

    def __init__(self, columns: int, lines: int, *arguments: object, at: Path) -> None:
        import pty

        import pyte

        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.master, slave = pty.openpty()
        self.pending, self.stale = b"", 0
        self.size(columns, lines)
        often = "from dipcli.cli.progress import live as pane, cli; pane.BETWEEN = 0.05; cli.main()"
        tiny = ("--network", TINY, "--input", "noise", "--input-depth", "4", "--no-report")
        self.process = subprocess.Popen(
            [sys.executable, "-c", often, *map(str, arguments), *tiny],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            env=environment(),
            cwd=at,
        )
        os.close(slave)

    def size(self, columns: int, lines: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)
        while select.select([self.master], [], [], 0)[0]:
            self.pending += os.read(self.master, 4096)
        self.stale = self.pending.count(END) + 1  # drawn for the size before, one of them just now

    def frames(self) -> Iterator[list[str]]:
        """The lines of the screen after each frame, and at the end; of a new size once they can be of that."""
        with suppress(OSError):  # the other end is closed
            while True:
                while END in self.pending:
                    frame, _, self.pending = self.pending.partition(END)
                    self.stream.feed(frame + END)
                    self.stale -= 1
                    if self.stale < 0:
                        yield self.seen()
                self.pending += os.read(self.master, 4096)
        self.stream.feed(self.pending)
        os.close(self.master)
        self.out, _ = self.process.communicate(timeout=60)
        yield self.seen()

    def seen(self) -> list[str]:
        return [each.rstrip() for each in self.screen.display]


# What the display's lines look like, at whatever width; what is said begins at the left edge.
PROGRESS = r" ([写真 \w.…]+  )?([━╸─]+  )?(starting|\d+(/400)?(  \d+\.\d/s)?(  \d:\d\d( left)?)?)"
NUMBERS = r" ?(  ?loss \d\.\d+)?(  ?fit \d+\.\d\d dB)?(  ?true \d+\.\d\d dB)?(  ?[▁-█]+)?"
OPINION = r" (holdout \S+, )?best (so far )?at \d+"


@PTY
@pytest.mark.parametrize(
    ("widths", "lines"), [((80, 40, 20, 100), 24), ((40, 80, 12), 3)], ids=["from 80 columns", "from 40 columns"]
)
def test_no_line_is_broken_or_left_over_in_a_terminal(tmp_path: Path, widths: tuple[int, ...], lines: int) -> None:
    name = "写真 of a cat with a long name"
    iio.imwrite(tmp_path / "truth.png", scene(40, 48))
    iio.imwrite(tmp_path / f"{name}.png", noisy(scene(40, 48)))
    options = ("--reference", "truth.png", "--iters", 400)
    recorder = Recorder(widths[0], lines, "denoise", f"{name}.png", *options, at=tmp_path)
    later, heights = list(widths[1:]), set()
    for number, seen in enumerate(recorder.frames()):
        first = recorder.screen.cursor.y
        drawn = [each for each in seen[first:] if each]
        assert recorder.screen.cursor.x == 0
        assert seen[first : first + len(drawn)] == drawn, "nothing between its lines, nothing below"
        for line, form in zip(drawn, (PROGRESS, NUMBERS, OPINION), strict=False):
            assert any(re.fullmatch(each, line) for each in (form, OPINION)), seen
            assert cells(line) <= recorder.screen.columns
        assert not any(each.startswith(" ") for each in seen[:first]), (seen, "nothing left over above")
        heights.add(len(drawn))
        if later and number % 3 == 2:
            recorder.size(later.pop(0), lines)
    assert recorder.process.returncode == 0, seen
    assert heights >= {0, min(3, lines - 1)}, "nothing, and all of it"
    assert not later
    assert [each for each in seen if each]
    assert not any(each.startswith(" ") for each in seen), "after the end the screen holds what was said"
    assert recorder.out.decode() == f"{name}.denoised.png\n"


def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain line at each iteration."""
    monkeypatch.setattr(displays, "PATIENCE", 0.0)


def test_through_a_pipe_there_are_plain_lines(
    dip: Dip, noisy_png: Path, clean_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    result = dip.quick("denoise", noisy_png, "--reference", clean_png, "--log-every", 1, "--runs", 2, iterations=4)
    assert result.exit_code == 0
    assert all(each.isprintable() for each in result.stderr.splitlines()), "no control characters"
    form = r"noisy\.png: run 2/2  4/4  \d+\.\d/s  0:00 left  loss \S+  fit \S+ dB  true \S+ dB.*"
    assert any(re.fullmatch(form, each) for each in result.stderr.splitlines()), result.stderr
    assert dip.quick("denoise", noisy_png, "-q").stderr == ""


@pytest.mark.parametrize(
    ("wishes", "escapes"), [({}, 0), ({"FORCE_COLOR": "1"}, 2), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, 0)]
)
def test_colours_in_a_pipe_only_where_they_are_asked_for(
    wishes: dict[str, str], escapes: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow(monkeypatch)
    for name, value in wishes.items():
        monkeypatch.setenv(name, value)
    lines = displays.choose(quiet=False)
    lines.show_failures(1)
    with lines.watching("2/3 cat.png", Expected(10)):
        lines(step(1), Verdict())
    said = capsys.readouterr().err
    assert said.count("\x1b") == escapes
    assert re.sub(r"\x1b\[\dm", "", said) == "2/3 cat.png: 1 failed so far  1/10\n"


class Screen(io.StringIO):
    """Standard error on a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("wishes", "kind"),
    [
        ({"TERM": "xterm"}, Terminal),
        ({"TERM": "xterm", "NO_COLOR": "1"}, Terminal),
        ({"TERM": "xterm", "FORCE_COLOR": ""}, Terminal),
        ({"TERM": "dumb"}, displays.Lines),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, displays.Lines),
    ],
)
def test_which_display_there_is(wishes: dict[str, str], kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in wishes.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Screen())
    display = displays.choose(quiet=False)
    assert isinstance(display, kind)
    assert isinstance(displays.choose(quiet=True), Silent)
    if isinstance(display, Terminal):
        with display.watching("cat.png", Expected(10)):
            display(step(1), Verdict(criterion=("holdout", 0.1)))
        written = sys.stderr.getvalue()
        colours = set(re.findall(r"\x1b\[[\d;]*m", written))
        assert colours, "bold and dim are no colours"
        assert not [each for each in colours if "3" in each] or "NO_COLOR" not in wishes


def test_letters_that_the_terminal_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(Screen, "encoding", "ascii")
    monkeypatch.setattr(sys, "stderr", screen)
    terminal = Terminal()
    with terminal.watching("Prüfung 写真 with a long name.png", Expected(100)):
        terminal(step(50), Verdict())
        for number in range(8):
            terminal.show_row(row(fit=20.0 + number))
        drawn = plain(terminal, 60)
    assert all(each.isascii() for each in drawn)
    assert "===" in drawn[0]
    assert "..." in drawn[0]


def test_what_others_write_goes_above(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyte

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    with terminal.watching("cat.png", Expected(100)):
        terminal(step(50), Verdict())
        sys.stderr.write("a warning of somebody else's\n")
        terminal.note("what is said is broken between words, and not within them")
        terminal.note("/a/path/that/is/longer/than/the/terminal/is/wide.png: to go on: dip resume '/a/folder/of it'")
    emulator = pyte.Screen(40, 12)
    stream = pyte.Stream(emulator)
    stream.feed(screen.getvalue().replace("\n", "\r\n"))
    assert [each.rstrip() for each in emulator.display if each.strip()] == [
        "a warning of somebody else's",
        "what is said is broken between words,",
        "and not within them",
        "/a/path/that/is/longer/than/the/terminal",
        "/is/wide.png:",
        "to go on: dip resume '/a/folder/of it'",
    ]


@pytest.mark.parametrize(
    ("kind", "error"),
    [(displays.Lines, BrokenPipeError(32, "Broken pipe")), (Terminal, OSError(5, "Input/output error"))],
)
def test_who_reads_along_may_go(kind: type, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a pipe, or of a terminal, does not end the run."""

    class Gone(Screen):
        def write(self, text: str) -> int:  # noqa: ARG002
            raise error

    monkeypatch.setattr(sys, "stderr", Gone())
    slow(monkeypatch)
    display = kind()
    with display.watching("cat.png", Expected(100)):
        display(step(50), Verdict())
        display.note("a remark")


@pytest.mark.parametrize(
    ("asked", "said", "width"),
    [((80, 24), None, 80), ((100, 24), "80", 80), ((60, 24), "200", 60), ((0, 0), "100", 100), ((0, 0), "x", 80)],
)
def test_the_width_is_what_the_terminal_says_or_less(
    asked: tuple[int, int], said: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size(asked))
    monkeypatch.setenv("COLUMNS", said or "")
    monkeypatch.delenv("LINES", raising=False)
    console: Any = SimpleNamespace(file=SimpleNamespace(fileno=lambda: 2))
    assert pane.measured(console) == (width, 24)


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
def test_what_is_known_before_a_fit(
    options: tuple[Any, ...], known: Expected, dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Expected] = []
    plain = displays.Lines.watching
    monkeypatch.setattr(
        displays.Lines, "watching", lambda self, title, ahead: [told.append(ahead), plain(self, title, ahead)][1]
    )
    iio.imwrite(tmp_path / "in.png", noisy(scene(130, 130)))
    tiny = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--no-report")
    rest = () if "--warmup" in options else ("--warmup", 0)
    preset = () if "--preset" in options else ("--preset", "balanced")
    result = dip("denoise", tmp_path / "in.png", *tiny, *options, *rest, *preset)
    assert result.exit_code == 0, result.stderr
    (ahead,) = told
    assert (ahead.left() is None) is ("--time" not in options)
    usual = ahead.usual if ahead.iterations else None  # where that is asked for it does not matter
    assert replace(ahead, left=known.left, usual=known.usual if usual else ahead.usual) == known


def test_a_batch_tells_how_many_failed_so_far(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(displays.Lines, "show_failures", lambda _, failed: told.append(failed))
    for name in ("a", "b", "c"):
        iio.imwrite(tmp_path / f"{name}.png", noisy(scene(20, 24)))
    (tmp_path / "b.png").write_bytes(b"no picture")
    assert dip.quick("denoise", tmp_path).exit_code == 3
    assert told == [0, 1, 1]
