"""`dip` as a shell would call it, in this process or in one of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.testing
from forks import Fork
from typer.testing import CliRunner, Result

from dipcli.tasks.registry import tasks

TINY = "skip:channels=8,8:skips=4,4"
# The runner turns the application into a command at each call, which takes as long as a short fit.
typer.testing._get_command = cache(typer.testing._get_command)


@cache
def build(app: Callable[[], typer.Typer], *_poses: object) -> typer.Typer:
    """The application for the tasks with these functions."""
    return app()


@dataclass
class Dip:
    """Calls the command line in this process; it is built again only if other tasks are declared."""

    app: Callable[[], typer.Typer]

    def __call__(self, *arguments: object, stdin: bytes | None = None) -> Result:
        application = build(self.app, *(task.pose for task in tasks().values()))
        return CliRunner().invoke(application, [str(each) for each in arguments], input=stdin)

    def quick(
        self, *arguments: object, iterations: int = 3, stdin: bytes | None = None, report: bool = False
    ) -> Result:
        """With a tiny network, without the page, and without a companion, which takes longer than the fit."""
        tiny = ("--iters", iterations, "--network", TINY, "--input", "noise", "--input-depth", 4)
        tiny += () if "--fusion" in arguments else ("--fusion", "none")
        return self(*arguments, *tiny, *([] if report else ["--no-report"]), stdin=stdin)


def read_record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return record


def start(*arguments: object, code: str = "") -> Fork:
    return Fork(*arguments, "--network", TINY, "--input", "noise", "--input-depth", 4, "--fusion", "none", code=code)


def wait_for(ready: Callable[[], object], process: Fork) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)


def read_terminal(master: int) -> bytes:
    """Everything that is written to a pseudo-terminal until its other end is closed."""
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    return shown
