"""The prior: the published networks layer by layer, any size, every input, several members."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import TINY
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from networks.published import ResNet as PublishedResNet
from networks.published import UNet as PublishedUNet
from networks.published import skip_network
from samples import noisy, scene
from torch import Tensor, nn
from torch.func import functional_call

from dipcli.errors import UsageError
from dipcli.fitting.engine import fit
from dipcli.networks import architecture, build
from dipcli.networks.architectures import ResNet, UNet
from dipcli.networks.build import Crop
from dipcli.networks.prior import Prior
from dipcli.networks.skip import Skip
from dipcli.problem import Problem
from dipcli.problem.losses import squared_error
from dipcli.settings import Settings
from dipcli.tasks.registry import tasks

DEJPEG = "skip:channels=8,16,32,64,128:skips=0,0,0,4,4"
TEXT = "skip:channels=128x5:skips=128x5:up=nearest"
HOLE = "skip:channels=16,32,64,128x3:skips=0x6:kernel_down=5:up=nearest:pointwise=no"
VASE = "skip:channels=128x5:skips=0x5:up=nearest"
FLASH = "skip:up=nearest,nearest,bilinear,bilinear,bilinear"
INVERT = "skip:channels=16,32,64,128x3:skips=4x6:kernel_down=7,7,5,5,3,3:kernel_up=7,7,5,5,3,3:up=nearest:down=average"
PAPER = tasks()["denoise"].settings("paper")

# A small network of each architecture, using all of its options.
SMALL = [
    TINY,
    "skip:channels=4,6,4:skips=0,2,3:up=nearest,bilinear,nearest:down=average:kernel_down=7,3,5:kernel_up=5:pointwise=no",
    "unet:channels=4,6,8",
    "resnet:blocks=2:channels=6",
]


def count_parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_paper_preset_is_the_published_method() -> None:
    prior = build(PAPER, (3, 64, 64))
    assert count_parameters(prior.network) == 2_217_831
    assert prior.code.shape == (1, 32, 64, 64)
    assert (PAPER.rate, PAPER.reg_noise, PAPER.ema) == (0.01, 1 / 30, 0.99)
    assert (PAPER.iterations, PAPER.stop, PAPER.optimizer, PAPER.optimize) == (1800, "none", "adam", "net")
    assert (PAPER.pad, PAPER.input, PAPER.beta2, PAPER.tv) == ("reflection", "noise", 0.999, 0)


@pytest.mark.parametrize(
    ("network", "inputs", "channels", "published"),
    [
        (PAPER.network, 32, 3, 2_217_831),
        (PAPER.network, 32, 1, 2_217_573),
        (DEJPEG, 3, 3, 572_827),
        (TEXT, 32, 3, 3_002_627),
        (HOLE, 1, 3, 2_996_467),
        ("skip:channels=16,32,64,128:skips=0x4:kernel_down=5:up=nearest:pointwise=no", 1, 3, 1_060_339),
        ("skip:channels=16,32:skips=0x2:kernel_down=5:up=nearest:pointwise=no", 1, 3, 59_635),
        (VASE, 2, 3, 2_157_955),
        ("unet", 1, 3, 1_616_315),
        ("resnet", 1, 3, 158_979),
        (FLASH, 3, 3, 2_184_307),
        (INVERT, 32, 3, 2_606_763),
    ],
)
def test_every_published_network_has_its_number_of_parameters(
    network: str, inputs: int, channels: int, published: int
) -> None:
    prior = build(Settings(network=network, input_depth=inputs), (channels, 16, 16))
    assert count_parameters(prior.network) == published


SIX = [16, 32, 64, 128, 128, 128]
WINDOWS = [7, 7, 5, 5, 3, 3]


@pytest.mark.parametrize(
    ("settings", "make_published"),
    [
        (Settings(network=PAPER.network), lambda: skip_network(32, 3, [128] * 5, [4] * 5)),
        (Settings(network=DEJPEG, input_depth=3), lambda: skip_network(3, 3, [8, 16, 32, 64, 128], [0, 0, 0, 4, 4])),
        (Settings(network=TEXT), lambda: skip_network(32, 3, [128] * 5, [128] * 5, up=["nearest"] * 5)),
        (
            Settings(network=HOLE, input_depth=1),
            lambda: skip_network(1, 3, SIX, [0] * 6, up=["nearest"] * 6, kernels=([5] * 6, [3] * 6), pointwise=False),
        ),
        (
            Settings(network=FLASH, input_depth=3),
            lambda: skip_network(3, 3, [128] * 5, [4] * 5, up=["nearest"] * 2 + ["bilinear"] * 3),
        ),
        (
            Settings(network=INVERT, pad="zero"),
            lambda: skip_network(
                32, 3, SIX, [4] * 6, up=["nearest"] * 6, kernels=(WINDOWS, WINDOWS), average=True, zero=True
            ),
        ),
        (Settings(network="unet", input_depth=1, pad="zero"), lambda: PublishedUNet(1, 3)),
        (Settings(network="resnet", input_depth=1), lambda: PublishedResNet(1, 3)),
    ],
    ids=["denoise", "dejpeg", "text", "hole", "flash", "invert", "unet", "resnet"],
)
def test_the_network_equals_the_published_one_layer_by_layer(
    settings: Settings, make_published: Callable[[], nn.Module]
) -> None:
    prior, published = build(settings, (3, 64, 96)), make_published()
    code = prior.code

    def layers(network: nn.Module) -> list[nn.Module]:
        """In the order of computation."""
        order: list[nn.Module] = []
        silent = (nn.Identity, nn.ReflectionPad2d, Crop)  # padding is part of our convolutions
        hooks = [
            module.register_forward_hook(lambda module, _x, _y: order.append(module))
            for module in network.modules()
            if (type(module).__module__.startswith("torch.nn") or isinstance(module, nn.BatchNorm2d | nn.Conv2d))
            and not list(module.children())
            and not isinstance(module, silent)
        ]
        network(code)
        for hook in hooks:
            hook.remove()
        return order

    def describe(layer: nn.Module) -> tuple[object, ...]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
            return ("convolution", layer.transposed, *shape, layer.bias is not None)
        if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            return ("norm", layer.num_features, layer.eps, layer.affine)
        names = ("negative_slope", "scale_factor", "mode", "kernel_size", "stride")
        return (type(layer).__name__, *(getattr(layer, name, None) for name in names))

    ours, theirs = layers(prior.network), layers(published)
    assert list(map(describe, ours)) == list(map(describe, theirs))
    for our_layer, layer in zip(ours, theirs, strict=True):
        our_layer.load_state_dict(
            {name: value for name, value in layer.state_dict().items() if name in ("weight", "bias")}
        )
    assert torch.allclose(prior.network(code), Crop(64, 96)(published(code)), atol=1e-5)


def test_batch_norm_uses_the_current_image_in_training_and_evaluation_mode() -> None:
    prior = build(Settings(network=DEJPEG, input_depth=3), (3, 64, 64))
    training = prior.network.train()(prior.code)
    assert torch.equal(prior.network.eval()(prior.code), training)


@given(
    st.sampled_from(SMALL),
    st.integers(16, 90),
    st.integers(16, 90),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["zero", "reflection"]),
)
def test_the_output_has_the_size_of_the_image(network: str, height: int, width: int, channels: int, pad: str) -> None:
    prior = build(Settings(network=network, input_depth=2, pad=pad), (channels, height, width))
    assert prior.network(prior.code).shape == (1, channels, height, width)
    stride = architecture(network).stride
    for side, padded in zip((height, width), prior.code.shape[2:], strict=True):
        assert padded % stride == 0
        assert padded < side + stride or padded < architecture(network).min_side(pad) + stride


@pytest.mark.parametrize(
    ("network", "pad", "min_side"),
    [
        ("skip:channels=2x3:skips=0x3", "reflection", 16),
        ("skip:channels=2x3:skips=0x3:kernel_down=3,3,7", "reflection", 32),
        ("skip:channels=2x3:skips=0x3:kernel_down=3,3,7", "zero", 16),
        ("skip:channels=2x3:skips=0x3:kernel_up=3,3,13", "reflection", 28),
        ("skip:channels=2x3:skips=0x3:kernel_down=31,3,3:down=average", "reflection", 32),
        ("unet:channels=2,2,2", "reflection", 8),
        ("unet:channels=2,2,2", "zero", 8),
        ("resnet:blocks=1:channels=2", "reflection", 2),
    ],
)
def test_the_smallest_side_is_the_smallest_that_works(network: str, pad: str, min_side: int) -> None:
    description = architecture(network)
    assert description.min_side(pad) == min_side
    computed = description.build(1, (1, 16, 16), pad)
    enough = math.ceil(min_side / description.stride) * description.stride
    assert computed(torch.rand(1, 1, enough, enough)).shape == (1, 1, enough, enough)
    with pytest.raises((RuntimeError, ValueError)):
        computed(torch.rand(1, 1, enough - description.stride, enough - description.stride))


def test_a_tiny_image_is_padded_for_large_kernels_at_every_level() -> None:
    prior = build(Settings(network="skip:channels=2x6:skips=1x6:kernel_down=7:kernel_up=7"), (3, 16, 16))
    assert prior.network(prior.code).shape == (1, 3, 16, 16)
    assert prior.code.shape[2:] == (256, 256)


@pytest.mark.parametrize("network", SMALL)
def test_in_bf16_no_layer_returns_fp32(network: str) -> None:
    prior = build(Settings(network=network, input_depth=2), (3, 20, 24), members=2)
    kinds = []
    for layer in prior.network.modules():
        layer.register_forward_hook(lambda _module, _x, y: kinds.append(y.dtype))
    weights = {name: weight.bfloat16() for name, weight in prior.network.named_parameters()}
    image = functional_call(prior.network, weights, prior.code.bfloat16())
    assert set(kinds) == {torch.bfloat16}
    image.float().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in prior.network.parameters())
    assert torch.allclose(image.float(), prior.network(prior.code), atol=0.1)


def test_the_crop_is_centred() -> None:
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert torch.equal(Crop(2, 4)(x), x[..., 2:4, 1:5])


def test_the_padding_is_not_in_the_image() -> None:
    settings = Settings(network="skip:channels=4,4:skips=0,0", input_depth=2)
    prior = build(settings, (1, 17, 18))
    whole = prior.network[0](prior.code)
    assert whole.shape == (1, 1, 20, 20)
    assert torch.equal(prior.network(prior.code), whole[..., 1:18, 1:19])


def test_the_noise_input_is_uniform_up_to_a_tenth() -> None:
    code = build(Settings(input_depth=8), (3, 64, 64)).code
    assert float(code.min()) >= 0
    assert float(code.max()) <= 0.1
    assert float(code.mean()) == pytest.approx(0.05, abs=0.001)
    assert float(code.std()) == pytest.approx(0.1 / 12**0.5, abs=0.001)


def test_the_meshgrid_input_is_x_and_y() -> None:
    code = build(Settings(input="meshgrid", network="skip:channels=4:skips=0"), (3, 16, 32)).code
    assert code.shape == (1, 2, 16, 32)
    assert torch.allclose(code[0, 0, 5], torch.linspace(0, 1, 32))
    assert torch.allclose(code[0, 1, :, 7], torch.linspace(0, 1, 16))


def test_fourier_features_are_sines_and_cosines_of_the_coordinates() -> None:
    settings = Settings(input="fourier", input_depth=8, network="skip:channels=4:skips=0")
    code = build(settings, (3, 16, 32)).code[0]
    x = torch.linspace(0, 1, 32)
    frequencies = [1, 16]  # from one wave per image to one every two pixels
    for channel, frequency in enumerate(frequencies):
        assert torch.allclose(code[channel, 3], torch.sin(2 * math.pi * frequency * x), atol=1e-4)
        assert torch.allclose(code[channel + 2, 3], torch.cos(2 * math.pi * frequency * x), atol=1e-4)
    assert torch.allclose(code[:2] ** 2 + code[2:4] ** 2, torch.ones(2, 16, 32), atol=1e-5)


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from(["skip:channels=2:skips=0", "skip:channels=2x5:skips=0x5"])
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_the_guide_is_mirrored_beyond_the_image(height: int, width: int, network: str) -> None:
    guide = torch.rand(4, height, width)
    code = build(Settings(input="guide", network=network), (3, height, width), guide).code
    assert torch.equal(Crop(height, width)(code)[0], guide), "it is aligned with the image"
    before = [(padded - side) // 2 for padded, side in zip(code.shape[2:], (height, width), strict=True)]
    after = [padded - side - top for padded, side, top in zip(code.shape[2:], (height, width), before, strict=True)]
    margins = [(0, 0), *zip(before, after, strict=True)]
    assert np.array_equal(code[0].numpy(), np.pad(guide.numpy(), margins, mode="reflect"))


def test_input_depth_may_equal_the_guide_s_channels() -> None:
    settings = Settings(input="guide", input_depth=2, network=TINY)
    assert build(settings, (3, 16, 16), torch.rand(2, 16, 16)).code.shape == (1, 2, 16, 16)


def test_a_guide_is_not_used_unless_it_is_asked_for() -> None:
    settings = Settings(network=TINY)
    guided, plain = (build(settings, (3, 16, 16), guide) for guide in (torch.rand(2, 16, 16), None))
    assert torch.equal(guided.code, plain.code)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        (Settings(input="guide"), None, "this image has none"),
        (Settings(input="guide", input_depth=32), (20, 24), "guide's 3 channels: leave --input-depth out"),
        (Settings(input="guide"), (24, 20), "The guide image is 20x24, the image 24x20"),
    ],
)
def test_a_guide_that_does_not_fit_is_refused(settings: Settings, size: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(settings, (3, 20, 24), None if size is None else torch.rand(3, *size))


@pytest.mark.parametrize("network", [*SMALL, "pixels"])
def test_members_start_as_the_single_network(network: str) -> None:
    settings = Settings(network=network, input_depth=4)
    alone, together = build(settings, (3, 20, 24)), build(settings, (9, 20, 24), members=3)
    assert torch.equal(together.code, alone.code)
    assert count_parameters(together.network) == 3 * count_parameters(alone.network)
    image = alone.network(alone.code)
    for member in together.network(together.code).chunk(3, dim=1):
        assert torch.allclose(member, image, atol=1e-6)


@pytest.mark.parametrize("network", [*SMALL, "pixels"])
@pytest.mark.parametrize("reg_noise", [0, 0.03])
def test_a_member_is_fitted_as_if_it_were_alone(network: str, reg_noise: float) -> None:
    """In double precision, because rounding errors grow from step to step."""
    settings = Settings(network=network, input_depth=4, iterations=12, stop="none", reg_noise=reg_noise)

    def fitted(measured: Tensor, members: int) -> Tensor:
        def summed(prediction: Tensor, measured: Tensor, weight: Tensor | None) -> Tensor:
            # A mean over the members would divide every gradient by their number, and Adam's eps would have an effect.
            return members * squared_error(prediction, measured, weight)

        shape = (measured.shape[0], 20, 24)
        problem = Problem(measured=measured, shape=shape, members=members, loss=summed)
        prior = build(settings, shape, members=members)
        return fit(problem, Prior(prior.network.double(), prior.code.double()), settings).image

    first = torch.from_numpy(noisy(scene(20, 24))).permute(2, 0, 1).double() / 255
    images = [first, first.flip(2)]
    together = fitted(torch.cat(images), 2).chunk(2)
    for member, measured in zip(together, images, strict=True):
        assert torch.allclose(member, fitted(measured, 1), atol=1e-9)
    assert not torch.allclose(*together, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "skipp"}, "pixels, resnet, skip, unet"),
        ({"network": "skip:width=3"}, "channels=128,128,128,128,128"),
        ({"network": "skip:channels=a,b"}, "write it as channels="),
        ({"network": "skip:channels=8,8"}, "same number"),
        ({"network": "skip:channels=0,8:skips=4,4"}, "1 to 4096"),
        ({"network": "skip:channels=8x0:skips=8x0"}, "write it as channels="),
        ({"network": "skip:channels=8x40:skips=0x40"}, "12 levels"),
        ({"network": "skip:channels=99999:skips=0"}, "4096"),
        ({"network": "skip:skips=4,4,4,4,-1"}, "skips of 0"),
        ({"network": "skip:up=cubic"}, "up=cubic: choose bilinear or nearest"),
        ({"network": "skip:up=nearest,cubic,nearest,nearest,nearest"}, "up=cubic: choose bilinear or nearest"),
        ({"network": "skip:up=nearest,bilinear"}, "5 levels in channels but 2 in up: give one value for all"),
        ({"network": "skip:kernel_down=5,3"}, "5 levels in channels but 2 in kernel_down"),
        ({"network": "skip:kernel_up=5x6"}, "5 levels in channels but 6 in kernel_up"),
        ({"network": "skip:kernel_down=4"}, "choose odd numbers"),
        ({"network": "skip:kernel_up=3,3,3,3,33"}, "odd numbers of 1 to 31"),
        ({"network": "skip:kernel_up=-3"}, "odd numbers of 1 to 31"),
        ({"network": "skip:down=max"}, "down=max: choose stride or average"),
        ({"network": "skip:pointwise=maybe"}, "write it as pointwise=yes"),
        ({"network": "unet:channels=0,8"}, "1 to 4096"),
        ({"network": "unet:channels=2x13"}, "12 levels"),
        ({"network": "unet:skips=4"}, "channels=8,16,32,64,128,128"),
        ({"network": "resnet:blocks=0"}, "blocks of 1"),
        ({"network": "resnet:blocks=257"}, "1 to 256"),
        ({"network": "resnet:channels=0"}, "1 to 4096"),
        ({"network": "resnet:channels=8,8"}, "write it as channels=32"),
        ({"input": "meshgrid", "input_depth": 5}, "leave --input-depth out"),
        ({"input": "fourier", "input_depth": 6}, "multiple of 4"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(replace(Settings(), **change), (3, 64, 64))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("skip:channels=8,16x2:skips=4x3", Skip(channels=(8, 16, 16), skips=(4, 4, 4))),
        ("skip:up=nearest", Skip(up=("nearest",))),
        ("skip:pointwise=no:down=average", Skip(pointwise=False, down="average")),
        (FLASH, Skip(up=("nearest", "nearest", "bilinear", "bilinear", "bilinear"))),
        ("unet:channels=4,8", UNet(channels=(4, 8))),
        ("resnet:blocks=3:channels=16", ResNet(blocks=3, channels=16)),
    ],
)
def test_a_network_is_parsed_from_its_description(text: str, expected: object) -> None:
    assert architecture(text) == expected
