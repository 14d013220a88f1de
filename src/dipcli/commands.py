"""The commands beside the tasks: what they take, and what they print.

Each is a function with the signature that Typer makes options from. It ends in `typer.Exit` where its exit code is not
0, and what it raises the command line tells of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from dipcli import displays, outcomes


def resume(
    run: Annotated[
        Path, typer.Argument(help="The folder that the run left beside its output: clean.dip", metavar="RUN")
    ],
    *,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say which settings are used.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of the path.")] = False,
) -> None:
    """Go on with a run that was cut short.

    It goes on from its last checkpoint with the options that it began with,
    and on the same machine comes to the same picture, bit for bit, as if
    nothing had happened. The picture and other files that it reads have to
    be as they were. In a folder of pictures it needs no word: repeat the call.

    Examples:

        dip resume noisy.denoised.dip
    """
    from dipcli.batch import Batch, Entry
    from dipcli.resume import find, finished

    if account := finished(run):
        displays.choose(quiet=quiet).note(f"{run} is done already: {account['output']}")
        outcomes.hand_out(account, as_json=as_json)
        return
    before = find(run)
    batch = Batch((Entry(before.job),), several=False)
    raise typer.Exit(outcomes.restore(batch, quiet=quiet, verbose=verbose, as_json=as_json, resume=before))


COMMANDS: Mapping[str, Callable[..., None]] = {"resume": resume}
