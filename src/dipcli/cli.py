"""argv -> task + Settings -> run; errors and exit codes.

Each subcommand's signature is put together here from the task's own parameters, the options that every task has
and the fields of `Settings` and `Record`, with the task's defaults. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from inspect import Parameter
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli import __version__, displays
from dipcli.errors import DipError, UsageError
from dipcli.options import Knob, knobs
from dipcli.registry import DEFAULT_PRESET, Task, tasks
from dipcli.settings import Record, Settings

if TYPE_CHECKING:
    from dipcli.job import Job

FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130


def main() -> None:
    """The command `dip`."""
    app()()


def app() -> typer.Typer:
    """The whole command line: one subcommand a task."""
    whole = typer.Typer(
        name="dip",
        help="Restore a picture with the Deep Image Prior: no training set, one picture in, one picture out.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback()(_root)
    for task in tasks().values():
        whole.command(task.name)(command(task))
    return whole


def command(task: Task) -> Callable[..., None]:
    """The function of a subcommand, with the signature from which Typer makes arguments and options."""

    def run(context: typer.Context, **given: Any) -> None:
        typed = {name for name in given if _was_typed(context, name)}
        with _failures_told():
            raise typer.Exit(_restore_all(_jobs(task, given, typed), given))

    parameters = [
        Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(each.replace(kind=Parameter.KEYWORD_ONLY) for each in _parameters(task)),
    ]
    run.__doc__ = task.help
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"dip {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Its signature is what `dip` itself has; the tasks have the rest."""


def _every_task(
    images: Annotated[list[Path], typer.Argument(help="Pictures to restore; - is standard input.", metavar="IMAGE")],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file for one picture, a folder/ for one or several, - for PNG on standard output; "
            "beside the input when not given.",
        ),
    ] = None,
    preset: str = DEFAULT_PRESET,
    reference: Annotated[
        Path | None,
        typer.Option(help="The true picture, for the log alone: it cannot influence the result."),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say which settings are used.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per picture instead of its path.")
    ] = False,
) -> None:
    """Its signature is what every task has; nobody calls it."""


def _parameters(task: Task) -> list[Parameter]:
    """Pictures, the task's own arguments, what every task has, then settings and record."""
    pictures, *shared = inspect.signature(_every_task, eval_str=True).parameters.values()
    presets = typer.Option(
        help="Speed against quality; paper is the published method.",
        metavar="|".join(task.presets),
        autocompletion=lambda: list(task.presets),
    )
    shared = [each.replace(annotation=Annotated[str, presets]) if each.name == "preset" else each for each in shared]
    defaults = task.settings()
    return [
        pictures,
        *task.arguments(),
        *shared,
        *(_parameter(knob, getattr(defaults, knob.name)) for knob in knobs(Settings)),
        *(_parameter(knob, knob.default) for knob in knobs(Record)),
    ]


def _parameter(knob: Knob, default: Any) -> Parameter:
    """One field as an option, under its heading."""
    shown = f"{default:.4g}" if isinstance(default, float) else True
    option = typer.Option(knob.flag, help=knob.option.help, rich_help_panel=knob.option.group, show_default=shown)
    return Parameter(knob.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[knob.type, option])


def _was_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _jobs(task: Task, given: dict[str, Any], typed: set[str]) -> list[Job]:
    """One job a picture.

    Raises:
        UsageError: when the options do not go together or a value is out of range.
    """
    chosen = {each.name: given[each.name] for each in fields(Settings) if each.name in typed}
    settings = task.settings(given["preset"], **chosen)
    record = Record(**{each.name: given[each.name] for each in fields(Record)})
    sources: list[Path] = given["images"]
    output, folder = _destination(sources, given["output"])
    if len(sources) > 1 and (record.run_dir or record.uncertainty or given["reference"]):
        raise UsageError("--run-dir, --uncertainty and --reference are for one picture: name one, or leave them out.")
    to_stdout = output == Path("-") or (output is folder is None and sources == [Path("-")])
    if to_stdout and given["as_json"]:
        raise UsageError("Standard output takes the picture or the JSON: name a file with -o, or leave --json out.")
    if to_stdout and not record.run_dir and (record.snapshot_every or record.snapshot_at):
        raise UsageError("Snapshots of a picture on standard output have no place yet: name one with --run-dir.")

    # torch comes with these, and most mistakes have been found by now
    from dipcli.job import Job
    from dipcli.networks import architecture

    architecture(settings.network)
    return [
        Job(
            task=task,
            source=source,
            preset=given["preset"] if "preset" in typed or not settings.time else None,
            given=chosen,
            arguments={each.name: given[each.name] for each in task.arguments() if _is_own(each, given, typed)},
            output=output,
            folder=folder,
            record=record,
            reference=given["reference"],
            argv=tuple(sys.argv),
        )
        for source in sources
    ]


