"""Checkpoints on disk: plain numbers and tensors, so that reading one runs no code, whoever wrote it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from time import perf_counter
from types import UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from torch import Tensor

import dipcli
from dipcli import files
from dipcli.errors import DipError
from dipcli.fitting.results import Fit, Run
from dipcli.fitting.state import (
    BestAverage,
    Checkpoint,
    FitState,
    FittedTile,
    GuardState,
    RunsState,
    Snapshot,
    TilesState,
)
from dipcli.problem import Problem
from dipcli.stopping.step import Place

LAYOUT = 1  # of the file: one of another layout is not read
# What a file may name. Everything else in it has to be of the class of what a fresh fit has in its place.
KINDS: dict[str, type[Any]] = {
    each.__name__: each
    for each in (
        Checkpoint,
        TilesState,
        Fit,
        Snapshot,
        BestAverage,
        FittedTile,
        Place,
        RunsState,
        FitState,
        Run,
        GuardState,
    )
}
SAME = "what a fresh one has"


@runtime_checkable
class Remembering(Protocol):
    """An observer whose memory a run that goes on wants back."""

    def remember(self) -> Any:
        """What it has seen, as tensors, numbers, lists and dicts; not changed by what it sees next."""

    def recall(self, seen: Any) -> None:
        """Go on from what it had seen."""


def plain(value: Any) -> Any:
    """A value as nothing but tensors, numbers, words, lists and dicts.

    Raises:
        TypeError: when there is something in it that cannot be said so.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    kind, parts = _taken_apart(value)
    return {"kind": kind, "fields": {name: plain(each) for name, each in parts.items()}}


def _taken_apart(value: Any) -> tuple[str, dict[Any, Any]]:
    """What kind of thing it is, and what it is made of."""
    if isinstance(value, Path):
        return "Path", {"path": str(value)}
    if isinstance(value, Problem):
        return SAME, {}
    if isinstance(value, slice):
        return "slice", {"start": value.start, "stop": value.stop}
    if isinstance(value, Place):
        return "Place", value._asdict()
    if isinstance(value, tuple):
        return "tuple", dict(enumerate(value))
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(f"a {type(value).__name__} cannot be written to one")


def restored(said: Any, like: Any = None, device: torch.device | None = None) -> Any:
    """The value that `plain` made this of.

    Args:
        said: what it made.
        like: a fresh rule's state: the classes and the problem in it are taken from there.
        device: where the tensors are wanted; those of tiles that are done stay on the CPU.

    Raises:
        DipError: when something else was there.
    """
    if isinstance(said, Tensor):
        return said.to(device)
    if isinstance(said, list):
        return [restored(each, like, device) for each in said]
    if not isinstance(said, dict):
        return said
    if said.keys() != {"kind", "fields"}:
        return {key: restored(each, like, device) for key, each in said.items()}
    kind, parts = said["kind"], said["fields"]
    if not isinstance(kind, str) or not isinstance(parts, dict):
        raise DipError("The checkpoint holds nonsense: begin anew.")
    return _put_together(kind, parts, like, device)


def _put_together(kind: str, parts: Mapping[Any, Any], like: Any, device: torch.device | None) -> Any:
    """The other way round."""
    if kind == SAME:
        return like
    if kind == "Path":
        return Path(parts["path"])
    if kind == "slice":
        return slice(parts["start"], parts["stop"])
    if kind == "tuple":
        begun = like if isinstance(like, tuple) and len(like) == len(parts) else (like,) * len(parts)
        return tuple(restored(each, own, device) for each, own in zip(parts.values(), begun, strict=True))
    if kind in ("Patch", "Place"):
        device = None
    if kind in KINDS:
        made = KINDS[kind](**{name: restored(each, like, device) for name, each in parts.items()})
        hints = get_type_hints(KINDS[kind], localns={"Tensor": Tensor})
        if wrong := [name for name, hint in hints.items() if not suits(getattr(made, name), hint)]:
            raise DipError(f"The checkpoint holds nonsense for {wrong[0]} of {kind}: begin anew.")
        return made
    if type(like).__name__ != kind:
        raise DipError(f"The checkpoint holds a {kind} where none is wanted: begin anew.")
    return type(like)(**{name: restored(each, getattr(like, name), device) for name, each in parts.items()})


