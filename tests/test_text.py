"""Specifications written name:key=value, durations and amounts of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipcli.errors import UsageError
from dipcli.text import escape_controls, format_clock, format_duration, parse, parse_bytes, parse_seconds, write


@dataclass(frozen=True)
class Everything:
    """One field of each type that can be written."""

    name: ClassVar[str] = "everything"
    count: int = 3
    weight: float = 0.5
    word: str = "red"
    flag: bool = True
    numbers: tuple[int, ...] = (1, 2)
    words: tuple[str, ...] = ("red", "green")


WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1)


@given(
    st.builds(
        Everything,
        count=st.integers(-1000, 1000),
        weight=st.floats(allow_nan=False),
        word=WORDS,
        flag=st.booleans(),
        numbers=st.lists(st.integers(-9, 999), min_size=1).map(tuple),
        words=st.lists(WORDS, min_size=1).map(tuple),
    )
)
def test_parse_reads_what_write_writes(value: Everything) -> None:
    pairs = [f"{field.name}={write(getattr(value, field.name))}" for field in fields(value)]
    text = ":".join(["everything", *pairs])
    assert parse(text, [Everything], "thing") == value


def test_missing_keys_keep_their_defaults() -> None:
    assert parse("everything", [Everything], "thing") == Everything()
    assert parse("everything:flag=no", [Everything], "thing") == Everything(flag=False)


def test_x_repeats_a_number() -> None:
    assert parse("everything:numbers=8,16x2,4", [Everything], "thing") == Everything(numbers=(8, 16, 16, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "There is no thing 'nothing': choose from everything"),
        ("everything:size=3", "it takes count=3, weight=0.5, word=red, flag=yes, numbers=1,2, words=red,green"),
        ("everything:flag", "does not understand 'flag'"),
        ("everything:count=many", "write it as count=3"),
        ("everything:flag=True", "write it as flag=yes"),
        ("everything:flag=", "write it as flag=yes"),
        ("everything:numbers=8x0", "write it as numbers=1,2"),
        ("everything:numbers=8x65", "write it as numbers=1,2"),
        ("everything:numbers=1,,2", "write it as numbers=1,2"),
    ],
)
def test_error_names_the_valid_values(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text, [Everything], "thing")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("1h30m", 5400), ("90", 90), ("0.5s", 0.5)])
def test_parse_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"), [("8G", 8 * 2**30), ("1.5GiB", 1.5 * 2**30), ("800M", 800 * 2**20), ("9", 9)]
)
def test_parse_bytes(text: str, count: float) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1x", "0s", "0G"])
def test_invalid_amounts_are_refused(text: str) -> None:
    for function in (parse_seconds, parse_bytes):
        with pytest.raises(ValueError, match=re.escape(text) + "$"):
            function(text)


def test_durations_are_formatted() -> None:
    assert [format_duration(seconds) for seconds in (40, 720, 12_600)] == ["40 s", "12 min", "3.5 h"]
    assert [format_clock(seconds) for seconds in (123, 3723)] == ["2:03", "1:02:03"]


def test_control_characters_are_escaped() -> None:
    assert escape_controls("a\nb\x1b[31m\u202e\udc80ü") == r"a\nb\x1b[31m\u202e\udc80ü"
