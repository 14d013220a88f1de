"""Text for a line of a terminal: measured in cells, shortened and left out until it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

GAP = "  "  # between two parts of a line
ELLIPSIS, DOTS = "…", "..."
JOINER = "\u200d"  # makes one sign of those to its left and right
Span: TypeAlias = tuple[str, str]  # a text, and the style it is written in


class Form(NamedTuple):
    """One way to write a part of a line.

    Attributes:
        worth: what is worth least is given up first.
        spans: the text.
    """

    worth: int
    spans: tuple[Span, ...]

    @property
    def cells(self) -> int:
        """How wide it is."""
        return sum(cells(text) for text, _ in self.spans)


Part: TypeAlias = Sequence[Form]  # from the longest to the shortest, and from the least to the most worth


def part(style: str, *forms: tuple[int, str]) -> Part:
    """A part in one style, of its forms' worth and text."""
    return [Form(worth, ((text, style),)) for worth, text in forms if text]


def fitted(parts: Sequence[Part], width: int) -> list[Span]:
    """A line of the parts, each in the longest form there is room for; those for which there is none are left out.

    Given up first is the form worth least. What was given up and fits all the same, because something large made room
    for it, comes back, the worthiest first.

    Args:
        parts: in their order.
        width: of the line, in cells; it is never longer.
    """
    widths = [[*(len(GAP) + form.cells for form in each), 0] for each in parts]
    worths = [[form.worth for form in each] for each in parts]
    chosen = [0] * len(parts)
    total = sum(each[0] for each in widths) - len(GAP)
    while total > width:
        left = [number for number, each in enumerate(worths) if chosen[number] < len(each)]
        least = min(left, key=lambda number: worths[number][chosen[number]])
        total += widths[least][chosen[least] + 1] - widths[least][chosen[least]]
        chosen[least] += 1
    while back := [
        number
        for number, now in enumerate(chosen)
        if now and total + widths[number][now - 1] - widths[number][now] <= width
    ]:
        best = max(back, key=lambda number: worths[number][chosen[number] - 1])
        total += widths[best][chosen[best] - 1] - widths[best][chosen[best]]
        chosen[best] -= 1
    spans: list[Span] = []
    for each, now in zip(parts, chosen, strict=True):
        if now < len(each):
            spans += [(GAP, ""), *each[now].spans] if spans else each[now].spans
    return spans


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: East Asian letters and emoji take two."""
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int, ellipsis: str = ELLIPSIS) -> str:
    """The same within so many cells: what is too much is taken out of the middle."""
    if cells(text) <= width:
        return text
    room = width - cells(ellipsis)
    if room < 1:
        return ""
    signs = _signs(text)
    begin = _fitting(signs, room - room // 2)
    end = _fitting(signs[: len(begin) - 1 if begin else None : -1], room - sum(map(cells, begin)))
    return "".join([*begin, ellipsis, *reversed(end)])


def wrapped(words: Iterable[str], width: int) -> list[str]:
    """Words in lines of so many cells; one that is longer, as a path may be, stays whole."""
    lines: list[str] = []
    for word in words:
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _signs(text: str) -> list[str]:
    """The text in pieces that cannot be parted: a letter with its accents, a picture made of several."""
    signs: list[str] = []
    for each in text:
        if signs and (cells(each) == 0 or signs[-1].endswith(JOINER)):
            signs[-1] += each
        else:
            signs.append(each)
    return signs


def _fitting(signs: Sequence[str], width: int) -> list[str]:
    """As many of the first as fit."""
    return [sign for sign, end in zip(signs, accumulate(map(cells, signs)), strict=True) if end <= width]
