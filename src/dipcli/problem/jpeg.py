"""The JPEG encoder as an operator, and the set of images that it would turn into the same file.

A JPEG file holds rounded coefficients k = round(c / q), where c is a coefficient of the cosine transform of a block of
8x8 samples and q its step from the file's table. A decoder shows one of the many images that round to the same k, one
with blocks and ringing in it. `Encoder` describes the set of all of them.
"""

from __future__ import annotations

import io
import math
import tempfile
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dipcli.errors import DipError
from dipcli.images.exif import ORIENTATION, TRANSFORMS
from dipcli.problem.losses import squared_error

if TYPE_CHECKING:
    from dipcli.images.image import Image

BLOCK_SIDE = 8  # samples
WHITE = 255.0  # steps are in grey levels of 255
LUMA_OFFSET = 128 / WHITE  # subtracted from the luma before its transform
# From RGB to Y, Cb, Cr: JFIF 1.02, page 3, after ITU-R BT.601.
RED, GREEN, BLUE = LUMA = 0.299, 0.587, 0.114
JFIF = (LUMA, (-RED / 1.772, -GREEN / 1.772, 0.5), (0.5, -GREEN / 1.402, -BLUE / 1.402))
# Largest mean difference in luma between an image and our decoding of its file, in grey levels. Measured: 0.3 on
# photographs of any quality and sampling, 0.7 on coloured noise.
MAX_LUMA_DIFFERENCE = 4.0
FINISH_ROUNDS = 4  # of projection and clipping, which undo a little of one another; two were enough for photographs
# Weight of the squared error beside that outside the interval. Measured on an image of 256x256 at quality 10: 27.5 dB
# without it, 27.5 with it alone, 28.0 with a tenth of it.
CENTRE_WEIGHT = 0.1
AGREEMENT_TOLERANCE = 0.5  # grey levels; rounding pixels to integers moves a coefficient by 0.3 on average


@dataclass(frozen=True)
class Plane:
    """One of the components Y, Cb and Cr of a file.

    Attributes:
        levels: k, integers, shape (rows, columns, 8, 8) of blocks.
        steps: q, in grey levels, shape (8, 8).
        sampling: image pixels per sample, (down, across).
    """

    levels: NDArray[Any]
    steps: NDArray[Any]
    sampling: tuple[int, int]

    @property
    def extent(self) -> tuple[int, int]:
        """Image pixels that its blocks cover, (down, across)."""
        (rows, columns), (down, across) = self.levels.shape[:2], self.sampling
        return rows * BLOCK_SIDE * down, columns * BLOCK_SIDE * across


@dataclass(frozen=True)
class JpegCoefficients:
    """The contents of a JPEG file: size of the coded image in pixels, its EXIF orientation (1 to 8), Y or Y, Cb, Cr."""

    height: int
    width: int
    orientation: int
    planes: tuple[Plane, ...]


