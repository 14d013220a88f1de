"""Errors that the user can put right, and how errors are put into messages."""

from textwrap import shorten

MAX_ERROR_CHARACTERS = 120  # of a message that is quoted in another


class DipError(Exception):
    """An error that the user can put right; the message says what is wrong, then what to do.

    The command line prints the message without a traceback and exits with `exit_code`. Any other exception is a bug
    and keeps its traceback.
    """

    exit_code = 1


class UsageError(DipError):
    """The command was called wrongly: an unknown option, preset, rule or value."""

    exit_code = 2


class OutOfMemoryError(DipError):
    """Memory ran out; smaller tiles may fit."""


class TakenError(DipError):
    """Another run is writing to the same place; it may end soon."""


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message without its full stop, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0].rstrip(".")


def describe_error(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message, shortened."""
    line = shorten(str(error).strip().partition("\n")[0].rstrip("."), MAX_ERROR_CHARACTERS, placeholder=" ...")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def describe_failure(error: Exception) -> str:
    """Return the message of an exception, with its type if it is a bug."""
    return str(error) if isinstance(error, DipError) else f"{type(error).__name__}: {error}"
