"""Parsing and formatting of short texts: `name:key=value` specifications, durations, amounts of memory."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import bidirectional, category

from dipcli.errors import UsageError

T = TypeVar("T")
CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # line breaks, cursor movement, bytes that cannot be encoded
DIRECTION_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
MAX_SECONDS = 366 * 24 * 3600
MAX_BYTES = 2**63
MAX_REPEATS = 64  # of one number in a tuple; no network is deeper


def parse(text: str, choices: Iterable[type[T]], what: str) -> T:
    """Parse `name:key=value:...`, as in `--stop emv:patience=500` and `--network skip:skips=0,4,4`.

    Each class is a dataclass with a class attribute `name`. Its fields are the keys; the types are those of their
    defaults: a number, a word, yes or no, or a tuple of words or integers written with commas (`128x5` repeats 128
    five times).

    Args:
        text: as the user wrote it.
        choices: the classes to choose from.
        what: what they are, for messages, as "stopping rule".

    Raises:
        UsageError: if the name, a key or a value is invalid.
    """
    name, *pairs = text.split(":")
    classes: dict[str, Any] = {choice.name: choice for choice in choices}  # type: ignore[attr-defined]
    if name not in classes:
        raise UsageError(f"There is no {what} {name!r}: choose from {', '.join(sorted(classes))}.")
    defaults = {field.name: field.default for field in fields(classes[name])}
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key not in defaults or not equals:
            keys = ", ".join(f"{key}={write(default)}" for key, default in defaults.items()) or "nothing"
            raise UsageError(f"The {what} {name!r} does not understand {pair!r}: it takes {keys}.")
        try:
            values[key] = _parse_value(value, defaults[key])
        except ValueError:
            example = f"{key}={write(defaults[key])}"
            raise UsageError(f"{key}={value} is invalid for the {what} {name!r}: write it as {example}.") from None
    built: T = classes[name](**values)
    return built


def _parse_value(text: str, default: object) -> object:
    if isinstance(default, bool):
        return ("no", "yes").index(text) == 1
    if isinstance(default, tuple) and isinstance(default[0], str):
        return tuple(text.split(","))
    if isinstance(default, tuple):
        numbers: list[int] = []
        for part in text.split(","):
            number, _, repeats = part.partition("x")
            if not 1 <= int(repeats or 1) <= MAX_REPEATS:
                raise ValueError(text)
            numbers += [int(number)] * int(repeats or 1)
        return tuple(numbers)
    if isinstance(default, int | float):
        return type(default)(text)
    return text


def write(value: object) -> str:
    """Write one value in the form that `parse` reads."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse_seconds(text: str) -> float:
    """Parse a duration such as 90s, 15m, 1h30m or 90 into seconds.

    Raises:
        ValueError: if it is not written in this form, is zero, or more than a year.
    """
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    numbers = parts.groups() if parts else ()
    total = sum(float(number or 0) * unit for number, unit in zip(numbers, (3600, 60, 1), strict=False))
    if not 0 < total <= MAX_SECONDS:
        raise ValueError(text)
    return total


def parse_bytes(text: str) -> int:
    """Parse an amount of memory such as 8G, 1.5GiB, 800M or 800000000 into bytes; a K is 1024.

    Raises:
        ValueError: if it is not written in this form or is zero.
    """
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if parts is None or not 0 < float(parts[1]) < MAX_BYTES:
        raise ValueError(text)
    return int(float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " "))


def format_duration(seconds: float) -> str:
    """Format a duration with one unit: 40 s, 12 min, 3.5 h."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004


def format_clock(seconds: float) -> str:
    """Format seconds as 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def escape_controls(text: str) -> str:
    """Escape control characters, undecodable bytes and changes of the writing direction, as file names may have."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if category(character) in CONTROL_CATEGORIES or bidirectional(character) in DIRECTION_CONTROLS
        else character
        for character in text
    )


def quote_arguments(arguments: Sequence[str]) -> str:
    """Return a command line for the shell, on one line; unprintable arguments become bash's `$'...'`."""
    return " ".join(
        shlex.quote(argument)
        if escape_controls(argument) == argument
        else "$'" + "".join(_escape(byte) for byte in os.fsencode(argument)) + "'"
        for argument in arguments
    )


def quote_path(path: Path) -> str:
    """Return a path for a command line: one that starts with a dash would be an option."""
    text = str(path)
    return quote_arguments([f"./{text}" if text.startswith("-") else text])


def _escape(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\x{byte:02x}"  # noqa: PLR2004 - ASCII
