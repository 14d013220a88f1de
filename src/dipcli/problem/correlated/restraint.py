"""How much of an estimate to use: less where it differs from the noisy image by more than the noise can explain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from dipcli.problem import Problem, identity
from dipcli.problem.correlated.noise import CorrelatedNoise, average_locally
from dipcli.problem.noise import FULL_SCALE
from dipcli.problem.opponent import from_opponent, to_opponent
from dipcli.problem.problem import Finish

WINDOW = 32  # pixels: side of the window in which the difference is measured
# An image whose flattest parts have less noise than the first is hardly noisy, or not at all: of twelve clean images of
# scikit-image ten are below it. It is changed by at most 45 dB. From the second on the change is not limited.
FAINT_LEVEL, VISIBLE_LEVEL = 2.5 / FULL_SCALE, 3.5 / FULL_SCALE
FAINT_CHANGE = 10 ** (-45.5 / 20)  # root mean square
AGREEMENT = 0.25  # two estimates may differ by this fraction of the noise variance


def restrain(noisy: Tensor, estimate: Tensor, variance: Tensor, window: int = WINDOW) -> Tensor:
    """Blend an estimate f with the noisy image y by the discrepancy principle, locally.

        x = y + w (f - y),   w = min(1, v / mean (f - y)^2)

    with the mean over a window. If f is independent of the noise, of variance v, then E (f - y)^2 = v + E (f - c)^2 for
    the clean image c, and E (x - c)^2 is smallest at this w: structure that f has lost shows in the difference. For a
    constant v the local root mean square of x - y is never above the standard deviation.

    Args:
        noisy: y, shape (H, W).
        estimate: f, the same shape.
        variance: v > 0, the same shape.
        window: side in pixels, even.

    Source:
        Morozov, "On the solution of functional equations by the method of regularization", 1966; James and Stein,
        "Estimation with quadratic loss", 1961.
    """
    difference = estimate - noisy
    energy = average_locally(difference**2, window)
    return noisy + (variance / energy.clamp(min=1e-12)).clamp(max=1) * difference


def fuse(estimate: Tensor, fitted: Tensor, variance: Tensor, weight: float, window: int = WINDOW) -> Tensor:
    """Move an estimate n towards another one f, less where they disagree.

        x = n + a (f - n),   a = weight min(1, v / (4 mean (f - n)^2))

    The errors of two estimates of different kinds partly cancel in their mean. Where they differ by more than a quarter
    of the noise's variance v, one of them has lost structure, in most cases the fit.

    Args:
        estimate: n, shape (H, W).
        fitted: f, the same shape.
        variance: v, the same shape.
        weight: of f, 0..1.
        window: side in pixels, even.
    """
    difference = fitted - estimate
    energy = average_locally(difference**2, window)
    fused: Tensor = estimate + weight * (AGREEMENT * variance / energy.clamp(min=1e-12)).clamp(max=1) * difference
    return fused


def limit_change(noisy: Tensor, restored: Tensor, level: float) -> Tensor:
    """Move the restored image back towards the noisy one until the change is as small as its noise is faint.

        x = y + min(1, c / rms(x' - y)) (x' - y)

    The largest change c is 45.5 dB up to a noise level of 2.5 of 255, and unlimited from 3.5 on.

    Args:
        noisy: y, shape (C, H, W), values 0..1.
        restored: x', the same shape.
        level: of the noise in the flattest parts, 0..1.
    """
    if level >= VISIBLE_LEVEL:
        return restored
    excess = max(level - FAINT_LEVEL, 0.0) / (VISIBLE_LEVEL - level)
    difference = restored - noisy
    change = math.sqrt((difference**2).mean())
    limited: Tensor = noisy + min(1.0, FAINT_CHANGE * (1 + excess) / max(change, 1e-12)) * difference
    return limited


def combine(
    noisy: Tensor, estimate: Tensor, fitted: Tensor, noise: CorrelatedNoise, fit_weight: float, strength: float = 1.0
) -> Tensor:
    """Return the restored image: estimate and fit fused, restrained, and blended with the noisy image.

    The first two steps are done in each opponent channel, with its own noise.

    Args:
        noisy: shape (C, H, W), values 0..1.
        estimate: that of `nonlocal_bayes`, the same shape.
        fitted: the network's image, the same shape; not used if its weight is 0.
        noise: of the noisy image.
        fit_weight: weight of the fitted image, 0..1.
        strength: 1 for the restored image, 0 for the noisy one.
    """
    y, n, f = to_opponent(noisy), to_opponent(estimate), to_opponent(fitted)
    factors = noise.measure_factors(y[0])
    restored = torch.empty_like(y)
    for channel, covariance in enumerate(noise.covariance):
        variance = float(covariance.diagonal().mean()) * factors
        fused = fuse(n[channel], f[channel], variance, fit_weight) if fit_weight else n[channel]
        restored[channel] = restrain(y[channel], fused, (1 + noise.strength) * variance)
    restored = limit_change(noisy, from_opponent(restored).clamp(0, 1), noise.level)
    return torch.lerp(noisy, restored, strength)


@dataclass(frozen=True)
class FillUnknown:
    """The last step that takes the unknown pixels from the fitted image, and the others from another last step.

    Attributes:
        known: shape (1, H, W), boolean.
        first: the step for the known pixels.
    """

    known: Tensor
    first: Finish

    def window(self, rows: slice, columns: slice) -> Self:
        """Return the step for a window of the image."""
        first: Any = self.first
        return replace(self, known=self.known[:, rows, columns], first=first.window(rows, columns))

    def __call__(self, fitted: Tensor) -> Tensor:
        """Return the image, from the fitted one (C, H, W), on the same device."""
        return torch.where(self.known.to(fitted.device), self.first(fitted), fitted)


def take_unknown_from_fit(problem: Problem) -> Problem:
    """Return a problem with weights in which the last step leaves the pixels of weight 0 as they were fitted."""
    assert problem.weight is not None  # noqa: S101 - for the type checker
    return replace(problem, finish=FillUnknown(problem.weight > 0, problem.finish))


@dataclass(frozen=True)
class TowardsInput:
    """The last step that blends the fitted image x with the noisy one y: y + strength (x - y).

    Attributes:
        noisy: y, shape (C, H, W).
        strength: 1 for the fitted image, 0 for the noisy one.
        first: a step on the fitted image before that.
    """

    noisy: Tensor
    strength: float
    first: Finish = identity

    @property
    def uses_fit(self) -> bool:
        """Whether the result depends on the fitted image."""
        return self.strength > 0 and getattr(self.first, "uses_fit", True)

    def window(self, rows: slice, columns: slice) -> Self:
        """Return the step for a window of the image."""
        first: Any = self.first
        first = first if first is identity else first.window(rows, columns)
        return replace(self, noisy=self.noisy[..., rows, columns], first=first)

    def to(self, device: torch.device) -> Self:
        """Return the step on another device."""
        return replace(self, noisy=self.noisy.to(device))

    def __call__(self, fitted: Tensor) -> Tensor:
        """Return the blend, shape (C, H, W); exactly y at strength 0."""
        noisy = self.noisy.to(fitted.device)
        return noisy.clone() if not self.strength else torch.lerp(noisy, self.first(fitted), self.strength)
