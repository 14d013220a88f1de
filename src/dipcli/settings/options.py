"""Fields that are options: one field = default + help text + command-line option."""

from __future__ import annotations

import math
import numbers
import types
from dataclasses import fields
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from dipcli.errors import UsageError


class OptionInfo(NamedTuple):
    """How a field is spoken of on the command line, and which values it may have.

    Attributes:
        help: what it does, for `--help`.
        flag: its option, where that is not the field's name.
        group: the heading it stands under in `--help`.
        least: the smallest value allowed.
        most: the largest value allowed.
        above: values must be larger than this.
        below: values must be smaller than this.
    """

    help: str
    flag: str = ""
    group: str = "The fit"
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None


class OptionField(NamedTuple):
    """One field as the command line and the Python API see it."""

    name: str
    type: Any
    default: Any
    option: OptionInfo

    @property
    def flag(self) -> str:
        """The option: `--input-depth` for `input_depth` unless the field names another."""
        return self.option.flag or "--" + self.name.replace("_", "-")


def option_fields(cls: type[Any]) -> list[OptionField]:
    """The fields of `cls` in their order, with their types and options."""
    hints = get_type_hints(cls, include_extras=True)
    return [
        OptionField(field.name, kind, field.default, option)
        for field in fields(cls)
        for kind, option in [get_args(hints[field.name])]
    ]


def check_fields(values: Any) -> None:
    """See that the fields of a dataclass are of their types and in their ranges.

    Raises:
        UsageError: when one is not; the sentence names the option.
    """
    for knob in option_fields(type(values)):
        value = getattr(values, knob.name)
        if value is None and _optional(knob.type):
            continue
        if get_origin(knob.type) is Literal:
            if value not in get_args(knob.type):
                raise UsageError(f"{knob.flag} {value} is unknown: choose from {' '.join(get_args(knob.type))}.")
            continue
        option = knob.option
        if not _is_a(value, knob.type):
            raise UsageError(f"{knob.flag} {value!r} is not a {_word(knob.type)}: write one.")
        if option.most is not None and value > option.most:
            raise UsageError(f"{knob.flag} {value} is too large: use {option.most} or less.")
        if option.least is not None and not value >= option.least:
            raise UsageError(f"{knob.flag} {value} is too small: use {option.least} or more.")
        if option.above is not None and not value > option.above:
            raise UsageError(f"{knob.flag} {value} is too small: use a number above {option.above}.")
        if option.below is not None and not value < option.below:
            raise UsageError(f"{knob.flag} {value} is too large: use a number below {option.below}.")


def _optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _plain(kind: Any) -> type:
    """Int of `int | None`, and so on."""
    plain: type = next(each for each in (*get_args(kind), kind) if isinstance(each, type) and each is not type(None))
    return plain


def _is_a(value: Any, kind: Any) -> bool:
    plain = _plain(kind)
    if isinstance(value, bool) != (plain is bool):
        return False
    if plain is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if plain is int else plain)


def _word(kind: Any) -> str:
    return {int: "whole number", float: "finite number", bool: "yes or no"}.get(_plain(kind), "word")
