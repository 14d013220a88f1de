"""Checkpoints on disk, by `torch.save`; loading one runs no code, wherever it comes from."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from types import UnionType
from typing import Any, ClassVar, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from torch import Tensor

import dipcli
from dipcli import files
from dipcli.errors import DipError
from dipcli.fitting import state
from dipcli.fitting.results import Fit
from dipcli.fitting.state import FittedTile, RunsState, TilesState
from dipcli.problem import Problem
from dipcli.stopping import rule_classes
from dipcli.stopping.step import Place

UNREADABLE = (RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError, pickle.UnpicklingError)
LAYOUT = 2  # of the file; other layouts are refused


@dataclass(frozen=True)
class ProblemPlaceholder:
    """Stands for the problem in a rule's state: the resumed run has it already."""


STATES: tuple[type[Any], ...] = (
    *(cls for cls in vars(state).values() if isinstance(cls, type) and is_dataclass(cls)),
    Fit,
    Place,
    ProblemPlaceholder,
    slice,
)
# What annotations may name that is imported for type checkers only.
NAMES = {cls.__name__: cls for cls in STATES} | {"Tensor": Tensor, "Problem": ProblemPlaceholder}


@runtime_checkable
class Stateful(Protocol):
    """An observer whose state belongs in a checkpoint."""

    def remember(self) -> Any:
        """Return the state: tensors, numbers, strings, lists and dicts that later steps do not change."""

    def recall(self, seen: Any) -> None:
        """Restore the state."""


