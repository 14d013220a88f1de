"""`dip invert`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipcli.errors import DipError, UsageError, describe_error
from dipcli.problem import Problem
from dipcli.tasks.case import Case
from dipcli.tasks.registry import PUBLISHED, Presets, task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from dipcli.images.image import Image

MIN_SIZE, MAX_SIZE = 16, 2048  # pixels on a side

# The published shape with 3x3 kernels and strided convolutions takes half the time per iteration. The features contain
# no noise that could be fitted, so no pixel is held out and more iterations only bring the features closer. Measured at
# 128x128 on the eighth block of an EfficientNet-Lite0 trained on ImageNet: 500 iterations bring the features within
# 10 % at this learning rate, and within 22 % at the published one of 0.001. Narrower networks were slower.
NETWORK = "skip:channels=16,32,64,128,128,128:skips=4x6:up=nearest"
TUNED = {
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
    "fast": TUNED | {"iterations": 300, "ema": 0.9},
    "balanced": TUNED | {"iterations": 1000},
    "best": TUNED | {"iterations": 3000, "ema": 0.98},
    # Ulyanov et al., CVPR 2018, and the settings published with it: 2,606,763 parameters. The published result is a
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
            help="Classifier: alexnet, vgg16, vgg19, or module:function, a function in a local Python file (or "
            "installed) that returns a torch.nn.Module for inputs (1, 3, H, W) in 0..1. This runs your code."
        ),
    ] = "alexnet",
    layer: Annotated[
        str,
        typer.Option(
            help="Layer whose features are matched: conv1, relu1, ... fc8 of alexnet; conv1_1, relu1_1, ... fc8 of "
            "vgg; a name from named_modules() of your own network."
        ),
    ] = "fc6",
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|download|random",
            help="Weights: a file with a state dict (torchvision's layout for the built-in classifiers), download to "
            "fetch PyTorch's, or random. Your own network needs none, but may take a file.",
        ),
    ] = None,
    size: Annotated[
        int, typer.Option(help="Scale the image's shorter side to this many pixels and crop the central square.")
    ] = 224,
    *,
    seed: int,
) -> Case:
    """Show how much of an image a layer of a classifier keeps.

    Finds a natural image with the same features as the input: its pre-image.
    The layer cannot tell the two apart. The fitted network sees only these
    features.

    --network pixels --tv 0.1 is the published comparison without a network,
    where the prior is small total variation.

    Examples:

        dip invert cat.png --model alexnet --layer fc6 --weights download
        dip invert cat.png --model vgg19 --layer conv4_1 --weights vgg19.pth
        dip invert cat.png --model mynet:build --layer blocks.3
        dip invert cat.png --weights download --network pixels --tv 0.1
    """
    import torch  # imported late: `dip --help` must be fast

    from dipcli.problem.features import Features

    if len(image.pixels) not in (1, 3):
        raise DipError(f"The image has {len(image.pixels)} channels, a classifier takes colours: give RGB or grey.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"--size {size} is out of range: use {MIN_SIZE} to {MAX_SIZE} pixels.")
    truth = crop_square(image.pixels, size)
    cropped = torch.from_numpy(truth)
    network, module, normalised = _load_network(model, layer, weights, seed)
    features = Features(network, module, cropped, normalised=normalised)
    with torch.no_grad():
        measured = features(cropped)

    def conclude(restored: NDArray[np.float32]) -> str:
        with torch.no_grad():
            reached = features(torch.from_numpy(restored).to(features.scale.device)).cpu()
        error = float((reached - measured).norm() / measured.norm())
        return f"Its features at {layer} differ from the image's by {100 * error:.3g} % (relative error)."

    profile = image.profile if len(image.pixels) == len(truth) else None  # a grey one does not fit three channels
    untrained = f"The weights of {model} are random, not trained on images."
    return Case(
        problem=Problem(measured=measured, shape=truth.shape, operator=features),
        image=replace(image.to_8_bits(truth), profile=profile),
        truth=truth,
        remarks=(untrained,) if weights == "random" else (),
        conclude=conclude,
    )


def crop_square(pixels: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the central square of an image, (1 or 3, H, W) in 0..1, scaled without aliasing to (3, size, size)."""
    import numpy as np
    from PIL import Image, ImageOps

    # Pillow widens its kernel when it downsamples. A bicubic kernel overshoots at edges.
    bicubic = Image.Resampling.BICUBIC
    scaled = [np.asarray(ImageOps.fit(Image.fromarray(channel), (size, size), bicubic)) for channel in pixels]
    cropped: NDArray[np.float32] = np.clip(np.broadcast_to(np.stack(scaled), (3, size, size)), 0, 1)
    return cropped


def _load_network(model: str, layer: str, weights: str | None, seed: int) -> tuple[nn.Module, str, bool]:
    """Return the classifier, the name of the layer's module, and whether inputs are normalised as for ImageNet."""
    from dipcli.problem.classifiers import MODELS, load_model, load_weights

    if ":" in model:
        if weights in ("random", "download"):
            raise UsageError(
                f"--weights {weights} is for the built-in models: with --model {model} name a file, or leave it out."
            )
        network = _call_function(model, seed)
        if weights is not None:
            load_weights(network, Path(weights))
        return network, layer, False
    if model not in MODELS:
        raise UsageError(
            f"--model {model} is unknown: choose from {', '.join(MODELS)}, or name a function that returns a network "
            "as module:function."
        )
    if weights is None:
        raise UsageError(
            f"--model {model} needs --weights: a FILE with its state dict, download to fetch PyTorch's (alexnet "
            "233 MB, vgg16 528 MB, vgg19 548 MB), or random."
        )
    return *load_model(model, layer, weights, seed), True


def _call_function(model: str, seed: int) -> nn.Module:
    """Call the user's function for a network, with PyTorch's generator seeded so that random weights are repeatable."""
    import torch

    module, _, function = model.partition(":")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # as `python -m` does, but an installed command does not
    try:
        # Its output must not be mixed with an image on standard output.
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
        raise DipError(f"--model {model} returns a {type(network).__name__}: return a torch.nn.Module.")
    return network
