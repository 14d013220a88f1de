"""A few lines at the bottom of what is written to a terminal, drawn anew again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.segment import ControlType, Segment
from rich.text import Text

BETWEEN = 0.25  # seconds, from one drawing to the next
USUAL = 80, 24  # columns and lines of a terminal that does not say
# Hidden, the cursor does not jump about while a frame is drawn; without wrapping the terminal itself cuts a line whose
# letters it holds to be wider than we do.
BEGIN, END = "\r\x1b[?25l\x1b[?7l", "\r\x1b[?7h\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW, UP = "\x1b[K", "\x1b[J", "\x1b[{}A"


class Pane(RenderHook):
    """A few lines that are drawn anew again and again; everything else is written above them.

    In between the cursor rests at the beginning of the first of them. So each frame begins at the right place, however
    many lines there were and whatever a change of the terminal's width has made of them.

    Args:
        console: where.
        lines: what to draw in so many columns and lines.
    """

    def __init__(self, console: Console, lines: Callable[[int, int], Sequence[Text]]) -> None:
        self.console, self.lines = console, lines

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside it is there; what others write to standard error goes above it."""
        done = threading.Event()

        def redraw() -> None:
            while not done.wait(BETWEEN):
                self.draw()

        drawing = threading.Thread(target=redraw, daemon=True)
        self.console.push_render_hook(self)
        self.draw()
        drawing.start()
        try:
            with redirect_stderr(cast("TextIO", FileProxy(self.console, self.console.file))):
                yield
        finally:
            done.set()
            drawing.join()
            self.console.pop_render_hook()
            say(self.console, _Codes("\r" + CLEAR_BELOW))

    def draw(self) -> None:
        """Draw it as wide as the terminal is now."""
        say(self.console, Control())

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What Rich is about to print, with the lines below it."""
        above = [each for each in renderables if not isinstance(each, Control)]
        frame = _Frame(self.lines(*self.console.size))
        return [_Codes("\r" + CLEAR_BELOW), *above, frame] if above else [frame]


def say(console: Console, what: ConsoleRenderable) -> None:
    """Print as it is, in the terminal's width of now; one that is gone must not cost the picture, and is left alone."""
    try:
        console.size = measured(console)
        console.print(what, soft_wrap=True)
    except OSError:
        console.quiet = True


def measured(console: Console) -> tuple[int, int]:
    """Columns and lines of the terminal that is written to.

    What the terminal says of itself goes before COLUMNS and LINES, which do not change with it; but who asks for fewer
    by these has fewer.
    """
    try:
        now: tuple[int, int] = os.get_terminal_size(console.file.fileno())
    except (OSError, ValueError, AttributeError):
        now = (0, 0)
    asked = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    limits = [int(each) if each.isdecimal() else 0 for each in asked]
    columns, lines = (min(filter(None, both), default=usual) for *both, usual in zip(now, limits, USUAL, strict=True))
    return columns, lines


class _Frame:
    """The lines as they are drawn, for Rich."""

    def __init__(self, lines: Sequence[Text]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield _control(BEGIN)
        for number, line in enumerate(self.lines):
            if number:
                yield Segment.line()
                yield _control("\r")
            yield from line.render(console, end="")
            yield _control(CLEAR_LINE)
        up = len(self.lines) - 1
        yield _control(CLEAR_BELOW + (UP.format(up) if up > 0 else "") + END)


class _Codes:
    """Codes for the terminal, for Rich."""

    def __init__(self, codes: str) -> None:
        self.codes = codes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        yield _control(self.codes)


def _control(codes: str) -> Segment:
    """Codes that take no room on the line: that they are told Rich by any kind of control."""
    return Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
