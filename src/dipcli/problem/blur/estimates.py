"""Estimates of the sharp image that need no network: regularised inverses, and plug-and-play with non-local ridge.

Both solve, for an image z that x should be close to,

    minimise over x   |W^(1/2) (A x - y)|^2 / sigma^2 + |x - z|^2 / s^2,

by conjugate gradients, which need no model of what is beyond the border and leave out pixels of weight 0. Plug-and-play
alternates this with a denoiser: z is the non-local ridge estimate of x for noise of the level s, which falls from step
to step; similar patches are found in the z before.

Source:
    Venkatakrishnan, Bouman, Wohlberg, "Plug-and-play priors for model based reconstruction", GlobalSIP 2013; Zhang et
    al., "Plug-and-play image restoration with deep denoiser prior", TPAMI 2021, for the falling levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dipcli.problem.blur.operator import Blur
from dipcli.problem.independent.companion import BLOCK_BYTES, MARGIN
from dipcli.problem.independent.ridge import RidgeStep, estimate_step
from dipcli.problem.noise import FULL_SCALE
from dipcli.problem.opponent import from_opponent, to_opponent
from dipcli.problem.prefilter import fill_unknown
from dipcli.problem.windows import surround

FIRST_STEP, STEP = RidgeStep(7, 18, 5, 25), RidgeStep(7, 48, 5, 25)
MIN_LEVEL = 0.5 / FULL_SCALE  # of the noise: rounding to 8 bits makes 0.3
GUIDE_LEVELS = (0.3, 0.1, 0.03)  # s of the inverses, from sharp and noisy to smooth
# s falls from the first level to sigma; measured on four images and two kernels (docs/notes/deblurring.md).
FIRST_LEVEL, STEPS = 20 / FULL_SCALE, 12
# Of the data step's sigma^2: the denoiser's z is closer to the truth than s.
TRUST = 0.35
ITERATIONS, TOLERANCE = 40, 1e-5  # of conjugate gradients; relative residual
BYTES_PER_VALUE = 200  # of memory while it is computed


@dataclass(frozen=True)
class Deconvolution(ABC):
    """What an estimate is made from; the guide or companion of a fit, as a function from the weight.

    Attributes:
        blur: A.
        measured: y, shape (C, H, W), values 0..1.
        level: sigma, standard deviation of its noise, 0..1.
        inside: rows and columns of the sharp image to return, None for all; those around them are seen too.
    """

    blur: Blur
    measured: Tensor
    level: float
    inside: tuple[slice, slice] | None = None

    @property
    def bytes(self) -> int:
        """Memory that it takes to compute."""
        return BLOCK_BYTES + BYTES_PER_VALUE * self.measured.numel()

    def window(self, rows: slice, columns: slice) -> Deconvolution:
        """Return the estimate of a window of the sharp image."""
        outer, inside = surround(rows, columns, MARGIN)
        _, *measured = self.blur.window(*outer)
        return replace(self, measured=self.measured[:, *measured], inside=inside)

    def to(self, device: torch.device) -> Deconvolution:
        """Return the estimate that is computed on a device."""
        return replace(self, blur=self.blur.to(device), measured=self.measured.to(device))

    def __call__(self, weight: Tensor | None = None) -> Tensor:
        """Return the estimate, shape (any C, H, W), values 0..1.

        Args:
            weight: values of y of weight 0 are not used; broadcastable to the part of y that depends on what is
                returned, None for ones.
        """
        full, measured = torch.ones_like(self.measured), self.measured
        inside = self.inside or (slice(None), slice(None))
        if weight is not None:
            own = self.blur.window(*inside)[1:] if self.inside else inside
            full[:, own[0], own[1]] = (weight > 0).to(full).expand_as(full[:, own[0], own[1]])
            known = (full > 0).all(dim=0).cpu().numpy()
            measured = torch.from_numpy(fill_unknown(measured.cpu().numpy(), known)).to(measured)
        bottom, right = (side // 2 for side in self.blur.kernel.shape)
        start = functional.pad(measured, (right, right, bottom, bottom), mode="replicate")
        return self._estimate(start, full)[(slice(None), *inside)].clamp(0, 1)

    @abstractmethod
    def _estimate(self, start: Tensor, weight: Tensor) -> Tensor:
        """Return the estimate of all that is seen, from the blurred image itself, of its shape."""

    def _invert(self, near: Tensor, ratio: float, weight: Tensor) -> Tensor:
        """Return the x that minimises the sum above: z is `near`, sigma^2 / s^2 the ratio."""
        x, right = near, self.blur.adjoint(weight * self.measured) + ratio * near
        direction = residual = right - self._normal(x, ratio, weight)
        square = residual.square().sum()
        limit = TOLERANCE**2 * square
        for _ in range(ITERATIONS):
            if square <= limit:
                break
            product = self._normal(direction, ratio, weight)
            length = square / (direction * product).sum()
            x, residual = x + length * direction, residual - length * product
            previous, square = square, residual.square().sum()
            direction = residual + square / previous * direction
        return x

    def _normal(self, x: Tensor, ratio: float, weight: Tensor) -> Tensor:
        """Return (A^T W A + ratio) x."""
        return self.blur.adjoint(weight * self.blur(x)) + ratio * x


class Inverses(Deconvolution):
    """Regularised inverses of three strengths, concatenated along the channels: the guide."""

    def _estimate(self, start: Tensor, weight: Tensor) -> Tensor:
        return torch.cat([self._invert(start, (self.level / level) ** 2, weight) for level in GUIDE_LEVELS])


class PlugAndPlay(Deconvolution):
    """Plug-and-play with non-local ridge: the companion."""

    def _estimate(self, start: Tensor, weight: Tensor) -> Tensor:
        z, pilot = start, None
        for level in np.geomspace(max(FIRST_LEVEL, self.level), self.level, STEPS):
            x = self._invert(z, TRUST * (self.level / level) ** 2, weight)
            noisy, variances = to_opponent(x), torch.full_like(x, level**2)
            if pilot is None:
                pilot = estimate_step(noisy, variances, None, FIRST_STEP)
            pilot = estimate_step(noisy, variances, pilot, STEP)
            z = from_opponent(pilot)
        return (x + z) / 2
