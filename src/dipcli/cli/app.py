"""The Typer application: argv to jobs, errors to exit codes.

The signature of each subcommand is put together from the task's own parameters, the options of every task and the
fields of `Settings` and `Outputs`, with the task's defaults. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from dipcli import __version__
from dipcli.cli import console
from dipcli.cli.commands import COMMANDS
from dipcli.cli.streams import find_lost_output, protect_streams
from dipcli.errors import DipError, UsageError
from dipcli.settings import Settings
from dipcli.settings.options import OptionField, option_fields
from dipcli.settings.outputs import Outputs
from dipcli.settings.scheduler import Scheduler, parse_scheduler
from dipcli.tasks.registry import DEFAULT_PRESET, Task, tasks

if TYPE_CHECKING:
    from dipcli.runs.batches.batch import Batch, BatchSize

INTERRUPTED = 130  # exit code
MAX_BATCH_SIZE = 1024
# How often a waiting thread looks for work before it sleeps. GNU OpenMP's default, 300,000, takes milliseconds, in
# which the threads of a fit keep each other from the cores that they wait for.
SPIN_COUNT = 1000


def main() -> None:
    """Run the command `dip`."""
    protect_streams()
    if "" in sys.argv:  # as a path it would be the current folder, with all its images
        console.print_error("An argument is empty; is a shell variable not set? Leave it out or fill it in.")
        sys.exit(UsageError.exit_code)
    # `./-` is a file; as a `Path` it would be `-`, a standard stream.
    files = {word: str(Path(word).absolute()) for word in sys.argv if word != "-" and os.path.normpath(word) == "-"}
    sys.argv = [files.get(word, word) for word in sys.argv]
    share_cores()
    try:
        app()()
    except SystemExit as ending:
        lost = find_lost_output()
        if lost and not isinstance(lost, BrokenPipeError):
            console.print_error(f"Cannot write to standard output: {lost.strerror}. Send it elsewhere.")
        sys.exit(ending.code or int(bool(lost)))


def share_cores() -> None:
    """Let waiting threads sleep soon, unless the environment says how they wait; read when PyTorch is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def app() -> typer.Typer:
    """Return the command line: one subcommand per task, and the other commands."""
    whole = typer.Typer(
        name="dip",
        help="Restore an image with the Deep Image Prior: no training set, one picture in, one picture out.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback()(_root)
    for task in tasks().values():
        whole.command(task.name, cls=TaskCommand, help=task.help)(lambda: None)
    for name, function in COMMANDS.items():
        whole.command(name)(_print_failures()(function))
    return whole


class TaskCommand(TyperCommand):
    """A task's subcommand. It gets its parameters when it is used: those of all tasks take a third of `dip --help`."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Make the parameters, at the first call, then the context."""
        if not self.params:
            alone = typer.Typer(add_completion=False)
            alone.command()(command(tasks()[str(self.name)]))
            made = typer.main.get_command(alone)
            self.params, self.callback = made.params, made.callback
        return super().make_context(info_name, args, parent, **extra)


def command(task: Task) -> Callable[..., None]:
    """Return the function of a subcommand, with the signature from which Typer makes arguments and options."""

    def run(context: typer.Context, **given: Any) -> None:
        sources = {name: context.get_parameter_source(name) for name in given}
        typed = {name for name, source in sources.items() if source and source.name == "COMMANDLINE"}
        with _print_failures():
            batch = _make_batch(task, given, typed)
            scheduler = _choose_scheduler(task, given["scheduler"], batch)
            batch_size = _parse_batch_size(given["batch_size"], batch)
            how = {name: given[name] for name in ("quiet", "verbose", "as_json")}
            raise typer.Exit(console.restore(batch, scheduler=scheduler, batch_size=batch_size, **how))

    parameters = [
        Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in _list_parameters(task)),
    ]
    run.__doc__ = task.help
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"dip {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Give `dip` itself its options."""


def _every_task(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images to restore, folders of them, or patterns such as '*.png'; - is standard input.",
            metavar="IMAGE",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file for one image, a folder/ for several, - for PNG on stdout. Default: beside the input.",
        ),
    ] = None,
    preset: str = DEFAULT_PRESET,
    reference: Annotated[
        Path | None, typer.Option(help="The true image, for the figures only; it cannot influence the result.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="local|slurm|tcp://HOST:PORT",
            help="Restore several images at a time through Dask: on this machine, as Slurm jobs, or on the workers of "
            "a scheduler. local:4 and slurm:100 set the number.",
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="auto|N",
            help="Fit several small images of one size in one pass, which is faster; auto chooses the number. "
            "Rounding then depends on the batch. Default: auto on a GPU, 1 on a CPU.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print the settings and the machine too.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image instead of its path.")
    ] = False,
) -> None:
    """Give every task these options; the function is never called."""


