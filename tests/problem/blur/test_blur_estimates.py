"""The estimates without a network: sharper than the blurred image, blind to held-out values, the same in a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import scene
from torch import Tensor

from dipcli.problem.blur import estimates
from dipcli.problem.blur.estimates import Deconvolution, Inverses, PlugAndPlay
from dipcli.problem.blur.kernels import read_kernel
from dipcli.problem.blur.operator import Blur
from dipcli.problem.independent.ridge import RidgeStep

SIGMA = 2 / 255


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "STEPS", 4)
    for name in ("FIRST_STEP", "STEP"):
        monkeypatch.setattr(estimates, name, RidgeStep(6, 12, 5, 15))


def make(kind: type[Deconvolution], channels: int = 1, side: int = 72) -> tuple[Deconvolution, Tensor]:
    blur = Blur(torch.from_numpy(read_kernel("gaussian:1.2", (side, side))))
    sharp = torch.from_numpy(scene(side, side, channels).transpose(2, 0, 1) / np.float32(255))
    measured = blur(sharp)
    noise = torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    return kind(blur, measured + SIGMA * noise, SIGMA), sharp


def error(image: Tensor, sharp: Tensor) -> float:
    return float((image - sharp)[:, 5:-5, 5:-5].square().mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_the_companion_is_sharper_than_its_measurement(channels: int) -> None:
    companion, sharp = make(PlugAndPlay, channels)
    estimate = companion()
    assert estimate.shape == sharp.shape
    assert error(estimate, sharp) < error(torch.nn.functional.pad(companion.measured, (5,) * 4), sharp) / 2


@pytest.mark.parametrize("kind", [Inverses, PlugAndPlay])
def test_values_of_weight_0_have_no_influence(kind: type[Deconvolution]) -> None:
    estimate, _ = make(kind)
    weight = torch.ones(1, *estimate.measured.shape[1:])
    weight[0, ::7, ::5] = 0
    other = kind(estimate.blur, torch.where(weight > 0, estimate.measured, 0.9), SIGMA)
    inner = (..., slice(9, -9), slice(9, -9))  # the first guess beyond the border repeats it, held out or not
    assert torch.allclose(estimate(weight)[inner], other(weight)[inner], atol=0.02)
    assert not torch.allclose(estimate()[inner], other()[inner], atol=0.02)


@pytest.mark.parametrize("kind", [Inverses, PlugAndPlay])
def test_a_window_has_the_shape_and_nearly_the_values_of_the_whole(kind: type[Deconvolution]) -> None:
    estimate, _ = make(kind)
    rows, columns = slice(0, 40), slice(20, 72)
    part = estimate.window(rows, columns)
    whole = estimate()[:, rows, columns]
    assert part().shape == whole.shape
    assert float((part() - whole).square().mean().sqrt()) < 0.01
    weight = torch.ones(1, 40 - 10, 52 - 10)
    assert torch.allclose(part(weight), part())
