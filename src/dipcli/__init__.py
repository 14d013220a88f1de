"""dipcli: restore an image with the Deep Image Prior.

    from dipcli import denoise
    clean = denoise(noisy).image

Each task is a function of this module. The classes and functions that an extension needs can be imported from here
too. Everything is imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

_PARTS = {
    "Baseline": "tasks.baselines.baseline",
    "Case": "tasks.case",
    "DipError": "errors",
    "Fit": "fitting.results",
    "Format": "images",
    "Image": "images.image",
    "Operator": "problem",
    "Prior": "networks",
    "Problem": "problem",
    "Raster": "images",
    "Rule": "stopping",
    "Settings": "settings",
    "Step": "stopping.step",
    "Task": "tasks.registry",
    "UsageError": "errors",
    "Verdict": "stopping",
    "build": "networks",
    "fit": "fitting.engine",
    "main": "cli.app",
    "prepare": "fitting.solve",
    "register_format": "images",
    "solve": "fitting.solve",
    "task": "tasks.registry",
}


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return getattr(import_module(f"dipcli.{_PARTS[name]}"), name)
    declared = getattr(sys.modules.get("dipcli.tasks.registry"), "DECLARED", {})
    if not name.startswith("_") and (name in declared or find_spec(f"dipcli.tasks.{name}")):
        tasks = import_module("dipcli.tasks.registry").tasks()
        if name in tasks:
            globals()[name] = import_module("dipcli.api").restorer(tasks[name])
            return globals()[name]
    raise AttributeError(f"module 'dipcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_PARTS, *import_module("dipcli.tasks.registry").tasks(), "__version__"])
