"""One display for several fits at once: it shows one of them after the other, each to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dipcli.runs.display import Display, Expected

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dipcli.runs.observers import Row
    from dipcli.stopping import Verdict
    from dipcli.stopping.step import Step


class SharedDisplay:
    """What fits at work at the same time have in common.

    Args:
        display: shows one of them.

    Attributes:
        at_work: how many are.
        coming: how many will be beside these in a moment.
        shown: the display of the one that is shown, entered.
        whose: it is.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        self.at_work = self.coming = 0
        self.whose: DisplayOfOne | None = None
        self.shown: AbstractContextManager[object] | None = None

    def next(self) -> DisplayOfOne:
        """The display of another."""
        return DisplayOfOne(self)

    def show(self, turn: DisplayOfOne) -> bool:
        """Whether this one is shown; it is from now on, where none else is."""
        if self.whose is None:
            count = self.at_work + self.coming - 1
            others = f" and {count} more" if count else ""
            self.whose, self.shown = turn, self.display.watching(turn.title + others, turn.ahead)
            self.shown.__enter__()
        return self.whose is turn

    def end(self, turn: DisplayOfOne) -> None:
        """This one is over: another may be shown."""
        if self.whose is turn and self.shown:
            shown, self.whose, self.shown = self.shown, None, None
            shown.__exit__(None, None, None)


class DisplayOfOne:
    """The display of one of them: all that it has to say is said, its progress is shown where no other's is."""

    def __init__(self, turns: SharedDisplay) -> None:
        self.turns, self.title, self.ahead = turns, "", Expected()

    @contextmanager
    def watching(self, title: str, ahead: Expected) -> Iterator[None]:
        """Inside, it is at work."""
        self.title, self.ahead = title, ahead
        self.turns.at_work += 1
        try:
            self.turns.show(self)
            yield
        finally:
            self.turns.at_work -= 1
            self.turns.end(self)

    def __call__(self, step: Step, verdict: Verdict) -> None:
        """Show it, where it is its turn; what is out of the ordinary is said in any case."""
        if self.turns.show(self):
            self.turns.display(step, verdict)
        elif step.event:
            self.note(f"{self.title}: iteration {step.number}: {step.event}")

    def show_row(self, row: Row) -> None:
        """Show the numbers, where it is its turn."""
        if self.turns.whose is self:
            self.turns.display.show_row(row)

    def show_failures(self, failed: int) -> None:
        """Others count."""

    def note(self, text: str) -> None:
        """Say it."""
        self.turns.display.note(text)
