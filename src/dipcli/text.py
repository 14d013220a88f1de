"""Values written `name:key=value:key=value`, as `--stop emv:patience=500` and `--network skip:skips=0,4,4`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar
from unicodedata import bidirectional, category

from dipcli.errors import UsageError

T = TypeVar("T")
HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # what ends a line, moves the cursor, or cannot be written,
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # and what makes the rest run backwards


def parse(text: str, choices: Iterable[type[T]], what: str) -> T:
    """Turn `name:key=value:...` into a value of the class of that name.

    Each class is a dataclass with a class attribute `name`; its fields are the keys and their defaults
    say the type: a number, a word, yes or no, or a tuple of words or whole numbers written with commas (`128x5` for
    five of them).

    Args:
        text: what the user wrote.
        choices: the classes that may be named.
        what: what is being named, for the messages ("stopping rule").

    Raises:
        UsageError: when the name, a key or a value is not known.
    """
    name, *pairs = text.split(":")
    named: dict[str, Any] = {choice.name: choice for choice in choices}  # type: ignore[attr-defined]
    if name not in named:
        raise UsageError(f"There is no {what} {name!r}: choose from {', '.join(sorted(named))}.")
    defaults = {field.name: field.default for field in fields(named[name])}
    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in defaults or not equals:
            known = ", ".join(f"{key}={write(default)}" for key, default in defaults.items()) or "nothing"
            raise UsageError(f"The {what} {name!r} does not understand {pair!r}: it takes {known}.")
        try:
            given[key] = _read(value, defaults[key])
        except ValueError:
            raise UsageError(
                f"{key}={value} does not suit the {what} {name!r}: write it as {key}={write(defaults[key])}."
            ) from None
    built: T = named[name](**given)
    return built


def write(value: object) -> str:
    """Write one value the way `parse` reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def seconds(text: str) -> float:
    """A time written as 90s, 15m, 1h30m or 90, in seconds.

    Raises:
        ValueError: when it is not written so, or is nothing.
    """
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    told = parts.groups() if parts else ()
    total = sum(float(part or 0) * unit for part, unit in zip(told, (3600, 60, 1), strict=False))
    if not 0 < total < math.inf:
        raise ValueError(text)
    return total


def roughly(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def size(text: str) -> int:
    """An amount of memory written as 8G, 1.5GiB, 800M or 800000000, in bytes: a K is 1024.

    Raises:
        ValueError: when it is not written so, or is nothing.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if parts is None or not float(parts[1]):
        raise ValueError(text)
    return int(float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " "))


def _read(text: str, default: object) -> object:
    if isinstance(default, bool):
        return ("no", "yes").index(text) == 1
    if isinstance(default, tuple) and isinstance(default[0], str):
        return tuple(text.split(","))
    if isinstance(default, tuple):
        numbers: list[int] = []
        for part in text.split(","):
            number, _, times = part.partition("x")
            if not 1 <= int(times or 1) <= 64:  # noqa: PLR2004 - no network is deeper
                raise ValueError(text)
            numbers += [int(number)] * int(times or 1)
        return tuple(numbers)
    if isinstance(default, int | float):
        return type(default)(text)
    return text


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def legible(text: str) -> str:
    """The same on one line, whatever the files in it are called.

    Control characters, stray bytes and what turns the direction of writing are shown as escapes.
    """
    return "".join(
        each.encode("unicode_escape").decode("ascii")
        if category(each) in HIDDEN or bidirectional(each) in TURNING
        else each
        for each in text
    )
