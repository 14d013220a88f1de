"""The tasks: how one is declared, and finding those that come with the package."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_origin

import typer
from typer.models import ParameterInfo

from dipcli.errors import DipError, UsageError
from dipcli.settings import Settings
from dipcli.settings.outputs import Outputs
from dipcli.tasks.case import Case, describe_range

if TYPE_CHECKING:
    from dipcli.images.image import Image
    from dipcli.problem import Problem

Presets = Mapping[str, Mapping[str, Any]]
Pose: TypeAlias = "Callable[..., Problem | Case]"
DEFAULT_PRESET = "balanced"
# Common to the published experiments: Ulyanov et al., CVPR 2018, and the settings published with it.
PUBLISHED: Mapping[str, Any] = {
    "pad": "reflection",
    "mosaic": 1,
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
    "fusion": "none",
}
SETTING_NAMES = frozenset(setting.name for setting in fields(Settings))
# Names that every task has on the command line, or every function of the Python API.
COMMON_NAMES = frozenset(
    {output.name for output in fields(Outputs)}
    | {"batch_size", "context", "help", "image", "images", "as_json", "json", "output", "preset", "quiet", "reference"}
    | {"scheduler", "verbose", "version", "observers", "progress", "alpha"}
)


@dataclass(frozen=True)
class Task:
    """One kind of damage: a subcommand, and a function of the Python API.

    Attributes:
        name: of the subcommand and the function.
        pose: makes a problem, or a case, of an image and the task's own options.
        presets: settings, and options of the task's own, by preset name; `balanced` is among them.
        result: suffix of the restored file: noisy.png becomes noisy.<result>.png.
        lengths: typical number of iterations if a rule ends the run, by preset name.
    """

    name: str
    pose: Pose
    presets: Presets
    result: str
    lengths: Mapping[str, int] = field(default_factory=dict)

    @property
    def help(self) -> str:
        """The docstring, for `--help` and `help()`."""
        return inspect.getdoc(self.pose) or ""

    def arguments(self) -> list[inspect.Parameter]:
        """Return the task's own options, annotated `Annotated[type, typer.Option(...)]`."""
        return list(_own_options(self.pose))

    def settings(
        self, preset: str = DEFAULT_PRESET, adapted: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
    ) -> Settings:
        """Return the settings of a preset, overridden by those of the case and then by those given.

        Args:
            preset: its name.
            adapted: settings for this image by preset name, as `Case.presets`.
            given: settings from the user.

        Raises:
            UsageError: if there is no such preset, or a value is outside its range.
        """
        chosen = {name: value for name, value in self._preset(preset).items() if name in SETTING_NAMES}
        chosen |= (adapted or {}).get(preset, {})
        limit, count = given.get("max_iterations"), given.get("iterations")
        if limit and count and limit < count:
            raise UsageError(f"--max-iters {limit} is less than --iters {count}: use one of them alone.")
        rule_decides = given.get("stop", "none") != "none" or (limit and limit < (chosen.get("iterations") or 0))
        if rule_decides and "iterations" not in given:
            chosen.pop("iterations", None)  # a rule or a limit that the user names decides when to end
        if given.get("time") and "runs" not in given:
            chosen.pop("runs", None)  # as many as fit in the time
        if given.get("input", chosen.get("input", "noise")) != chosen.get("input", "noise"):
            chosen.pop("input_depth", None)  # it belongs to the preset's own input
        return Settings(**{**chosen, **given})

    def case(
        self, image: Image, preset: str, arguments: Mapping[str, Any], given: Mapping[str, Any]
    ) -> tuple[Case, Settings]:
        """Return the case for an image, and its settings.

        Args:
            image: the damaged image.
            preset: its name.
            arguments: the task's own options as far as they were given; the others come from the preset.
            given: settings that override the preset's.

        Raises:
            DipError: if image, options and settings do not go together.
        """
        parameters = inspect.signature(self.pose).parameters
        settings = self.settings(preset, **given)
        own = {name: value for name, value in self._preset(preset).items() if name not in SETTING_NAMES}
        own |= arguments
        own |= {name: getattr(settings, name) for name in parameters if name in SETTING_NAMES}
        missing = image.missing is not None
        if missing and settings.nan == "refuse":
            raise DipError("Some pixels are not finite numbers: fill them with --nan fill, or replace them first.")
        posed = self.pose(image, **own)
        case = posed if isinstance(posed, Case) else Case(problem=posed, image=image)
        if missing and case.problem.weight is None:
            raise DipError(f"dip {self.name} cannot fill pixels that are not finite numbers: replace them first.")
        case = replace(case, remarks=(*describe_range(case.image), *case.remarks))
        return case, self.settings(preset, case.presets, **given)

    def usual(self, preset: str, settings: Settings) -> int:
        """Return the typical number of iterations of a preset with these settings, or the limit if it is unknown."""
        return settings.iterations or min(settings.max_iterations, self.lengths.get(preset, settings.max_iterations))

    def _preset(self, preset: str) -> Mapping[str, Any]:
        if preset not in self.presets:
            raise UsageError(f"--preset {preset!r} is unknown: choose from {', '.join(self.presets)}.")
        return self.presets[preset]


