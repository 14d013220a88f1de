"""Operators A: from the picture that is looked for to what was measured of it.

An operator is any differentiable function of a picture x, shape (C, H, W), that returns something of the measurement's
shape. The fit needs its value and, through autograd, its slope; for a linear operator that is A^T, and nobody has to
write it down. One that is nothing but a formula is a plain function; one that holds tensors is a module with buffers,
so that `Problem.to` can take it to another device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipcli.errors import UsageError

Size = tuple[int, int]

# The share of a Gaussian beyond 4 standard deviations, 6e-5, is less than a 60th of an 8-bit grey level of 255.
GAUSSIAN_REACH = 4
ROUNDING = 1e-9  # of a distance in pixels


@dataclass(frozen=True)
class Kernel:
    """How much a pixel counts at some distance from the place that is computed.

    Attributes:
        reach: how far it reaches to either side.
        weigh: from distances, shape (outputs, inputs), to weights of the same shape; each row may be off by a factor.
        stretches: whether distances and reach are in pixels of the smaller picture, so that the kernel is as wide as
            the shrinking asks for; if not, they are in pixels of the picture that is resampled.
    """

    reach: float
    weigh: Callable[[Tensor], Tensor]
    stretches: bool = True


class Resample(nn.Module):
    """Shrink or enlarge a picture by weighted means of its pixels, along columns and rows.

        A(x) = R_h x R_w^T,    R[i, j] = k((j + 1/2 - c_i) / f) / sum_j k((j + 1/2 - c_i) / f),    c_i = (i + 1/2) s

    s is the number of input pixels to an output pixel; f = max(s, 1) makes the kernel k wide enough to shrink without
    aliasing. Pixels beyond the border do not count. These are, to the last tap, the weights of `Image.resize` in
    Pillow; the result differs by what Pillow rounds to 8 bits.

    Args:
        before: (H, W) of the pictures it takes.
        after: (h, w) of those it returns.
        kernel: k.

    Source:
        Pillow, src/libImaging/Resample.c, `precompute_coeffs`, for lanczos3, bicubic and box.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, before: Size, after: Size, kernel: Kernel) -> None:
        super().__init__()
        self.register_buffer("rows", weights(before[0], after[0], kernel))
        self.register_buffer("columns", weights(before[1], after[1], kernel))

    def forward(self, image: Tensor) -> Tensor:
        """From (C, H, W) to (C, h, w), float32. Values may leave 0..1 by the overshoot of the kernel."""
        return self.rows @ image @ self.columns.T

    @property
    def reach(self) -> int:
        """The most pixels along a line that one of the measurement sees."""
        return max(int((matrix != 0).sum(dim=1).max()) for matrix in (self.rows, self.columns))

    def window(self, rows: slice, columns: slice) -> tuple[Resample, slice, slice]:
        """Of a window of the picture: what of the measurement sees nothing else, and which of its rows and columns."""
        part = deepcopy(self)
        part.rows, high = _within(self.rows, rows)
        part.columns, wide = _within(self.columns, columns)
        return part, high, wide


@dataclass(frozen=True)
class KeepKnown:
    """Put back the pixels that are known: a last touch on a restored picture.

    Attributes:
        pixels: the picture that they are from, shape (C, H, W).
        known: which they are, shape (1, H, W), yes or no.
    """

    pixels: Tensor
    known: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """From (C, H, W) to the same shape."""
        return torch.where(self.known.to(image.device), self.pixels.to(image), image)

    def window(self, rows: slice, columns: slice) -> KeepKnown:
        """The same for a window of the picture."""
        return KeepKnown(self.pixels[:, rows, columns], self.known[:, rows, columns])


def resample(pixels: NDArray[np.float32], after: Size, kernel: Kernel) -> NDArray[np.float32]:
    """A picture in memory, shape (C, H, W), shrunk or enlarged to (C, h, w) as `Resample` does it."""
    before = (pixels.shape[1], pixels.shape[2])
    resampled: NDArray[np.float32] = Resample(before, after, kernel)(torch.from_numpy(pixels)).numpy()
    return resampled


