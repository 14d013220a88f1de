"""`dip invert`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import DipError, UsageError
from dipcli.problem import Problem
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from dipcli.images.image import Image

SMALLEST, LARGEST = 16, 2048  # pixels on a side

# The published shape with 3x3 kernels and strided convolutions, at half the time for an iteration. There is no noise in
# the features that could be learned, so nothing is held back and the number of iterations is a matter of patience.
# Measured at 128x128 on the eighth block of an EfficientNet-Lite0 trained on ImageNet: 500 iterations bring the
# features within 10 % at this rate, and within 22 % at the published one of 0.001. Narrower networks were slower.
NETWORK = "skip:channels=16,32,64,128,128,128:skips=4x6:up=nearest"
MEASURED = {
    "network": NETWORK,
    "pad": "zero",
    "input_depth": 32,
    "rate": 0.005,
    "beta2": 0.99,
    "reg_noise": 0.0,
    "ema": 0.95,
    "stop": "none",
}
PRESETS: Presets = {
    "fast": MEASURED | {"iterations": 300, "ema": 0.9},
    "balanced": MEASURED | {"iterations": 1000},
    "best": MEASURED | {"iterations": 3000, "ema": 0.98},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 2,606,763 parameters. What was published is a
    # single output; here it is the average of the last ones.
    "paper": {
        **PUBLISHED,
        "network": "skip:channels=16,32,64,128,128,128:skips=4x6"
        ":kernel_down=7,7,5,5,3,3:kernel_up=7,7,5,5,3,3:up=nearest:down=average",
        "pad": "zero",
        "rate": 0.001,
        "reg_noise": 0.0,
        "iterations": 3100,
    },
}


@task(presets=PRESETS, result="inverted")
def invert(
    image: Image,
    model: Annotated[
        str,
        typer.Option(
            help="The network: alexnet, vgg16, vgg19, or module:function for one of your own: a function in a Python "
            "file of the current folder (or installed) that returns a torch.nn.Module. It is given (1, 3, H, W) with "
            "values of 0..1, and runs your code."
        ),
    ] = "alexnet",
    layer: Annotated[
        str,
        typer.Option(
            help="Whose features are matched: conv1, relu1, ... fc8 for alexnet; conv1_1, relu1_1, ... fc8 for vgg; "
            "the name of a module for your own network, as in named_modules()."
        ),
    ] = "fc6",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|download|random",
            help="The network's weights: a file with a state dict (in torchvision's layout for the built-in "
            "networks), download to fetch those that PyTorch publishes, or random for a network that has learned "
            "nothing. Your own network comes with its own and wants a file at most.",
        ),
    ] = None,
    size: Annotated[
        int,
        typer.Option(help="The picture's shorter side is scaled to this many pixels and its middle square cut out."),
    ] = 224,
    *,
    seed: int,
) -> Case:
    """Show what a layer of a classifier keeps of a picture.

    Finds a natural picture with the same features as the one given: its
    pre-image. Whatever differs between the two, the layer does not see. The
    network that draws it sees nothing but these features.

    --network pixels --tv 0.1 is the published comparison without a network:
    small total variation is all that makes a picture natural there.

    Examples:

        dip invert cat.png --model alexnet --layer fc6 --weights download
        dip invert cat.png --model vgg19 --layer conv4_1 --weights vgg19.pth
        dip invert cat.png --model mynet:build --layer blocks.3
        dip invert cat.png --weights download --network pixels --tv 0.1
    """
    import torch  # here, not above: `dip --help` must not pay for it

    from dipcli.problem.features import Features

    if len(image.pixels) not in (1, 3):
        raise DipError(f"The picture has {len(image.pixels)} channels, classifiers look at colours: give RGB or grey.")

    if not SMALLEST <= size <= LARGEST:
        raise UsageError(f"--size {size} is out of range: use {SMALLEST} to {LARGEST} pixels.")
    truth = square(image.pixels, size)
    picture = torch.from_numpy(truth)
    network, module, normalised = _network(model, layer, weights, seed)
    features = Features(network, module, picture, normalised=normalised)
    with torch.no_grad():
        measured = features(picture)

    def conclude(restored: NDArray[np.float32]) -> str:
        with torch.no_grad():
            found = features(torch.from_numpy(restored).to(features.scale.device)).cpu()
        error = float((found - measured).norm() / measured.norm())
        return f"Its features at {layer} differ from the picture's by {100 * error:.3g} % (relative error)."

    carrier = image.to_8_bits(truth)
    if len(image.pixels) != len(truth):
        carrier = replace(carrier, profile=None)  # it speaks of grey
    untrained = f"The weights of {model} are random: they have learned nothing from pictures."
    return Case(
        problem=Problem(measured=measured, shape=truth.shape, operator=features),
        image=carrier,
        truth=truth,
        remarks=(untrained,) if weights == "random" else (),
        conclude=conclude,
    )


def square(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The middle square of a picture, scaled without aliasing, in three channels.

    Args:
        pixels: shape (C, H, W), values 0..1, C = 1 or 3.
        size: the side of the square.

    Returns:
        Shape (3, size, size), values 0..1.
    """
    import numpy as np
    from PIL import Image

    _, height, width = pixels.shape
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    # Pillow widens its kernel where it makes a picture smaller; a bicubic one rings a little.
    scaled = [np.asarray(Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC, box)) for each in pixels]
    middle: NDArray[np.float32] = np.clip(np.broadcast_to(np.stack(scaled), (3, size, size)), 0, 1)
    return middle


def _network(model: str, layer: str, weights: str | None, seed: int) -> tuple[nn.Module, str, bool]:
    """The network, the name of the layer's module, and whether it wants its pictures normalised as ImageNet's."""
    from dipcli.problem.features import BUILT_IN, load_built_in

    if ":" in model:
        return _own(model, weights, seed), layer, False
    if model not in BUILT_IN:
        raise UsageError(
            f"--model {model} is unknown: choose from {', '.join(BUILT_IN)}, or name a function of your own that "
            "returns a network as module:function."
        )
    if weights is None:
        raise UsageError(
            f"--model {model} needs --weights: a FILE with its state dict, download to fetch PyTorch's (alexnet "
            "233 MB, vgg16 528 MB, vgg19 548 MB), or random for a network that has learned nothing."
        )
    return *load_built_in(model, layer, weights, seed), True


def _own(model: str, weights: str | None, seed: int) -> nn.Module:
    """What the user's function returns, with the weights of a file if there is one.

    The function is called with PyTorch's generator at the seed, so that random weights are the same each time.
    """
    import torch

    from dipcli.problem.features import describe_error, load

    if weights in ("random", "download"):
        raise UsageError(
            f"--weights {weights} is for the built-in models: --model {model} comes with its own, so name a file or "
            "leave --weights out."
        )
    module, _, function = model.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -m` does: an installed command does not look there by itself
    try:
        # What it prints must not get into a picture on standard output.
        with redirect_stdout(sys.stderr), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: Any = getattr(import_module(module), function)()
    except (Exception, SystemExit) as error:
        raise DipError(
            f"--model {model} does not work ({describe_error(error)}): name a module, in this folder or installed, and "
            "a function in it that returns a network, as mynet:build."
        ) from error
    finally:
        sys.path.remove(folder)
    if not isinstance(network, torch.nn.Module):
        raise DipError(f"--model {model} returns a {type(network).__name__}: let it return a torch.nn.Module.")
    if weights is not None:
        load(network, Path(weights))
    return network
