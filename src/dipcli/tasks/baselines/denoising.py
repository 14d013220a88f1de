"""Classical denoising: non-local means, total variation and wavelets, by scikit-image; a median for impulses.

Each is at the settings that suit it best, found without the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TypeAlias

import numpy as np
import pywt  # noqa: F401 - scikit-image looks for it when it is called: loading it is not the method's time
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from skimage.restoration import (
    calibrate_denoiser,
    cycle_spin,
    denoise_nl_means,
    denoise_tv_chambolle,
    denoise_wavelet,
    estimate_sigma,
)

from dipcli.tasks.baselines.baseline import Baseline, Budget, Skipped

Method: TypeAlias = Callable[[NDArray[np.float32], float, Budget], NDArray[np.float32]]

# Side of the patches, how far they are looked for, in pixels, strength by the noise level: scikit-image's own example
# for the slow, exact way. On four pictures of 256x256 it was 0 to 0.8 dB better than the fast way at 0.6.
PATCH, DISTANCE, STRENGTH = 5, 6, 0.8
REACH = DISTANCE + PATCH // 2  # rows that a row sees on either side
STRIP, PIXELS = 64, 2**18  # rows, or pixels, at a time, whichever is more: between them it can be interrupted
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0)  # of total variation, by the noise level
PIECE = 512  # pixels: side of the middle from which the weight is chosen
SETTLED = 1e-5  # change of the energy at which total variation is done: 0.1 dB more than with the usual 2e-4
# Haar wavelets, averaged over 4x4 shifts: 0.9 to 1.8 dB more than a single transform, and more than db2, sym4 or sym8.
WAVELET, SHIFTS = "db1", 4
# Bytes measured at 2000x2000: for each pixel of a channel; for each value.
TV_BYTES, WAVELET_BYTES = 48, 36
FAINTEST = 1e-4  # noise, of the range: less is rounding
MEDIAN = 3  # pixels, side of its window


def classical(noisy: NDArray[np.float32], level: float | None, *, impulses: bool = False) -> list[Baseline]:
    """The methods for a noisy picture.

    Args:
        noisy: shape (C, H, W), values 0..1.
        level: standard deviation of the noise, 0..1; None where only scikit-image's own estimate is to be had.
        impulses: whether single pixels are wild.
    """
    median = Baseline("median", "median", lambda _: median_filter(noisy, size=(1, MEDIAN, MEDIAN)))
    methods = (
        ("non-local means", "nlmeans", non_local_means),
        ("total variation", "tv", total_variation),
        ("wavelet shrinkage", "wavelets", wavelets),
    )

    def leveled(method: Method, allowance: Budget) -> NDArray[np.float32]:
        sigma = level or estimate_sigma(noisy, average_sigmas=True, channel_axis=0)
        if not sigma > FAINTEST:
            raise Skipped("there is no noise to be seen in the picture")
        return method(noisy, float(sigma), allowance)

    return [median] * impulses + [Baseline(name, file, partial(leveled, method)) for name, file, method in methods]


def non_local_means(noisy: NDArray[np.float32], level: float, allowance: Budget) -> NDArray[np.float32]:
    """The mean of pixels whose surroundings look alike.

    Source:
        Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005.
    """
    last = np.ascontiguousarray(noisy.transpose(1, 2, 0))
    restored = np.empty_like(noisy)
    rows, width, _ = last.shape
    high = max(STRIP, PIXELS // width)
    for begin in range(0, rows, high):
        end = min(begin + high, rows)
        before = max(0, begin - REACH)
        strip = last[before : end + REACH]
        smooth = denoise_nl_means(
            strip,
            patch_size=PATCH,
            patch_distance=DISTANCE,
            h=STRENGTH * level,
            sigma=level,
            fast_mode=False,
            channel_axis=-1,
        ).reshape(strip.shape)  # it drops a single channel
        restored[:, begin:end] = smooth[begin - before : end - before].transpose(2, 0, 1)
        allowance.expect(seconds=allowance.spent * (rows - end) / end)
    return restored


def total_variation(noisy: NDArray[np.float32], level: float, allowance: Budget) -> NDArray[np.float32]:
    """The picture of least total variation for its distance to the noisy one, channel by channel.

        minimise over x   TV(x) + |x - y|^2 / (2 weight)

    The weight is chosen by how well a pixel is predicted from the others alone: on four pictures it lost at most
    0.2 dB to the best weight, where the distance that the noise level asks for lost 0.4 to 2.8 dB (docs/results.md).

    Source:
        Chambolle, "An algorithm for total variation minimization and applications", JMIV 2004; Batson, Royer,
        "Noise2Self", ICML 2019, for the choice.
    """
    _, height, width = noisy.shape
    allowance.expect(memory=TV_BYTES * height * width + noisy.nbytes)
    weight = level * _weight(noisy[(slice(None), *(_middle(side) for side in (height, width)))], level)
    restored = np.empty_like(noisy)
    if height * width > 4 * PIECE**2:  # the first piece of it tells how long the whole will take
        begun, piece = allowance.spent, noisy[0, :PIECE, :PIECE]
        denoise_tv_chambolle(piece, weight=weight, eps=SETTLED)
        allowance.expect(seconds=(allowance.spent - begun) * noisy.size / piece.size)
    for number, channel in enumerate(noisy):
        restored[number] = denoise_tv_chambolle(channel, weight=weight, eps=SETTLED)
    return restored


def wavelets(noisy: NDArray[np.float32], level: float, allowance: Budget) -> NDArray[np.float32]:
    """Wavelet coefficients drawn towards zero, by a threshold that each band chooses, averaged over shifts.

    Source:
        Chang, Yu, Vetterli, "Adaptive wavelet thresholding for image denoising and compression", TIP 2000: BayesShrink;
        Coifman, Donoho, "Translation-invariant de-noising", 1995.
    """
    allowance.expect(memory=WAVELET_BYTES * noisy.size)
    numbers, shifts = count(1), SHIFTS**2

    def shrink(image: NDArray[np.float32]) -> NDArray[np.float32]:
        shrunk: NDArray[np.float32] = denoise_wavelet(
            image,
            sigma=level,
            wavelet=WAVELET,
            method="BayesShrink",
            convert2ycbcr=image.shape[2] == 3,  # noqa: PLR2004 - red, green, blue
            channel_axis=-1,
        )
        done = next(numbers)
        allowance.expect(seconds=allowance.spent * (shifts - done) / done)
        return shrunk.reshape(image.shape)

    spun = cycle_spin(noisy.transpose(1, 2, 0), func=shrink, max_shifts=SHIFTS - 1, channel_axis=-1, workers=1)
    restored: NDArray[np.float32] = spun.transpose(2, 0, 1).astype(np.float32)
    return restored


def _weight(noisy: NDArray[np.float32], level: float) -> float:
    """The weight of total variation, by the noise level, that predicts hidden pixels best."""
    _, (_, losses) = calibrate_denoiser(
        noisy.transpose(1, 2, 0),
        denoise_tv_chambolle,
        {"weight": [level * each for each in WEIGHTS], "channel_axis": [-1]},
        extra_output=True,
    )
    return WEIGHTS[int(np.argmin(losses))]


def _middle(side: int) -> slice:
    begin = max(0, (side - PIECE) // 2)
    return slice(begin, begin + PIECE)
