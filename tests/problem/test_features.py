"""The features of an image at a layer of a network."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from samples import scene
from torch import Tensor, nn

from dipcli.errors import DipError, UsageError
from dipcli.problem.classifiers import load_model
from dipcli.problem.features import IMAGENET_DEVIATION, IMAGENET_MEAN, Features, find_layer

IMAGE = torch.from_numpy(scene(64, 64)).permute(2, 0, 1).float() / 255
GREY = torch.full((3, 16, 16), 0.5)


def test_features_of_a_small_network_computed_by_hand() -> None:
    network = nn.Sequential(OrderedDict(mix=nn.Conv2d(3, 2, 1), act=nn.ReLU(inplace=True), flat=nn.Flatten()))
    mixing = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.5]])
    network.mix.load_state_dict({"weight": mixing[:, :, None, None], "bias": torch.tensor([0.5, -0.25])})
    normal = (IMAGE - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_DEVIATION)[:, None, None]
    mixed = torch.einsum("oc,chw->ohw", mixing, normal) + torch.tensor([0.5, -0.25])[:, None, None]
    features = Features(network, "mix", IMAGE, normalised=True)
    assert torch.allclose(features(IMAGE), mixed / mixed.abs().max(), atol=1e-5)
    rectified = Features(network, "act", IMAGE, normalised=True)
    assert torch.allclose(rectified(IMAGE), mixed.relu() / mixed.max(), atol=1e-5)
    flat = Features(network, "flat", IMAGE, normalised=False)
    plain = (torch.einsum("oc,chw->ohw", mixing, IMAGE) + torch.tensor([0.5, -0.25])[:, None, None]).relu()
    assert torch.allclose(flat(IMAGE), plain.flatten() / plain.max(), atol=1e-5)


def test_the_network_sees_the_clipped_image_and_the_gradient_passes_through() -> None:
    features = Features(nn.Sequential(nn.Identity()), "0", IMAGE, normalised=False)
    x = (3 * IMAGE - 1).requires_grad_()
    output = features(x)
    assert torch.allclose(output, (3 * IMAGE - 1).clamp(0, 1) / IMAGE.max())
    output.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(IMAGE, float(1 / IMAGE.max()))), "also where it is clipped"


def test_features_have_the_right_gradient_and_the_weights_are_fixed() -> None:
    network, path = load_model("alexnet", "relu2", "random", seed=0)
    features = Features(network, path, IMAGE, normalised=True)
    x, direction = 0.1 + 0.8 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    features(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert not any(weight.requires_grad for weight in features.parameters())
    # Compared with a central difference along a direction.
    with torch.no_grad():
        ahead, behind = (features(x + step * direction).square().sum() for step in (1e-3, -1e-3))
    assert float((ahead - behind) / 2e-3) == pytest.approx(float((x.grad * direction).sum()), rel=0.02)


def test_the_network_is_in_evaluation_mode_and_keeps_no_hook() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    features = Features(network, "1", IMAGE, normalised=False)
    assert torch.equal(features(IMAGE), features(IMAGE))
    assert torch.allclose(features(IMAGE), IMAGE / IMAGE.max(), atol=1e-4)
    assert network(IMAGE[None]).shape == (1, 3, 64, 64), "no hook remains"


def test_layers_after_the_chosen_one_are_not_computed() -> None:
    def never(_x: Tensor) -> Tensor:
        raise AssertionError

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network.append(nn.Identity())
    network[2].forward = never
    assert Features(network, "1", IMAGE, normalised=False)(IMAGE).shape == (4, 62, 62)


def test_the_scale_moves_with_the_module() -> None:
    features = Features(nn.Sequential(nn.Conv2d(3, 4, 3)), "0", IMAGE, normalised=True)
    moved = features.to("meta")
    assert {tensor.device.type for tensor in (*moved.buffers(), *moved.parameters())} == {"meta"}
    assert set(dict(features.named_buffers())) == {"mean", "deviation", "scale"}


def test_the_layers_of_a_large_network_are_listed_in_part() -> None:
    network = nn.Sequential(*(nn.Identity() for _ in range(1000)))
    with pytest.raises(UsageError, match=r"from 0, 1, .*, 9, \.\.\., 990, .*, 999\."):
        find_layer(network, "")
    with pytest.raises(UsageError, match="none at all"):
        find_layer(nn.Identity(), "fc6")
    assert find_layer(network, "17") == "17"


class Odd(nn.Module):
    """Fails and outputs in the ways in which a user's network might."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(16, 4, batch_first=True)
        self.fixed = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.recurrent(x[:, 0])
        return self.fixed(x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("recurrent", "has no tensor of shape"),
        ("fixed", r"fails on an image of 16x16 \(RuntimeError: mat1 and mat2.*\): try another --size"),
    ],
)
def test_a_layer_that_cannot_be_matched_is_refused(layer: str, message: str) -> None:
    with pytest.raises(DipError, match=message):
        Features(Odd(), layer, GREY, normalised=False)


def test_a_layer_that_is_never_computed_is_refused() -> None:
    several = nn.Sequential(nn.ModuleList([nn.Identity()]), nn.Identity())
    several.forward = several[1].forward
    with pytest.raises(DipError, match=r"--layer 0 has no tensor"):
        Features(several, "0", GREY, normalised=False)


@pytest.mark.parametrize(("weight", "largest"), [(0.0, "0.0"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_features_without_a_usable_scale_are_refused(weight: float, largest: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    nn.init.constant_(network[0].weight, weight)
    with pytest.raises(DipError, match=f"largest feature at --layer 0 is {largest}"):
        Features(network, "0", GREY, normalised=False)


def test_too_small_an_image_is_refused() -> None:
    network, path = load_model("alexnet", "pool5", "random", seed=0)
    with pytest.raises(DipError, match=r"fails on an image of 16x16 \(RuntimeError: .*\): try another --size"):
        Features(network, path, GREY, normalised=True)
