"""AlexNet and VGG in torchvision's layout, and the features of a picture at one of their layers."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from samples import scene
from torch import Tensor, nn

from dipcli.errors import DipError, UsageError
from dipcli.problem import features as classifiers
from dipcli.problem.features import BUILT_IN, DEVIATION, MEAN, Classifier, Features, find_weights, load, load_built_in

PICTURE = torch.from_numpy(scene(64, 64)).permute(2, 0, 1).float() / 255
GREY = torch.full((3, 16, 16), 0.5)
FEATURES_OF_ALEXNET = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
HEAD_OF_ALEXNET = {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}
HEAD_OF_VGG = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}
WIDTHS_OF_VGG16 = {
    0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512,
}  # fmt: skip
WIDTHS_OF_VGG19 = {
    0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256, 19: 512, 21: 512, 23: 512, 25: 512,
    28: 512, 30: 512, 32: 512, 34: 512,
}  # fmt: skip


def whole(model: str) -> Classifier:
    with torch.device("meta"):
        return BUILT_IN[model][0]()


def published(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in PyTorch's files, written down a second time."""
    if model == "alexnet":
        convolutions, head = FEATURES_OF_ALEXNET, HEAD_OF_ALEXNET
    else:
        widths = WIDTHS_OF_VGG16 if model == "vgg16" else WIDTHS_OF_VGG19
        inputs = [3, *widths.values()]
        convolutions = {place: (width, inputs[i], 3, 3) for i, (place, width) in enumerate(widths.items())}
        head = HEAD_OF_VGG
    weights = {f"features.{place}": shape for place, shape in convolutions.items()}
    weights |= {f"classifier.{place}": shape for place, shape in head.items()}
    both = {f"{name}.weight": shape for name, shape in weights.items()}
    return both | {f"{name}.bias": shape[:1] for name, shape in weights.items()}


