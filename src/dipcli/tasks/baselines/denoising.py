"""Classical denoising: non-local means, total variation and wavelets, by scikit-image; a median for impulse noise.

Each method has its best settings, as far as they can be found without the true image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TypeAlias

import numpy as np
import pywt  # noqa: F401 - scikit-image imports it at the first call: that is not the method's time
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

# Side of the patches, search distance (pixels), strength per noise level: scikit-image's example for the slow, exact
# mode. On four images of 256x256 it was 0 to 0.8 dB better than the fast mode at 0.6.
PATCH, DISTANCE, STRENGTH = 5, 6, 0.8
REACH = DISTANCE + PATCH // 2  # rows
MIN_STRIP_ROWS, MIN_STRIP_PIXELS = 64, 2**18  # it can be interrupted between strips
TV_WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.6, 2.0)  # per noise level
TV_TRIAL_SIDE = 512  # pixels of the central crop on which the weight is chosen
TV_EPS = 1e-5  # relative change of the energy at which to stop: 0.1 dB better than with the default of 2e-4
# Haar wavelets, averaged over 4x4 shifts: 0.9 to 1.8 dB better than one transform, and better than db2, sym4 or sym8.
WAVELET, SHIFTS = "db1", 4
TV_BYTES, WAVELET_BYTES = 48, 36  # per pixel of one channel; per value; measured at 2000x2000
MIN_NOISE = 1e-4  # of the range: less is rounding
MEDIAN_SIDE = 3  # pixels


def make_baselines(noisy: NDArray[np.float32], level: float | None, *, impulses: bool = False) -> list[Baseline]:
    """Return the methods for a noisy image.

    Args:
        noisy: shape (C, H, W), values 0..1.
        level: standard deviation of the noise, 0..1; None to use scikit-image's estimate.
        impulses: whether the noise is impulse noise.
    """
    median = Baseline("median", "median", lambda _: median_filter(noisy, size=(1, MEDIAN_SIDE, MEDIAN_SIDE)))
    methods = (
        ("non-local means", "nlmeans", non_local_means),
        ("total variation", "tv", total_variation),
        ("wavelet shrinkage", "wavelets", wavelets),
    )

    def restore(method: Method, budget: Budget) -> NDArray[np.float32]:
        sigma = level or estimate_sigma(noisy, average_sigmas=True, channel_axis=0)
        if not sigma > MIN_NOISE:
            raise Skipped("the image has no measurable noise")
        return method(noisy, float(sigma), budget)

    return [median] * impulses + [Baseline(name, file, partial(restore, method)) for name, file, method in methods]


def non_local_means(noisy: NDArray[np.float32], level: float, budget: Budget) -> NDArray[np.float32]:
    """Average pixels with similar neighbourhoods.

    Source:
        Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005.
    """
    channels_last = np.ascontiguousarray(noisy.transpose(1, 2, 0))
    restored = np.empty_like(noisy)
    rows, width, _ = channels_last.shape
    strip_rows = max(MIN_STRIP_ROWS, MIN_STRIP_PIXELS // width)
    for start in range(0, rows, strip_rows):
        stop = min(start + strip_rows, rows)
        above = max(0, start - REACH)
        strip = channels_last[above : stop + REACH]
        smooth = denoise_nl_means(
            strip,
            patch_size=PATCH,
            patch_distance=DISTANCE,
            h=STRENGTH * level,
            sigma=level,
            fast_mode=False,
            channel_axis=-1,
        ).reshape(strip.shape)  # it drops a single channel
        restored[:, start:stop] = smooth[start - above : stop - above].transpose(2, 0, 1)
        budget.expect(seconds=budget.spent * (rows - stop) / stop)
    return restored


def total_variation(noisy: NDArray[np.float32], level: float, budget: Budget) -> NDArray[np.float32]:
    """Minimise total variation and distance to the noisy image, channel by channel.

        minimise over x   TV(x) + |x - y|^2 / (2 weight)

    The weight is chosen by how well a pixel is predicted from the others alone: on four images it lost at most 0.2 dB
    to the best weight; the weight at which the distance is the noise level lost 0.4 to 2.8 dB (docs/results.md).

    Source:
        Chambolle, "An algorithm for total variation minimization and applications", JMIV 2004; Batson, Royer,
        "Noise2Self", ICML 2019, for the choice.
    """
    _, height, width = noisy.shape
    budget.expect(memory=TV_BYTES * height * width + noisy.nbytes)
    weight = level * _choose_tv_weight(noisy[:, _central(height), _central(width)], level)
    restored = np.empty_like(noisy)
    if height * width > 4 * TV_TRIAL_SIDE**2:  # estimate the time from a crop
        before, crop = budget.spent, noisy[0, :TV_TRIAL_SIDE, :TV_TRIAL_SIDE]
        denoise_tv_chambolle(crop, weight=weight, eps=TV_EPS)
        budget.expect(seconds=(budget.spent - before) * noisy.size / crop.size)
    for number, channel in enumerate(noisy):
        restored[number] = denoise_tv_chambolle(channel, weight=weight, eps=TV_EPS)
    return restored


def wavelets(noisy: NDArray[np.float32], level: float, budget: Budget) -> NDArray[np.float32]:
    """Shrink wavelet coefficients, with a threshold for each band, averaged over shifts.

    Source:
        Chang, Yu, Vetterli, "Adaptive wavelet thresholding for image denoising and compression", TIP 2000: BayesShrink;
        Coifman, Donoho, "Translation-invariant de-noising", 1995.
    """
    budget.expect(memory=WAVELET_BYTES * noisy.size)
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
        budget.expect(seconds=budget.spent * (shifts - done) / done)
        return shrunk.reshape(image.shape)

    spun = cycle_spin(noisy.transpose(1, 2, 0), func=shrink, max_shifts=SHIFTS - 1, channel_axis=-1, workers=1)
    restored: NDArray[np.float32] = spun.transpose(2, 0, 1).astype(np.float32)
    return restored


def _choose_tv_weight(noisy: NDArray[np.float32], level: float) -> float:
    """Return the weight per noise level that best predicts hidden pixels."""
    _, (_, losses) = calibrate_denoiser(
        noisy.transpose(1, 2, 0),
        denoise_tv_chambolle,
        {"weight": [level * weight for weight in TV_WEIGHTS], "channel_axis": [-1]},
        extra_output=True,
    )
    return TV_WEIGHTS[int(np.argmin(losses))]


def _central(side: int) -> slice:
    start = max(0, (side - TV_TRIAL_SIDE) // 2)
    return slice(start, start + TV_TRIAL_SIDE)
