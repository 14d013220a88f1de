"""What a JPEG file says about its picture, and the encoder as an operator.

A JPEG file holds its picture as rounded numbers: k = round(c / q), where c is a coefficient of the cosine transform of
a block of 8x8 samples and q its step from the file's table. What the decoder shows is but one of the many pictures
that round to the same numbers, and one with blocks and rings in it. Here is the set of them all.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
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
from dipcli.images.exif import ORIENTATION, TURNS
from dipcli.problem.losses import squared_error

if TYPE_CHECKING:
    from dipcli.images.image import Image

SIDE = 8  # samples on the side of a block
WHITE = 255.0  # steps are in grey levels of 255
GREY = 128 / WHITE  # is taken off the luma before it is transformed
# From RGB to Y, Cb, Cr: JFIF 1.02, page 3, after ITU-R BT.601.
RED, GREEN, BLUE = LUMA = 0.299, 0.587, 0.114
JFIF = (LUMA, (-RED / 1.772, -GREEN / 1.772, 0.5), (0.5, -GREEN / 1.402, -BLUE / 1.402))
# How far the luma shown may be on average from what we make of the file, in grey levels. Measured: 0.3 on photographs
# of any quality and sampling, 0.7 on coloured noise.
ASTRAY = 4.0
ROUNDS = 4  # of projection and clipping, which undo a little of one another; two were enough for photographs
# Weight of the plain squared error beside that of what is outside its interval. Measured on a picture of 256x256 at
# quality 10: without it 27.5 dB, with it alone 27.5, with a tenth of it 28.0.
PULL = 0.1
SLACK = 0.5  # grey levels; rounding the pixels to whole ones moves a coefficient by 0.3 on average


@dataclass(frozen=True)
class Plane:
    """One of Y, Cb and Cr, as it stands in the file.

    Attributes:
        levels: k, whole numbers, shape (rows, columns, 8, 8), by blocks.
        steps: q, in grey levels, shape (8, 8).
        sampling: how many pixels of the picture share a sample, (down, across).
    """

    levels: NDArray[Any]
    steps: NDArray[Any]
    sampling: tuple[int, int]

    @property
    def extent(self) -> tuple[int, int]:
        """Pixels of the picture that its blocks cover, (down, across)."""
        (rows, columns), (down, across) = self.levels.shape[:2], self.sampling
        return rows * SIDE * down, columns * SIDE * across

    def within(self, height: int, width: int) -> NDArray[np.bool_]:
        """Whether a coefficient's block lies within a picture of this size, of the shape of `levels`."""
        inside = np.zeros(self.levels.shape, np.bool_)
        inside[: height // (SIDE * self.sampling[0]), : width // (SIDE * self.sampling[1])] = True
        return inside


@dataclass(frozen=True)
class JpegCoefficients:
    """What a JPEG file says.

    Attributes:
        height: of the picture as it is coded, in pixels.
        width: likewise.
        orientation: 1 to 8, how the coded picture has to be turned, as in EXIF.
        planes: Y, or Y, Cb and Cr.
    """

    height: int
    width: int
    orientation: int
    planes: tuple[Plane, ...]


def read(data: bytes) -> JpegCoefficients:
    """Read a JPEG file's tables and its rounded coefficients; no pixel is computed.

    Raises:
        DipError: when this is not a JPEG file of a common kind; the sentence says why.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise DipError("The picture is not from a JPEG file: give the JPEG it came from.")
    jpeg = _coefficients(data)
    colours = jpeg.jpeg_color_space.name
    if colours not in ("JCS_GRAYSCALE", "JCS_YCbCr"):
        raise DipError(f"The JPEG is in {colours.removeprefix('JCS_')}, not in YCbCr or grey: convert it first.")
    pixels_a_sample = (jpeg.samp_factor.max(axis=0) // jpeg.samp_factor).tolist()  # fractions jpeglib has refused
    levels = [each for each in (jpeg.Y, jpeg.Cb, jpeg.Cr) if each is not None]
    planes = tuple(
        Plane(level, jpeg.get_component_qt(number), tuple(pixels_a_sample[number]))
        for number, level in enumerate(levels)
    )
    return JpegCoefficients(jpeg.height, jpeg.width, _orientation(data), planes)


def _orientation(data: bytes) -> int:
    """Which way is up; 1, as it is coded, where the file does not say or says nonsense."""
    orientation = 1
    with contextlib.suppress(Exception), PIL.Image.open(io.BytesIO(data)) as image:
        orientation = image.getexif().get(ORIENTATION, 1)
    return orientation if orientation in TURNS else 1


def _coefficients(data: bytes) -> Any:
    """The file as jpeglib has it, read to its end."""
    import jpeglib  # noqa: PLC0415 - it is slow to load, and wanted for JPEGs alone

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # it prints when it fails
        path = Path(folder) / "picture.jpg"
        path.write_bytes(data)
        try:
            jpeg = jpeglib.read_dct(str(path))
            jpeg.load()
        except (OSError, ValueError) as error:
            raise DipError("The JPEG's coefficients cannot be read: save it again as a plain JPEG.") from error
    return jpeg


class Encoder(nn.Module):
    """A JPEG encoder up to its rounding, for one file.

        A(x) = DCT( mean over s x s ( YCbCr(x) - 128/255 ) )

    The transform is orthonormal and the values are those of the pixels, so a squared error of coefficients is a
    squared error of pixels. The coded picture is made of whole blocks and so is x: it may be larger than the picture,
    and what lies beyond the border is left to the network. Encoders fill it in different ways.

    Attributes:
        shape: (C, H', W') of x, upright.
        measured: k q, the middle of each coefficient's interval, shape (N,), in pixel values.
        reach: q / 2, half the interval's width, shape (N,).
        whole: whether a coefficient's block lies within the picture, shape (N,).
        weight: by how much a squared error of a coefficient changes that of R, G and B, shape (N,): so many pixels
            share its sample, and so far Y, Cb or Cr moves each of them.
    """

    measured: Tensor
    reach: Tensor
    whole: Tensor
    weight: Tensor
    cosines: Tensor
    colours: Tensor
    back: Tensor

    def __init__(self, coding: JpegCoefficients) -> None:
        super().__init__()
        self.coding = coding
        self.extent = tuple(max(sides) for sides in zip(*(plane.extent for plane in coding.planes), strict=True))
        self.turned, mirrored = TURNS[coding.orientation]
        self.mirrored = [axis - 2 for axis in mirrored]  # the last two are rows and columns
        height, width = reversed(self.extent) if self.turned else self.extent
        self.shape = (len(coding.planes), height, width)
        colours = torch.tensor(JFIF if len(coding.planes) > 1 else ((1.0,),))
        back = torch.linalg.inv(colours)
        values: dict[str, list[NDArray[Any]]] = {"measured": [], "reach": [], "whole": [], "weight": []}
        for plane, moved in zip(coding.planes, (back**2).mean(dim=0), strict=True):
            steps = np.broadcast_to(np.float32(plane.steps / WHITE), plane.levels.shape)
            values["measured"].append(plane.levels * steps)
            values["reach"].append(steps / 2)
            values["whole"].append(plane.within(coding.height, coding.width))
            values["weight"].append(np.full_like(steps, float(moved) * math.prod(plane.sampling)))
        for name, parts in values.items():
            self.register_buffer(name, torch.from_numpy(np.concatenate([each.ravel() for each in parts])))
        self.register_buffer("colours", colours)
        self.register_buffer("back", back)
        self.register_buffer("cosines", cosine_transform())

    def forward(self, x: Tensor) -> Tensor:
        """From an upright picture, (C, H', W') or cut to the file's own size, 0..1, to coefficients, (N,)."""
        x = torch.einsum("dc,chw->dhw", self.colours, self._coded(x))
        parts = []
        for plane, samples in zip(self.coding.planes, x, strict=True):
            height, width = plane.extent
            level = GREY if plane is self.coding.planes[0] else 0.0
            means = F.avg_pool2d(samples[None, :height, :width] - level, plane.sampling)[0]
            rows, columns = plane.levels.shape[:2]
            blocks = means.reshape(rows, SIDE, columns, SIDE).transpose(1, 2)
            parts.append((self.cosines @ blocks @ self.cosines.T).flatten())
        return torch.cat(parts)

    def spread(self, coefficients: Tensor) -> Tensor:
        """The smallest change of Y, Cb and Cr that changes A(x) by these coefficients, (N,): shape (C, H', W')."""
        changes = coefficients.new_zeros(self.shape[0], *self.extent)
        sizes = [plane.levels.size for plane in self.coding.planes]
        for plane, part, change in zip(self.coding.planes, torch.split(coefficients, sizes), changes, strict=True):
            (rows, columns), (height, width) = plane.levels.shape[:2], plane.extent
            blocks = self.cosines.T @ part.reshape(rows, columns, SIDE, SIDE) @ self.cosines
            samples = blocks.transpose(1, 2).reshape(rows * SIDE, columns * SIDE)
            change[:height, :width] = torch.kron(samples, samples.new_ones(plane.sampling))
        return self._upright(torch.einsum("cd,dhw->chw", self.back, changes))

    def project(self, x: Tensor) -> Tensor:
        """The picture nearest to x, in Y, Cb and Cr, whose coefficients all round to the file's numbers.

            x + spread( clamp(A(x), (k - 1/2) q, (k + 1/2) q) - A(x) )

        Both have shape (C, H', W').
        """
        found = self(x)
        return x + self.spread(found.clamp(self.measured - self.reach, self.measured + self.reach) - found)

    def crop(self, x: Tensor) -> Tensor:
        """From (C, H', W') to the file's own size: what lies beyond the border was there for the blocks' sake."""
        return self._upright(self._coded(x)[..., : self.coding.height, : self.coding.width])

    def finish(self, x: Tensor) -> Tensor:
        """Bring the restored picture, (C, H', W'), into agreement with the file, within 0..1, and cut it to size."""
        x = x.clamp(0, 1)
        for _ in range(ROUNDS):
            x = self.project(x).clamp(0, 1)
        return self.crop(x)

    def extend(self, x: Tensor) -> Tensor:
        """The other way: from the file's own size to (C, H', W'), the border repeated."""
        return self._upright(self._coded(x))

    def decoded(self) -> Tensor:
        """What a plain decoder makes of the file, chroma repeated, (C, H, W)."""
        return self.crop(self.spread(self.measured) + GREY).clamp(0, 1)

    def misfit(self, prediction: Tensor, measured: Tensor, weight: Tensor | None = None) -> Tensor:
        """How far coefficients are from rounding to the file's numbers, with a pull to the middle of what does.

            E(p, y, w) = sum(w (max(0, |p - y| - q/2)^2 + r (p - y)^2)) / sum(w),   r = 0.1

        Args:
            prediction: p = A(x), shape (N,).
            measured: y = k q, shape (N,).
            weight: w >= 0, shape (N,); ones when it is left out.
        """
        outside = F.relu((prediction - measured).abs() - self.reach)
        pull = PULL * squared_error(prediction, measured, weight)
        return squared_error(outside, torch.zeros_like(outside), weight) + pull

    def agreement(self, x: Tensor) -> float:
        """The share of the coefficients, 0..1, that agree with the file, to half a grey level.

        Blocks that reach beyond the border are not counted: nobody knows what the encoder saw there.
        """
        apart = (self(x.to(self.measured)) - self.measured).abs() - self.reach
        return float((apart[self.whole] <= SLACK / WHITE).double().mean())

    def _upright(self, x: Tensor) -> Tensor:
        return (x.transpose(-2, -1) if self.turned else x).flip(self.mirrored)

    def _coded(self, x: Tensor) -> Tensor:
        """As it lies in the file, its border repeated where it is cut to size."""
        x = x.flip(self.mirrored)
        x = x.transpose(-2, -1) if self.turned else x
        beyond = [each - side for each, side in zip(self.extent, x.shape[-2:], strict=True)]
        return F.pad(x[None], (0, beyond[1], 0, beyond[0]), mode="replicate")[0] if any(beyond) else x


def encoder(picture: Image) -> Encoder:
    """The encoder of the JPEG file that a picture was read from.

    Raises:
        DipError: when the picture is from no JPEG file, or from one that we do not understand as its decoder did.
    """
    made = Encoder(read(picture.file or b""))
    decoded, shown = made.decoded(), torch.from_numpy(picture.pixels)
    alike = decoded.shape == shown.shape
    if not alike or WHITE * torch.tensordot(made.colours[0], decoded - shown, 1).abs().mean() > ASTRAY:
        raise DipError("The JPEG's coefficients are not those of the picture it shows: save it again as a plain JPEG.")
    return made


def cosine_transform() -> Tensor:
    """The orthonormal cosine transform (DCT-II) of 8 samples as a matrix, (8, 8): one row for each frequency.

        D[u, i] = c_u cos(pi u (2 i + 1) / 16),   c_0 = sqrt(1/8), all others sqrt(2/8)

    Source:
        ITU-T T.81, A.3.3, where the blocks have both sides transformed.
    """
    frequency, sample = torch.arange(SIDE).double()[:, None], torch.arange(SIDE).double()[None]
    waves = torch.cos(math.pi * frequency * (2 * sample + 1) / (2 * SIDE)) * math.sqrt(2 / SIDE)
    waves[0] /= math.sqrt(2)
    return waves.float()