@pytest.mark.parametrize(
    ("model", "parameters"), [("alexnet", 61_100_840), ("vgg16", 138_357_544), ("vgg19", 143_667_240)]
)
def test_they_hold_what_the_published_weights_name(model: str, parameters: int) -> None:
    network = whole(model).network
    assert {name: tuple(each.shape) for name, each in network.state_dict().items()} == published(model)
    assert sum(each.numel() for each in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("model", "size", "shapes"),
    [
        ("alexnet", 224, {"conv1": (64, 55, 55), "pool1": (64, 27, 27), "conv3": (384, 13, 13), "pool5": (256, 6, 6),
                          "fc6": (4096,), "relu7": (4096,), "fc8": (1000,)}),
        ("alexnet", 150, {"pool5": (256, 3, 3), "avgpool": (256, 6, 6), "fc6": (4096,)}),
        ("vgg16", 224, {"conv1_1": (64, 224, 224), "pool1": (64, 112, 112), "conv3_1": (256, 56, 56),
                        "relu4_3": (512, 28, 28), "pool5": (512, 7, 7), "fc6": (4096,), "fc8": (1000,)}),
        ("vgg19", 96, {"conv3_4": (256, 24, 24), "conv5_4": (512, 6, 6), "fc7": (4096,)}),
    ],
)  # fmt: skip
def test_the_usual_names_are_those_of_the_right_modules(
    model: str, size: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    classifier = whole(model)
    seen: dict[str, tuple[int, ...]] = {}
    for name in shapes:
        module = classifier.network.get_submodule(classifier.names.get(name, name))
        module.register_forward_hook(
            lambda _module, _inputs, answer, name=name: seen.update({name: tuple(answer.shape[1:])})
        )
    classifier.network(torch.empty(1, 3, size, size, device="meta"))
    assert seen == shapes


@pytest.mark.parametrize("model", BUILT_IN)
def test_a_usual_name_tells_what_kind_of_module_it_is(model: str) -> None:
    kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d, "fc": nn.Linear}
    classifier = whole(model)
    for name, path in classifier.names.items():
        assert isinstance(classifier.network.get_submodule(path), kinds[re.sub(r"[\d_]", "", name)]), name
    weighted = [name for name, each in classifier.network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert [path for name, path in classifier.names.items() if name.startswith(("conv", "fc"))] == weighted


def test_nothing_behind_the_layer_is_built() -> None:
    network, path = load_built_in("vgg16", "conv3_1", "random", seed=0)
    assert path == "features.10"
    assert sum(each.numel() for each in network.parameters()) == sum(
        torch.Size(shape).numel()
        for name, shape in published("vgg16").items()
        if name.startswith("features.") and int(name.split(".")[1]) <= 10
    )
    inner, path = load_built_in("alexnet", "avgpool", "random", seed=0)
    assert [name for name, _ in inner.named_children()] == ["features", "avgpool"]


def test_the_features_of_a_small_network_by_hand() -> None:
    network = nn.Sequential(OrderedDict(mix=nn.Conv2d(3, 2, 1), act=nn.ReLU(inplace=True), flat=nn.Flatten()))
    mixing = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.5]])
    network.mix.load_state_dict({"weight": mixing[:, :, None, None], "bias": torch.tensor([0.5, -0.25])})
    normal = (PICTURE - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
    mixed = torch.einsum("oc,chw->ohw", mixing, normal) + torch.tensor([0.5, -0.25])[:, None, None]
    features = Features(network, "mix", PICTURE, normalised=True)
    assert torch.allclose(features(PICTURE), mixed / mixed.abs().max(), atol=1e-5)
    rectified = Features(network, "act", PICTURE, normalised=True)
    assert torch.allclose(rectified(PICTURE), mixed.relu() / mixed.max(), atol=1e-5)
    flat = Features(network, "flat", PICTURE, normalised=False)
    plain = (torch.einsum("oc,chw->ohw", mixing, PICTURE) + torch.tensor([0.5, -0.25])[:, None, None]).relu()
    assert torch.allclose(flat(PICTURE), plain.flatten() / plain.max(), atol=1e-5)


def test_it_is_the_picture_as_shown_that_is_looked_at() -> None:
    features = Features(nn.Sequential(nn.Identity()), "0", PICTURE, normalised=False)
    x = (3 * PICTURE - 1).requires_grad_()
    answer = features(x)
    assert torch.allclose(answer, (3 * PICTURE - 1).clamp(0, 1) / PICTURE.max())
    answer.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(PICTURE, float(1 / PICTURE.max()))), "also where it is clipped"


def test_features_have_a_slope_and_the_network_is_fixed() -> None:
    network, path = load_built_in("alexnet", "relu2", "random", seed=0)
    features = Features(network, path, PICTURE, normalised=True)
    x, direction = 0.1 + 0.8 * torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    features(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    assert not any(each.requires_grad for each in features.parameters())
    # The slope is that of the function: along a direction, a small step changes it by what the slope says.
    with torch.no_grad():
        ahead, behind = (features(x + step * direction).square().sum() for step in (1e-3, -1e-3))
    assert float((ahead - behind) / 2e-3) == pytest.approx(float((x.grad * direction).sum()), rel=0.02)


def test_the_network_is_in_evaluation_mode_and_its_own_afterwards() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3))
    features = Features(network, "1", PICTURE, normalised=False)
    assert torch.equal(features(PICTURE), features(PICTURE))
    assert torch.allclose(features(PICTURE), PICTURE / PICTURE.max(), atol=1e-4)
    assert network(PICTURE[None]).shape == (1, 3, 64, 64), "no hook stays behind"


def test_what_is_behind_the_layer_is_not_computed() -> None:
    def never(_x: Tensor) -> Tensor:
        raise AssertionError

    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    network.append(nn.Identity())
    network[2].forward = never
    assert Features(network, "1", PICTURE, normalised=False)(PICTURE).shape == (4, 62, 62)


def test_the_scale_moves_with_the_module() -> None:
    features = Features(nn.Sequential(nn.Conv2d(3, 4, 3)), "0", PICTURE, normalised=True)
    moved = features.to("meta")
    assert {each.device.type for each in (*moved.buffers(), *moved.parameters())} == {"meta"}
    assert set(dict(features.named_buffers())) == {"mean", "deviation", "scale"}


