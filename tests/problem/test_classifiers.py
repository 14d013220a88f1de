"""AlexNet and VGG in torchvision's layout, and their weights."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from samples import scene
from torch import nn

from dipcli.errors import DipError, UsageError
from dipcli.problem import classifiers
from dipcli.problem.classifiers import MODELS, Classifier, load_model, load_weights, randomise_weights
from dipcli.problem.features import Features

IMAGE = torch.from_numpy(scene(64, 64)).permute(2, 0, 1).float() / 255
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


def classifier_without_weights(model: str) -> Classifier:
    with torch.device("meta"):
        return MODELS[model][0]()


def published(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in PyTorch's files, written independently."""
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
def test_tensors_have_the_names_and_shapes_of_the_published_weights(model: str, parameters: int) -> None:
    network = classifier_without_weights(model).network
    assert {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()} == published(model)
    assert sum(weight.numel() for weight in network.parameters()) == parameters


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
def test_usual_layer_names_mean_the_right_modules(model: str, size: int, shapes: dict[str, tuple[int, ...]]) -> None:
    classifier = classifier_without_weights(model)
    seen: dict[str, tuple[int, ...]] = {}
    for name in shapes:
        module = classifier.network.get_submodule(classifier.names.get(name, name))
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: tuple(output.shape[1:])})
        )
    classifier.network(torch.empty(1, 3, size, size, device="meta"))
    assert seen == shapes


@pytest.mark.parametrize("model", MODELS)
def test_usual_layer_names_tell_the_kind_of_module(model: str) -> None:
    kinds = {"conv": nn.Conv2d, "relu": nn.ReLU, "pool": nn.MaxPool2d, "fc": nn.Linear}
    classifier = classifier_without_weights(model)
    for name, path in classifier.names.items():
        assert isinstance(classifier.network.get_submodule(path), kinds[re.sub(r"[\d_]", "", name)]), name
    weighted = [
        name for name, module in classifier.network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert [path for name, path in classifier.names.items() if name.startswith(("conv", "fc"))] == weighted


def test_layers_after_the_chosen_one_are_not_built() -> None:
    network, path = load_model("vgg16", "conv3_1", "random", seed=0)
    assert path == "features.10"
    assert sum(weight.numel() for weight in network.parameters()) == sum(
        torch.Size(shape).numel()
        for name, shape in published("vgg16").items()
        if name.startswith("features.") and int(name.split(".")[1]) <= 10
    )
    inner, path = load_model("alexnet", "avgpool", "random", seed=0)
    assert [name for name, _ in inner.named_children()] == ["features", "avgpool"]


def test_random_weights_keep_the_variance_and_depend_on_the_seed() -> None:
    before = torch.get_rng_state()
    network, path = load_model("vgg16", "relu4_1", "random", seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    deviations = []
    for module in network[0]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: deviations.append(float(output.std())))
    Features(network, path, IMAGE, normalised=True)
    assert len(deviations) == 8
    assert 0.2 < min(deviations) <= max(deviations) < 5
    again, _ = load_model("vgg16", "conv2_1", "random", seed=7)
    assert torch.equal(again[0][0].weight, network[0][0].weight), "whatever layers follow"
    other, _ = load_model("vgg16", "conv2_1", "random", seed=8)
    assert not torch.equal(other[0][0].weight, network[0][0].weight)


def test_random_weights_keep_the_variance_through_a_deep_head() -> None:
    """Seven layers, three of them fully connected, narrow enough to be fast."""
    layers: list[nn.Module] = []
    for inputs in (3, 16, 16, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    network = nn.Sequential(*layers)
    randomise_weights(network, 3)
    with torch.no_grad():
        output = network(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert 0.2 < float(output.std()) < 10


@pytest.mark.parametrize("model", MODELS)
def test_an_unknown_layer_is_refused_with_the_known_ones(model: str) -> None:
    with pytest.raises(UsageError, match=r"no --layer conv9 in this model: choose from conv1.*, fc8\.") as caught:
        load_model(model, "conv9", "random", seed=0)
    assert len(str(caught.value)) < 300


FIRST = {"features.0.weight": torch.ones(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}


def save_weights(folder: Path, content: object, **options: object) -> Path:
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
    path = save_weights(tmp_path, content, _use_new_zipfile_serialization=form != "legacy")
    network, layer = load_model("alexnet", "conv1", str(path), seed=0)
    output = Features(network, layer, IMAGE, normalised=True)(IMAGE)
    assert output.dtype == torch.float32
    assert torch.allclose(output[0], output[63])
    assert float(output.abs().max()) == pytest.approx(1)


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is not a state dict: save"),
        ({1: torch.ones(2)}, "is not a state dict: save"),
        ({}, r"does not fit the model: Missing key\(s\)"),
        ({"features.0.weight": torch.ones(64, 3, 11, 11)}, r'Missing key\(s\) in state_dict: "features\.0\.bias"'),
        (FIRST | {"features.0.weight": torch.ones(64, 3, 3, 3)}, "size mismatch for features.0.weight"),
        (FIRST | {"layer1.0.bn1.bias": torch.ones(64)}, r'Unexpected key\(s\) in state_dict: "layer1'),
        (FIRST | {"features.0.bias": 3}, "does not fit the model"),
        (nn.Sequential(nn.Conv2d(3, 64, 11)), "is damaged, or holds more than tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content: object, message: str, tmp_path: Path) -> None:
    path = save_weights(tmp_path, content)
    with pytest.raises(DipError, match=f"--weights {re.escape(str(path))} .*{message}") as caught:
        load_model("alexnet", "conv1", str(path), seed=0)
    assert len(str(caught.value)) < 400


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = save_weights(tmp_path, {"features.0.weight": Malicious(f"touch {trace}")})
    with pytest.raises(DipError, match="which was not run"):
        load_model("alexnet", "conv1", str(path), seed=0)
    assert not trace.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "gone", "folder"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    path = save_weights(tmp_path, FIRST)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "folder":
        path = tmp_path
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256))}[damage])
    with pytest.raises(DipError, match=r"Cannot read --weights|is damaged"):
        load_weights(nn.Conv2d(3, 64, 11), path)


@pytest.fixture
def download_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder instead of PyTorch's site, and an empty one for downloads."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(classifiers, "WEIGHTS_URL", folder.as_uri() + "/")
    return folder


def test_published_weights_are_downloaded_once(
    download_site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = save_weights(download_site, FIRST).read_bytes()
    name = f"alexnet-owt-{sha256(data).hexdigest()[:8]}.pth"
    (download_site / "weights.pth").rename(download_site / name)
    monkeypatch.setitem(MODELS, "alexnet", (MODELS["alexnet"][0], name))
    network, _ = load_model("alexnet", "conv1", "download", seed=0)
    assert torch.equal(network[0][0].weight, FIRST["features.0.weight"])
    (download_site / name).unlink()
    load_model("alexnet", "conv1", "download", seed=0)
    assert capfd.readouterr().out == "", "standard output is for images"


def test_weights_with_a_wrong_checksum_are_deleted(download_site: Path) -> None:
    save_weights(download_site, FIRST).rename(download_site / MODELS["alexnet"][1])
    for _ in range(2):
        with pytest.raises(DipError, match=r"Cannot fetch file:.*invalid hash value.*--weights"):
            load_model("alexnet", "conv1", "download", seed=0)


@pytest.mark.usefixtures("download_site")
def test_a_failed_download_is_reported() -> None:
    with pytest.raises(DipError, match=r"Cannot fetch .*vgg16-397923af\.pth \(URLError.*download it elsewhere"):
        load_model("vgg16", "conv1_1", "download", seed=0)
