"""Non-local ridge regression and a projection onto the images that agree with the measurement, in turn.

    x_t = P( z_t + (1 + r) (ridge(z_t, sigma_t) - z_t) ),    z_t+1 = x_t + m (x_t - x_t-1),    sigma_1 > sigma_2 > ...

The ridge regression treats z as having noise of standard deviation sigma_t, and takes z itself as its model. What it
removes is what similar patches do not have in common: blocks, ringing, jagged edges. The projection P puts back what it
may not change. The first steps form the large structure, the last ones leave fine texture. Overrelaxation r and
momentum m save half of the iterations (docs/notes/consistent.md).

Source:
    Venkatakrishnan, Bouman, Wohlberg, "Plug-and-play priors for model based reconstruction", GlobalSIP 2013; with
    decreasing noise levels, as Danielyan, Katkovnik, Egiazarian, "BM3D frames and variational image deblurring", 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dipcli.problem.independent.ridge import RidgeStep, estimate_step

RELAXATION, MOMENTUM = 0.8, 0.6


def iterate_ridge(
    start: Tensor,
    mixing: Tensor,
    levels: Iterable[Tensor],
    project: Callable[[Tensor], Tensor],
    step: RidgeStep,
) -> Tensor:
    """Return the last x, shape (C, H, W), values 0..1.

    Args:
        start: the first x.
        mixing: matrix from the channels to those that are smoothed, (C, C); similar patches are searched in the first.
        levels: sigma_t of each of these channels, shape (C,), one for each iteration.
        project: P, from (C, H, W) to the same shape.
        step: of the ridge regression.
    """
    x = z = start
    mixing, back = mixing.to(start), torch.linalg.inv(mixing.cpu()).to(start)
    worker = torch.device("cpu") if start.device.type == "mps" else start.device  # MPS lacks the ridge's functions
    for number, level in enumerate(levels):
        mixed = torch.einsum("dc,chw->dhw", mixing, z).to(worker)
        variances = (level.to(mixed) ** 2)[:, None, None].expand_as(mixed)
        smooth = torch.einsum("cd,dhw->chw", back, estimate_step(mixed, variances, mixed, step).to(start))
        last, x = x, project(torch.lerp(z, smooth, 1 + RELAXATION)).clamp(0, 1)
        z = x + MOMENTUM * (x - last) if number else x
    return x