def weights(before: int, after: int, kernel: Kernel) -> Tensor:
    """R: one row of weights for each of `after` output pixels, shape (after, before), float32, each row of sum 1."""
    # In double precision and in Pillow's own order of operations: where a box ends exactly on the middle of a pixel,
    # a last bit decides whether the pixel counts.
    scale = before / after
    stretch = max(scale, 1.0) if kernel.stretches else 1.0
    reach = kernel.reach * stretch
    centre = ((torch.arange(after, dtype=torch.float64) + 0.5) * scale)[:, None]
    place = torch.arange(before, dtype=torch.float64)
    near = (place >= (centre - reach + 0.5).floor()) & (place < (centre + reach + 0.5).floor())
    weight = kernel.weigh((place - centre + 0.5) * (1 / stretch)) * near
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def _within(matrix: Tensor, part: slice) -> tuple[Tensor, slice]:
    """The rows of a matrix of weights that weigh nothing beyond these columns, cut to them; and which they are."""
    beyond = matrix.clone()
    beyond[:, part] = 0
    alone = (beyond == 0).all(dim=1).nonzero()[:, 0]
    chosen = slice(int(alone[0]), int(alone[-1]) + 1)
    return matrix[chosen, part].contiguous(), chosen


def kernel(text: str) -> Kernel:
    """The kernel that `--kernel` names.

    Raises:
        UsageError: when there is no such kernel, or its number is missing, too many or out of range.
    """
    name, colon, number = text.partition(":")
    if name == "gaussian":
        return gaussian(_width(number, text))
    if name not in KERNELS:
        raise UsageError(f"There is no --kernel {name!r}: choose from {', '.join(KERNELS)}, gaussian:1.2.")
    if colon:
        raise UsageError(f"--kernel {text} has a number too many: write it as {name}.")
    return KERNELS[name]


def gaussian(sigma: float) -> Kernel:
    """A blur of known width, then one sample a small pixel.

        k(d) = exp(-d^2 / (2 sigma^2)),    |d| <= max(4 sigma, 1)

    Where sigma is so small that the blur falls between the pixels, the nearest ones count.

    Args:
        sigma: standard deviation in pixels of the picture that is resampled: the large one, when it shrinks.
    """
    reach = max(GAUSSIAN_REACH * sigma, 1.0)

    def weigh(distance: Tensor) -> Tensor:
        # By how much further each pixel is than the nearest: the sum of a row is then at least 1, however small sigma.
        further = distance**2 - (distance**2).min(dim=1, keepdim=True).values
        return torch.exp(-further / sigma / sigma / 2) * (distance.abs() <= reach + ROUNDING)

    return Kernel(reach + 1, weigh, stretches=False)  # what counts is decided above, on both sides alike


def _width(number: str, text: str) -> float:
    """The sigma of gaussian:sigma."""
    try:
        sigma = float(number)
    except ValueError:
        sigma = math.nan
    if not 0 < sigma < math.inf:
        raise UsageError(
            f"--kernel {text} needs the width of the blur, in pixels of the large picture: write it as gaussian:1.2."
        )
    return sigma


def _lanczos(lobes: int) -> Kernel:
    """Sinc, windowed by the middle lobe of a sinc `lobes` times as wide: k(d) = sinc(d) sinc(d / lobes)."""
    return Kernel(lobes, lambda distance: torch.sinc(distance) * torch.sinc(distance / lobes))


def _bicubic(distance: Tensor) -> Tensor:
    """Two cubic pieces, a = -1/2. Source: Keys, "Cubic convolution interpolation", 1981, equation 15."""
    a, d = -0.5, distance.abs()
    inner = ((a + 2) * d - (a + 3)) * d**2 + 1
    outer = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d < 1, inner, outer)


def _box(distance: Tensor) -> Tensor:
    """The plain mean of what lies within half a pixel; of two pixels at equal distance the further on, as in Pillow."""
    half = 0.5
    return ((distance > -half) & (distance <= half)).to(distance)


KERNELS = {"lanczos3": _lanczos(3), "lanczos2": _lanczos(2), "bicubic": Kernel(2, _bicubic), "box": Kernel(0.5, _box)}
