"""One iteration of a fit, as stopping rules and observers see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.problem import Problem


class Place(NamedTuple):
    """Where a tile lies in the picture, and how much it counts there.

    Attributes:
        rows: of the picture.
        columns: of the picture.
        down: how much each of its rows counts, 0..1.
        across: how much each of its columns does.
    """

    rows: slice
    columns: slice
    down: Tensor
    across: Tensor

    @property
    def weights(self) -> Tensor:
        """How much each pixel counts, shape (h, w): those of all tiles add up to 1 everywhere."""
        return self.down[:, None] * self.across


@dataclass(frozen=True)
class Tile:
    """What is being fitted, as those who watch are told.

    Attributes:
        number: counted from 1.
        count: of all tiles.
        place: in the picture.
        problem: as it is fitted, on the device.
    """

    number: int
    count: int
    place: Place
    problem: Problem

    def __str__(self) -> str:
        return f"tile {self.number}/{self.count}"


@dataclass(frozen=True)
class Step:
    """One iteration, as rules and observers see it.

    The tensors are detached, still on the device, and never written to again: not by the engine, and not by those
    who are shown them.

    Attributes:
        number: counts from 1.
        loss: the value of the data term and the penalty, a scalar.
        image: x, the network's own output, shape (C, H, W), usually 0..1.
        averages: exponential averages of the outputs so far, bias-corrected, each of shape (C, H, W); one for each of
            `Settings.memories`.
        rate: the learning rate of this step.
        seconds: time spent in the fit so far, observers not counted.
        event: what happened at this iteration out of the ordinary, as a sentence; None as a rule.
        run: which of several fits to the same measurement, counted from 1.
        tile: of which tile of a larger picture it is, where that is fitted in tiles.
    """

    number: int
    loss: Tensor
    image: Tensor
    averages: tuple[Tensor, ...]
    rate: float
    seconds: float
    event: str | None = None
    run: int = 1
    tile: Tile | None = None

    @property
    def average(self) -> Tensor:
        """The first of the averages: the one that is logged."""
        return self.averages[0]
