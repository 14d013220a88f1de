"""What a network that tells pictures apart sees in one of them: AlexNet, VGG, or one of the user's own.

The built-in networks have the modules and names of torchvision's, so that the weights published for those fit. They
are written out here because three lists of layers are no reason to depend on it.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dipcli.errors import DipError, UsageError

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue: what the published weights were trained with
DEVIATION = (0.229, 0.224, 0.225)
SITE = "https://download.pytorch.org/models/"
SHOWN = 20  # names of layers in a message, half from the front and half from the back

Layers: TypeAlias = list[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Classifier:
    """From (1, 3, H, W), normalised, to ImageNet's thousand classes, with the usual names of the layers ("conv3_1")."""

    network: nn.Sequential
    names: Mapping[str, str]


def alexnet() -> Classifier:
    """AlexNet in the layout that torchvision has made common: 61,100,840 parameters.

    Source:
        Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """
    features: Layers = [
        ("conv1", nn.Conv2d(3, 64, 11, stride=4, padding=2)), ("relu1", _relu()), ("pool1", nn.MaxPool2d(3, 2)),
        ("conv2", nn.Conv2d(64, 192, 5, padding=2)), ("relu2", _relu()), ("pool2", nn.MaxPool2d(3, 2)),
        ("conv3", nn.Conv2d(192, 384, 3, padding=1)), ("relu3", _relu()),
        ("conv4", nn.Conv2d(384, 256, 3, padding=1)), ("relu4", _relu()),
        ("conv5", nn.Conv2d(256, 256, 3, padding=1)), ("relu5", _relu()), ("pool5", nn.MaxPool2d(3, 2)),
    ]  # fmt: skip
    # Dropout is the identity once a network is trained, but keeps its place in the numbering.
    head: Layers = [
        ("", nn.Identity()), ("fc6", nn.Linear(256 * 6 * 6, 4096)), ("relu6", _relu()),
        ("", nn.Identity()), ("fc7", nn.Linear(4096, 4096)), ("relu7", _relu()), ("fc8", nn.Linear(4096, 1000)),
    ]  # fmt: skip
    return _joined(features, 6, head)


def vgg(*convolutions: int) -> Classifier:
    """VGG with so many convolutions in each of its five blocks.

    2, 2, 3, 3, 3 are VGG-16 with 138,357,544 parameters; 2, 2, 4, 4, 4 are VGG-19 with 143,667,240.

    Source:
        Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
    """
    features: Layers = []
    inputs = 3
    for block, (count, width) in enumerate(zip(convolutions, (64, 128, 256, 512, 512), strict=True), start=1):
        for number in range(1, count + 1):
            features += [(f"conv{block}_{number}", nn.Conv2d(inputs, width, 3, padding=1))]
            features += [(f"relu{block}_{number}", _relu())]
            inputs = width
        features += [(f"pool{block}", nn.MaxPool2d(2))]
    head: Layers = [
        ("fc6", nn.Linear(512 * 7 * 7, 4096)), ("relu6", _relu()), ("", nn.Identity()),
        ("fc7", nn.Linear(4096, 4096)), ("relu7", _relu()), ("", nn.Identity()), ("fc8", nn.Linear(4096, 1000)),
    ]  # fmt: skip
    return _joined(features, 7, head)


# How each is built, and the file of PyTorch's published weights; the end of its name is the start of its SHA-256.
BUILT_IN: dict[str, tuple[Callable[[], Classifier], str]] = {
    "alexnet": (alexnet, "alexnet-owt-7be5be79.pth"),
    "vgg16": (lambda: vgg(2, 2, 3, 3, 3), "vgg16-397923af.pth"),
    "vgg19": (lambda: vgg(2, 2, 4, 4, 4), "vgg19-dcbb9e9d.pth"),
}


