"""The Python API: every task as a function of an image in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT
from typing import Any

import numpy as np
from msgspec import to_builtins
from numpy.typing import NDArray

from dipcli import images, stopping
from dipcli.errors import UsageError
from dipcli.fitting.control import Control, Deadline, Observer
from dipcli.fitting.solve import prepare, solve
from dipcli.runs.display import Bar, Display, Expected
from dipcli.runs.interrupt import handle_signals
from dipcli.runs.observers import Metrics, measure_result, pixels
from dipcli.runs.time_budget import choose_preset
from dipcli.runs.uncertainty import Uncertainty
from dipcli.settings import Settings
from dipcli.settings.options import option_fields
from dipcli.tasks.case import Case
from dipcli.tasks.registry import DEFAULT_PRESET, Task

PARAMETERS = """

From Python:
    image: an array, shape (H, W) or (H, W, channels), of bools, integers or floats in any unit; or the path of a file.
    alpha: whether the last of 2 or 4 channels of an array is transparency; False for channels like the others.
    preset: fast, balanced (default), best or paper; with `time` and no preset, the best that fits in it.
    stop: a rule, or the name of one as on the command line.
    observers: called after each iteration with the step and the rule's verdict.
    progress: show a tqdm bar.
    uncertainty: return the standard deviation of outputs and runs at each pixel.
    Options that name an image file accept an array too; sigma, time (seconds), tile and max_memory (bytes) accept
    numbers. Interrupting (Ctrl-C, or a notebook's stop button) ends the fit and returns the best image so far. Options
    and settings, by keyword:
"""
PROGRESS_INTERVAL = 10  # iterations between updates of the bar's numbers


@dataclass(frozen=True)
class Restored:
    """A restored image, and how it was made.

    Attributes:
        image: (H, W) or (H, W, channels), of the input's type (uint8 for bool) and size, except from superres and
            invert. invert and impedance make 8-bit images: a pre-image, four outputs in a row.
        kept: iteration of the average that was kept; of an image fitted in tiles, of its first tile.
        steps: iterations run.
        reason: why the run ended.
        seconds: time spent in the fit.
        settings: as they were used.
        events: unusual events, such as a rollback after a collapse.
        measures: distance to the measurement (psnr_noisy) and, if the damage was simulated, to the truth (psnr_ref and
            others, with the baselines), as in run.json; None for infinite.
        files: figures and tables by suffix (".svg"), of a task whose result is not an image.
        uncertainty: standard deviation of outputs and runs, shape (H, W), 1 = the image's range; if asked for.
        fusion: share of the fit, 0..1, in its fusion with another estimate; None if it was not fused.
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
    fusion: float | None = None


def restorer(task: Task) -> Callable[..., Restored]:
    """Return a task as a function of an image, with settings by keyword."""

    def restore(
        image: NDArray[Any] | str | Path,
        *,
        preset: str | None = None,
        stop: str | stopping.Rule | None = None,
        observers: Iterable[Observer] = (),
        progress: bool = True,
        uncertainty: bool = False,
        alpha: bool = True,
        **given: Any,
    ) -> Restored:
        arguments = {option.name: given.pop(option.name) for option in task.arguments() if option.name in given}
        if isinstance(stop, str):
            given["stop"] = stop
        elif stop is not None:
            given["stop"] = "none"  # the task need not end the fit
        source = images.to_image(image, alpha=alpha, missing=True)

        def pose(preset: str) -> tuple[Case, Settings]:
            return task.case(source, preset, arguments, given)

        case, settings = pose(preset or DEFAULT_PRESET)
        deadline = Deadline(settings.time_budget())
        if settings.time and preset is None:
            case, settings = pose(choose_preset(task, pose, deadline))
        if uncertainty and case.render:
            raise UsageError(f"uncertainty is not available for {task.name}, which makes a figure: leave it out.")
        prepared = prepare(
            case.problem,
            settings,
            stop=settings.rule(None if isinstance(stop, str) else stop),
            other_bytes=case.bytes_in_memory,
            observer_images=Uncertainty.images_held if uncertainty else 0,
        )
        bar = Bar() if progress else Display()
        metrics = Metrics(prepared.problem, None, PROGRESS_INTERVAL, [bar.show_row])
        deviation = Uncertainty() if uncertainty else None
        own = (*case.observers, bar, metrics if progress else None, deviation)
        with handle_signals(SIGINT) as interrupt, bar.watching(task.name, Expected(settings.iterations)):
            for remark in (*prepared.remarks, *case.remarks):
                bar.note(remark)
            control = Control(deadline=deadline, interrupted=interrupt.reason, notify=bar.note)
            result = solve(prepared, observers=[*filter(None, own), *observers], control=control)
        restored = pixels(result.image)
        quantized = case.image.quantize(restored)
        measured = {} if case.render else measure_result(case, metrics, quantized, case.truth)
        array = case.image.with_pixels(restored, case.known).array()
        return Restored(
            image=_match(array, image) if isinstance(image, np.ndarray) else array,
            kept=result.first.kept,
            steps=sum(run.fit.steps for run in result.runs),
            reason=result.reason,
            seconds=result.seconds,
            settings=prepared.settings,
            events=tuple(event for run in result.runs for event in run.fit.events),
            measures=to_builtins(measured),
            files=case.render() if case.render else {},
            uncertainty=deviation.map(result, case.known, case.origin) if deviation else None,
            fusion=result.share,
        )

    restore.__module__ = "dipcli"  # where it is found by name, so that it can be pickled
    restore.__name__ = restore.__qualname__ = task.name
    texts = [(option.name, option.annotation.__metadata__[0].help or "") for option in task.arguments()]
    texts += [(setting.name, setting.help) for setting in option_fields(Settings)]
    restore.__doc__ = task.help + PARAMETERS + "\n".join(f"        {name}: {text}" for name, text in texts)
    restore.__signature__ = _signature(task, inspect.signature(restore, eval_str=True))  # type: ignore[attr-defined]
    return restore


def _match(array: NDArray[Any], given: NDArray[Any]) -> NDArray[Any]:
    """Give an array the axes of another, and its type where both are of one kind: byte order, precision."""
    if given.ndim > array.ndim:
        array = array[..., None]
    return array.astype(given.dtype) if given.dtype.kind == array.dtype.kind else array


def _signature(task: Task, plain: inspect.Signature) -> inspect.Signature:
    """Return the signature with the task's own options and the settings in place of **given."""
    *named, _ = plain.parameters.values()
    defaults = task.settings()
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [option.replace(kind=kind, annotation=option.annotation.__origin__) for option in task.arguments()]
    settings = [
        inspect.Parameter(setting.name, kind, default=getattr(defaults, setting.name), annotation=setting.type)
        for setting in option_fields(Settings)
        if setting.name not in plain.parameters
    ]
    return plain.replace(parameters=[*named, *own, *settings])
