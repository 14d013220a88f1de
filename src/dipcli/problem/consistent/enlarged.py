"""Back-projection onto the images that shrink to a small one, and the companion that is made with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dipcli.problem.consistent.iteration import iterate_ridge
from dipcli.problem.independent.companion import BLOCK_BYTES, BYTES_PER_VALUE, MARGIN
from dipcli.problem.independent.ridge import RidgeStep
from dipcli.problem.operators import Resample
from dipcli.problem.opponent import make_opponent
from dipcli.problem.windows import surround

STEP = RidgeStep(patch=7, count=50, stride=6, window=29)
FIRST_LEVEL, LAST_LEVEL, ITERATIONS = 150 / 255, 8 / 255, 10
DAMPING = 1e-3  # of the mean of the diagonal of R R^T: the small image is rounded


@dataclass(frozen=True)
class BackProjection:
    """The nearest image that shrinks to the small one, as a finish.

        x + R_h^+ (y - A(x)) R_w^+^T,    A(x) = R_h x R_w^T,    R^+ = R^T (R R^T + d I)^-1

    The damping d keeps the rounding errors of the small image small.

    Attributes:
        operator: A.
        measured: y, shape (C, h, w).
    """

    operator: Resample
    measured: Tensor

    keeps_shape = True

    @cached_property
    def inverses(self) -> tuple[Tensor, Tensor]:
        """R_h^+, shape (H, h), and R_w^+, shape (W, w)."""
        return _invert(self.operator.rows), _invert(self.operator.columns)

    def __call__(self, image: Tensor) -> Tensor:
        """From (C, H, W) to the same shape."""
        rows, columns = self.inverses
        projected: Tensor = image + rows @ (self.measured - self.operator(image)) @ columns.T
        return projected

    def window(self, rows: slice, columns: slice) -> BackProjection:
        """Return the same for a window of the image."""
        operator, measured_rows, measured_columns = self.operator.window(rows, columns)
        return BackProjection(operator, self.measured[:, measured_rows, measured_columns])

    def to(self, device: torch.device) -> BackProjection:
        """Return the same on a device."""
        return BackProjection(self.operator.to(device), self.measured.to(device))


@dataclass(frozen=True)
class EnlargedCompanion:
    """An enlarged image whose details resemble one another, and which shrinks to the small one.

    Attributes:
        projection: back-projection.
        start: a plain enlargement, shape (C, H, W).
        inside: rows and columns to return, None for all; the companion also sees the pixels around them.
    """

    projection: BackProjection
    start: Tensor
    inside: tuple[slice, slice] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes to compute."""
        return BLOCK_BYTES + BYTES_PER_VALUE * self.start.numel()

    def window(self, rows: slice, columns: slice) -> EnlargedCompanion:
        """Return the companion of a window of the image."""
        outer, inside = surround(rows, columns, MARGIN)
        return EnlargedCompanion(self.projection.window(*outer), self.start[:, *outer], inside)

    def to(self, device: torch.device) -> EnlargedCompanion:
        """Return the companion on a device."""
        return replace(self, projection=self.projection.to(device), start=self.start.to(device))

    def __call__(self, weight: Tensor | None = None) -> Tensor:  # noqa: ARG002 - no pixels are held out
        """Return the image, shape (C, h, w)."""
        ratio = (LAST_LEVEL / FIRST_LEVEL) ** (1 / (ITERATIONS - 1))
        ones = torch.ones(len(self.start))
        levels = [FIRST_LEVEL * ratio**number * ones for number in range(ITERATIONS)]
        enlarged = iterate_ridge(self.start, make_opponent(len(ones)), levels, self.projection, STEP)
        return enlarged[(slice(None), *(self.inside or ()))]


def _invert(matrix: Tensor) -> Tensor:
    """Return R^+ of a matrix R, from its shape (m, n) to (n, m)."""
    precise = matrix.cpu().double()  # MPS lacks double precision
    gram = precise @ precise.T
    gram += DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    inverse: Tensor = precise.T @ torch.linalg.inv(gram)
    return inverse.to(matrix)
