"""Companions that agree with the measurement: a JPEG file, or a small image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problem.test_jpeg import NATURAL, encoder_of, jpeg, tensor
from samples import scene

from dipcli.problem.consistent.compressed import CompressedCompanion, measure_rounding
from dipcli.problem.consistent.enlarged import BackProjection, EnlargedCompanion
from dipcli.problem.metrics import psnr
from dipcli.problem.operators import KERNELS, Resample


def enlargement(side: int = 64, channels: int = 3, factor: int = 2) -> tuple[torch.Tensor, EnlargedCompanion]:
    """A clean image, and the companion made of the small one."""
    clean = tensor(scene(side, side, channels))
    shrink = Resample((side, side), (side // factor, side // factor), KERNELS["bicubic"])
    small = shrink(clean)
    enlarge = Resample((side // factor, side // factor), (side, side), KERNELS["bicubic"])
    return clean, EnlargedCompanion(BackProjection(shrink, small), enlarge(small))


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:0"])
def test_the_companion_of_a_jpeg_agrees_with_it_and_is_nearer_to_the_original(sampling: str) -> None:
    encoder = encoder_of(jpeg(NATURAL, 10, sampling))
    decoded, clean = encoder.decode(), tensor(NATURAL)
    companion = encoder.finish(CompressedCompanion(encoder, encoder.extend(decoded))())
    assert encoder.agreement(companion) > 0.999
    assert psnr(companion.numpy(), clean.numpy()) > psnr(decoded.numpy(), clean.numpy()) + 0.3


def test_a_flat_jpeg_is_its_own_companion() -> None:
    encoder = encoder_of(jpeg(np.full((32, 32), 128, np.uint8)))
    start = encoder.extend(encoder.decode())
    assert measure_rounding(encoder.coefficients.planes[0]) == 0
    assert torch.allclose(CompressedCompanion(encoder, start)(), start, atol=1e-3)


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_projected_back_shrinks_to_the_small_image(kernel: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shrink = Resample((40, 50), (16, 20), KERNELS[kernel])
    image, other = (torch.rand(3, 40, 50, generator=generator) for _ in range(2))
    projection = BackProjection(shrink, shrink(image))
    assert torch.allclose(projection(image), image, atol=1e-6)
    error, before = ((shrink(x) - shrink(image)).square().mean().sqrt() for x in (projection(other), other))
    assert error < 0.1 * before
    part = projection.window(slice(8, 40), slice(0, 30))
    assert part(other[:, 8:40, :30]).shape == (3, 32, 30)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_enlarged_companion_is_nearer_to_the_clean_image_than_bicubic(channels: int) -> None:
    clean, companion = enlargement(channels=channels)
    estimate = companion()
    assert psnr(estimate.numpy(), clean.numpy()) > psnr(companion.start.clamp(0, 1).numpy(), clean.numpy()) + 0.5
    assert torch.allclose(companion.projection.operator(estimate), companion.projection.measured, atol=0.03)


@pytest.mark.slow
def test_the_companion_of_a_window_is_like_that_of_the_whole() -> None:
    _, companion = enlargement(side=128)
    rows, columns = slice(40, 104), slice(0, 64)
    part = companion.window(rows, columns)()
    assert part.shape == (3, 64, 64)
    assert float((part - companion()[:, rows, columns]).abs().mean()) < 0.01