class Features(nn.Module):
    """What a layer of a network makes of a picture, differentiable.

        A(x) = layer((clip(x) - mean) / deviation) / scale

    The scale is the largest absolute value at one picture, so that peak and loss mean the same for every layer. It is
    the picture as it can be shown, clipped to 0..1, that is looked at; the slope passes through the clip, so that
    free pixels come back. Nothing behind the layer is computed, and the network's own weights are fixed.

    Args:
        network: sees (1, 3, H, W). It is put into evaluation mode and its weights are frozen, in place.
        layer: the name of one of its modules.
        picture: what the scale is taken from, shape (3, H, W), values 0..1.
        normalised: subtract ImageNet's mean and divide by its deviation first.

    Raises:
        UsageError: when there is no such layer.
        DipError: when the network fails on the picture, or the layer's answer is nothing to match.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, layer: str, picture: Tensor, *, normalised: bool) -> None:
        super().__init__()
        self.network = network.to("cpu", torch.float32).eval().requires_grad_(requires_grad=False)
        self.layer = find_weights(network, layer)
        mean, deviation = (MEAN, DEVIATION) if normalised else ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])
        self.register_buffer("scale", self._largest(picture))

    def forward(self, picture: Tensor) -> Tensor:
        """From (3, H, W) to the layer's answer without its first dimension: (C, h, w), or (C,) where it is flat."""
        shown = picture + (picture.clamp(0, 1) - picture).detach()
        features: Tensor = self._answer(shown)[0] / self.scale
        return features

    def _answer(self, picture: Tensor) -> Any:
        # The hook is there while it is needed: the network is the user's own, perhaps, and used elsewhere.
        hook = self.network.get_submodule(self.layer).register_forward_hook(_stop_here)
        try:
            self.network(((picture - self.mean) / self.deviation)[None])
        except _Reached as reached:
            return reached.args[0]
        finally:
            hook.remove()
        return None

    def _largest(self, picture: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                answer = self._answer(picture)
        except Exception as error:  # whatever goes wrong in there: it may be the user's own code
            size = f"{picture.shape[2]}x{picture.shape[1]}"
            raise DipError(
                f"The network fails on a picture of {size} ({describe_error(error)}): try another --size."
            ) from error
        if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.shape[:1] != (1,):
            raise DipError(f"--layer {self.layer} has no tensor of shape (1, ...) for an answer: choose another layer.")
        largest = answer.abs().max()
        if not largest.isfinite() or not largest:
            raise DipError(f"The largest feature at --layer {self.layer} is {largest}: choose other --weights.")
        return largest


class _Reached(Exception):  # noqa: N818 - no error: what was wanted is there, the rest need not be computed
    pass


def _stop_here(_module: nn.Module, _inputs: Any, answer: Any) -> None:
    raise _Reached(answer)


def load_built_in(model: str, layer: str, weights: str, seed: int) -> tuple[nn.Module, str]:
    """A network that is known by name, up to one of its layers, and the name of that layer's module.

    Args:
        model: one of `BUILT_IN`.
        layer: what it is usually called, or the name of a module.
        weights: a file with a state dict, `download` to fetch PyTorch's, or `random`.
        seed: of random weights.

    Raises:
        UsageError: when there is no such layer.
        DipError: when the weights cannot be had or do not fit.
    """
    build, file = BUILT_IN[model]
    with torch.device("meta"):  # names and shapes alone: what lies behind the layer takes neither memory nor time
        whole = build()
    path = find_weights(whole.network, layer, whole.names)
    network = _up_to(whole.network, path)
    if weights == "random":
        randomise(network.to_empty(device="cpu"), seed)
    else:
        spare = whole.network.state_dict().keys() - network.state_dict().keys()
        load(network, _fetched(file) if weights == "download" else Path(weights), spare)
    return network, path


def find_weights(network: nn.Module, layer: str, names: Mapping[str, str] | None = None) -> str:
    """The name of the module that is meant by a layer.

    Raises:
        UsageError: when there is none; the sentence lists what there is.
    """
    modules = [name for name, _ in network.named_modules() if name]
    path = (names or {}).get(layer, layer)
    if path not in modules:
        known = list(names or modules)
        if len(known) > SHOWN:
            known[SHOWN // 2 : -SHOWN // 2] = ["..."]
        raise UsageError(f"There is no --layer {layer} in this model: choose from {', '.join(known) or 'none at all'}.")
    return path


def randomise(network: nn.Module, seed: int) -> None:
    """Give a network weights that have learned nothing and let signals through: w ~ N(0, 2 / inputs), biases 0.

    The first layers' weights are the same whatever lies behind them; PyTorch's global generator is left as it is.

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


def load(network: nn.Module, path: Path, spare: Collection[str] = ()) -> None:
    """Fill a network from a file with a state dict, freed of the wrappings that training scripts put around it.

    Args:
        network: to be filled; it may be on the meta device.
        path: the file, as torch.save writes it; nothing in it is run.
        spare: names in the file that belong to parts which were not built.

    Raises:
        DipError: when the file cannot be read or does not fit.
    """
    save = "save the network's state_dict() with torch.save."
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DipError(f"Cannot read --weights {path} ({describe_error(error)}): check the name.") from error
    except Exception as error:  # a damaged file can fail in any way
        raise DipError(f"--weights {path} is damaged, or holds more than tensors, which was not run: {save}") from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise DipError(f"--weights {path} is no state dict: {save}")
    prefix = "module." if all(name.startswith("module.") for name in weights) else ""
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    try:
        network.load_state_dict({name: value for name, value in weights.items() if name not in spare}, assign=True)
    except RuntimeError as error:
        _, *wrong = str(error).splitlines()
        detail = shorten(" ".join(wrong), 200, placeholder=" ...")
        raise DipError(f"--weights {path} does not fit the model: {detail}") from error


def describe_error(error: BaseException) -> str:
    """An exception in a few words."""
    text = shorten(str(error).strip().partition("\n")[0], 120, placeholder=" ...").rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _joined(features: Layers, grid: int, head: Layers) -> Classifier:
    """Convolutions, a grid of means of whatever size comes out of them, and what is fully connected."""
    network = OrderedDict(
        features=nn.Sequential(*(module for _, module in features)),
        avgpool=nn.AdaptiveAvgPool2d(grid),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(*(module for _, module in head)),
    )
    numbered = [(name, f"features.{index}") for index, (name, _) in enumerate(features)]
    numbered += [(name, f"classifier.{index}") for index, (name, _) in enumerate(head) if name]
    return Classifier(nn.Sequential(network), dict(numbered))


def _up_to(network: nn.Sequential, path: str) -> nn.Sequential:
    """The network without the modules behind the one of this name."""
    last, _, rest = path.partition(".")
    children = OrderedDict(network.named_children())
    while next(reversed(children)) != last:
        children.popitem()
    if rest:
        children[last] = _up_to(network.get_submodule(last), rest)  # type: ignore[arg-type]
    return nn.Sequential(children)


def _fetched(file: str) -> Path:
    """PyTorch's published weights, where torch.hub keeps them; fetched and checked when they are not there yet."""
    path = Path(torch.hub.get_dir(), "checkpoints", file)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            watched = sys.stderr is not None and sys.stderr.isatty()  # a bar: it is hundreds of megabytes
            torch.hub.download_url_to_file(SITE + file, str(path), path.stem.rpartition("-")[2], progress=watched)
        except (OSError, RuntimeError) as error:
            advice = "try again, or fetch it elsewhere and give the file to --weights."
            raise DipError(f"Cannot fetch {SITE}{file} ({describe_error(error)}): {advice}") from error
    return path
