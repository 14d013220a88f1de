"""Fields that are options: one field = default + help text + command-line option."""

from __future__ import annotations

import math
import numbers
import types
from collections.abc import Callable
from dataclasses import fields
from functools import cache, reduce
from operator import or_
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from dipcli.errors import UsageError

T = TypeVar("T")
MAX_ITERATIONS = 100_000_000  # of one fit; more is a slip of the hand
TYPE_NAMES = {int: "whole number", float: "finite number", bool: "yes or no"}


class OptionInfo(NamedTuple):
    """How a field appears on the command line, and which values it accepts.

    Attributes:
        help: the text for `--help`, or a function that returns it.
        flag: the option, if its name is not the field's.
        group: heading in `--help`; "Options" comes first.
        least: smallest value allowed.
        most: largest value allowed.
        above: values must be larger than this.
        below: values must be smaller than this.
    """

    help: str | Callable[[], str]
    flag: str = ""
    group: str = "Options"
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None


class OptionField(NamedTuple):
    """One field as the command line and the Python API see it.

    Attributes:
        name: of the field.
        type: on the command line; a field that also accepts a number from Python is a string here.
        default: of the field.
        option: its metadata.
    """

    name: str
    type: Any
    default: Any
    option: OptionInfo

    @property
    def flag(self) -> str:
        """The option: `--input-depth` for `input_depth` unless the field names another."""
        return self.option.flag or "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """The text for `--help`."""
        return self.option.help if isinstance(self.option.help, str) else self.option.help()


@cache
def option_fields(cls: type[Any]) -> tuple[OptionField, ...]:
    """Return the fields of `cls` in their order, with their types and options."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(
        OptionField(field.name, _command_line_type(kind), field.default, option)
        for field in fields(cls)
        for kind, option in [get_args(hints[field.name])]
    )


_plain_types = cache(get_type_hints)  # evaluating the annotations takes longer than checking the values


def parse_option(flag: str, value: object, parse: Callable[[str], T], examples: str) -> T:
    """Return the value of an option, by a function that raises ValueError if it is invalid.

    Raises:
        UsageError: if it is invalid; the message names the option and the examples.
    """
    try:
        return parse(str(value))
    except ValueError:
        raise UsageError(f"{flag} {value} is invalid: use {examples}.") from None


def check_fields(values: Any) -> None:
    """Check that the fields of a dataclass have their types and are in their ranges.

    A number in a field of type `str | float` becomes a string.

    Raises:
        UsageError: if one is not; the message names the option.
    """
    hints = _plain_types(values.__class__)
    for field in option_fields(values.__class__):
        value, flag, limits = getattr(values, field.name), field.flag, field.option
        if {str, float} <= set(get_args(hints[field.name])) and _is_a(value, float):
            object.__setattr__(values, field.name, str(value))
            continue
        if value is None and type(None) in get_args(field.type):
            continue
        if get_origin(field.type) is Literal:
            if value not in get_args(field.type):
                raise UsageError(f"{flag} {value} is unknown: choose from {', '.join(get_args(field.type))}.")
            continue
        kind = _scalar_type(field.type)
        if not _is_a(value, kind):
            raise UsageError(f"{flag} {value!r} has the wrong type: use a {TYPE_NAMES.get(kind, 'string')}.")
        _check_range(flag, value, limits)


def _check_range(flag: str, value: Any, limits: OptionInfo) -> None:
    if limits.most is not None and value > limits.most:
        raise UsageError(f"{flag} {value} is too large: use {limits.most} or less.")
    if limits.least is not None and not value >= limits.least:
        raise UsageError(f"{flag} {value} is too small: use {limits.least} or more.")
    if limits.above is not None and not value > limits.above:
        raise UsageError(f"{flag} {value} is too small: use a number above {limits.above}.")
    if limits.below is not None and not value < limits.below:
        raise UsageError(f"{flag} {value} is too large: use a number below {limits.below}.")


def _command_line_type(kind: Any) -> Any:
    """Return `str` for `str | float`, `str | None` for `str | float | None`, and other types unchanged."""
    members = get_args(kind)
    if get_origin(kind) not in (Union, types.UnionType) or not {str, float} <= set(members):
        return kind
    return reduce(or_, [member for member in members if member is not float])


def _scalar_type(kind: Any) -> type:
    """Return int for `int | None`, and so on."""
    scalar: type = next(member for member in (*get_args(kind), kind) if member is not type(None))
    return scalar


def _is_a(value: Any, kind: type) -> bool:
    if isinstance(value, bool) != (kind is bool):
        return False
    if kind is float:
        return isinstance(value, numbers.Real) and math.isfinite(value)
    return isinstance(value, numbers.Integral if kind is int else kind)
