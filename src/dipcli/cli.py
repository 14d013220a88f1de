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
    from dipcli.batch import Batch, Outcome
    from dipcli.job import Job

FAILED, SOME_FAILED, INTERRUPTED = 1, 3, 130


def main() -> None:
    """The command `dip`."""
    if "" in sys.argv:  # as a path it would be the folder that one is in, and all pictures there
        _complain("An argument is empty, as where a shell's variable is not set: leave it out or fill it in.")
        sys.exit(UsageError.exit_code)
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
            raise typer.Exit(_restore_all(_batch(task, given, typed), given))

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
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures to restore, folders of them, or patterns as '*.png'; - is standard input.", metavar="IMAGE"
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file for one picture, a folder/ for one or several (sub-folders are kept), - for PNG on standard "
            "output; beside the input when not given.",
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


def _batch(task: Task, given: dict[str, Any], typed: set[str]) -> Batch:
    """One job a picture.

    Raises:
        DipError: when the options do not go together, a value is out of range, or there is no picture.
    """
    chosen = {each.name: given[each.name] for each in fields(Settings) if each.name in typed}
    settings = task.settings(given["preset"], **chosen)
    record = Record(**{each.name: given[each.name] for each in fields(Record)})
    arguments: list[Path] = given["images"]
    output: str | None = given["output"]
    to_stdout = output == "-" or (output is None and arguments == [Path("-")])
    if to_stdout and given["as_json"]:
        raise UsageError("Standard output takes the picture or the JSON: name a file with -o, or leave --json out.")
    if to_stdout and not record.run_dir and (record.snapshot_every or record.snapshot_at):
        raise UsageError("Snapshots of a picture on standard output have no place yet: name one with --run-dir.")

    # torch comes with these, and most mistakes have been found by now
    from dipcli.batch import lay_out
    from dipcli.job import Job
    from dipcli.networks import architecture

    architecture(settings.network)
    like = Job(
        task=task,
        source=arguments[0],
        preset=given["preset"] if "preset" in typed or not settings.time else None,
        given=chosen,
        arguments={each.name: given[each.name] for each in task.arguments() if _is_own(each, given, typed)},
        record=record,
        reference=given["reference"],
        argv=tuple(sys.argv),
    )
    batch = lay_out(like, arguments, output)
    if batch.several and (record.run_dir or record.uncertainty or given["reference"]):
        raise UsageError("--run-dir, --uncertainty and --reference are for one picture: name one, or leave them out.")
    return batch


def _is_own(argument: Parameter, given: dict[str, Any], typed: set[str]) -> bool:
    """Whether a task's argument was given, on the command line or by the environment: a preset's value yields."""
    return argument.name in typed or given[argument.name] != argument.default


def _restore_all(batch: Batch, given: dict[str, Any]) -> int:
    """Restore one picture after the other, past those that fail; the exit code."""
    from dipcli.batch import restore_all

    display = displays.choose(quiet=given["quiet"])
    tell = display.note if given["verbose"] else lambda _: None
    for remark in batch.remarks:
        display.note(remark)
    fates: list[str] = []
    announce = partial(_tell_settings, tell)
    for outcome in restore_all(batch, display=display, signals=(SIGINT, SIGTERM), announce=announce):
        fates.append(outcome.fate)
        for sentence in _sentences(outcome):
            display.note(sentence)
        if outcome.fate == "restored":
            tell(displays.machinery(outcome.account))
        _hand_out(outcome, as_json=given["as_json"])
    if batch.several:
        display.note(displays.summary(fates, len(batch.entries)))
    if outcome.ended_by:
        return 128 + outcome.ended_by
    if outcome.error and not batch.several:
        return outcome.error.exit_code
    if "failed" not in fates:
        return 0
    return FAILED if set(fates) == {"failed"} else SOME_FAILED


def _sentences(outcome: Outcome) -> list[str]:
    """What there is to say of one picture; a complaint is made here, for it comes with --quiet too."""
    if outcome.error:
        if outcome.said:
            _complain(outcome.said, outcome.error)
        return []
    if outcome.skipped:
        return [f"{outcome.account['input']}: {outcome.skipped}"]
    return displays.ending(outcome.account)


def _hand_out(outcome: Outcome, *, as_json: bool) -> None:
    """Standard output: the path written, or with `--json` the account; nothing beside a picture that went there."""
    account = outcome.account
    if account.get("output") == "-" or (not as_json and (outcome.error or outcome.skipped)):
        return
    told = account | ({"skipped": outcome.skipped} if outcome.skipped else {})
    line = json.dumps(told, default=str).encode() if as_json else os.fsencode(account["output"])
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.flush()


@contextmanager
def _failures_told() -> Iterator[None]:
    """A `DipError` is a sentence and an exit code; `DIP_DEBUG=1` shows where it came from."""
    try:
        yield
    except DipError as error:
        _complain(str(error), error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _complain(sentence: str, error: DipError | None = None) -> None:
    if sys.stderr is None:
        return
    if error and os.environ.get("DIP_DEBUG"):
        traceback.print_exception(error)
    print(f"dip: {displays.legible(sentence)}", file=sys.stderr, flush=True)  # noqa: T201 - this is where complaints go


def _tell_settings(tell: Callable[[str], None], job: Job, preset: str, settings: Settings) -> None:
    told = "  ".join(f"{knob.flag[2:]}={getattr(settings, knob.name)}" for knob in knobs(Settings))
    tell(f"{job.source}: preset {preset}: {told}")
