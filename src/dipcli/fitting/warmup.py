"""Warm-up: steps on small windows of the image before the first iteration.

The network first learns that the image looks like its input, and it can learn that anywhere in the image. A step on a
window is faster by the ratio of the pixels, and the noise differs from window to window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dipcli.problem import Problem, identity
from dipcli.settings import Settings

MIN_WINDOWS_PER_SIDE = 2  # a smaller image is not warmed up on windows


class Window(NamedTuple):
    """A window of the image.

    Attributes:
        problem: the problem of the window alone.
        rows: the rows of z that show the window.
        columns: the columns of z that show it.
    """

    problem: Problem
    rows: slice = slice(None)
    columns: slice = slice(None)


def warm_up(
    objective: Callable[[Window], Tensor],
    optimizer: Any,
    problem: Problem,
    code: Tensor,
    window: int | None,
    settings: Settings,
) -> None:
    """Take `settings.warmup` steps, each on a window at a random position.

    No steps are taken if the operator is not the identity (a window of the measurement does not stand alone), if the
    image is less than two windows high or wide, or with L-BFGS.

    Args:
        objective: computes the loss on a window and its gradient.
        optimizer: takes the steps. It is not that of the fit, whose averages of the gradient must start fresh.
        problem: the measurement of the whole image.
        code: z; the image lies in its middle.
        window: side of the smallest part of z that the network can process; None if it needs all of z.
        settings: `warmup`, `optimizer` and `seed` are used.
    """
    if window is not None and will_run(problem, window, settings):
        for part in _draw_windows(problem, code, window, settings):
            optimizer.step(partial(objective, part))


def will_run(problem: Problem, window: int | None, settings: Settings) -> bool:
    """Return whether `warm_up` takes any steps with these arguments."""
    if window is None or problem.operator is not identity or settings.optimizer != "adam":
        return False
    return settings.warmup > 0 and min(problem.shape[1:]) >= MIN_WINDOWS_PER_SIDE * window


def _draw_windows(problem: Problem, code: Tensor, window: int, settings: Settings) -> Iterator[Window]:
    """Yield windows at random positions, except those in which all weights are 0."""
    image_size, code_size = problem.shape[1:], code.shape[2:]
    generator = torch.Generator().manual_seed(settings.seed)
    weight = None if problem.weight is None else problem.weight.expand_as(problem.measured)
    for _ in range(settings.warmup):
        starts = [int(torch.randint(side - window + 1, (), generator=generator)) for side in image_size]
        rows, columns = (slice(start, start + window) for start in starts)
        inside = (..., rows, columns)
        if weight is not None and not weight[inside].any():
            continue
        yield Window(
            replace(
                problem,
                measured=problem.measured[inside],
                shape=(problem.shape[0], window, window),
                weight=None if weight is None else weight[inside],
            ),
            *(
                slice(start + (whole - side) // 2, start + (whole - side) // 2 + window)
                for start, whole, side in zip(starts, code_size, image_size, strict=True)
            ),
        )