def test_random_weights_let_signals_through_and_are_the_seed_s() -> None:
    before = torch.get_rng_state()
    network, path = load_built_in("vgg16", "relu4_1", "random", seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    sizes = []
    for module in network[0]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, answer: sizes.append(float(answer.std())))
    Features(network, path, PICTURE, normalised=True)
    assert len(sizes) == 8
    assert 0.2 < min(sizes) <= max(sizes) < 5
    again, _ = load_built_in("vgg16", "conv2_1", "random", seed=7)
    assert torch.equal(again[0][0].weight, network[0][0].weight), "whatever lies behind"
    other, _ = load_built_in("vgg16", "conv2_1", "random", seed=8)
    assert not torch.equal(other[0][0].weight, network[0][0].weight)


def test_random_weights_reach_the_last_layer_of_a_deep_head() -> None:
    """Seven layers, three of them fully connected, narrow enough to be quick."""
    layers: list[nn.Module] = []
    for inputs in (3, 16, 16, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    network = nn.Sequential(*layers)
    classifiers.randomise(network, 3)
    with torch.no_grad():
        answer = network(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.2 < float(answer.std()) < 10


@pytest.mark.parametrize("model", BUILT_IN)
def test_an_unknown_layer_is_told_what_there_is(model: str) -> None:
    with pytest.raises(UsageError, match=r"no --layer conv9 in this model: choose from conv1.*, fc8\.") as caught:
        load_built_in(model, "conv9", "random", seed=0)
    assert len(str(caught.value)) < 300


def test_the_layers_of_a_large_network_are_listed_in_part() -> None:
    network = nn.Sequential(*(nn.Identity() for _ in range(1000)))
    with pytest.raises(UsageError, match=r"from 0, 1, .*, 9, \.\.\., 990, .*, 999\."):
        find_weights(network, "")
    with pytest.raises(UsageError, match="none at all"):
        find_weights(nn.Identity(), "fc6")
    assert find_weights(network, "17") == "17"


class Odd(nn.Module):
    """Fails and answers in the ways in which a user's network might."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(16, 4, batch_first=True)
        self.fixed = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.recurrent(x[:, 0])
        return self.fixed(x)


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("recurrent", "has no tensor of shape"),
        ("fixed", r"fails on a picture of 16x16 \(RuntimeError: mat1 and mat2.*\): try another --size"),
    ],
)
def test_a_layer_that_cannot_be_matched_is_refused(layer: str, sentence: str) -> None:
    with pytest.raises(DipError, match=sentence):
        Features(Odd(), layer, GREY, normalised=False)


def test_a_layer_that_never_computes_is_refused() -> None:
    several = nn.Sequential(nn.ModuleList([nn.Identity()]), nn.Identity())
    several.forward = several[1].forward
    with pytest.raises(DipError, match=r"--layer 0 has no tensor"):
        Features(several, "0", GREY, normalised=False)


@pytest.mark.parametrize(("weight", "largest"), [(0.0, "0.0"), (float("nan"), "nan"), (float("inf"), "inf")])
def test_features_that_say_nothing_are_refused(weight: float, largest: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False))
    nn.init.constant_(network[0].weight, weight)
    with pytest.raises(DipError, match=f"largest feature at --layer 0 is {largest}"):
        Features(network, "0", GREY, normalised=False)


def test_too_small_a_picture_is_told() -> None:
    network, path = load_built_in("alexnet", "pool5", "random", seed=0)
    with pytest.raises(DipError, match=r"fails on a picture of 16x16 \(RuntimeError: .*\): try another --size"):
        Features(network, path, GREY, normalised=True)


FIRST = {"features.0.weight": torch.ones(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}


def saved(folder: Path, content: object, **options: object) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("form", ["plain", "wrapped", "parallel", "half", "legacy", "with the rest"])
def test_weights_from_a_file(form: str, tmp_path: Path) -> None:
    content: object = {
        "wrapped": {"epoch": 3, "state_dict": FIRST},
        "parallel": {f"module.{name}": value for name, value in FIRST.items()},
        "half": {name: value.half() for name, value in FIRST.items()},
        "with the rest": FIRST | {"classifier.6.bias": torch.zeros(1000)},
    }.get(form, FIRST)
    path = saved(tmp_path, content, _use_new_zipfile_serialization=form != "legacy")
    network, layer = load_built_in("alexnet", "conv1", str(path), seed=0)
    answer = Features(network, layer, PICTURE, normalised=True)(PICTURE)
    assert answer.dtype == torch.float32
    assert torch.allclose(answer[0], answer[63])
    assert float(answer.abs().max()) == pytest.approx(1)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "is no state dict: save"),
        ({1: torch.ones(2)}, "is no state dict: save"),
        ({}, r"does not fit the model: Missing key\(s\)"),
        ({"features.0.weight": torch.ones(64, 3, 11, 11)}, r'Missing key\(s\) in state_dict: "features\.0\.bias"'),
        (FIRST | {"features.0.weight": torch.ones(64, 3, 3, 3)}, "size mismatch for features.0.weight"),
        (FIRST | {"layer1.0.bn1.bias": torch.ones(64)}, r'Unexpected key\(s\) in state_dict: "layer1'),
        (FIRST | {"features.0.bias": 3}, "does not fit the model"),
        (nn.Sequential(nn.Conv2d(3, 64, 11)), "is damaged, or holds more than tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content: object, sentence: str, tmp_path: Path) -> None:
    path = saved(tmp_path, content)
    with pytest.raises(DipError, match=f"--weights {re.escape(str(path))} .*{sentence}") as caught:
        load_built_in("alexnet", "conv1", str(path), seed=0)
    assert len(str(caught.value)) < 400


def test_what_a_file_would_run_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path, {"features.0.weight": Malicious(f"touch {trace}")})
    with pytest.raises(DipError, match="which was not run"):
        load_built_in("alexnet", "conv1", str(path), seed=0)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone", "folder"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = saved(tmp_path, FIRST)
    whole_file = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "folder":
        path = tmp_path
    else:
        path.write_bytes({"cut": whole_file[: len(whole_file) // 2], "empty": b"", "noise": bytes(range(256))}[damage])
    with pytest.raises(DipError, match=r"Cannot read --weights|is damaged"):
        load(nn.Conv2d(3, 64, 11), path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of PyTorch's site, and an empty one for what is fetched."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(classifiers, "SITE", folder.as_uri() + "/")
    return folder


def test_published_weights_are_fetched_once(
    site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from hashlib import sha256

    data = saved(site, FIRST).read_bytes()
    name = f"alexnet-owt-{sha256(data).hexdigest()[:8]}.pth"
    (site / "weights.pth").rename(site / name)
    monkeypatch.setitem(BUILT_IN, "alexnet", (BUILT_IN["alexnet"][0], name))
    network, _ = load_built_in("alexnet", "conv1", "download", seed=0)
    assert torch.equal(network[0][0].weight, FIRST["features.0.weight"])
    (site / name).unlink()
    load_built_in("alexnet", "conv1", "download", seed=0)
    assert capfd.readouterr().out == "", "standard output is for pictures"


def test_weights_with_another_checksum_are_thrown_away(site: Path) -> None:
    saved(site, FIRST).rename(site / BUILT_IN["alexnet"][1])
    for _ in range(2):
        with pytest.raises(DipError, match=r"Cannot fetch file:.*invalid hash value.*--weights"):
            load_built_in("alexnet", "conv1", "download", seed=0)


@pytest.mark.usefixtures("site")
def test_no_network_is_told() -> None:
    with pytest.raises(DipError, match=r"Cannot fetch .*vgg16-397923af\.pth \(URLError.*fetch it elsewhere"):
        load_built_in("vgg16", "conv1_1", "download", seed=0)