def _is_own(argument: Parameter, given: dict[str, Any], typed: set[str]) -> bool:
    """Whether a task's argument was given, on the command line or by the environment: a preset's value yields."""
    return argument.name in typed or given[argument.name] != argument.default


def _destination(sources: list[Path], output: str | None) -> tuple[Path | None, Path | None]:
    """What `-o` means: a file, or a folder; neither is beside the source.

    Raises:
        UsageError: when several pictures would go to one place.
    """
    several = len(sources) > 1
    if several and Path("-") in sources:
        raise UsageError("Standard input is one picture by itself: name no other beside -.")
    if several and output and (output == "-" or Path(output).is_file()):
        raise UsageError(f"-o {output} cannot take {len(sources)} pictures: name a folder.")
    place = None if output is None else Path(output)
    file, folder = (None, place) if several or (output or "").endswith(("/", os.sep)) else (place, None)
    places = [(folder or source.parent) / source.stem for source in sources]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UsageError(
            f"Two pictures called {twice.name} would be written to one file: restore one at a time with -o."
        )
    return file, folder


def _restore_all(jobs: list[Job], given: dict[str, Any]) -> int:
    """Restore one picture after the other, past those that fail; the exit code."""
    from dipcli.run import restore

    failures = 0
    display = displays.choose(quiet=given["quiet"])
    tell = display.note if given["verbose"] else lambda _: None
    for job in jobs:
        announce = partial(_tell_settings, tell, job)
        try:
            account, ended_by = restore(job, display=display, signals=(SIGINT, SIGTERM), announce=announce)
        except DipError as error:
            if len(jobs) == 1:
                raise
            failures += 1
            _complain(error)
            account, ended_by = {"input": str(job.source), "error": str(error)}, None
        else:
            display.note(displays.ending(account))
            tell(displays.machinery(account))
        _hand_out(account, as_json=given["as_json"])
        if ended_by:
            return 128 + ended_by
    if failures:
        display.note(f"{failures} of {len(jobs)} pictures failed.")
    if not failures:
        return 0
    return SOME_FAILED if failures < len(jobs) else FAILED


def _hand_out(account: dict[str, Any], *, as_json: bool) -> None:
    """Standard output: the path written, or with `--json` the account; nothing beside a picture that went there."""
    if account.get("output") == "-" or (not as_json and "output" not in account):
        return
    line = json.dumps(account, default=str).encode() if as_json else os.fsencode(account["output"])
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


@contextmanager
def _failures_told() -> Iterator[None]:
    """A `DipError` is a sentence and an exit code; `DIP_DEBUG=1` shows where it came from."""
    try:
        yield
    except DipError as error:
        _complain(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _complain(error: DipError) -> None:
    if sys.stderr is None:
        return
    if os.environ.get("DIP_DEBUG"):
        traceback.print_exception(error)
    print(f"dip: {error}", file=sys.stderr, flush=True)  # noqa: T201 - this is where complaints go


def _tell_settings(tell: Callable[[str], None], job: Job, preset: str, settings: Settings, outlook: str) -> None:
    told = "  ".join(f"{knob.flag[2:]}={getattr(settings, knob.name)}" for knob in knobs(Settings))
    tell(f"{job.source}: preset {preset}: {told}")
    if outlook:
        tell(f"{job.source}: {outlook}")
