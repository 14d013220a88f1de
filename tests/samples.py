"""Small synthetic images, and a colour profile."""

from __future__ import annotations

import struct

import numpy as np
from scipy.ndimage import gaussian_filter

WHITE = (0.9642, 1.0, 0.8249)  # D50, of every profile


def scene(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A clean image, uint8 (H, W, C): a ramp with a bright square."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    layers = [60 + 120 * (x if c % 2 else y) for c in range(channels)]
    image = np.stack(layers, axis=2)
    image[height // 4 : height // 2, width // 4 : width // 2] = 220
    return image.astype(np.uint8)


def noisy(clean: np.ndarray, sigma: float = 25, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(clean + noise, 0, 255).round().astype(np.uint8)


def wide_gamut() -> bytes:
    """A minimal ICC profile with the published primaries, white point and gamma of Adobe RGB.

    Source:
        ICC.1:2001-04, matrix profiles for displays.
    """
    columns = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    gamma = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.19921875 * 256)) + bytes(2)

    def place(xyz: tuple[float, ...]) -> bytes:
        return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in xyz))

    name = b"wide\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": place(WHITE),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(place, columns), strict=True)),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }
    return _profile(tags, b"RGB ")


def grey_gamma(gamma: float) -> bytes:
    """A minimal ICC profile of grey levels with this gamma."""
    name = b"grey\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in WHITE)),
        b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2),
    }
    return _profile(tags, b"GRAY")


def _profile(tags: dict[bytes, bytes], space: bytes) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, content in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = (
        struct.pack(">I4xI", start + len(body), 0x02100000)
        + b"mntr"
        + space
        + b"XYZ "
        + bytes(12)
        + b"acsp"
        + bytes(28)
    )
    return (head + struct.pack(">3i", *(round(value * 65536) for value in WHITE))).ljust(128, b"\0") + table + body


def smooth_noise(blur: float, level: float, channels: int = 3, side: int = 192, seed: int = 0) -> np.ndarray:
    """Noise of this level (of 255), smoothed by a Gaussian, and scaled back."""
    noise = np.random.default_rng(seed).normal(0, 1, (channels, side, side))
    noise = gaussian_filter(noise, (0, blur, blur), mode="wrap")
    return (level / 255 * noise / noise.std()).astype(np.float32)


def shaded(side: int = 192) -> np.ndarray:
    """A smooth clean image, (3, side, side), 0.3 to 0.65."""
    y, x = np.mgrid[:side, :side] / side
    return np.stack([0.3 + 0.3 * x, 0.35 + 0.3 * y, 0.5 + 0.1 * x * y]).astype(np.float32)
