"""The prior: the published network layer by layer, any size, every input."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from published import skip_network
from torch import nn

from dipcli.errors import UsageError
from dipcli.networks import Crop, Skip, build
from dipcli.registry import tasks
from dipcli.settings import Settings

DEJPEG = "skip:channels=8,16,32,64,128:skips=0,0,0,4,4"
PAPER = tasks()["denoise"].settings("paper")


def parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def test_the_paper_preset_is_the_published_method() -> None:
    prior = build(PAPER, (3, 64, 64))
    assert parameters(prior.network) == 2_217_831
    assert prior.code.shape == (1, 32, 64, 64)
    assert (PAPER.rate, PAPER.reg_noise, PAPER.ema) == (0.01, 1 / 30, 0.99)
    assert (PAPER.iterations, PAPER.stop, PAPER.optimizer, PAPER.optimize) == (1800, "none", "adam", "net")
    assert (PAPER.pad, PAPER.input, PAPER.beta2, PAPER.tv) == ("reflection", "noise", 0.999, 0)


def test_the_dejpeg_network_has_the_published_size() -> None:
    assert parameters(build(Settings(network=DEJPEG, input_depth=3), (3, 64, 64)).network) == 572_827


def test_the_grey_network_has_the_published_size() -> None:
    assert parameters(build(PAPER, (1, 64, 64)).network) == 2_217_573


@pytest.mark.parametrize(
    ("network", "inputs", "channels", "skips"),
    [
        (PAPER.network, 32, [128] * 5, [4] * 5),
        (DEJPEG, 3, [8, 16, 32, 64, 128], [0, 0, 0, 4, 4]),
    ],
)
def test_it_agrees_with_the_published_network_layer_by_layer(
    network: str, inputs: int, channels: list[int], skips: list[int]
) -> None:
    ours = build(Settings(network=network, input_depth=inputs), (3, 64, 96))
    theirs = skip_network(inputs, 3, channels, skips)
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.Upsample, nn.Sigmoid)

    def layers(whole: nn.Module) -> list[nn.Module]:
        """In the order in which they compute."""
        order: list[nn.Module] = []
        hooks = [
            each.register_forward_hook(lambda module, _x, _y: order.append(module))
            for each in whole.modules()
            if isinstance(each, kinds)
        ]
        whole(ours.code)
        for hook in hooks:
            hook.remove()
        return order

    def words(layer: nn.Module) -> tuple[object, ...]:
        if isinstance(layer, nn.Conv2d):
            shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
            return ("convolution", *shape, layer.bias is not None)
        if isinstance(layer, nn.BatchNorm2d):
            return ("norm", layer.num_features, layer.eps, layer.affine)
        if isinstance(layer, nn.LeakyReLU):
            return ("leaky relu", layer.negative_slope)
        return (type(layer).__name__, getattr(layer, "scale_factor", None), getattr(layer, "mode", None))

    # Ours computes the skip after the deep branch: bring both into one order, then compare one by one.
    mine, published = (sorted(map(words, layers(each)), key=str) for each in (ours.network, theirs))
    assert mine == published

    sequence = [each for each in theirs.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]
    own = iter(weighted(ours.network))
    copies = {id(layer): next(own) for layer in sequence}
    for layer in sequence:
        copies[id(layer)].load_state_dict(
            {name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")}
        )
    assert torch.allclose(ours.network(ours.code), theirs(ours.code), atol=1e-5)


def weighted(network: nn.Module) -> list[nn.Module]:
    """Convolutions and norms in the order in which the published sequence has them: skip, deep, join."""
    return [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]


def test_batch_norm_goes_by_the_picture_in_hand_whatever_the_mode() -> None:
    prior = build(Settings(network=DEJPEG, input_depth=3), (3, 64, 64))
    training = prior.network.train()(prior.code)
    assert torch.equal(prior.network.eval()(prior.code), training)


@given(
    st.integers(16, 90),
    st.integers(16, 90),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["zero", "reflection"]),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_any_size_comes_back_as_it_went_in(height: int, width: int, channels: int, pad: str) -> None:
    settings = Settings(network="skip:channels=4x5:skips=2x5:up=nearest", input_depth=2, pad=pad)
    prior = build(settings, (channels, height, width))
    assert prior.network(prior.code).shape == (1, channels, height, width)
    assert all(side % 32 == 0 for side in prior.code.shape[2:])


def test_the_crop_is_the_middle() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(Crop(2, 4)(x), x[..., 2:4, 1:5])


def test_the_padding_is_not_in_the_picture() -> None:
    settings = Settings(network="skip:channels=4,4:skips=0,0", input_depth=2)
    prior = build(settings, (1, 17, 18))
    whole = prior.network[0](prior.code)
    assert whole.shape == (1, 1, 20, 20)
    assert torch.equal(prior.network(prior.code), whole[..., 1:18, 1:19])


def test_noise_is_uniform_up_to_a_tenth() -> None:
    code = build(Settings(input_depth=8), (3, 64, 64)).code
    assert float(code.min()) >= 0
    assert float(code.max()) <= 0.1
    assert float(code.mean()) == pytest.approx(0.05, abs=0.001)
    assert float(code.std()) == pytest.approx(0.1 / 12**0.5, abs=0.001)


def test_the_mesh_grid_is_x_and_y() -> None:
    code = build(Settings(input="meshgrid", network="skip:channels=4:skips=0"), (3, 16, 32)).code
    assert code.shape == (1, 2, 16, 32)
    assert torch.allclose(code[0, 0, 5], torch.linspace(0, 1, 32))
    assert torch.allclose(code[0, 1, :, 7], torch.linspace(0, 1, 16))


def test_fourier_features_are_sines_and_cosines_of_the_coordinates() -> None:
    settings = Settings(input="fourier", input_depth=8, network="skip:channels=4:skips=0")
    code = build(settings, (3, 16, 32)).code[0]
    x = torch.linspace(0, 1, 32)
    frequencies = [1, 16]  # from one wave a picture to one every two pixels
    for channel, frequency in enumerate(frequencies):
        assert torch.allclose(code[channel, 3], torch.sin(2 * math.pi * frequency * x), atol=1e-4)
        assert torch.allclose(code[channel + 2, 3], torch.cos(2 * math.pi * frequency * x), atol=1e-4)
    assert torch.allclose(code[:2] ** 2 + code[2:4] ** 2, torch.ones(2, 16, 32), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "way_out"),
    [
        ({"network": "skipp"}, "pixels, skip"),
        ({"network": "skip:width=3"}, "channels=128,128,128,128,128"),
        ({"network": "skip:channels=a,b"}, "write it as channels="),
        ({"network": "skip:channels=8,8"}, "same number"),
        ({"network": "skip:channels=0,8:skips=4,4"}, "1 to 4096"),
        ({"network": "skip:channels=8x0:skips=8x0"}, "write it as channels="),
        ({"network": "skip:channels=8x40:skips=0x40"}, "12 levels"),
        ({"network": "skip:channels=99999:skips=0"}, "4096"),
        ({"network": "skip:up=cubic"}, "bilinear or nearest"),
        ({"input": "meshgrid", "input_depth": 5}, "leave --input-depth out"),
        ({"input": "fourier", "input_depth": 6}, "multiple of 4"),
    ],
)
def test_what_does_not_go_together_is_said(change: dict[str, object], way_out: str) -> None:
    with pytest.raises(UsageError, match=way_out):
        build(replace(Settings(), **change), (3, 64, 64))


def test_numbers_may_be_repeated_with_an_x() -> None:
    from dipcli.networks import architecture

    assert architecture("skip:channels=8,16x2:skips=4x3") == Skip(channels=(8, 16, 16), skips=(4, 4, 4))