def suits(value: Any, hint: Any) -> bool:
    """Whether a value, and what is in it, is of a type: a file may say anything."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (UnionType, Union):
        return any(suits(value, each) for each in inner)
    if kind is Literal:
        return value in inner
    if hint is Any or (kind is float and isinstance(value, int)):
        return True
    if not isinstance(value, kind):
        return False
    if kind is tuple and inner:
        each = inner[:1] * len(value) if Ellipsis in inner else inner
        return len(each) == len(value) and all(map(suits, value, each))
    return kind is not dict or all(
        suits(each, own) for pair in value.items() for each, own in zip(pair, inner, strict=True)
    )


class Checkpoints:
    """Writes a checkpoint now and then, whole or not at all, in the place of the one before.

    Args:
        path: where to.
        header: what the run is: written with every checkpoint.
        every: seconds between two.
        wanted: whether the one after the last iteration is: it is when the run was cut short.
        watching: observers whose memory is written too.
    """

    def __init__(
        self,
        path: Path,
        header: Mapping[str, Any],
        every: float,
        wanted: Callable[[], bool],
        watching: Iterable[Any] = (),
    ) -> None:
        self.path, self.header, self.every, self.wanted = path, dict(header), every, wanted
        self.watching = [each for each in watching if isinstance(each, Remembering)]
        self.written = perf_counter()

    def begin(self, seen: Any = None) -> None:
        """Give the observers of a run that goes on their memory back; of a new one write what it is.

        So a run that is killed before the first checkpoint can begin anew by itself.

        Args:
            seen: what was written of the observers' memory; None for a new run.

        Raises:
            DipError: when it is that of others, or the file cannot be written.
        """
        if seen is None:
            self._write(None)
            return
        try:
            for each, memory in zip(self.watching, seen, strict=True):
                each.recall(memory)
        except (TypeError, ValueError, KeyError) as error:
            raise DipError(f"{self.path} is not of a run with these options: begin it anew.") from error

    def __call__(self, take: Callable[[], RunsState | TilesState], last: bool) -> None:
        """Write one when it is due."""
        if self.wanted() if last else perf_counter() - self.written >= self.every:
            self._write(take())

    def end(self) -> None:
        """The run is done: remove what it would have gone on from."""
        self.path.unlink(missing_ok=True)

    def _write(self, progress: RunsState | TilesState | None) -> None:
        try:
            content = {
                "layout": LAYOUT,
                "version": dipcli.__version__,
                "header": plain(self.header),
                "progress": plain(progress),
                "seen": plain([each.remember() for each in self.watching]),
            }
        except TypeError as error:  # a rule or a task of one's own may remember anything
            raise DipError(f"There can be no checkpoint: {error}.") from error
        with files.open_atomically(self.path) as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # how PyTorch says that the file could not be written to
                raise DipError(f"Cannot write {self.path}: make room, or choose another --run-dir.") from error
        self.written = perf_counter()


def load(path: Path) -> dict[str, Any]:
    """What `Checkpoints` wrote: `header` as it was, `progress` and `seen` as `restored` takes them.

    Raises:
        DipError: when it is no checkpoint of this version of the layout.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DipError(f"There is no checkpoint {path}: name the folder of a run that was cut short.") from None
    except OSError as error:
        raise DipError(f"Cannot read {path} ({error.strerror or error}): check the name.") from error
    except (
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise DipError(f"{path} is no checkpoint of dip's, or is damaged: begin the run anew.") from error
    if not isinstance(content, dict) or content.get("layout") != LAYOUT:
        raise DipError(f"{path} is no checkpoint of this version, {dipcli.__version__}: begin the run anew.")
    return content


def fingerprints(paths: Iterable[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its full path."""
    return {str(path.resolve()): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
