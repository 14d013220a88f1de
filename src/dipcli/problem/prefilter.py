"""First sketches of a noisy picture, quickly made, for a network to begin from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

# Of non-local means: side of the patches that are compared, how far away they are looked for, both in pixels, and the
# filter's strength by the noise level. The first is the best single one on the pictures that were tried; the second is
# smoother, and what the two make of the noise differs.
FILTERS = ((5, 6, 0.6), (3, 6, 0.9))
BLUR = 2.0  # pixels, of the third sketch
REACH = 9  # pixels: as far as the filters see, and the pixel beyond from which a gap is filled
AROUND = ((0.7, 1.0, 0.7), (1.0, 0.0, 1.0), (0.7, 1.0, 0.7))  # the neighbours that stand in for a pixel


@dataclass(frozen=True)
class PrefilteredGuide:
    """What three simple filters make of a noisy picture: the guide of `dip denoise`.

    Non-local means, twice, and a blur. A network that sees them need not find out where things are: where there is much
    detail it gets as far in some hundred iterations as from noise in thousands, and ends higher. The three differ in
    what they make of the noise, and that helps more than any of them alone.

    The pixels that a rule holds out are filled in from their neighbours first: they would show in the sketch, noise and
    all, and a network that repeats them would look as if it predicted them.

    Attributes:
        pixels: the noisy picture, shape (C, H, W), values 0..1.
        level: standard deviation of its noise, 0..1, above 0.
        inside: rows and columns of it that are sketched: the filters see what is around them; None for all.

    Source:
        Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005, as scikit-image has it.
    """

    pixels: NDArray[np.float32]
    level: float
    inside: tuple[slice, slice] | None = None

    def window(self, rows: slice, columns: slice) -> PrefilteredGuide:
        """The sketch of a window of the picture, as it is in the whole one: the filters see beyond its border."""
        around = [slice(max(0, part.start - REACH), part.stop + REACH) for part in (rows, columns)]
        inside = [
            slice(part.start - more.start, part.stop - more.start)
            for part, more in zip((rows, columns), around, strict=True)
        ]
        return replace(self, pixels=self.pixels[:, around[0], around[1]], inside=(inside[0], inside[1]))

    def __call__(self, weight: Tensor | None = None) -> Tensor:
        """The sketches one behind the other, shape (3 C, H, W), values 0..1.

        Args:
            weight: which pixels count, broadcastable to what is sketched; all of them when None.
        """
        import numpy as np  # here, not above: the command line must not pay for them
        import torch
        from scipy.ndimage import gaussian_filter
        from skimage.restoration import denoise_nl_means

        pixels = self.pixels
        inside = (slice(None), *(self.inside or (slice(None), slice(None))))
        if weight is not None:
            known = np.ones(pixels.shape[1:], dtype=bool)
            known[inside[1:]] = (weight.expand(pixels[inside].shape) > 0).all(dim=0).cpu().numpy()
            pixels = _filled(pixels, known)
        last = np.ascontiguousarray(pixels.transpose(1, 2, 0))
        sketches = [
            denoise_nl_means(
                last,
                patch_size=patch,
                patch_distance=distance,
                h=strength * self.level,
                sigma=self.level,
                fast_mode=True,
                channel_axis=-1,
            ).reshape(last.shape)  # it drops a single channel
            for patch, distance, strength in FILTERS
        ]
        sketches.append(gaussian_filter(last, (BLUR, BLUR, 0)))
        first = np.concatenate(sketches, axis=2, dtype=np.float32).transpose(2, 0, 1)
        return torch.from_numpy(first[inside].clip(0, 1))


def _filled(pixels: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The picture (C, H, W) with the mean of the known neighbours in the place of what is not known, (H, W)."""
    import numpy as np
    from scipy.ndimage import convolve

    near = convolve(known.astype(np.float32), np.array(AROUND), mode="mirror")
    sums = convolve(pixels * known, np.array([AROUND]), mode="mirror")
    mean = np.where(near > 0, sums / np.maximum(near, 1e-6), pixels[:, known].mean(axis=1)[:, None, None])
    filled: NDArray[np.float32] = np.where(known, pixels, mean).astype(np.float32)
    return filled
