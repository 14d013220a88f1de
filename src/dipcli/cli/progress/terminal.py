"""The live display on a terminal: two or three lines as wide as there is room for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from dipcli.cli.progress.layout import DOTS, ELLIPSIS, Form, Part, cells, fitted, part, shortened, wrapped
from dipcli.cli.progress.live import Pane, measured, say
from dipcli.cli.progress.progress import Standing
from dipcli.cli.progress.sparkline import BLOCKS, sparkline
from dipcli.runs.display import Expected, format_row
from dipcli.text import legible

if TYPE_CHECKING:
    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step

MARGIN = 1  # cells at either end of a line: the cursor rests in the one at the left
LONGEST_BAR, FAIR_BAR, SHORTEST_BAR = 28, 16, 8  # cells
FAIR_TITLE, SHORT_TITLE, SHORTER_TITLE, SHORTEST_TITLE = 28, 16, 12, 8
LONGEST_CURVE, SHORTEST_CURVE = 24, 8
BAR, PLAIN_BAR = "━╸─", "==-"  # done, its head, to be done; the second where there are no such letters
COMMAND = ": dip "  # before a line for somebody to type
QUIET, STRONG, BAD, GOOD = "dim", "bold", "red", "cyan"


class Terminal:
    """A live display: what is at work and how far; the numbers; what the rule thinks of it.

    It is there only while a fit is under way, so that whatever else is written finds the terminal as it was.
    """

    def __init__(self) -> None:
        # Whoever asks for it has seen that there is a terminal; what the environment says is about colours.
        self.console = Console(stderr=True, highlight=False, emoji=False, force_terminal=True, legacy_windows=False)
        self.title, self.standing, self.failed = "", Standing(Expected()), 0
        encoding = self.console.encoding
        self.blocks, self.bar, self.ellipsis = (
            _writable(rich, plain, encoding) for rich, plain in ((BLOCKS, ""), (BAR, PLAIN_BAR), (ELLIPSIS, DOTS))
        )

    @contextmanager
    def watching(self, title: str, ahead: Expected) -> Iterator[None]:
        """Show how far it is."""
        written = legible(title).encode(self.console.encoding, "backslashreplace")
        self.title, self.standing = written.decode(self.console.encoding), Standing(ahead)
        with Pane(self.console, self.lines).shown():
            yield

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Take it in; it is drawn in its own time."""
        self.standing.learn(step, verdict)
        if step.event:
            self.note(f"iteration {step.number}: {step.event}")

    def show_row(self, row: Row) -> None:
        """Show the numbers from now on."""
        self.standing.hear(row)

    def show_failures(self, failed: int) -> None:
        """Show how many pictures failed so far."""
        self.failed = failed

    def note(self, text: str) -> None:
        """Print it above, broken between words; what is to be typed, or is a path, stays in one piece."""
        about, found, command = legible(text).partition(COMMAND)
        words = [*f"{about}:".split(" "), f"dip {command}"] if found else about.split(" ")
        width, _ = measured(self.console)
        say(self.console, Text("\n".join(wrapped(words, width))))

    def lines(self, columns: int, lines: int) -> list[Text]:
        """What is drawn: at least one line, none of them wider than the terminal."""
        width = max(columns - 2 * MARGIN, 0)
        parts = [self._progress(), self._numbers(), self._opinion()]
        drawn = [spans for each in parts if (spans := fitted(each, width))]
        shown = drawn[: max(lines - 1, 1)] or [[]]
        return [Text.assemble(*([(" " * MARGIN, ""), *spans] if spans else [])) for spans in shown]

    def _progress(self) -> list[Part]:
        """What is at work, how far it is, and how long it will take."""
        standing = self.standing
        return [
            self._titled(),
            part(BAD, (45, f"{self.failed} failed" if self.failed else "")),
            self._bar(),
            part("", (65, standing.place())),
            part("", (35, standing.count()), (90, standing.count(short=True)), (100, f"{standing.number or ''}")),
            part(QUIET, (10, standing.rate())),
            part(
                "", (32, standing.left()), (60, short := standing.left(short=True)), (85, short.removesuffix(" left"))
            ),
        ]

    def _titled(self) -> Part:
        """The picture's name: shortened a little before other parts are left out, and further after that."""
        longest = cells(self.title)
        forms = []
        for width in (longest, *range(longest - 1, SHORTEST_TITLE - 1, -1)):
            limits = ((FAIR_TITLE, 15), (SHORT_TITLE, 40), (SHORTER_TITLE, 50), (0, 70))
            worth = next(worth for limit, worth in limits if width >= limit)
            forms.append((worth, shortened(self.title, width, self.ellipsis)))
        return part(STRONG, *forms)

    def _bar(self) -> Part:
        share = self.standing.share
        if share is None or not self.standing.number:
            return []
        done, head, rest = list(self.bar)
        forms = []
        for width in range(LONGEST_BAR, SHORTEST_BAR - 1, -1):
            full, half = divmod(int(2 * share * width), 2)
            drawn = done * full + head * half
            spans = ((drawn, GOOD), (rest * (width - len(drawn)), QUIET))
            forms.append(Form(5 if width > FAIR_BAR else 38, spans))
        return forms

    def _numbers(self) -> list[Part]:
        """Loss and PSNR, and the curve of what matters most: nearness to the truth, else what the rule goes by."""
        worths = (30, 50, 90)
        told = [part("", (worth, text)) for worth, text in zip(worths, format_row(self.standing.row), strict=False)]
        curve = next((each.values for each in self.standing.curves.values() if each.values), [])
        widths = range(LONGEST_CURVE, SHORTEST_CURVE - 1, -1)
        drawn = [(5 if width > SHORTEST_CURVE else 20, sparkline(curve, width, self.blocks)) for width in widths]
        return [*told, part(GOOD, *dict.fromkeys(drawn))]

    def _opinion(self) -> list[Part]:
        return [part(QUIET, *((1, text) for text in self.standing.opinion()))]


def _writable(text: str, plain: str, encoding: str) -> str:
    """The text, or a plainer one where the terminal's encoding has no such letters."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return plain
    return text
