"""Classical deblurring: Richardson-Lucy and unsupervised Wiener, by scikit-image.

Both take the image to go on in some way beyond its border. Mirrored, it does so without a jump.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import richardson_lucy, unsupervised_wiener

from dipcli.tasks.baselines.baseline import Baseline, Budget

# More iterations sharpen the noise. At a noise of 2 of 255 the best number was 7 to 51 on four images and two kernels.
ITERATIONS = 15
MIN_VALUE = 1e-3  # Richardson-Lucy divides by the image
SECONDS_PER_VALUE, BYTES_PER_VALUE = 2e-5, 400  # of the mirrored image, measured at 256x256


def make_baselines(blurred: NDArray[np.float32], kernel: NDArray[np.float32]) -> list[Baseline]:
    """Return the methods for a blurred image (C, H, W), values 0..1, and its kernel (h, w)."""
    return [
        Baseline("Richardson-Lucy", "richardson-lucy", partial(by_richardson_lucy, blurred, kernel)),
        Baseline("unsupervised Wiener", "wiener", partial(by_wiener, blurred, kernel)),
    ]


def by_richardson_lucy(
    blurred: NDArray[np.float32], kernel: NDArray[np.float32], budget: Budget, iterations: int = ITERATIONS
) -> NDArray[np.float32]:
    """Maximise the likelihood for photon noise, by multiplications.

    Source:
        Richardson, JOSA 1972; Lucy, Astronomical Journal 1974.
    """
    _expect(budget, blurred)
    margin = [side - 1 for side in kernel.shape]
    padded = np.pad(blurred, ((0, 0), *((pad, pad) for pad in margin)), mode="symmetric")
    restored = [richardson_lucy(channel.clip(MIN_VALUE), kernel, iterations, clip=False) for channel in padded]
    height, width = blurred.shape[1:]
    return np.stack(restored)[:, margin[0] : margin[0] + height, margin[1] : margin[1] + width]


def by_wiener(blurred: NDArray[np.float32], kernel: NDArray[np.float32], budget: Budget) -> NDArray[np.float32]:
    """Estimate the levels of noise and detail and the image together, by Gibbs sampling.

    Source:
        Orieux, Giovannelli, Rodet, "Bayesian estimation of regularization and point spread function parameters for
        Wiener-Hunt deconvolution", JOSA A 2010.
    """
    _expect(budget, blurred)
    restored = [unsupervised_wiener(mirror(channel), kernel, clip=False, rng=0)[0] for channel in blurred]
    height, width = blurred.shape[1:]
    return np.stack(restored)[:, :height, :width].astype(np.float32)


def mirror(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image (H, W) that is periodic without a jump, (2 H, 2 W), with this one at its top left."""
    return np.pad(channel, [(0, side) for side in channel.shape], mode="symmetric")


def _expect(budget: Budget, blurred: NDArray[np.float32]) -> None:
    budget.expect(seconds=SECONDS_PER_VALUE * blurred.size, memory=BYTES_PER_VALUE * blurred.size)
