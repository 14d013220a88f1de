"""Filling by interpolation, and a finish that leaves no seam around a hole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dipcli.problem.operators import KeepKnown

SMOOTHINGS = 4  # at each level of the pyramid: without them the edges of its blocks show


def interpolate(image: Tensor, known: Tensor) -> Tensor:
    """Return the image with its unknown pixels filled, the more smoothly the farther they are from known ones.

    Args:
        image: shape (C, H, W).
        known: weights of its pixels, 0..1, shape (1, H, W).

    Source:
        Gortler et al., "The lumigraph", SIGGRAPH 1996: pull and push through a pyramid.
    """
    if max(known.shape) == 1 or known.min() == 1:
        return image

    def halve(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values[None], 2, ceil_mode=True, count_include_pad=False)[0]

    known = known.to(image)
    weight = halve(known)
    coarse = interpolate(halve(known * image) / weight.clamp(min=1e-6), (4 * weight).clamp(max=1))
    filled = torch.lerp(functional.interpolate(coarse[None], image.shape[1:], mode="bilinear")[0], image, known)
    for _ in range(SMOOTHINGS):
        filled = torch.lerp(functional.avg_pool2d(filled[None], 3, 1, 1, count_include_pad=False)[0], image, known)
    return filled


@dataclass(frozen=True)
class BlendKnown(KeepKnown):
    """A finish that restores the known pixels, and adds their differences, interpolated, to the others.

    A network does not quite reach the known values. At the edge of a large hole the difference would show as a seam.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """From (C, H, W) to the same shape, on the device of the image."""
        pixels, known = self.pixels.to(image), self.known.to(image)
        # Not image + difference: known pixels come back bit for bit.
        return torch.where(known > 0, pixels, image + interpolate(pixels - image, known)).clamp(0, 1)
