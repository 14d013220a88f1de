"""Values written name:key=value."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipcli.errors import UsageError
from dipcli.text import parse, write


@dataclass(frozen=True)
class Everything:
    """One field of each kind that can be written."""

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
def test_what_is_written_is_read_back(value: Everything) -> None:
    text = ":".join(["everything", *(f"{each.name}={write(getattr(value, each.name))}" for each in fields(value))])
    assert parse(text, [Everything], "thing") == value


def test_what_is_left_out_keeps_its_default() -> None:
    assert parse("everything", [Everything], "thing") == Everything()
    assert parse("everything:flag=no", [Everything], "thing") == Everything(flag=False)


def test_numbers_may_be_repeated_with_an_x() -> None:
    assert parse("everything:numbers=8,16x2,4", [Everything], "thing") == Everything(numbers=(8, 16, 16, 4))


@pytest.mark.parametrize(
    ("text", "way_out"),
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
def test_what_cannot_be_read_is_answered_with_what_can(text: str, way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        parse(text, [Everything], "thing")
