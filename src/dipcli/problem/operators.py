"""Forward operators that hold tensors: resampling with Pillow's filters, and a finish that keeps known pixels.

The fit needs the value of an operator and, by autograd, its gradient; for a linear operator that is A^T.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dipcli.errors import UsageError

Size = tuple[int, int]

GAUSSIAN_REACH_IN_SIGMAS = 4  # the mass beyond, 6e-5, is less than a 60th of an 8-bit grey level of 255
DISTANCE_TOLERANCE = 1e-9  # pixels


@dataclass(frozen=True)
class Kernel:
    """A resampling kernel k(d).

    Attributes:
        reach: half its width.
        weigh: from distances, shape (outputs, inputs), to weights of the same shape, each row up to a factor.
        stretches: whether distances and reach are in pixels of the smaller image, so that the kernel widens with the
            reduction; if not, they are in pixels of the input.
    """

    reach: float
    weigh: Callable[[Tensor], Tensor]
    stretches: bool = True


class Resample(nn.Module):
    """Shrink or enlarge an image by weighted means of its pixels, along columns and rows.

        A(x) = R_h x R_w^T,    R[i, j] = k((j + 1/2 - c_i) / f) / sum_j k((j + 1/2 - c_i) / f),    c_i = (i + 1/2) s

    s is the number of input pixels per output pixel; f = max(s, 1) widens the kernel k against aliasing. Pixels beyond
    the border have weight 0. The weights are those of `Image.resize` in Pillow, up to its rounding to 8 bits.

    Args:
        before: (H, W) of the input.
        after: (h, w) of the output.
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
        """Largest number of input pixels in a row or column that one output pixel depends on."""
        return max(int((matrix != 0).sum(dim=1).max()) for matrix in (self.rows, self.columns))

    def window(self, rows: slice, columns: slice) -> tuple[Resample, slice, slice]:
        """Return the operator of a window of the input, and the output's rows and columns that depend only on it."""
        part = deepcopy(self)
        part.rows, output_rows = _cut_weights(self.rows, rows)
        part.columns, output_columns = _cut_weights(self.columns, columns)
        return part, output_rows, output_columns


@dataclass(frozen=True)
class KeepKnown:
    """A finish that restores the known pixels.

    Attributes:
        pixels: the image with the known pixels, shape (C, H, W).
        known: whether a pixel is known, shape (1, H, W), boolean.
    """

    pixels: Tensor
    known: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        """From (C, H, W) to the same shape, on the device of the image."""
        return torch.where(self.known.to(image.device), self.pixels.to(image), image)

    def window(self, rows: slice, columns: slice) -> Self:
        """Return the same for a window of the image."""
        return replace(self, pixels=self.pixels[:, rows, columns], known=self.known[:, rows, columns])


def resample(pixels: NDArray[np.float32], after: Size, kernel: Kernel) -> NDArray[np.float32]:
    """Resample an array of shape (C, H, W) to (C, h, w), as `Resample` does."""
    before = (pixels.shape[1], pixels.shape[2])
    resampled: NDArray[np.float32] = Resample(before, after, kernel)(torch.from_numpy(pixels)).numpy()
    return resampled


def weights(before: int, after: int, kernel: Kernel) -> Tensor:
    """Return R, the weights of the input pixels in each output pixel: shape (after, before), float32, rows of sum 1."""
    # In double precision and in Pillow's order of operations: where the edge of a box is the centre of a pixel, the
    # last bit decides whether the pixel counts.
    scale = before / after
    stretch = max(scale, 1.0) if kernel.stretches else 1.0
    reach = kernel.reach * stretch
    centre = ((torch.arange(after, dtype=torch.float64) + 0.5) * scale)[:, None]
    pixel = torch.arange(before, dtype=torch.float64)
    inside = (pixel >= (centre - reach + 0.5).floor()) & (pixel < (centre + reach + 0.5).floor())
    weight = kernel.weigh((pixel - centre + 0.5) * (1 / stretch)) * inside
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def _cut_weights(matrix: Tensor, window: slice) -> tuple[Tensor, slice]:
    """Return the rows of a weight matrix that are zero outside a window of columns, cut to it; and their slice."""
    outside = matrix.clone()
    outside[:, window] = 0
    inner = (outside == 0).all(dim=1).nonzero()[:, 0]
    rows = slice(int(inner[0]), int(inner[-1]) + 1)
    return matrix[rows, window].contiguous(), rows


def parse_kernel(text: str) -> Kernel:
    """Return the kernel that `--kernel` names.

    Raises:
        UsageError: when the kernel is unknown, or its number is missing, not expected or out of range.
    """
    name, colon, number = text.partition(":")
    if name == "gaussian":
        return gaussian(_parse_sigma(number, text))
    if name not in KERNELS:
        raise UsageError(f"--kernel {text!r} is unknown: choose from {', '.join(KERNELS)}, gaussian:1.2.")
    if colon:
        raise UsageError(f"--kernel {text} takes no number: write it as {name}.")
    return KERNELS[name]


def gaussian(sigma: float) -> Kernel:
    """Return a Gaussian blur followed by sampling.

        k(d) = exp(-d^2 / (2 sigma^2)),    |d| <= max(4 sigma, 1)

    If sigma is so small that the blur falls between the pixels, the nearest ones count.

    Args:
        sigma: standard deviation in pixels of the input, which is the large image when it is shrunk.
    """
    reach = max(GAUSSIAN_REACH_IN_SIGMAS * sigma, 1.0)

    def weigh(distance: Tensor) -> Tensor:
        # Relative to the nearest pixel, so that a row has a sum of at least 1, however small sigma is.
        excess = distance**2 - (distance**2).min(dim=1, keepdim=True).values
        return torch.exp(-excess / sigma / sigma / 2) * (distance.abs() <= reach + DISTANCE_TOLERANCE)

    return Kernel(reach + 1, weigh, stretches=False)  # `weigh` cuts it off, at the same distance on both sides


def _parse_sigma(number: str, text: str) -> float:
    """Return the sigma of gaussian:sigma."""
    try:
        sigma = float(number)
    except ValueError:
        sigma = math.nan
    if not 0 < sigma < math.inf:
        raise UsageError(
            f"--kernel {text} needs the width of the blur in pixels of the large image: write it as gaussian:1.2."
        )
    return sigma


def _lanczos(lobes: int) -> Kernel:
    """Return a sinc, windowed by the central lobe of a sinc `lobes` times as wide: k(d) = sinc(d) sinc(d / lobes)."""
    return Kernel(lobes, lambda distance: torch.sinc(distance) * torch.sinc(distance / lobes))


def _bicubic(distance: Tensor) -> Tensor:
    """Two cubic pieces, a = -1/2. Source: Keys, "Cubic convolution interpolation", 1981, equation 15."""
    a, d = -0.5, distance.abs()
    inner = ((a + 2) * d - (a + 3)) * d**2 + 1
    outer = a * (((d - 5) * d + 8) * d - 4)
    return torch.where(d < 1, inner, outer)


def _box(distance: Tensor) -> Tensor:
    """The mean of the pixels within half a pixel; of two at equal distance the one with the larger index counts."""
    half = 0.5
    return ((distance > -half) & (distance <= half)).to(distance)


KERNELS = {"lanczos3": _lanczos(3), "lanczos2": _lanczos(2), "bicubic": Kernel(2, _bicubic), "box": Kernel(0.5, _box)}
