"""Rivals: the classical methods for a damage, to hold beside what the network makes of it.

Here is what all of them share; one module for each damage has the methods, by the libraries that people would use. None
of them is shown the true picture, and none has a say in the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from dipcli.text import roughly

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GIB = 2**30
FOLDER = "compare"  # in the run's
# What their pictures are called there: an earlier run's are known by these names.
FILES = ("nlmeans", "tv", "wavelets", "median", "cubic", "biharmonic", "bicubic", "lanczos")


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """A rival does not answer; the message says why, to go on a sentence."""


@dataclass(frozen=True)
class Budget:
    """What one rival may take: it counts from when it is made.

    Attributes:
        seconds: as long as that,
        memory: and so many bytes beside what is there already; None for no end.
        began: on the clock.
    """

    seconds: float = float("inf")
    memory: int | None = None
    began: float = field(default_factory=perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return perf_counter() - self.began

    def expect(self, *, seconds: float = 0.0, memory: float = 0.0) -> None:
        """Say what is still to come, by a guess.

        Raises:
            LeftOut: when it is too much.
        """
        total = self.spent + seconds
        if total > self.seconds:
            raise Skipped(f"it would take about {roughly(total)}, the limit is {roughly(self.seconds)}")
        if self.memory is not None and memory > self.memory:
            there = f"{max(0, self.memory) / GIB:.1f} are left (--max-memory)"
            raise Skipped(f"it would take about {memory / GIB:.1f} GiB, {there}")


@dataclass(frozen=True)
class Baseline:
    """One classical method, ready to be applied to one picture.

    Attributes:
        name: what people call it.
        file: its picture's name without the suffix, one of `FILES`.
        restore: from an allowance to the restored pixels, float32, shape (C, H, W), about 0..1; raises `LeftOut`.
    """

    name: str
    file: str
    restore: Callable[[Budget], NDArray[np.float32]]
