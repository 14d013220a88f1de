"""The live display on a terminal: up to three lines, fitted to its width."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.cells import cell_len, split_graphemes
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.text import Text

from dipcli.cli.progress.fit_progress import GAP, FitProgress, ProgressDisplay
from dipcli.cli.progress.sparkline import sparkline
from dipcli.runs.display import Expected, format_row
from dipcli.text import escape_controls

if TYPE_CHECKING:
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

GAP_TEXT = Text(GAP)
MIN_TITLE_CELLS, MIN_BAR_CELLS, MAX_BAR_CELLS, MAX_CURVE_CELLS = 12, 8, 28, 24
# Terminals disagree about the width of emoji. Without wrapping, a line that is too wide is cut and costs no second row.
NO_WRAP, WRAP = (Segment(code, None, [(ControlType.CARRIAGE_RETURN,)]) for code in ("\x1b[?7l", "\x1b[?7h"))


class Terminal(ProgressDisplay):
    """A live display: title and progress, then the metrics, then the state of the stopping rule.

    It is on the terminal only during a fit. Everything written to standard error meanwhile appears above it.
    """

    def __init__(self) -> None:
        stream = cast("TextIO", _LenientStream(sys.stderr))
        # `displays.choose` has seen that this is a terminal; FORCE_COLOR and NO_COLOR are about colours.
        self.console = Console(file=stream, highlight=False, emoji=False, force_terminal=True, legacy_windows=False)
        super().__init__()

    @contextmanager
    def watching(self, title: str, expected: Expected) -> Iterator[None]:
        """Show the progress of a fit."""
        encoding = self.console.encoding
        self.title = escape_controls(title).encode(encoding, "backslashreplace").decode(encoding)
        self.progress = FitProgress(expected)
        with Live(self, console=self.console, transient=True, redirect_stdout=False):  # standard output carries data
            self.console.show_cursor()  # Rich hides it: after Ctrl-Z or `kill -9` the shell would have none
            yield

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Update the progress; the next frame shows it."""
        self.progress.update(step, verdict)
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")

    def note(self, text: str) -> None:
        """Print above the display. Lines break between words; a command or a path stays whole, to be copied."""
        self.console.print(Text(wrap_note(escape_controls(text), self.console.width)), soft_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Render at least one line, and leave one line of the terminal to the notes."""
        rule = next((text for text in self.progress.describe_rule() if cell_len(text) <= options.max_width), "")
        lines = [self._progress_line(console, options), self._metrics_line(options), Text(rule, "dim")]
        shown = [line for line in lines if line][: max(options.size.height - 1, 1)]
        yield NO_WRAP
        yield from Text("\n").join(shown).render(console)
        yield WRAP

    def _progress_line(self, console: Console, options: ConsoleOptions) -> Text:
        """Title, bar, iterations, throughput and time left; the title, then the bar, take the room that is left."""
        ellipsis = "..." if options.ascii_only else "…"
        progress = self.progress
        title = Text(shorten(self.title, MIN_TITLE_CELLS, ellipsis), "bold")
        parts = drop_parts(
            [
                (4, title),
                (3, Text(f"{self.failed} failed" if self.failed else "", "red")),
                (2, Text(progress.describe_position())),
                (6, Text(progress.describe_count())),
                (1, Text(progress.describe_throughput(), "dim")),
                (5, Text(progress.describe_time_left())),
            ],
            options.max_width,
        )
        room = options.max_width - GAP_TEXT.join(parts).cell_len
        if title in parts:
            parts[0] = Text(shorten(self.title, title.cell_len + room, ellipsis), "bold")
            room -= parts[0].cell_len - title.cell_len
        bar_cells = min(room - len(GAP), MAX_BAR_CELLS)
        if progress.number and progress.fraction is not None and bar_cells >= MIN_BAR_CELLS:
            bar = ProgressBar(1.0, progress.fraction, bar_cells, style="dim", complete_style="cyan")
            drawn = Text.assemble(*((part.text, part.style or "") for part in console.render(bar)))
            drawn.truncate(bar_cells, pad=True)
            parts.insert(1, drawn)
        return GAP_TEXT.join(parts)

    def _metrics_line(self, options: ConsoleOptions) -> Text:
        """Loss and PSNR, and one curve: the PSNR to the reference, else the criterion, else the PSNR to the input."""
        parts = drop_parts([*enumerate(map(Text, format_row(self.progress.row)))], options.max_width)
        values = next((curve.values for curve in self.progress.curves.values() if curve.values), [])
        room = options.max_width - GAP_TEXT.join([*parts, Text()]).cell_len
        curve = "" if options.ascii_only else sparkline(values, min(room, MAX_CURVE_CELLS))
        return GAP_TEXT.join([*parts, Text(curve, "cyan")] if curve else parts)


def drop_parts(parts: Sequence[tuple[int, Text]], width: int) -> list[Text]:
    """Leave out empty parts, then those of the lowest priority, until the line fits in `width` cells."""
    kept = [(priority, part) for priority, part in parts if part]
    while kept and GAP_TEXT.join([part for _, part in kept]).cell_len > width:
        kept.remove(min(kept, key=lambda part: part[0]))
    return [part for _, part in kept]


def shorten(text: str, width: int, ellipsis: str = "…") -> str:
    """Replace the middle of a text by an ellipsis so that it fits in `width` cells; empty if nothing fits."""
    spans, cells = split_graphemes(text)
    if cells <= width:
        return text
    room = width - len(ellipsis)
    if room < 1:
        return ""
    head = [end for end in accumulate(size for *_, size in spans) if end <= (room + 1) // 2]
    room -= head[-1] if head else 0
    tail = [end for end in accumulate(size for *_, size in reversed(spans[len(head) :])) if end <= room]
    return text[: spans[len(head)][0]] + ellipsis + text[spans[len(spans) - len(tail) - 1][1] :]


def wrap_note(text: str, width: int) -> str:
    """Break a note between words; words longer than a line, and a command after `: dip `, stay in one piece."""
    if cell_len(text) <= width:
        return text
    sentence, colon, command = text.partition(": dip ")
    lines = textwrap.wrap(sentence + colon[:1], width, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, f"dip {command}"] if colon else lines)


class _LenientStream:
    """A stream that ignores its errors: a terminal that was closed must not end the fit."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
