"""What the user can put right."""


class DipError(Exception):
    """Something the user can put right: what is wrong, then what to do.

    The command line prints the sentence without a traceback and ends with `exit_code`.
    Anything that is not a `DipError` is a bug and keeps its traceback.
    """

    exit_code = 1


class UsageError(DipError):
    """A `DipError` about how the tool was called: an option, a preset, a rule that does not exist."""

    exit_code = 2


class OutOfMemoryError(DipError):
    """Memory ran out: with less of the picture at a time there may be enough."""


class TakenError(DipError):
    """Another run is writing there: it may be over soon."""
