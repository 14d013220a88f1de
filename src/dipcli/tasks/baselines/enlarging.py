"""Classical enlargement: bicubic and Lanczos, by Pillow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dipcli.tasks.baselines.baseline import Baseline, Budget

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def classical(small: NDArray[np.float32], size: tuple[int, int]) -> list[Baseline]:
    """The methods for a small picture, (C, h, w) of 0..1, that is to be of the size (H, W)."""

    def by(way: str) -> Callable[[Budget], NDArray[np.float32]]:
        return lambda _: enlarged(small, size, way)

    return [Baseline("bicubic", "bicubic", by("bicubic")), Baseline("Lanczos", "lanczos", by("lanczos"))]


def enlarged(small: NDArray[np.float32], size: tuple[int, int], way: str) -> NDArray[np.float32]:
    """A picture, (C, h, w), at the size (H, W), by one of `FILTERS`; values may leave 0..1 a little."""
    height, width = size
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height), FILTERS[way])) for each in small])
