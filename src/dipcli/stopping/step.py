"""One iteration of a fit, as stopping rules and observers see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from dipcli.problem import Problem


class Place(NamedTuple):
    """Position of a tile in the image, and its blending weights.

    Attributes:
        rows: of the image.
        columns: of the image.
        down: weight of each row of the tile, 0..1.
        across: weight of each column of the tile, 0..1.
    """

    rows: slice
    columns: slice
    down: Tensor
    across: Tensor

    @property
    def weights(self) -> Tensor:
        """Weight of each pixel, shape (h, w); the weights of all tiles add up to 1 at every pixel."""
        return self.down[:, None] * self.across


@dataclass(frozen=True)
class Tile:
    """The tile of a larger image that is being fitted.

    Attributes:
        number: counted from 1.
        count: number of tiles.
        place: in the image.
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
    """One iteration.

    The tensors are detached and on the device. Neither the engine nor a rule or observer may write to them.

    Attributes:
        number: counted from 1.
        loss: data term plus penalty, a scalar.
        image: x, the network's output, shape (C, H, W), usually 0..1.
        averages: bias-corrected exponential moving averages of the outputs so far, shape (C, H, W) each; one for each
            of `Settings.decays`.
        rate: learning rate of this step.
        seconds: time spent in the fit so far, without observers.
        event: an unusual event at this iteration, such as a rollback, as a sentence; else None.
        run: number of the restart, counted from 1.
        tile: the tile, if a larger image is fitted in tiles.
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
        """The first average, which is the one that is logged."""
        return self.averages[0]
