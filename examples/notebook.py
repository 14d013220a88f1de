"""Denoising from Python, as in a notebook: `python examples/notebook.py [image [iterations]]`."""

import sys
from pathlib import Path

import imageio.v3 as iio

from dipcli import denoise

path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("cat_noisy.png")
iterations = int(sys.argv[2]) if len(sys.argv) > 2 else None

# The simplest use: an array or a path in, an array of the same shape and type out, with a progress bar.
restored = denoise(iio.imread(path), iterations=iterations)
print(
    restored.image.shape,
    restored.image.dtype,
    f"iteration {restored.kept} of {restored.steps}: {restored.reason}",
)

# Any setting by its name (see help(denoise)), and observers, which are called after each iteration.
losses = []
denoise(
    path,
    preset="fast",
    iterations=iterations or 100,
    seed=1,
    progress=False,
    observers=[lambda step, _verdict: losses.append(float(step.loss))],
)
print(f"the loss fell from {losses[0]:.4f} to {losses[-1]:.4f}")
