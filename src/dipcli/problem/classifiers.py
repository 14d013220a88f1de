"""AlexNet and VGG, and weights for these or a user's network.

The networks have the modules and names of torchvision's, so that weights published for those fit; torchvision itself is
not needed.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TypeAlias

import torch
from torch import nn

from dipcli.errors import DipError, describe_error
from dipcli.problem.features import find_layer

WEIGHTS_URL = "https://download.pytorch.org/models/"

Layers: TypeAlias = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Classifier:
    """A network from (1, 3, H, W), normalised, to ImageNet's thousand classes.

    Attributes:
        network: the network.
        names: the names of its modules by their usual names, such as "conv3_1".
    """

    network: nn.Sequential
    names: Mapping[str, str]


def alexnet() -> Classifier:
    """Return AlexNet in torchvision's layout: 61,100,840 parameters.

    Source:
        Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """
    features: Layers = [
        *_convolution("1", 3, 64, 11, stride=4, padding=2), ("pool1", nn.MaxPool2d(3, 2)),
        *_convolution("2", 64, 192, 5, padding=2), ("pool2", nn.MaxPool2d(3, 2)),
        *_convolution("3", 192, 384), *_convolution("4", 384, 256), *_convolution("5", 256, 256),
        ("pool5", nn.MaxPool2d(3, 2)),
    ]  # fmt: skip
    return _complete(features, channels=256, side=6, dropout_at=(0, 3))


def vgg(*convolutions: int) -> Classifier:
    """Return VGG with the given numbers of convolutions in its five blocks.

    2, 2, 3, 3, 3 are VGG-16 with 138,357,544 parameters; 2, 2, 4, 4, 4 are VGG-19 with 143,667,240.

    Source:
        Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
    """
    features: Layers = []
    inputs = 3
    for block, (count, outputs) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            features += _convolution(f"{block}_{number}", inputs, outputs)
            inputs = outputs
        features += [(f"pool{block}", nn.MaxPool2d(2))]
    return _complete(features, channels=512, side=7, dropout_at=(2, 5))


# The builder of each model, and the file of PyTorch's published weights, whose name ends with the start of its SHA-256.
MODELS: dict[str, tuple[Callable[[], Classifier], str]] = {
    "alexnet": (alexnet, "alexnet-owt-7be5be79.pth"),
    "vgg16": (lambda: vgg(2, 2, 3, 3, 3), "vgg16-397923af.pth"),
    "vgg19": (lambda: vgg(2, 2, 4, 4, 4), "vgg19-dcbb9e9d.pth"),
}


def load_model(model: str, layer: str, weights: str, seed: int) -> tuple[nn.Module, str]:
    """Return one of `MODELS` up to a layer, and the name of that layer's module.

    Args:
        model: a key of `MODELS`.
        layer: the usual name of a layer, or the name of a module.
        weights: a file with a state dict, `download` to fetch PyTorch's, or `random`.
        seed: of random weights.

    Raises:
        UsageError: when the layer does not exist.
        DipError: when the weights cannot be read, fetched or used.
    """
    build, file = MODELS[model]
    with torch.device("meta"):  # names and shapes only: layers after the chosen one take neither memory nor time
        classifier = build()
    module = find_layer(classifier.network, layer, classifier.names)
    network = _truncate(classifier.network, module)
    if weights == "random":
        randomise_weights(network.to_empty(device="cpu"), seed)
    else:
        unused = classifier.network.state_dict().keys() - network.state_dict().keys()
        load_weights(network, _download(file) if weights == "download" else Path(weights), unused)
    return network, module


def randomise_weights(network: nn.Module, seed: int) -> None:
    """Set random weights that keep the variance of the signal: w ~ N(0, 2 / inputs), biases 0.

    The first layers' weights do not depend on the layers after them. PyTorch's global generator is not used.

    Source:
        He et al., "Delving deep into rectifiers", ICCV 2015, equation 10.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(0, math.sqrt(2 / weight[0].numel()), generator=generator)
            else:
                weight.zero_()


def load_weights(network: nn.Module, path: Path, unused: Collection[str] = ()) -> None:
    """Fill a network, which may be on the meta device, from a state dict that torch.save wrote.

    Code in the file is not run. Wrappers that training scripts put around the state dict are removed, and the names in
    `unused` may be missing in the network.

    Raises:
        DipError: when the file cannot be read or does not fit.
    """
    hint = "save the network's state_dict() with torch.save."
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DipError(f"Cannot read --weights {path} ({describe_error(error)}): check the name.") from error
    except Exception as error:  # a damaged file can fail in any way
        raise DipError(f"--weights {path} is damaged, or holds more than tensors, which was not run: {hint}") from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise DipError(f"--weights {path} is not a state dict: {hint}")
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    try:
        network.load_state_dict({name: value for name, value in weights.items() if name not in unused}, assign=True)
    except RuntimeError as error:
        _, *lines = str(error).splitlines()
        detail = shorten(" ".join(lines), 200, placeholder=" ...")
        raise DipError(f"--weights {path} does not fit the model: {detail}") from error


def _convolution(name: str, inputs: int, outputs: int, side: int = 3, *, stride: int = 1, padding: int = 1) -> Layers:
    convolution = nn.Conv2d(inputs, outputs, side, stride=stride, padding=padding)
    return [(f"conv{name}", convolution), (f"relu{name}", nn.ReLU(inplace=True))]


def _complete(features: Layers, channels: int, side: int, dropout_at: tuple[int, int]) -> Classifier:
    """Add average pooling to a fixed size and three fully connected layers.

    Dropout is the identity after training, but counts in the numbering.
    """
    head: Layers = [
        ("fc6", nn.Linear(channels * side**2, 4096)), ("relu6", nn.ReLU(inplace=True)),
        ("fc7", nn.Linear(4096, 4096)), ("relu7", nn.ReLU(inplace=True)), ("fc8", nn.Linear(4096, 1000)),
    ]  # fmt: skip
    for index in dropout_at:
        head.insert(index, ("", nn.Identity()))
    parts = {"features": features, "classifier": head}
    first, last = (nn.Sequential(*(module for _, module in part)) for part in parts.values())
    layers = {"features": first, "avgpool": nn.AdaptiveAvgPool2d(side), "flatten": nn.Flatten(), "classifier": last}
    names = {name: f"{key}.{i}" for key, part in parts.items() for i, (name, _) in enumerate(part) if name}
    return Classifier(nn.Sequential(OrderedDict(layers)), names)


def _truncate(network: nn.Sequential, module: str) -> nn.Sequential:
    """Return the network without the modules after this one."""
    last, _, rest = module.partition(".")
    children = OrderedDict(network.named_children())
    while next(reversed(children)) != last:
        children.popitem()
    if rest:
        children[last] = _truncate(network.get_submodule(last), rest)  # type: ignore[arg-type]
    return nn.Sequential(children)


def _download(file: str) -> Path:
    """Return PyTorch's published weights in the folder of torch.hub; download and check them if they are missing."""
    path = Path(torch.hub.get_dir(), "checkpoints", file)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            terminal = sys.stderr is not None and sys.stderr.isatty()  # for a progress bar: they are hundreds of MB
            torch.hub.download_url_to_file(WEIGHTS_URL + file, str(path), path.stem.rpartition("-")[2], terminal)
        except (OSError, RuntimeError) as error:
            raise DipError(
                f"Cannot fetch {WEIGHTS_URL}{file} ({describe_error(error)}): try again, or download it elsewhere and "
                "give the file to --weights."
            ) from error
    return path
