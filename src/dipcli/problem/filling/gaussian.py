"""Missing pixels from the known ones: similar patches as samples of one normal distribution.

The k patches that are most similar to a patch in an estimate of the image, at first an interpolation, have the mean m
and the covariance S. In each of the nearest, the missing pixels are the conditional mean given the known pixels K,

    x = m + S_K (S_KK + noise^2 I)^-1 (y_K - m_K),

where S_K has the columns K of S, and S_KK their rows K too. Overlapping patches are averaged and replace the missing
pixels of the estimate. A few passes are enough if each changes them by more than the difference.

Source:
    Yu, Sapiro, Mallat, "Solving inverse problems with piecewise linear estimators", TIP 2012; with similar patches as
    in Lebrun, Buades, Morel, "A nonlocal Bayesian image denoising algorithm", SIAM J. Imaging Sciences 2013.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dipcli.problem.filling.interpolation import interpolate
from dipcli.problem.independent.companion import Companion
from dipcli.problem.independent.ridge import RidgeStep, find_similar, split_into_blocks
from dipcli.problem.opponent import from_opponent, to_opponent

STEPS = (RidgeStep(6, 60, 4, 31),) * 2 + (RidgeStep(7, 100, 3, 31),) * 2  # of the companion

NOISE = 0.005  # standard deviation of the known pixels, 0..1
FILLED = 8  # patches of each group that are filled: as good as all of 40
RELAXATION = 1.7  # of all passes but the last: four passes come as far as ten without
GROUPS_AT_ONCE = 128  # groups of patches in memory


@dataclass(frozen=True, kw_only=True)
class FillingCompanion(Companion):
    """The known pixels, and the missing ones as the normal distribution of similar patches has them."""

    def estimate(self, known: NDArray[np.bool_], device: torch.device | None) -> Tensor:
        """Return the image with its missing pixels filled."""
        pixels, mask = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in (self.pixels, known))
        return fill_by_gaussians(pixels, mask, STEPS).clamp(0, 1)


def fill_by_gaussians(image: Tensor, known: Tensor, steps: tuple[RidgeStep, ...]) -> Tensor:
    """Return the image with its missing pixels filled.

    Args:
        image: shape (C, H, W).
        known: the pixels that stay, shape (H, W).
        steps: of the passes: patches, their similar ones and the window in which these are searched. The patches must
            fit into the image.
    """
    opponent = to_opponent(interpolate(image, known[None]))
    for left, step in zip(reversed(range(len(steps))), steps, strict=True):
        change = _estimate(opponent, known, step) - opponent
        opponent = torch.where(known, opponent, opponent + (RELAXATION if left else 1) * change)
    return from_opponent(opponent)


def _estimate(image: Tensor, known: Tensor, step: RidgeStep) -> Tensor:
    """Return the estimate of one pass; known pixels are estimated near missing ones only."""
    total, count = torch.zeros_like(image), torch.zeros_like(image[:1])
    for inside, starts in split_into_blocks(image.shape[1:], step):
        if not known[inside[1:]].all():
            sums, counts = _estimate_block(image[inside], known[inside[1:]], starts, step)
            total[inside] += sums
            count[inside] += counts
    return torch.where(count > 0, total / count.clamp(min=1), image)


def _estimate_block(
    image: Tensor, known: Tensor, starts: tuple[Tensor, Tensor], step: RidgeStep
) -> tuple[Tensor, Tensor]:
    """Return the sums of the estimated patches, shape (C, H, W), and how many there are, shape (1, H, W)."""
    size, side = image.shape[1:], step.patch
    positions = size[1] - side + 1
    patches = image.unfold(1, side, 1).unfold(2, side, 1)
    masks = known.unfold(0, side, 1).unfold(1, side, 1)
    complete = masks.flatten(2).all(2)
    groups = find_similar(image[:1], starts, step, ordered=True)
    groups = groups[~complete.flatten()[groups[:, :FILLED]].all(1)]
    sums = image.new_zeros(len(image), complete.numel(), side**2)
    counts = image.new_zeros(complete.numel())
    for group in torch.split(groups, GROUPS_AT_ONCE):
        rows, columns = group // positions, group % positions
        filled = group[:, :FILLED].flatten()
        mask = masks[rows[:, :FILLED], columns[:, :FILLED]].flatten(2).to(image)
        for channel, channel_sums in zip(patches, sums, strict=True):
            estimate = condition(channel[rows, columns].flatten(2), mask)
            channel_sums.index_add_(0, filled, estimate.flatten(0, 1))
        counts.index_add_(0, filled, counts.new_ones(len(filled)))
    return (
        functional.fold(sums.mT, size, side)[:, 0],
        functional.fold(counts.expand(1, side**2, -1), size, side)[0],
    )


def condition(group: Tensor, mask: Tensor) -> Tensor:
    """Return the conditional means of the first patches of each group, shape (groups, m, n).

    Args:
        group: the patches, shape (groups, k, n).
        mask: 1 at the known pixels of the first m <= k, 0 elsewhere, shape (groups, m, n).
    """
    mean = group.mean(1, keepdim=True)
    centred = group - mean
    covariance = centred.mT @ centred / group.shape[1]
    # Rows and columns of missing pixels are those of the identity: one system of n equations for each patch.
    system = covariance[:, None] * mask[..., None] * mask[..., None, :]
    system.diagonal(dim1=2, dim2=3).add_(NOISE**2 * mask + (1 - mask))
    known = (centred[:, : mask.shape[1]] * mask)[..., None]
    solved: Tensor = torch.cholesky_solve(known, torch.linalg.cholesky(system))[..., 0]
    return solved @ covariance + mean
