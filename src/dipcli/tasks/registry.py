"""The tasks: how one is declared, and finding those that come with the package."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

from dipcli.errors import UsageError
from dipcli.settings import Settings
from dipcli.tasks.case import Case

if TYPE_CHECKING:
    from dipcli.images.image import Image
    from dipcli.problem import Problem

Presets = Mapping[str, Mapping[str, Any]]
Pose: TypeAlias = "Callable[..., Problem | Case]"
DEFAULT_PRESET = "balanced"
# What the published experiments have in common: Ulyanov et al., CVPR 2018, and the settings published with it.
PUBLISHED: Mapping[str, Any] = {
    "pad": "reflection",
    "input": "noise",
    "input_depth": 32,
    "optimize": "net",
    "optimizer": "adam",
    "rate": 0.01,
    "beta2": 0.999,
    "ema": 0.99,
    "tv": 0.0,
    "warmup": 0,
    "stop": "none",
}
SETTING_NAMES = frozenset(each.name for each in fields(Settings))


@dataclass(frozen=True)
class Task:
    """One kind of damage: a subcommand, and a function of the Python API.

    Attributes:
        name: of the subcommand and the function.
        pose: turns a picture (and the task's own arguments) into a problem, or a case where there is more to say.
        presets: what each preset sets, settings and arguments of the task's own; it always has `balanced`.
        result: what the restored file is called: noisy.png becomes noisy.<result>.png.
        lengths: iterations that each preset usually runs where a rule ends it, by the preset's name.
    """

    name: str
    pose: Pose
    presets: Presets
    result: str
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def help(self) -> str:
        """What the task does, for `--help` and `help()`."""
        return inspect.getdoc(self.pose) or ""

    def arguments(self) -> list[inspect.Parameter]:
        """The task's own parameters: all of its function's but the picture, and but those that are settings."""
        # Image and the like are heavy to import and of no interest to the command line: any type will do for them.
        heavy = {"Image": Any, "Problem": Any, "NDArray": Any}
        hints = get_type_hints(self.pose, localns=heavy, include_extras=True)
        _, *own = inspect.signature(self.pose).parameters.values()
        return [each.replace(annotation=hints[each.name]) for each in own if each.name not in SETTING_NAMES]

    def settings(
        self, preset: str = DEFAULT_PRESET, adapted: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
    ) -> Settings:
        """What a preset sets, adapted to a picture by its case, with what was given in its place.

        Raises:
            UsageError: when there is no such preset, or a value is outside its range.
        """
        chosen = {name: value for name, value in self._preset(preset).items() if name in SETTING_NAMES}
        chosen |= (adapted or {}).get(preset, {})
        most = given.get("max_iterations")
        rules = given.get("stop", "none") != "none" or (most and most < (chosen.get("iterations") or 0))
        if rules and "iterations" not in given:
            chosen.pop("iterations", None)  # who names a rule or a limit leaves the end to it
        if given.get("time") and "runs" not in given:
            chosen.pop("runs", None)  # as many as there is time for
        if given.get("input", chosen.get("input", "noise")) != chosen.get("input", "noise"):
            chosen.pop("input_depth", None)  # it was meant for the preset's own input
        return Settings(**{**chosen, **given})

    def case(
        self, picture: Image, preset: str, arguments: Mapping[str, Any], given: Mapping[str, Any]
    ) -> tuple[Case, Settings]:
        """What the task makes of a picture, and the settings for it.

        Args:
            picture: the damaged picture.
            preset: its name.
            arguments: the task's own, as far as they were given; the preset's hold for the others.
            given: settings that go before the preset's.

        Raises:
            DipError: when picture, arguments and settings do not go together.
        """
        known = inspect.signature(self.pose).parameters
        settings = self.settings(preset, **given)
        own = {name: value for name, value in self._preset(preset).items() if name not in SETTING_NAMES} | dict(
            arguments
        )
        own |= {name: getattr(settings, name) for name in known if name in SETTING_NAMES}
        posed = self.pose(picture, **own)
        case = posed if isinstance(posed, Case) else Case(problem=posed, image=picture)
        return case, self.settings(preset, case.presets, **given)

    def usual(self, preset: str, settings: Settings) -> int:
        """Iterations that the preset usually runs with these settings; the most it may where nobody knows."""
        return settings.iterations or min(settings.max_iterations, self.lengths.get(preset, settings.max_iterations))

    def _preset(self, preset: str) -> Mapping[str, Any]:
        if preset not in self.presets:
            raise UsageError(f"There is no preset {preset!r}: choose from {', '.join(self.presets)}.")
        return self.presets[preset]


_tasks: dict[str, Task] = {}


def task(*, presets: Presets, result: str, lengths: Mapping[str, int] | None = None) -> Callable[[Pose], Pose]:
    """Make a function from a picture to a problem (or a case) a task of its name.

    Its parameters after the picture become options, but for those with the name of a setting ("seed"), which are
    given the setting's value; its docstring becomes the help. A file in `tasks/` is found
    by itself; a file elsewhere has to be run or imported before the command line is built.

    Args:
        presets: settings, and arguments of the task's own, by preset name; `balanced` must be among them.
        result: what the restored file is called: noisy.png becomes noisy.<result>.png.
        lengths: iterations that each preset usually runs where a rule ends it: what `--time` plans with.
    """

    def declare(pose: Pose) -> Pose:
        name = pose.__name__
        _tasks[name] = Task(name, pose, presets, result, lengths or {})
        return pose

    return declare


def tasks() -> Mapping[str, Task]:
    """Every task by name: those in `tasks/` and those declared elsewhere so far."""
    package = import_module("dipcli.tasks")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"dipcli.tasks.{module.name}")
    return dict(sorted(_tasks.items()))
