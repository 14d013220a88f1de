"""The features of an image at a layer of a network, as an operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dipcli.errors import DipError, UsageError, describe_error

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of red, green and blue: the published weights were trained with them
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
MAX_LISTED_LAYERS = 20  # in a message, half from the start and half from the end


class Features(nn.Module):
    """The output of one layer of a network, differentiable.

        A(x) = layer((clip(x) - mean) / deviation) / scale

    The scale is the largest absolute value at one image, so that peak and loss mean the same for every layer. The
    network sees the image clipped to 0..1, as it is shown; the gradient passes through the clip unchanged, so that
    pixels can return from outside. Layers after this one are not computed, and the network's weights are fixed.

    Args:
        network: takes (1, 3, H, W). It is set to evaluation mode and its weights are frozen, in place.
        layer: the name of one of its modules.
        image: the image that sets the scale, shape (3, H, W), values 0..1.
        normalised: whether to subtract ImageNet's mean and divide by its deviation first.

    Raises:
        UsageError: when the layer does not exist.
        DipError: when the network fails on the image, or the layer's output is not a usable tensor.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, layer: str, image: Tensor, *, normalised: bool) -> None:
        super().__init__()
        self.network = network.to("cpu", torch.float32).eval().requires_grad_(requires_grad=False)
        self.layer = find_layer(network, layer)
        mean, deviation = (IMAGENET_MEAN, IMAGENET_DEVIATION) if normalised else ((0.0,), (1.0,))
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None])
        self.register_buffer("scale", self._measure_scale(image))

    def forward(self, image: Tensor) -> Tensor:
        """From (3, H, W) to the layer's output without its first dimension, (C, h, w) or (C,)."""
        clipped = image + (image.clamp(0, 1) - image).detach()
        features: Tensor = self._run_layer(clipped)[0] / self.scale
        return features

    def _run_layer(self, image: Tensor) -> Any:
        # The hook is removed at once, because the network may be the user's own and in use elsewhere.
        hook = self.network.get_submodule(self.layer).register_forward_hook(_stop)
        try:
            self.network(((image - self.mean) / self.deviation)[None])
        except _LayerReached as reached:
            return reached.args[0]
        finally:
            hook.remove()
        return None

    def _measure_scale(self, image: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                output = self._run_layer(image)
        except Exception as error:  # of any kind: it may be the user's own code
            size = f"{image.shape[2]}x{image.shape[1]}"
            raise DipError(
                f"The network fails on an image of {size} ({describe_error(error)}): try another --size."
            ) from error
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != (1,):
            raise DipError(f"--layer {self.layer} has no tensor of shape (1, ...) as output: choose another layer.")
        largest = output.abs().max()
        if not largest.isfinite() or not largest:
            raise DipError(f"The largest feature at --layer {self.layer} is {largest}: choose other --weights.")
        return largest


class _LayerReached(Exception):  # noqa: N818 - not an error: the rest of the network need not be computed
    pass


def _stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
    raise _LayerReached(output)


def find_layer(network: nn.Module, layer: str, names: Mapping[str, str] | None = None) -> str:
    """Return the name of the module that a layer means: one of `names`, by its usual name, or itself.

    Raises:
        UsageError: when the layer does not exist; the message lists the layers.
    """
    modules = [name for name, _ in network.named_modules() if name]
    module = (names or {}).get(layer, layer)
    if module not in modules:
        known = list(names or modules)
        if len(known) > MAX_LISTED_LAYERS:
            known[MAX_LISTED_LAYERS // 2 : -MAX_LISTED_LAYERS // 2] = ["..."]
        raise UsageError(f"There is no --layer {layer} in this model: choose from {', '.join(known) or 'none at all'}.")
    return module
