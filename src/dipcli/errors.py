"""Errors that the user can put right."""


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
