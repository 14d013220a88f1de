"""The tasks: how one is declared, and finding those that come with the package."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from dipcli.errors import UsageError
from dipcli.settings import Settings

if TYPE_CHECKING:
    from dipcli.problem import Problem

Presets = Mapping[str, Mapping[str, Any]]
DEFAULT_PRESET = "balanced"


@dataclass(frozen=True)
class Task:
    """One kind of damage: a subcommand, and a function of the Python API.

    Attributes:
        name: of the subcommand and the function.
        pose: turns a picture (and the task's own arguments) into a problem.
        presets: what each preset sets; it always has `balanced`.
        result: what the restored file is called: noisy.png becomes noisy.<result>.png.
    """

    name: str
    pose: Callable[..., Problem]
    presets: Presets
    result: str

    @property
    def help(self) -> str:
        """What the task does, for `--help` and `help()`."""
        return inspect.getdoc(self.pose) or ""

    def arguments(self) -> list[inspect.Parameter]:
        """The task's own parameters: all of its function's but the picture."""
        # Picture and Problem are heavy to import and of no interest to the command line: any type will do for them.
        hints = get_type_hints(self.pose, localns={"Picture": Any, "Problem": Any}, include_extras=True)
        _, *own = inspect.signature(self.pose).parameters.values()
        return [each.replace(annotation=hints[each.name]) for each in own]

    def settings(self, preset: str = DEFAULT_PRESET, **given: Any) -> Settings:
        """What a preset sets, with what was given in its place.

        Raises:
            UsageError: when there is no such preset, or a value is outside its range.
        """
        if preset not in self.presets:
            raise UsageError(f"There is no preset {preset!r}: choose from {', '.join(self.presets)}.")
        chosen = dict(self.presets[preset])
        if given.get("input", chosen.get("input", "noise")) != chosen.get("input", "noise"):
            chosen.pop("input_depth", None)  # it was meant for the preset's own input
        return Settings(**{**chosen, **given})


_tasks: dict[str, Task] = {}


def task(*, presets: Presets, result: str) -> Callable[[Callable[..., Problem]], Callable[..., Problem]]:
    """Make a function from a picture to a problem a task of its name.

    Its parameters after the picture become options; its docstring becomes the help. A file in `tasks/` is found
    by itself; a file elsewhere has to be run or imported before the command line is built.

    Args:
        presets: settings by preset name; `balanced` must be among them.
        result: what the restored file is called: noisy.png becomes noisy.<result>.png.
    """

    def declare(pose: Callable[..., Problem]) -> Callable[..., Problem]:
        _tasks[pose.__name__] = Task(pose.__name__, pose, presets, result)
        return pose

    return declare


def tasks() -> Mapping[str, Task]:
    """Every task by name: those in `tasks/` and those declared elsewhere so far."""
    package = import_module("dipcli.tasks")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"dipcli.tasks.{module.name}")
    return dict(sorted(_tasks.items()))
