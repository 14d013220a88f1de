"""The blur as a forward operator, and the crop that takes its margin off again.

    A(x) = the part of k * x that depends on no pixel outside of x        ("valid" convolution)

The fitted image x is larger than its measurement y by the radius of the kernel on each side: light from beyond the
border has reached y, and a model that invents it (zeros, mirrored pixels) causes ringing along the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Blur(nn.Module):
    """Convolution with a kernel, by Fourier transforms: from (C, H + h - 1, W + w - 1) to (C, H, W).

    Args:
        kernel: k, shape (h, w), odd sides.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)

    def forward(self, image: Tensor) -> Tensor:
        """Return A(x). The transforms wrap around only where the result is cut off."""
        top, left = (side - 1 for side in self.kernel.shape)
        size = image.shape[1:]
        spectrum = torch.fft.rfft2(image) * torch.fft.rfft2(self.kernel, s=size)
        blurred: Tensor = torch.fft.irfft2(spectrum, s=size)[:, top:, left:]
        return blurred

    def adjoint(self, measured: Tensor) -> Tensor:
        """Return A^T y, from (C, H, W) to (C, H + h - 1, W + w - 1)."""
        top, left = (side - 1 for side in self.kernel.shape)
        padded = nn.functional.pad(measured, (left, 0, top, 0))
        size = padded.shape[1:]
        spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(self.kernel, s=size).conj()
        image: Tensor = torch.fft.irfft2(spectrum, s=size)
        return image

    @property
    def reach(self) -> int:
        """Largest number of pixels in a row or column that one value of the measurement depends on."""
        return max(self.kernel.shape)

    def window(self, rows: slice, columns: slice) -> tuple[Blur, slice, slice]:
        """Return the operator of a window of the image, and the rows and columns of the measurement it makes."""
        height, width = self.kernel.shape
        return self, slice(rows.start, rows.stop - height + 1), slice(columns.start, columns.stop - width + 1)


@dataclass(frozen=True)
class Crop:
    """A finish that takes off the margin.

    Attributes:
        rows: of the fitted image, that remain.
        columns: likewise.
    """

    rows: slice
    columns: slice

    def __call__(self, image: Tensor) -> Tensor:
        """From (C, H + h - 1, W + w - 1) to (C, H, W)."""
        return image[..., self.rows, self.columns]

    def window(self, _rows: slice, _columns: slice) -> Crop:
        """Return the whole of a tile: the margin is taken off when the tiles have been blended."""
        return Crop(slice(None), slice(None))
