"""Classical enlargement: bicubic and Lanczos, by Pillow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dipcli.tasks.baselines.baseline import Baseline

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def make_baselines(small: NDArray[np.float32], size: tuple[int, int]) -> list[Baseline]:
    """Return the methods for an image (C, h, w), values 0..1, to be enlarged to (H, W)."""
    return [
        Baseline("bicubic", "bicubic", lambda _: enlarge(small, size, "bicubic")),
        Baseline("Lanczos", "lanczos", lambda _: enlarge(small, size, "lanczos")),
    ]


def enlarge(small: NDArray[np.float32], size: tuple[int, int], method: str) -> NDArray[np.float32]:
    """Enlarge an image (C, h, w) to (H, W) by one of `FILTERS`; values may leave 0..1 slightly."""
    height, width = size
    return np.stack([np.asarray(Image.fromarray(plane).resize((width, height), FILTERS[method])) for plane in small])
