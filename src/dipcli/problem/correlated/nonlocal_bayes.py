"""Non-local Bayes for noise that neighbouring pixels share: an estimate that takes the noise's covariance into account.

Similar patches are samples of one distribution. With their mean m and covariance S, and the covariance N of the noise,
the best linear estimate of the clean patch behind y is

    step 1:   x = m + (S - N) S^-1 (y - m),       m and S of the noisy patches
    step 2:   x = m + S (S + N)^-1 (y - m),       m and S of the same patches in the result of step 1

in each opponent channel. Patches that vary no more than noise become their mean. Overlapping estimates are averaged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.problem.correlated.noise import PATCH_SIDE, CorrelatedNoise
from dipcli.problem.independent.ridge import RidgeStep, choose_starts, find_similar
from dipcli.problem.opponent import from_opponent, to_opponent

STRIDE = 4  # pixels between reference patches
SEARCH_REACH = 12  # pixels: similar patches are searched so far in each direction
SIMILAR_PATCHES = 80
# Factor on the measured noise variance where JPEG has removed the finest details of the flattest parts, and where it
# has not. The flattest blocks underestimate the noise, and so do groups of patches that were chosen for being alike. On
# two strongly noisy camera images a factor of 1 lost 3 dB, and 1.5, 2 and 4 were alike; with made noise of sigma 10,
# 1.5 was 0.6 dB better than 2.
OVERESTIMATES = 2.0, 1.5
FLAT = 1.05  # times the variance of the noise: patches that vary less are flat
GROUPS_AT_ONCE = 256  # limits the memory
JITTER = 1e-6  # of squared units of 0..1: keeps the systems of equations solvable where the image is constant


def estimate_nonlocal_bayes(image: Tensor, noise: CorrelatedNoise) -> Tensor:
    """Return an estimate of the clean image, shape (C, H, W).

    It takes 3 seconds for 256x256 pixels in colour on one core, and 300 MB.

    Args:
        image: the noisy one, shape (C, H, W) with H, W of 7 or more, values 0..1.
        noise: as measured, perhaps on a larger image.

    Source:
        Lebrun, Buades, Morel, "A nonlocal Bayesian image denoising algorithm", SIAM J. Imaging Sciences 2013; with the
        noise's covariance, as in Lebrun, Colom, Morel, "The noise clinic", IPOL 2015.
    """
    opponent = to_opponent(image)
    rows, columns = starts = tuple(choose_starts(side - PATCH_SIDE + 1, STRIDE) for side in image.shape[1:])
    in_corner = math.prod(min(int(places[-1]), SEARCH_REACH) + 1 for places in starts)  # patches in its window
    step = RidgeStep(PATCH_SIDE, min(SIMILAR_PATCHES, in_corner), STRIDE, 2 * SEARCH_REACH + 1)
    overestimate = (1 - noise.kept_detail) * OVERESTIMATES[0] + noise.kept_detail * OVERESTIMATES[1]
    factors = overestimate * noise.measure_factors(opponent[0])[rows + PATCH_SIDE // 2][:, columns + PATCH_SIDE // 2]
    covariance = noise.covariance.to(image.device)
    groups = find_similar(opponent[:1], (rows, columns), step)
    pilot = _filter_groups(opponent, None, groups, factors.flatten(), covariance)
    groups = find_similar(pilot, (rows, columns), step)
    return from_opponent(_filter_groups(opponent, pilot, groups, factors.flatten(), covariance))


def _filter_groups(image: Tensor, pilot: Tensor | None, groups: Tensor, factors: Tensor, covariance: Tensor) -> Tensor:
    """Return the image of the filtered patches, shape (C, H, W).

    Args:
        image: the noisy opponent channels, shape (C, H, W).
        pilot: the result of step 1; None in step 1.
        groups: numbers of the patches in each group, shape (G, K).
        factors: of the noise's variance in each group, shape (G).
        covariance: of the noise, shape (C, 49, 49).
    """
    channels, height, width = image.shape
    identity = torch.eye(PATCH_SIDE**2, device=image.device)
    result = torch.empty_like(image)
    counts = torch.bincount(groups.flatten(), minlength=(height - PATCH_SIDE + 1) * (width - PATCH_SIDE + 1)).float()
    coverage = functional.fold(counts.expand(1, PATCH_SIDE**2, -1), (height, width), PATCH_SIDE)[0, 0]
    for channel in range(channels):
        patches = functional.unfold(image[None, channel : channel + 1], PATCH_SIDE)[0].T.contiguous()
        pilots = (
            None
            if pilot is None
            else functional.unfold(pilot[None, channel : channel + 1], PATCH_SIDE)[0].T.contiguous()
        )
        sums = torch.zeros_like(patches)
        for chosen, factor in zip(
            torch.split(groups, GROUPS_AT_ONCE), torch.split(factors, GROUPS_AT_ONCE), strict=True
        ):
            noise = factor[:, None, None] * covariance[channel]
            noisy = patches[chosen]
            model = noisy if pilots is None else pilots[chosen]
            mean = model.mean(dim=1, keepdim=True)
            centred = model - mean
            spread = centred.mT @ centred / max(chosen.shape[1] - 1, 1)
            if pilots is None:
                gain = torch.linalg.solve(spread + JITTER * identity, spread - noise)
                total, noise_total = (matrix.diagonal(dim1=1, dim2=2).sum(dim=1) for matrix in (spread, noise))
                gain[total < FLAT * noise_total] = 0
            else:
                gain = torch.linalg.solve(spread + noise + JITTER * identity, spread)
            sums.index_add_(0, chosen.flatten(), (mean + (noisy - mean) @ gain).flatten(0, 1))
        result[channel] = functional.fold(sums.T[None], (height, width), PATCH_SIDE)[0, 0] / coverage
    return result