class Encoder(nn.Module):
    """The JPEG encoder of one file, up to its rounding.

        A(x) = DCT( mean over s x s ( YCbCr(x) - 128/255 ) )

    The transform is orthonormal and in pixel values, so a squared error of coefficients is a squared error of pixels.
    The coded image consists of complete blocks and so does x: it may be larger than the image. Encoders extend the
    image in different ways, so the pixels beyond its border are left to the network.

    Attributes:
        shape: (C, H', W') of x, upright.
        measured: k q, the centre of each coefficient's interval, shape (N,), in pixel values.
        half_steps: q / 2, half the width of the interval, shape (N,).
        inside: whether a coefficient's block lies inside the image, shape (N,).
        weight: factor from the squared error of a coefficient to that of R, G and B, shape (N,): the number of pixels
            per sample, times the mean square of the change of R, G and B with Y, Cb or Cr.
    """

    measured: Tensor
    half_steps: Tensor
    inside: Tensor
    weight: Tensor
    cosines: Tensor
    to_ycc: Tensor
    to_rgb: Tensor

    def __init__(self, coefficients: JpegCoefficients) -> None:
        super().__init__()
        self.coefficients = coefficients
        planes = coefficients.planes
        self.extent = tuple(max(sides) for sides in zip(*(plane.extent for plane in planes), strict=True))
        self.transposed, mirrored = TRANSFORMS[coefficients.orientation]
        self.mirrored_axes = [axis - 2 for axis in mirrored]  # the last two are rows and columns
        height, width = reversed(self.extent) if self.transposed else self.extent
        self.shape = (len(planes), height, width)
        to_ycc = torch.tensor(JFIF if len(planes) > 1 else ((1.0,),))
        to_rgb = torch.linalg.inv(to_ycc)
        values: dict[str, list[NDArray[Any]]] = {"measured": [], "half_steps": [], "inside": [], "weight": []}
        for plane, gain in zip(planes, (to_rgb**2).mean(dim=0), strict=True):
            steps = np.broadcast_to(np.float32(plane.steps / WHITE), plane.levels.shape)
            values["measured"].append(plane.levels * steps)
            values["half_steps"].append(steps / 2)
            inside = np.zeros(plane.levels.shape, np.bool_)
            (down, across), sides = plane.sampling, (coefficients.height, coefficients.width)
            inside[: sides[0] // (BLOCK_SIDE * down), : sides[1] // (BLOCK_SIDE * across)] = True
            values["inside"].append(inside)
            values["weight"].append(np.full_like(steps, float(gain) * math.prod(plane.sampling)))
        for name, arrays in values.items():
            self.register_buffer(name, torch.from_numpy(np.concatenate([array.ravel() for array in arrays])))
        self.register_buffer("to_ycc", to_ycc)
        self.register_buffer("to_rgb", to_rgb)
        self.register_buffer("cosines", cosine_transform())

    def forward(self, x: Tensor) -> Tensor:
        """From an upright image, (C, H', W') or of the file's own size, 0..1, to coefficients, (N,)."""
        x = torch.einsum("dc,chw->dhw", self.to_ycc, self.turn_as_coded(x))
        coefficients = []
        for plane, samples in zip(self.coefficients.planes, x, strict=True):
            height, width = plane.extent
            offset = LUMA_OFFSET if plane is self.coefficients.planes[0] else 0.0
            means = F.avg_pool2d(samples[None, :height, :width] - offset, plane.sampling)[0]
            rows, columns = plane.levels.shape[:2]
            blocks = means.reshape(rows, BLOCK_SIDE, columns, BLOCK_SIDE).transpose(1, 2)
            coefficients.append((self.cosines @ blocks @ self.cosines.T).flatten())
        return torch.cat(coefficients)

    def spread_to_pixels(self, coefficients: Tensor) -> Tensor:
        """Return the smallest change of Y, Cb and Cr that changes A(x) by these coefficients: the pseudoinverse.

        From (N,) to a change of R, G and B, shape (C, H', W').
        """
        changes = coefficients.new_zeros(self.shape[0], *self.extent)
        planes = self.coefficients.planes
        parts = torch.split(coefficients, [plane.levels.size for plane in planes])
        for plane, part, change in zip(planes, parts, changes, strict=True):
            (rows, columns), (height, width) = plane.levels.shape[:2], plane.extent
            blocks = self.cosines.T @ part.reshape(rows, columns, BLOCK_SIDE, BLOCK_SIDE) @ self.cosines
            samples = blocks.transpose(1, 2).reshape(rows * BLOCK_SIDE, columns * BLOCK_SIDE)
            change[:height, :width] = torch.kron(samples, samples.new_ones(plane.sampling))
        return self._turn_upright(torch.einsum("cd,dhw->chw", self.to_rgb, changes))

    def project(self, x: Tensor, width: float = 1.0) -> Tensor:
        """Return the image nearest to x, in Y, Cb and Cr, whose coefficients all round to those of the file.

            x + spread_to_pixels( clamp(A(x), (k - w/2) q, (k + w/2) q) - A(x) )

        From (C, H', W') to the same shape. A width w of less than 1 leaves only the middle of each interval.
        """
        found, half = self(x), width * self.half_steps
        nearest = found.clamp(self.measured - half, self.measured + half)
        return x + self.spread_to_pixels(nearest - found)

    def crop(self, x: Tensor) -> Tensor:
        """Cut (C, H', W') to the file's own size."""
        return self._turn_upright(self.turn_as_coded(x)[..., : self.coefficients.height, : self.coefficients.width])

    def finish(self, x: Tensor) -> Tensor:
        """Make the restored image, (C, H', W'), agree with the file, within 0..1, and crop it."""
        x = x.clamp(0, 1)
        for _ in range(FINISH_ROUNDS):
            x = self.project(x).clamp(0, 1)
        return self.crop(x)

    def extend(self, x: Tensor) -> Tensor:
        """Extend an image of the file's own size to (C, H', W') by repeating its border."""
        return self._turn_upright(self.turn_as_coded(x))

    def decode(self) -> Tensor:
        """Return the image of a plain decoder that repeats chroma samples, (C, H, W)."""
        return self.crop(self.spread_to_pixels(self.measured) + LUMA_OFFSET).clamp(0, 1)

    def misfit(self, prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the squared distance of coefficients from their intervals, plus a small part of that from the centres.

            E(p, y, w) = sum(w (max(0, |p - y| - q/2)^2 + r (p - y)^2)) / sum(w),   r = 0.1

        Here p = A(x), y = k q and w >= 0 (ones when omitted) have shape (N,).
        """
        outside = F.relu((prediction - measured).abs() - self.half_steps)
        from_centre = CENTRE_WEIGHT * squared_error(prediction, measured, weight)
        return squared_error(outside, torch.zeros_like(outside), weight) + from_centre

    def agreement(self, x: Tensor) -> float:
        """Return the fraction of the coefficients, 0..1, that agree with the file to half a grey level.

        Blocks that reach beyond the border are not counted, because the encoder's extension of the image is unknown.
        """
        outside = (self(x.to(self.measured)) - self.measured).abs() - self.half_steps
        return float((outside[self.inside] <= AGREEMENT_TOLERANCE / WHITE).double().mean())

    def _turn_upright(self, x: Tensor) -> Tensor:
        return (x.transpose(-2, -1) if self.transposed else x).flip(self.mirrored_axes)

    def turn_as_coded(self, x: Tensor) -> Tensor:
        """Turn an image as in the file, and extend it to complete blocks by repeating its border."""
        x = x.flip(self.mirrored_axes)
        x = x.transpose(-2, -1) if self.transposed else x
        down, across = (full - side for full, side in zip(self.extent, x.shape[-2:], strict=True))
        return F.pad(x[None], (0, across, 0, down), mode="replicate")[0] if down or across else x


def read_coefficients(data: bytes) -> JpegCoefficients:
    """Read the tables and the rounded coefficients of a JPEG file, without decoding pixels.

    Raises:
        DipError: when it is not a JPEG file, or one of an unsupported kind.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise DipError("The image is not from a JPEG file: give the JPEG it came from.")
    import jpeglib  # noqa: PLC0415 - only for JPEG files

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # it prints when it fails
        path = Path(folder) / "image.jpg"
        path.write_bytes(data)
        try:
            jpeg = jpeglib.read_dct(str(path))
            jpeg.load()
        except (OSError, ValueError) as error:
            raise DipError("The JPEG's coefficients cannot be read: save it again as a plain JPEG.") from error
    colours = jpeg.jpeg_color_space.name
    if colours not in ("JCS_GRAYSCALE", "JCS_YCbCr"):
        raise DipError(f"The JPEG is in {colours.removeprefix('JCS_')}, not in YCbCr or grey: convert it first.")
    pixels_per_sample = (jpeg.samp_factor.max(axis=0) // jpeg.samp_factor).tolist()  # jpeglib has refused fractions
    levels = [plane for plane in (jpeg.Y, jpeg.Cb, jpeg.Cr) if plane is not None]
    planes = tuple(
        Plane(level, jpeg.get_component_qt(number), tuple(pixels_per_sample[number]))
        for number, level in enumerate(levels)
    )
    orientation = 1  # as it is coded, where it is missing or invalid
    with suppress(Exception), PIL.Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
    return JpegCoefficients(jpeg.height, jpeg.width, orientation if orientation in TRANSFORMS else 1, planes)


def make_encoder(image: Image) -> Encoder:
    """Return the encoder of the JPEG file that an image was read from.

    Raises:
        DipError: when the image is not from a JPEG file, or our decoding of the file differs from the image.
    """
    encoder = Encoder(read_coefficients(image.file or b""))
    decoded, shown = encoder.decode(), torch.from_numpy(image.with_span(None).pixels)
    if decoded.shape == shown.shape:
        difference = WHITE * torch.tensordot(encoder.to_ycc[0], decoded - shown, 1).abs().mean()
    if decoded.shape != shown.shape or difference > MAX_LUMA_DIFFERENCE:
        raise DipError("The JPEG's coefficients are not those of the image it shows: save it again as a plain JPEG.")
    return encoder


def cosine_transform() -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) of 8 samples as a matrix, (8, 8), one row per frequency.

        D[u, i] = c_u cos(pi u (2 i + 1) / 16),   c_0 = sqrt(1/8), all others sqrt(2/8)

    Source:
        ITU-T T.81, A.3.3, which transforms both sides of a block.
    """
    from scipy.fft import dct  # noqa: PLC0415 - only for JPEG files

    return torch.from_numpy(dct(np.eye(BLOCK_SIDE), axis=0, norm="ortho")).float()
