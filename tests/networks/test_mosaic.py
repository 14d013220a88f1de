"""The network on the mosaic of an image's phases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dipcli.networks.build import build, padded_size
from dipcli.networks.mosaic import Mosaic, arrange_phases, gather_phases
from dipcli.settings import Settings

TINY = "skip:channels=4,4:skips=2,2"


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gathering_undoes_arranging_and_keeps_the_layout(factor: int, layout: torch.memory_format) -> None:
    x = torch.randn(1, 5, 12, 24).contiguous(memory_format=layout)
    mosaic = arrange_phases(x, factor)
    assert torch.equal(gather_phases(mosaic, factor), x)
    assert mosaic.is_contiguous(memory_format=layout)


def test_each_phase_is_a_subsampled_image() -> None:
    x = torch.randn(1, 2, 12, 18)
    mosaic = arrange_phases(x, 3)
    for i in range(3):
        for j in range(3):
            assert torch.equal(mosaic[..., 4 * i : 4 * i + 4, 6 * j : 6 * j + 6], x[..., i::3, j::3])


def test_a_pointwise_network_is_the_same_on_the_mosaic() -> None:
    network, x = nn.Conv2d(3, 2, 1), torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(Mosaic(network, 2)(x), network(x))


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(37, 50), (8, 9)])
def test_any_size_can_be_fitted(factor: int, size: tuple[int, int]) -> None:
    settings = Settings(network=TINY, pad="zero", input="guide", mosaic=factor)
    prior = build(settings, (3, *size), guide=torch.rand(6, *size))
    assert all(side % factor == 0 and side % 4 == 0 for side in padded_size(settings, *size))
    assert prior.network(prior.code).shape == (1, 3, *size)


def test_weights_are_those_without_the_mosaic() -> None:
    plain, mosaic = (build(Settings(network=TINY, mosaic=factor), (3, 16, 16)) for factor in (1, 2))
    for one, other in zip(plain.network.parameters(), mosaic.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(isinstance(module, Mosaic) for module in plain.network.modules())


def test_networks_of_several_members_and_free_pixels() -> None:
    grouped = build(Settings(network=TINY, mosaic=2), (2, 16, 16), members=2)
    assert grouped.network(grouped.code).shape == (1, 2, 16, 16)
    free = build(Settings(network="pixels", mosaic=2), (3, 16, 16))
    assert not any(isinstance(module, Mosaic) for module in free.network.modules())
