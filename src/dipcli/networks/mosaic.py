"""A network applied to the mosaic of an image's phases, in which the noise of neighbouring pixels lies apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mosaic(nn.Module):
    """A network that works on the phases of an image, side by side as one image of the same size.

        y = M^-1 f(M x),   (M x)[i H / k + a, j W / k + b] = x[k a + i, k b + j],   0 <= i, j < k

    M is the pixel shuffle: the phase (i, j) holds every k-th pixel from row i and column j. Noise that neighbouring
    pixels share is nearly independent within a phase if it is correlated over less than k pixels, so the network
    learns it later. Input and output are images: guides, noise on the input, losses, held-out pixels, observers and
    tiles do not know of the mosaic.

    Attributes:
        network: f, from (1, D, H, W) to (1, C, H, W).
        factor: k; the sides of x are multiples of it.

    Source:
        Zhou et al., "When AWGN-based denoiser meets real noises", AAAI 2020, for the pixel shuffle of correlated noise.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        """From (1, D, H, W) to (1, C, H, W)."""
        image: Tensor = gather_phases(self.network(arrange_phases(x, self.factor)), self.factor)
        return image

    def extra_repr(self) -> str:
        """Return the factor: networks are compared by their `repr`."""
        return str(self.factor)


def arrange_phases(x: Tensor, factor: int) -> Tensor:
    """Return M x: the phases of an image (N, C, H, W) side by side, of the same shape and memory layout."""
    count, channels, height, width = x.shape
    phases = x.reshape(count, channels, height // factor, factor, width // factor, factor)
    return _as_laid_out(phases.permute(0, 1, 3, 2, 5, 4).reshape(x.shape), x)


def gather_phases(x: Tensor, factor: int) -> Tensor:
    """Return M^-1 x: the image (N, C, H, W) whose phases lie side by side in x, of the same memory layout."""
    count, channels, height, width = x.shape
    phases = x.reshape(count, channels, factor, height // factor, factor, width // factor)
    return _as_laid_out(phases.permute(0, 1, 3, 2, 5, 4).reshape(x.shape), x)


def _as_laid_out(x: Tensor, like: Tensor) -> Tensor:
    """Return x in channels-last layout if the other tensor is."""
    channels_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x
