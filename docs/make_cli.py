"""Write docs/cli.md from the command line itself: `python docs/make_cli.py`, or `--check` that it is up to date."""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
from pathlib import Path

from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.tasks.registry import tasks

TARGET = Path(__file__).with_name("cli.md")
APP = "import dipcli.cli.app\napp = dipcli.cli.app.app()\n"
HEAD = """\
<!-- Made by docs/make_cli.py: change the help texts, not this file. -->

"""


def reference() -> str:
    """The help of every command, by Typer's own writer of documents, then the presets."""
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder, "app.py")
        app.write_text(APP)
        command = [
            sys.executable,
            "-m",
            "typer",
            str(app),
            "utils",
            "docs",
            "--name",
            "dip",
            "--title",
            "Command line",
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    # Examples are indented code, in which Markdown takes HTML's escapes to the letter.
    lines = [html.unescape(line) if line.startswith("    ") else line for line in told.splitlines()]
    return HEAD + "\n".join(lines).strip() + "\n" + "".join(presets(name) for name in tasks())


def presets(name: str) -> str:
    """A table of what each preset of a task sets."""
    task = tasks()[name]
    chosen = {preset: task.settings(preset) for preset in task.presets}
    table = [f"| | {' | '.join(chosen)} |", "|---" * (len(chosen) + 1) + "|"]
    for own in task.arguments():
        if any(own.name in values for values in task.presets.values()):
            values = [values.get(own.name, own.default) for values in task.presets.values()]
            table.append(f"| `--{own.name.replace('_', '-')}` | {' | '.join(map(short, values))} |")
    for knob in option_fields(Settings):
        values = [getattr(settings, knob.name) for settings in chosen.values()]
        if any(value != values[0] for value in values):
            table.append(f"| `{knob.flag}` | {' | '.join(map(short, values))} |")
    return f"\n## Presets of `dip {name}`\n\n" + "\n".join(table) + "\n"


def short(value: object) -> str:
    """A setting as it stands in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


if __name__ == "__main__":
    text = reference()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit("docs/cli.md is not what the command line says: run python docs/make_cli.py.")
