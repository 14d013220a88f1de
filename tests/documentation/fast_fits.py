"""Make the fits of `dip` short without changing its command line, for commands that documents show as users type them.

Every command is parsed, checked, planned, fitted and written as usual. After a task has made and checked its settings,
iterations and warm-up are capped and the time budget is cut; a network chosen by name gets fewer channels per level;
the companion has one stage of few patches, or is where it would start. Some functions are patched for this:
`Task.settings`, `Settings.rule`, `networks.architecture`, `companion.choose_stages`, `filling.gaussian.STEPS`,
`iterate_ridge` and `PlugAndPlay._estimate`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MAX_ITERATIONS = 3
MAX_ITERATIONS_WITH_RULE = 6
MAX_WARMUP = 1
MAX_CHANNELS = 4
TIME_BUDGET = "1s"


def cap_iterations(make_settings: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Task.settings` so that fits are short."""

    def make_short_settings(*arguments: Any, **given: Any) -> Any:
        settings = make_settings(*arguments, **given)
        return replace(
            settings,
            iterations=settings.iterations and min(settings.iterations, MAX_ITERATIONS),
            max_iterations=min(settings.max_iterations, MAX_ITERATIONS_WITH_RULE),
            warmup=min(settings.warmup, MAX_WARMUP),
            time=settings.time and TIME_BUDGET,
        )

    return make_short_settings


def cap_rule(make_rule: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Settings.rule` so that a fit with settings of its own is short too."""

    def make_short_rule(settings: Any, rule: Any = None) -> Any:
        return make_rule(replace(settings, max_iterations=min(settings.max_iterations, MAX_ITERATIONS_WITH_RULE)), rule)

    return make_short_rule


def cap_channels(parse_architecture: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap `networks.architecture` so that networks are narrow."""

    def parse_narrow_architecture(text: str) -> Any:
        architecture = parse_architecture(text)
        channels = getattr(architecture, "channels", None)
        if isinstance(channels, tuple):
            return replace(architecture, channels=tuple(min(count, MAX_CHANNELS) for count in channels))
        return replace(architecture, channels=MAX_CHANNELS) if channels else architecture

    return parse_narrow_architecture


def limit_stages(_choose_stages: Callable[[float], Any]) -> Callable[[float], Any]:
    """Replace `companion.choose_stages` by one that chooses a single cheap stage."""

    def choose_cheap_stage(_level: float) -> Any:
        from dipcli.problem.independent.ridge import RidgeStep

        return ((RidgeStep(patch=6, count=8, stride=6, window=11),),)

    return choose_cheap_stage


def limit_steps(_steps: Any) -> Any:
    """Replace `filling.gaussian.STEPS` by a single cheap step."""
    return limit_stages(lambda _level: None)(0.0)[0]


def skip_iterations(_iterate_ridge: Callable[..., Any]) -> Callable[..., Any]:
    """Replace `iterate_ridge` by a function that returns where it would start."""
    return lambda start, *_arguments: start


def skip_estimate(_estimate: Callable[..., Any]) -> Callable[..., Any]:
    """Replace `PlugAndPlay._estimate` by a function that returns where it would start."""
    return lambda _self, start, _weight: start


# By module: the object that holds the function, the function's name, and its wrapper.
PATCHES: dict[str, Callable[[ModuleType], tuple[Any, str, Callable[..., Any]]]] = {
    "dipcli.tasks.registry": lambda module: (module.Task, "settings", cap_iterations),
    "dipcli.settings.settings": lambda module: (module.Settings, "rule", cap_rule),
    "dipcli.problem.independent.companion": lambda module: (module, "choose_stages", limit_stages),
    "dipcli.problem.filling.gaussian": lambda module: (module, "STEPS", limit_steps),
    "dipcli.settings.outputs": lambda module: (module.Outputs, "check_end", lambda _check: lambda *_: None),
    "dipcli.problem.consistent.compressed": lambda module: (module, "iterate_ridge", skip_iterations),
    "dipcli.problem.consistent.enlarged": lambda module: (module, "iterate_ridge", skip_iterations),
    "dipcli.problem.blur.estimates": lambda module: (module.PlugAndPlay, "_estimate", skip_estimate),
    "dipcli.networks.build": lambda module: (module, "architecture", cap_channels),
}


@contextmanager
def fast_fits() -> Iterator[None]:
    """Make fits short in this process, inside the context."""
    patches = [patch(import_module(name)) for name, patch in PATCHES.items()]
    patches.append((import_module("dipcli.networks"), "architecture", cap_channels))
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, wrap in patches:
        setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


class _PatchingFinder(MetaPathFinder):
    """Patches the modules when they are imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in PATCHES else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            owner, attribute, wrap = PATCHES[name](module)
            setattr(owner, attribute, wrap(getattr(owner, attribute)))

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def patch_on_import() -> None:
    """Make fits short in this process from the start: for a `sitecustomize` module on PYTHONPATH."""
    sys.meta_path.insert(0, _PatchingFinder())
