"""The Python API: every task as a function of a picture in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipcli import images, stopping
from dipcli.errors import UsageError
from dipcli.fitting.engine import Observer
from dipcli.fitting.restarts import Deadline
from dipcli.fitting.solve import prepare, solve
from dipcli.runs.display import Bar, Expected, Silent
from dipcli.runs.interrupt import handle_signals
from dipcli.runs.measures import measure_result
from dipcli.runs.observers import Metrics, pixels
from dipcli.runs.time_budget import choose_preset
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.tasks.case import Case
from dipcli.tasks.registry import DEFAULT_PRESET, Task

ARGUMENTS = """

From Python:
    picture: an array, shape (H, W) or (H, W, channels), bool, uint8, uint16 or float (0..1), or a file's path.
    preset: fast, balanced (when not given), best or paper; with `time` and no preset the best that fits in it.
    stop: a rule's name, as on the command line, or a rule.
    observers: called after each iteration with the step and the rule's verdict.
    progress: show tqdm's bar.
    uncertainty: measure how far the outputs, and the runs, stray at each pixel.
    Interrupting (Ctrl-C, or a notebook's stop button) ends the fit and returns the best picture so far.
    Files that an option names may be arrays too. Options and settings, by keyword:
"""
EVERY = 10  # iterations between the bar's numbers


@dataclass(frozen=True)
class Restored:
    """A restored picture and how it came about.

    Attributes:
        image: (H, W) or (H, W, channels), of the type that went in; bool becomes uint8. It is of the size that went in
            but for superres and invert. What invert and impedance make is 8-bit: a pre-image, four outputs in a row.
        kept: the iteration that its average is from; of a large picture in tiles that of the first.
        steps: iterations run.
        reason: why the run ended.
        seconds: time spent in the fit.
        settings: as they were used.
        events: what happened out of the ordinary: where the fit collapsed and went back.
        measures: how near it is to the measurement (psnr_noisy) and, where the damage was simulated, to the truth
            (psnr_ref and others, baselines beside it), as in run.json; None for infinite.
        files: figures and tables by suffix (".svg"), for a task whose result is not a picture.
        uncertainty: standard deviation of the outputs and runs, shape (H, W), 1 being the picture's range; where it
            was asked for.
    """

    image: NDArray[Any]
    kept: int
    steps: int
    reason: str
    seconds: float
    settings: Settings
    events: tuple[str, ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    uncertainty: NDArray[np.float32] | None = None


def restorer(task: Task) -> Callable[..., Restored]:
    """A task as a function: picture in, `Restored` out, settings by keyword."""

    def restore(
        picture: NDArray[Any] | str | Path,
        *,
        preset: str | None = None,
        stop: str | stopping.Rule | None = None,
        observers: Iterable[Observer] = (),
        progress: bool = True,
        uncertainty: bool = False,
        **given: Any,
    ) -> Restored:
        own = {each.name: given.pop(each.name) for each in task.arguments() if each.name in given}
        if isinstance(stop, str):
            given["stop"] = stop
        given |= {
            name: str(given[name])
            for name in ("sigma", "time", "tile", "max_memory")
            if isinstance(given.get(name), Real)
        }
        obtained = images.to_image(picture)

        def pose(preset: str) -> tuple[Case, Settings]:
            return task.case(obtained, preset, own, given)

        case, settings = pose(preset or DEFAULT_PRESET)
        deadline = Deadline(settings.time_budget())
        if settings.time and preset is None:
            case, settings = pose(choose_preset(task, pose, deadline))
        if uncertainty and case.render:
            raise UsageError(f"uncertainty has nothing to tell of: {task.name} makes a figure.")
        bench = prepare(
            case.problem, settings, beside=case.bytes_in_memory, watched=Uncertainty.pictures if uncertainty else 0
        )
        rule = settings.rule(None if isinstance(stop, str) else stop)
        bar = Bar() if progress else Silent()
        meter = Metrics(bench.problem, None, EVERY, [bar.show_row])
        spread = [Uncertainty()] if uncertainty else []
        with handle_signals(SIGINT) as interrupt, bar.watching(task.name, Expected(settings.iterations)):
            for remark in case.remarks:
                bar.note(remark)
            watching: list[Observer] = [*case.observers, bar, *([meter] if progress else []), *spread, *observers]
            asked = interrupt.reason
            result = solve(bench, stop=rule, deadline=deadline, asked=asked, observers=watching, notify=bar.note)
        restored = pixels(result.image)
        first = result.first
        image = case.image.with_pixels(restored, case.known).array()
        return Restored(
            image=_like(picture, image) if isinstance(picture, np.ndarray) else image,
            kept=first.kept,
            steps=sum(each.fit.steps for each in result.runs),
            reason=result.reason,
            seconds=result.seconds,
            settings=bench.settings,
            events=tuple(event for each in result.runs for event in each.fit.events),
            measures={} if case.render else measure_result(case, meter, case.image.rounded(restored), case.truth),
            files=case.render() if case.render else {},
            uncertainty=spread[0].map(result, case.known) if spread else None,
        )

    restore.__module__ = "dipcli"  # where it is found by name: it can be pickled
    restore.__name__ = restore.__qualname__ = task.name
    own = [(each.name, each.annotation.__metadata__[0].help) for each in task.arguments()]
    settings = [(knob.name, knob.option.help) for knob in option_fields(Settings)]
    restore.__doc__ = task.help + ARGUMENTS + "\n".join(f"        {name}: {help_}" for name, help_ in own + settings)
    restore.__signature__ = _signature(task, inspect.signature(restore, eval_str=True))  # type: ignore[attr-defined]
    return restore


def _like(given: NDArray[Any], image: NDArray[Any]) -> NDArray[Any]:
    """The image with the axes and the byte order of the array that was given, where they are of one kind."""
    if given.ndim > image.ndim:
        image = image[..., None]
    return image.astype(given.dtype) if given.dtype.kind == image.dtype.kind else image


def _signature(task: Task, plain: inspect.Signature) -> inspect.Signature:
    """The function's signature with the task's arguments and the settings in the place of **given."""
    *named, _ = plain.parameters.values()
    defaults = task.settings()
    kind = inspect.Parameter.KEYWORD_ONLY
    settings = [
        inspect.Parameter(knob.name, kind, default=getattr(defaults, knob.name), annotation=knob.type)
        for knob in option_fields(Settings)
        if knob.name not in plain.parameters
    ]
    own = [each.replace(kind=kind, annotation=each.annotation.__origin__) for each in task.arguments()]
    return plain.replace(parameters=[*named, *own, *settings])
