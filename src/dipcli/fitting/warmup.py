"""Before the first iteration: steps on small windows of the picture.

What a network learns first, that the picture looks like what the network is shown, it can learn anywhere in it. A step
on a window takes as little time as the window is small, and the noise to be learned is another in each.
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

MIN_WINDOWS = 2  # windows side by side, from which on a picture is large


class Window(NamedTuple):
    """A window of a picture.

    Attributes:
        problem: as if there were no more of the picture.
        rows: of z that show the window.
        columns: of z that do.
    """

    problem: Problem
    rows: slice = slice(None)
    columns: slice = slice(None)


def warm_up(
    evaluate: Callable[[Window], Tensor],
    optimizer: Any,
    problem: Problem,
    code: Tensor,
    window: int | None,
    settings: Settings,
) -> None:
    """Take `settings.warmup` steps, each on a window at a random place.

    None are taken where a window is not a measurement of its own (the operator is more than the identity), where the
    picture is hardly larger, or for L-BFGS.

    Args:
        evaluate: computes the loss of a window, and its slopes.
        optimizer: takes the steps; not the one of the fit, which would be misled by what this one has seen.
        problem: the measurement of the whole picture.
        code: z, in the middle of which the picture lies.
        window: side of the smallest part of z that the network makes something of; None when it wants all of it.
        settings: `warmup`, `optimizer` and `seed` are used.
    """
    if window is not None and will_run(problem, window, settings):
        for part in _parts(problem, code, window, settings):
            optimizer.step(partial(evaluate, part))


def will_run(problem: Problem, window: int | None, settings: Settings) -> bool:
    """Whether there are any steps to take, with what `warm_up` is given."""
    if window is None or problem.operator is not identity or settings.optimizer != "adam":
        return False
    return settings.warmup > 0 and min(problem.shape[1:]) >= MIN_WINDOWS * window


def _parts(problem: Problem, code: Tensor, window: int, settings: Settings) -> Iterator[Window]:
    """Windows, but those in which nothing counts."""
    picture, sides = problem.shape[1:], code.shape[2:]
    generator = torch.Generator().manual_seed(settings.seed)
    weight = None if problem.weight is None else problem.weight.expand_as(problem.measured)
    for _ in range(settings.warmup):
        begins = [int(torch.randint(side - window + 1, (), generator=generator)) for side in picture]
        rows, columns = (slice(begin, begin + window) for begin in begins)
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
                slice(begin + (whole - side) // 2, begin + (whole - side) // 2 + window)
                for begin, whole, side in zip(begins, sides, picture, strict=True)
            ),
        )
