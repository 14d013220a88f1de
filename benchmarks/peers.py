"""Other methods, reimplemented plainly, each at its own settings.

Each is a function from a noisy image, float32 tensor (1, 3, H, W) of 0..1, and the standard deviation of its noise, to
a restored image. It calls `watch(iteration, image)` during the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Watch = Callable[[int, Tensor], None]


def published_network(
    inputs: int = 32, outputs: int = 3, channels: int = 128, skip: int = 4, levels: int = 5
) -> nn.Module:
    """Build the skip network of Ulyanov et al. from plain modules, as a reader of the paper would write it."""

    def convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(before, after, kernel, stride))

    def block(before: int, after: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        return [convolution(before, after, kernel, stride), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]

    class Level(nn.Module):
        def __init__(self, before: int, below: nn.Module) -> None:
            super().__init__()
            self.skip = nn.Sequential(*block(before, skip, 1))
            self.deep = nn.Sequential(
                *block(before, channels, 3, 2),
                *block(channels, channels, 3),
                below,
                nn.Upsample(scale_factor=2, mode="bilinear"),
            )
            self.merge = nn.Sequential(
                nn.BatchNorm2d(skip + channels),
                *block(skip + channels, channels, 3),
                *block(channels, channels, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            merged: Tensor = self.merge(torch.cat([self.skip(x), self.deep(x)], dim=1))
            return merged

    network: nn.Module = nn.Identity()
    for level in reversed(range(levels)):
        network = Level(inputs if level == 0 else channels, network)
    return nn.Sequential(network, nn.Conv2d(channels, outputs, 1), nn.Sigmoid())


def published(noisy: Tensor, _sigma: float, iterations: int, watch: Watch) -> Tensor:
    """Run Deep Image Prior with the published settings for denoising, in fp32; returns the running average."""
    network = published_network()
    code = 0.1 * torch.rand(1, 32, *noisy.shape[2:])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    average = None
    for iteration in range(1, iterations + 1):
        optimizer.zero_grad()
        x = network(code + torch.randn_like(code) / 30)
        F.mse_loss(x, noisy).backward()
        optimizer.step()
        average = x.detach() if average is None else 0.99 * average + 0.01 * x.detach()
        watch(iteration, average)
    return average if average is not None else noisy


def conv_decoder(noisy: Tensor, _sigma: float, iterations: int, watch: Watch) -> Tensor:
    """Run DeepImagePrior of deepinv with its ConvDecoder: seven layers of 256 channels, 2500 iterations.

    Its documented settings: Adam at 0.01, plain squared error, no averaging, no stopping rule. The package itself
    requires torchvision.
    """
    height, width = noisy.shape[2:]
    layers, channels = 7, 256
    sides = [
        tuple(math.ceil(4 * (side / 4) ** (level / (layers - 1))) for side in (height, width))
        for level in range(1, layers - 1)
    ]
    modules: list[nn.Module] = []
    for size in [*sides, (height, width)]:
        modules += [nn.Upsample(size=size, mode="nearest"), nn.Conv2d(channels, channels, 3, padding=1)]
        modules += [nn.ReLU(), nn.BatchNorm2d(channels)]
    modules += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(channels)]
    network = nn.Sequential(*modules, nn.Conv2d(channels, noisy.shape[1], 1))
    code = torch.randn(1, channels, 4, 4)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    x = noisy
    for iteration in range(1, iterations + 1):
        x = network(code)
        optimizer.zero_grad()
        F.mse_loss(x, noisy).backward()
        optimizer.step()
        watch(iteration, x.detach())
    return x.detach()


def noise2noise(noisy: Tensor, _sigma: float, iterations: int, watch: Watch) -> Tensor:
    """Run zero-shot Noise2Noise (Mansour and Heckel, CVPR 2023) with its published settings, 2000 iterations."""
    channels, width = noisy.shape[1], 48
    network = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, channels, 1),
    )
    diagonals = [
        torch.tensor(kernel).expand(channels, 1, 2, 2) / 2
        for kernel in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])
    ]

    def downsample_pair(image: Tensor) -> Iterator[Tensor]:
        return (F.conv2d(image, kernel, stride=2, groups=channels) for kernel in diagonals)

    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1500, gamma=0.5)
    first, second = downsample_pair(noisy)
    for iteration in range(1, iterations + 1):
        first_clean, second_clean = first - network(first), second - network(second)
        first_whole, second_whole = downsample_pair(noisy - network(noisy))
        residual = F.mse_loss(first, second_clean) + F.mse_loss(second, first_clean)
        consistency = F.mse_loss(first_clean, first_whole) + F.mse_loss(second_clean, second_whole)
        optimizer.zero_grad()
        ((residual + consistency) / 2).backward()
        optimizer.step()
        schedule.step()
        if iteration % 50 == 0 or iteration == iterations:
            with torch.no_grad():
                watch(iteration, (noisy - network(noisy)).clamp(0, 1))
    with torch.no_grad():
        return (noisy - network(noisy)).clamp(0, 1)


def non_local_means(noisy: Tensor, sigma: float, _iterations: int, _watch: Watch) -> Tensor:
    """Run scikit-image's non-local means with the true noise level, at the best of a few settings tried here."""
    from skimage.restoration import denoise_nl_means

    image = noisy[0].permute(1, 2, 0).numpy()
    smooth = denoise_nl_means(image, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(smooth.transpose(2, 0, 1)))[None]


def cbm3d(noisy: Tensor, sigma: float, _iterations: int, _watch: Watch) -> Tensor:
    """Run the authors' CBM3D (Dabov et al., ICIP 2007) with the true noise level.

    It needs `pip install bm3d`, whose licence excludes commercial use: never a dependency.
    """
    from bm3d import bm3d_rgb

    restored = bm3d_rgb(noisy[0].permute(1, 2, 0).numpy(), sigma)
    return torch.from_numpy(np.ascontiguousarray(restored.transpose(2, 0, 1), dtype=np.float32))[None]


PEERS: dict[str, tuple[Callable[[Tensor, float, int, Watch], Tensor], int]] = {
    "published": (published, 1800),
    "deepinv": (conv_decoder, 2500),
    "noise2noise": (noise2noise, 2000),
    "nlm": (non_local_means, 0),
    "cbm3d": (cbm3d, 0),
}