def _list_parameters(task: Task) -> list[Parameter]:
    """The images, the task's own arguments, the options of every task, the settings and the outputs."""
    shared = dict(inspect.signature(_every_task, eval_str=True).parameters)
    presets = typer.Option(
        help="Speed against quality; paper is the published method.",
        metavar="|".join(task.presets),
        autocompletion=lambda: list(task.presets),
    )
    shared["preset"] = shared["preset"].replace(annotation=Annotated[str, presets])
    defaults = task.settings()
    return [
        shared.pop("images"),
        *task.arguments(),
        *shared.values(),
        *(_make_option(field, getattr(defaults, field.name)) for field in option_fields(Settings)),
        *(_make_option(field, field.default) for field in option_fields(Outputs)),
    ]


def _make_option(field: OptionField, default: Any) -> Parameter:
    """A field as an option, in its panel."""
    shown = f"{default:.4g}" if isinstance(default, float) else True
    option = typer.Option(field.flag, help=field.help, rich_help_panel=field.option.group, show_default=shown)
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[field.type, option])


def _make_batch(task: Task, given: dict[str, Any], typed: set[str]) -> Batch:
    """Return one job per image."""
    chosen = {field.name: given[field.name] for field in fields(Settings) if field.name in typed}
    settings = task.settings(given["preset"], **chosen)
    outputs = Outputs(**{field.name: given[field.name] for field in fields(Outputs)})
    arguments: list[Path] = given["images"]
    output: str | None = given["output"]
    to_stdout = output == "-" or (output is None and arguments == [Path("-")])
    if to_stdout and given["as_json"]:
        raise UsageError("Standard output takes the image or the JSON: name a file with -o, or leave --json out.")
    if to_stdout and not outputs.run_dir and (outputs.snapshot_every or outputs.snapshot_at):
        raise UsageError("Snapshots need a folder when the image goes to standard output: name one with --run-dir.")

    # These import torch; most mistakes have been found by now.
    from dipcli.networks import architecture
    from dipcli.records.job import Job
    from dipcli.runs.batches.batch import lay_out
    from dipcli.runs.batches.stacks import unfold

    architecture(settings.network)
    template = Job(
        task=task,
        source=arguments[0],
        preset=given["preset"] if "preset" in typed or not settings.time else None,
        given=chosen,
        # Given on the command line or by the environment: it overrides the preset.
        arguments={
            option.name: given[option.name]
            for option in task.arguments()
            if option.name in typed or given[option.name] != option.default
        },
        outputs=outputs,
        reference=given["reference"],
        argv=tuple(sys.argv),
    )
    batch = lay_out(template, arguments, output)
    if batch.several and (outputs.run_dir or outputs.uncertainty or given["reference"]):
        raise UsageError("--run-dir, --uncertainty and --reference are for one image: name one, or leave them out.")
    return unfold(batch)


def _choose_scheduler(task: Task, text: str | None, batch: Batch) -> Scheduler | None:
    """Return the scheduler that restores several images at a time, or None for this process."""
    if text is None:
        return None
    scheduler = parse_scheduler(text)
    if not batch.several:
        raise UsageError("--scheduler is for several images: name a folder or more than one, or leave it out.")
    if not task.pose.__module__.startswith("dipcli."):
        raise UsageError(f"--scheduler supports the tasks that come with dip, not {task.name}: leave it out.")
    return scheduler


def _parse_batch_size(text: str | None, batch: Batch) -> BatchSize:
    """Return the number of images to fit together."""
    timed = "time" in batch.entries[0].job.given
    if text is None:
        return 1 if timed else None
    if text != "auto" and not (text.isdecimal() and 0 < int(text) <= MAX_BATCH_SIZE):
        raise UsageError(f"--batch-size {text} is invalid: use auto or 1 to {MAX_BATCH_SIZE}.")
    if text != "1" and not batch.several:
        raise UsageError("--batch-size is for several images: name a folder or more than one, or leave it out.")
    if text != "1" and timed:
        raise UsageError("Images fitted together cannot have a time budget each: leave --time or --batch-size out.")
    return "auto" if text == "auto" else int(text)


@contextmanager
def _print_failures() -> Iterator[None]:
    """Turn a `DipError` into a sentence and an exit code; `DIP_DEBUG=1` adds the traceback."""
    try:
        yield
    except DipError as error:
        console.print_error(str(error), error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