class Checkpoints:
    """Write checkpoints at intervals, atomically, each replacing the one before.

    Args:
        path: of the file.
        header: describes the run, as JSON-able values.
        every: seconds between two checkpoints.
        keep_last: whether the checkpoint after the last iteration is written.
        observers: those that are `Stateful` are saved too.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        every: float,
        keep_last: Callable[[], bool],
        observers: Iterable[Any] = (),
    ) -> None:
        self.path, self.header, self.every, self.keep_last = path, dict(header), every, keep_last
        self.observers = [observer for observer in observers if isinstance(observer, Stateful)]
        self.written = perf_counter()

    def begin(self, seen: list[Any] | None = None) -> None:
        """Restore the observers of a resumed run; of a new run write the header, so that it can be repeated.

        Raises:
            DipError: if the states are not those of these observers, or the file cannot be written.
        """
        if seen is None:
            self._write(None)
            return
        try:
            for observer, state in zip(self.observers, seen, strict=True):
                observer.recall(state)
        except (TypeError, ValueError, KeyError) as error:
            raise DipError(f"{self.path} does not belong to a run with these options: start it again.") from error

    def __call__(self, take: Callable[[], RunsState | TilesState], last: bool) -> None:
        """Write a checkpoint if it is due."""
        if self.keep_last() if last else perf_counter() - self.written >= self.every:
            self._write(take())

    def end(self) -> None:
        """Remove the checkpoint of a finished run."""
        self.path.unlink(missing_ok=True)

    def _write(self, progress: RunsState | TilesState | None) -> None:
        def detach(leaf: Any) -> Any:
            return leaf.detach() if isinstance(leaf, Tensor) else leaf

        content = {
            "layout": LAYOUT,
            "version": dipcli.__version__,
            "header": self.header,
            "progress": _map_leaves(progress, detach),
            "seen": _map_leaves([observer.remember() for observer in self.observers], detach),
        }
        with files.open_atomically(self.path) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # PyTorch's way to report a failed write
                raise DipError(f"Cannot write {self.path}: free some space, or choose another --run-dir.") from error
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                raise DipError(
                    f"Cannot write {self.path}: the state of a rule or task is not plain data ({error})."
                ) from error
        self.written = perf_counter()


@dataclass(frozen=True)
class SavedRun:
    """The content of a checkpoint, its tensors on the CPU."""

    header: Any  # describes the run
    progress: RunsState | TilesState | None  # None if it was interrupted before the first checkpoint
    seen: list[Any]  # the states of its observers


def load(path: Path) -> SavedRun:
    """Read a checkpoint.

    Raises:
        DipError: if it cannot be read, or is not a checkpoint of this version.
    """
    try:
        with torch.serialization.safe_globals([*STATES, *_rule_states()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DipError(f"There is no checkpoint {path}: name the folder of an interrupted run.") from None
    except OSError as error:
        raise DipError(f"Cannot read {path} ({error.strerror or error}): check the name.") from error
    except UNREADABLE as error:
        raise DipError(f"{path} is not a checkpoint of dip, or is damaged: start the run again.") from error
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise DipError(f"{path} was not written by this version, {dipcli.__version__}: start the run again.")
    progress, seen = content.get("progress"), content.get("seen")
    if not isinstance(progress, RunsState | TilesState | None) or not isinstance(seen, list):
        raise DipError(f"{path} holds no progress: start the run again.")
    try:
        _check_types(progress)
    except (TypeError, AttributeError) as error:
        raise DipError(f"{path} is damaged ({error}): start the run again.") from error
    return SavedRun(content.get("header"), progress, seen)


def to_device(value: Any, device: torch.device, fresh: Any = None) -> Any:
    """Return a saved state with its tensors on a device; those of finished tiles and of places stay on the CPU.

    The problems in `fresh`, the state of the rule as it starts, take the places of the placeholders.
    """
    problems: list[Problem] = []
    _map_leaves(fresh, lambda leaf: leaf, problems=problems)
    fresh_problems = cycle(problems)

    def move(leaf: Any) -> Any:
        if isinstance(leaf, ProblemPlaceholder):
            return next(fresh_problems)
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return _map_leaves(value, move, untouched=(FittedTile, Place))


def fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file, by its full path."""
    return {str(path.resolve()): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _check_types(value: Any) -> None:
    """Check the fields of nested dataclasses and named tuples against their annotations.

    Raises:
        TypeError, AttributeError: if one has another type or is missing: a file may hold anything.
    """
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            _check_types(item)
    if isinstance(value, type) or not (is_dataclass(value) or hasattr(value, "_fields")):
        return
    for name, hint in get_type_hints(type(value), localns=NAMES).items():
        field = getattr(value, name)
        if not _has_type(field, hint):
            raise TypeError(f"{type(value).__name__}.{name} is a {type(field).__name__}")
        _check_types(field)


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value, and what it contains, is of an annotated type."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (UnionType, Union):
        return any(_has_type(value, option) for option in inner)
    if hint is Any or kind is ClassVar or (kind is float and isinstance(value, int)):
        return True
    if not isinstance(value, kind):
        return False
    if kind is tuple and inner:
        hints = inner[:1] * len(value) if Ellipsis in inner else inner
        return len(hints) == len(value) and all(map(_has_type, value, hints))
    if kind is dict and inner:
        return all(_has_type(key, inner[0]) and _has_type(item, inner[1]) for key, item in value.items())
    return kind is not list or not inner or all(_has_type(item, inner[0]) for item in value)


def _rule_states() -> Iterator[type[Any]]:
    """The dataclasses of all modules that define a stopping rule: the states of rules are among them."""
    for name in {rule.__module__ for rule in rule_classes()}:
        for value in vars(sys.modules[name]).values():
            if isinstance(value, type) and is_dataclass(value) and value.__module__ == name:
                yield value


def _map_leaves(
    value: Any,
    change: Callable[[Any], Any],
    untouched: tuple[type[Any], ...] = (),
    problems: list[Problem] | None = None,
) -> Any:
    """Apply a function to everything in nested lists, tuples, dicts and dataclasses but those of `untouched` types.

    Problems become placeholders, and are collected in `problems`.
    """
    if isinstance(value, Problem):
        if problems is not None:
            problems.append(value)
        value = ProblemPlaceholder()
    go_on = partial(_map_leaves, change=change, untouched=untouched, problems=problems)
    if isinstance(value, dict):
        return {key: go_on(item) for key, item in value.items()}
    if isinstance(value, list):
        return [go_on(item) for item in value]
    if isinstance(value, tuple) and not isinstance(value, untouched):
        items = [go_on(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type) and not isinstance(value, (ProblemPlaceholder, *untouched)):
        names = [field.name for field in fields(value) if field.init]
        return replace(value, **{name: go_on(getattr(value, name)) for name in names})
    return change(value)
