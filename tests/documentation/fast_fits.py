"""Makes `dip` quick without changing what it is told: for commands that stand in documents as people would type them.

Every command is parsed, checked, planned, fitted and written as ever. After a task has made its settings, and they were
found sound, iterations and warm-up are capped and a budget of time is cut, and a network that was named is made
with fewer channels on each of its levels. All of that is done to two functions: `Task.settings` and
`networks.architecture`.
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

ITERATIONS, UNTIL_A_RULE = 3, 6
CHANNELS = 4
TIME = "1s"


def few(settings: Callable[..., Any]) -> Callable[..., Any]:
    """`Task.settings` with fewer iterations."""

    def hurried(*arguments: Any, **given: Any) -> Any:
        asked = settings(*arguments, **given)
        return replace(
            asked,
            iterations=asked.iterations and min(asked.iterations, ITERATIONS),
            max_iterations=min(asked.max_iterations, UNTIL_A_RULE),
            warmup=min(asked.warmup, 1),
            time=asked.time and TIME,
        )

    return hurried


def narrow(architecture: Callable[[str], Any]) -> Callable[[str], Any]:
    """`networks.architecture` with fewer channels."""

    def hurried(text: str) -> Any:
        chosen = architecture(text)
        if isinstance(channels := getattr(chosen, "channels", None), tuple):
            return replace(chosen, channels=tuple(min(each, CHANNELS) for each in channels))
        return replace(chosen, channels=CHANNELS) if channels else chosen

    return hurried


PLACES: dict[str, Callable[[ModuleType], tuple[Any, str, Callable[..., Any]]]] = {
    "dipcli.tasks.registry": lambda module: (module.Task, "settings", few),
    "dipcli.networks.build": lambda module: (module, "architecture", narrow),
}


@contextmanager
def hurried() -> Iterator[None]:
    """Inside, in this process."""
    places = [PLACES[name](import_module(name)) for name in PLACES]
    networks = import_module("dipcli.networks")
    before = []
    for owner, name, change in [*places, (networks, "architecture", narrow)]:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, change(getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


class _Finder(MetaPathFinder):
    """Changes the two modules when they are imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in PLACES else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            owner, attribute, change = PLACES[name](module)
            setattr(owner, attribute, change(getattr(owner, attribute)))

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


def in_every_process() -> None:
    """For a `sitecustomize` on PYTHONPATH: the same in all processes that are started with it."""
    sys.meta_path.insert(0, _Finder())
