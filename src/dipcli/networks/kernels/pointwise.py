"""1x1 convolutions as one product of the matrix of all pixels with the weights.

It applies on the CPU in fp32 to channels-last tensors, for a single network (`layers.Pointwise`); else PyTorch's
convolution is used, that is with several threads oneDNN's, which is slower for few channels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution, shape (1, O, H, W), channels last in memory.

    Args:
        x: shape (1, C, H, W), channels last in memory.
        weight: shape (O, C, 1, 1).
        bias: shape (O,), or None for zeros.
    """
    pixels = x.permute(0, 2, 3, 1)
    products = functional.linear(pixels.flatten(0, 2), weight.flatten(1), bias)
    return products.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)
