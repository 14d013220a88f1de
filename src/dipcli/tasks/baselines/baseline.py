"""Classical methods to compare a fit with, by widely used libraries; one module for each kind of damage.

They do not see the true image and do not influence the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.text import format_duration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GIB = 2**30
FOLDER = "compare"  # in the run folder


class Skipped(Exception):  # noqa: N818 - it is not an error
    """A baseline is skipped; the message is the reason, to continue a sentence."""


@dataclass(frozen=True)
class Budget:
    """Time and memory that one baseline may take. The time counts from the creation of the budget.

    Attributes:
        seconds: the time.
        memory: bytes beside those already in use; None for no limit.
        started: time of creation, by `perf_counter`.
    """

    seconds: float = float("inf")
    memory: int | None = None
    started: float = field(default_factory=perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since the creation."""
        return perf_counter() - self.started

    def expect(self, *, seconds: float = 0.0, memory: float = 0.0) -> None:
        """Check an estimate of the time and the memory that are still needed.

        Raises:
            Skipped: if it is too much.
        """
        total = self.spent + seconds
        if total > self.seconds:
            raise Skipped(f"it would take about {format_duration(total)}, the limit is {format_duration(self.seconds)}")
        if self.memory is not None and memory > self.memory:
            available = f"{max(0, self.memory) / GIB:.1f} are left (--max-memory)"
            raise Skipped(f"it would take about {memory / GIB:.1f} GiB, {available}")


@dataclass(frozen=True)
class Baseline:
    """One classical method, ready to be applied to one image.

    Attributes:
        name: its usual name.
        file: name of its image in the run folder's `compare/`, without suffix.
        restore: returns the restored pixels, float32, shape (C, H, W), about 0..1; raises `Skipped` if the budget is
            too small.
    """

    name: str
    file: str
    restore: Callable[[Budget], NDArray[np.float32]]
