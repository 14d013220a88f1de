"""argv -> task + Settings -> run; errors and exit codes.

Each subcommand's signature is put together here from the task's own parameters, the options that every task has
and the fields of `Settings` and `Record`, with the task's defaults. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli import __version__
from dipcli.cli import console
from dipcli.cli.commands import COMMANDS
from dipcli.errors import DipError, UsageError
from dipcli.settings import Settings
from dipcli.settings.options import OptionField, option_fields
from dipcli.settings.outputs import Outputs
from dipcli.settings.scheduler import Scheduler, parse_scheduler
from dipcli.tasks.registry import DEFAULT_PRESET, Task, tasks

if TYPE_CHECKING:
    from dipcli.runs.batches.batch import Batch, BatchSize

INTERRUPTED = 130
LARGEST_BATCH = 1024


def main() -> None:
    """The command `dip`."""
    if "" in sys.argv:  # as a path it would be the folder that one is in, and all pictures there
        console.print_error("An argument is empty, as where a shell's variable is not set: leave it out or fill it in.")
        sys.exit(UsageError.exit_code)
    app()()


def app() -> typer.Typer:
    """The whole command line: one subcommand a task, and the commands beside them."""
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
    for name, function in COMMANDS.items():
        whole.command(name)(_failures_told()(function))
    return whole


def command(task: Task) -> Callable[..., None]:
    """The function of a subcommand, with the signature from which Typer makes arguments and options."""

    def run(context: typer.Context, **given: Any) -> None:
        typed = {name for name in given if _was_typed(context, name)}
        with _failures_told():
            batch = _batch(task, given, typed)
            scheduler = _scheduler(task, given["scheduler"], batch)
            batch_size = _batch_size(given["batch_size"], batch)
            how = {name: given[name] for name in ("quiet", "verbose", "as_json")}
            raise typer.Exit(console.restore(batch, scheduler=scheduler, batch_size=batch_size, **how))

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
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="local|slurm|tcp://HOST:PORT",
            help="Restore several pictures at a time through Dask: on this machine's cores and GPUs, as jobs of "
            "Slurm's, or by the workers of a scheduler; local:4 and slurm:100 say how many.",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Fit so many pictures of one size together, which is faster for small ones: auto finds out how many. "
            "Rounding then depends on which they are; when not given it is auto on a GPU, and 1 on a CPU, where the "
            "same picture comes to the same bits.",
        ),
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
        *(_parameter(knob, getattr(defaults, knob.name)) for knob in option_fields(Settings)),
        *(_parameter(knob, knob.default) for knob in option_fields(Outputs)),
    ]


def _parameter(knob: OptionField, default: Any) -> Parameter:
    """One field as an option, under its heading."""
    shown = f"{default:.4g}" if isinstance(default, float) else True
    option = typer.Option(knob.flag, help=knob.help, rich_help_panel=knob.option.group, show_default=shown)
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
    record = Outputs(**{each.name: given[each.name] for each in fields(Outputs)})
    arguments: list[Path] = given["images"]
    output: str | None = given["output"]
    to_stdout = output == "-" or (output is None and arguments == [Path("-")])
    if to_stdout and given["as_json"]:
        raise UsageError("Standard output takes the picture or the JSON: name a file with -o, or leave --json out.")
    if to_stdout and not record.run_dir and (record.snapshot_every or record.snapshot_at):
        raise UsageError("Snapshots of a picture on standard output have no place yet: name one with --run-dir.")

    # torch comes with these, and most mistakes have been found by now
    from dipcli.networks import architecture
    from dipcli.records.job import Job
    from dipcli.runs.batches.batch import lay_out

    architecture(settings.network)
    like = Job(
        task=task,
        source=arguments[0],
        preset=given["preset"] if "preset" in typed or not settings.time else None,
        given=chosen,
        arguments={each.name: given[each.name] for each in task.arguments() if _is_own(each, given, typed)},
        outputs=record,
        reference=given["reference"],
        argv=tuple(sys.argv),
    )
    batch = lay_out(like, arguments, output)
    if batch.several and (record.run_dir or record.uncertainty or given["reference"]):
        raise UsageError("--run-dir, --uncertainty and --reference are for one picture: name one, or leave them out.")
    return batch


def _scheduler(task: Task, asked: str | None, batch: Batch) -> Scheduler | None:
    """What is to restore several pictures at a time, if anything but this process is.

    Raises:
        DipError: when there is no such scheduler, or no use for it.
    """
    if asked is None:
        return None
    scheduler = parse_scheduler(asked)
    if not batch.several:
        raise UsageError("--scheduler is for several pictures: name a folder or more than one, or leave it out.")
    if not task.pose.__module__.startswith("dipcli."):
        raise UsageError(f"--scheduler knows the tasks that come with dip, not {task.name}: leave it out.")
    return scheduler


def _batch_size(asked: str | None, batch: Batch) -> BatchSize:
    """How many pictures to fit together.

    Raises:
        UsageError: when it is no number, or there is no use for it.
    """
    timed = "time" in batch.entries[0].job.given
    if asked is None:
        return 1 if timed else None
    if asked != "auto" and not (asked.isdecimal() and 0 < int(asked) <= LARGEST_BATCH):
        raise UsageError(f"--batch-size {asked} is no number of pictures: use auto or 1 to {LARGEST_BATCH}.")
    if asked != "1" and not batch.several:
        raise UsageError("--batch-size is for several pictures: name a folder or more than one, or leave it out.")
    if asked != "1" and timed:
        raise UsageError("Pictures fitted together have no time of their own: leave --time or --batch-size out.")
    return "auto" if asked == "auto" else int(asked)


def _is_own(argument: Parameter, given: dict[str, Any], typed: set[str]) -> bool:
    """Whether a task's argument was given, on the command line or by the environment: a preset's value yields."""
    return argument.name in typed or given[argument.name] != argument.default


@contextmanager
def _failures_told() -> Iterator[None]:
    """A `DipError` is a sentence and an exit code; `DIP_DEBUG=1` shows where it came from."""
    try:
        yield
    except DipError as error:
        console.print_error(str(error), error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
