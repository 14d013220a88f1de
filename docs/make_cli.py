"""Write docs/cli.md from the command line itself: `python docs/make_cli.py`; with `--check`, see that it is up to date.

The options that every task has are described once, in the panels of `--help`. Each task then has its own arguments and
options, the defaults that differ between tasks, and a table of its presets.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from dipcli.cli.app import app
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.tasks.registry import Task, tasks

TARGET = Path(__file__).with_name("cli.md")
HEAD = "<!-- Made by docs/make_cli.py: change the help texts, not this file. -->\n\n# Command line\n"
SHARED = """\
## Options of every task

Each task takes these. Defaults that depend on the task are listed with it, and in the table of its presets.
"""


def reference() -> str:
    """Return the whole document."""
    root: Any = typer.main.get_command(app())
    commands = root.commands
    contexts = {name: command.make_context(name, [], resilient_parsing=True) for name, command in commands.items()}
    task_commands = [commands[name] for name in tasks()]
    shared = [
        parameter
        for parameter in task_commands[0].params
        if all(any(parameter.name == other.name for other in command.params) for command in task_commands)
    ]
    extras = {name: {p.name: suffix(p, contexts[name]) for p in commands[name].params} for name in tasks()}
    varying = {p.name for p in shared if len({extras[name][p.name] for name in tasks()}) > 1}

    first = contexts[task_commands[0].name]
    parts = [HEAD, text(root.help), usage("dip", "COMMAND [ARGS]..."), "**Options**:\n"]
    parts.append(bullets(describe(p, root.make_context("dip", [], resilient_parsing=True)) for p in root.params))
    parts.append("`-h` or `--help` after any command shows its help.\n")
    parts.append("| command | |\n|---|---|\n" + "".join(map(row, commands.values())))
    parts.append(SHARED)
    parts += panels(
        [p for p in shared if p.name != "help"],
        {p.name: describe(p, first, "[default: depends on the task]" if p.name in varying else None) for p in shared},
    )
    names = {p.name for p in shared}
    for name, task in tasks().items():
        own = [p for p in commands[name].params if p.name not in names]
        parts += command_section(commands[name], contexts[name], own)
        parts.append(defaults(shared, varying, extras[name], contexts[name]))
        parts.append(f"**Presets**:\n\n{presets(task)}")
    for name, command in commands.items():
        if name not in tasks():
            parts += command_section(command, contexts[name], [p for p in command.params if p.name != "help"])
    return "\n".join(filter(None, parts)).rstrip() + "\n"


def command_section(command: Any, context: Any, parameters: list[Any]) -> list[str]:
    """Return heading, help, usage and options of a command."""
    arguments = " ".join(piece for p in command.params for piece in p.get_usage_pieces(context))
    described = {p.name: describe(p, context) for p in parameters}
    return [
        f"## `dip {command.name}`\n",
        text(command.help),
        usage(f"dip {command.name}", arguments),
        *panels(parameters, described),
    ]


def panels(parameters: list[Any], described: dict[str, str]) -> list[str]:
    """Return the parameters as lists, under the headings that they have in `--help`."""
    found: dict[str, list[str]] = {}
    for parameter in parameters:
        argument = parameter.param_type_name == "argument"
        heading = getattr(parameter, "rich_help_panel", None) or ("Arguments" if argument else "Options")
        found.setdefault(heading, []).append(described[parameter.name])
    return [f"**{heading}**:\n\n{bullets(lines)}" for heading, lines in found.items()]


def describe(parameter: Any, context: Any, shown: str | None = None) -> str:
    """Return names, help and default of a parameter.

    Args:
        parameter: as Typer has it.
        context: of its command.
        shown: what to show instead of the default.
    """
    names, _ = parameter.get_help_record(context)
    default = suffix(parameter, context) if shown is None else shown
    return f"`{names}`: {html.escape(f'{parameter.help} {default}'.strip(), quote=False)}"


def suffix(parameter: Any, context: Any) -> str:
    """Return what the help adds about a parameter: `[default: 10]` or `[required]`."""
    record = parameter.get_help_record(context)
    added = record[1].removeprefix(parameter.help or "").strip() if record else ""
    return added.replace("[default: (", "[default: ").replace(")]", "]")


def defaults(shared: list[Any], varying: set[str], extras: dict[str, str], context: Any) -> str:
    """Return the defaults of a task that other tasks do not have."""
    found = []
    for parameter in shared:
        if parameter.name in varying and (value := extras[parameter.name]):
            names, _ = parameter.get_help_record(context)
            flag = names.partition(" ")[0]
            found.append(f"`{flag} {value.removeprefix('[default: ').removesuffix(']')}`")
    return f"**Defaults that depend on the task**: {', '.join(found)}.\n"


def presets(task: Task) -> str:
    """Return a table of what each preset of a task sets."""
    settings = {preset: task.settings(preset) for preset in task.presets}
    table = [f"| | {' | '.join(settings)} |", "|---" * (len(settings) + 1) + "|"]
    for own in task.arguments():
        if any(own.name in values for values in task.presets.values()):
            values = [values.get(own.name, own.default) for values in task.presets.values()]
            table.append(f"| `--{own.name.replace('_', '-')}` | {' | '.join(map(cell, values))} |")
    for field in option_fields(Settings):
        values = [getattr(chosen, field.name) for chosen in settings.values()]
        if any(value != values[0] for value in values):
            table.append(f"| `{field.flag}` | {' | '.join(map(cell, values))} |")
    return "\n".join(table) + "\n"


def cell(value: object) -> str:
    """Return a setting as it appears in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def row(command: Any) -> str:
    """Return the row of a command in the table of commands."""
    anchor = f"dip-{command.name}"
    return f"| [`dip {command.name}`](#{anchor}) | {command.help.partition(chr(10))[0]} |\n"


def usage(name: str, arguments: str) -> str:
    """Return the usage line of a command."""
    words = arguments if arguments.startswith("[OPTIONS]") else f"[OPTIONS] {arguments}".strip()
    return f"```console\n$ {name} {words}\n```\n"


def text(help_text: str) -> str:
    """Return a help text as Markdown: examples are indented code already."""
    return help_text.strip() + "\n"


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "".join(f"* {line}\n" for line in lines)


if __name__ == "__main__":
    document = reference()
    if "--check" not in sys.argv:
        TARGET.write_text(document, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != document:
        sys.exit("docs/cli.md is out of date: run python docs/make_cli.py.")