DECLARED: dict[str, Task] = {}  # by name, so far


def task(*, presets: Presets, result: str, lengths: Mapping[str, int] | None = None) -> Callable[[Pose], Pose]:
    """Declare a function from an image to a problem (or a case) as the task of its name.

    The function's docstring becomes the help, and its parameters after the image become options:

        @task(presets={"balanced": {"iterations": 600}}, result="sharpened")
        def sharpen(image: Image, width: float = 1.5, *, seed: int) -> Problem: ...

    Here `width` becomes `--width`; `Annotated[float, typer.Option(help="...")]` adds a help text. A keyword-only
    parameter with the name of a setting, without `Annotated`, is not an option: it receives the setting's value, as
    `seed` does. Any other parameter with the name of a setting or of an option that every task has is refused. Only
    the annotations of the options are evaluated if the module has `from __future__ import annotations`.

    A module in `tasks/` is found automatically; any other has to be run or imported before the command line is built.

    Args:
        presets: settings, and options of the task's own, by preset name; `balanced` must be among them.
        result: suffix of the restored file: noisy.png becomes noisy.<result>.png.
        lengths: typical number of iterations if a rule ends the run, by preset name; `--time` plans with it.

    Raises:
        TypeError: if a parameter cannot become an option.
        ValueError: if there is no preset `balanced`.
    """

    def declare(pose: Pose) -> Pose:
        name = pose.__name__
        if DEFAULT_PRESET not in presets:
            raise ValueError(f"@task {name}: add the preset {DEFAULT_PRESET!r}.")
        _own_options(pose)
        DECLARED[name] = Task(name, pose, presets, result, lengths or {})
        return pose

    return declare


def tasks() -> Mapping[str, Task]:
    """Return every task by name: those in `tasks/` and those declared elsewhere so far."""
    package = import_module("dipcli.tasks")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"dipcli.tasks.{module.name}")
    return dict(sorted(DECLARED.items()))


@cache
def _own_options(pose: Pose) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a task that become options of its own, each `Annotated[type, typer.Option(...)]`.

    Raises:
        TypeError: if a name clashes, or an annotation is missing or cannot be evaluated.
    """
    _, *parameters = inspect.signature(pose).parameters.values()
    options = []
    for parameter in parameters:
        name, annotation = parameter.name, parameter.annotation
        where = f"@task {pose.__name__}: the parameter {name!r}"
        if name in SETTING_NAMES:
            if parameter.kind is parameter.KEYWORD_ONLY and "Annotated[" not in str(annotation):
                continue
            raise TypeError(
                f"{where} has the name of a setting: rename it, or make it keyword-only without Annotated to receive "
                "the setting's value."
            )
        if name in COMMON_NAMES:
            raise TypeError(f"{where} has the name of an option that every task has: rename it.")
        if annotation is parameter.empty:
            raise TypeError(f"{where} needs a type, as in {name}: float.")
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, pose.__globals__)  # noqa: S307 - as typing.get_type_hints does
            except NameError as error:
                raise TypeError(f"{where} has an unknown type ({error}): import it at run time.") from error
        metadata = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
        option = next((item for item in metadata if isinstance(item, ParameterInfo)), typer.Option())
        kind = annotation.__origin__ if metadata else annotation
        options.append(parameter.replace(annotation=Annotated[kind, option]))
    return tuple(options)
