"""Any file given to the command line is restored or refused with one sentence; no other file is changed."""

from __future__ import annotations

import io
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from command_line import Dip
from hypothesis import HealthCheck, event, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import wide_gamut

from dipcli import images
from dipcli.cli.app import app
from dipcli.images import MIN_SIDE

MODES = {
    "JPEG": ["L", "RGB"],
    "BMP": ["L", "RGB"],
    "PPM": ["L", "RGB"],
    "TGA": ["L", "RGB", "RGBA"],
    "WEBP": ["RGB", "RGBA"],
    "P": ["RGB"],
    "1": ["L"],
}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
DEPTHS = {"8": np.uint8, "16": np.uint16, "float": np.float32}
SUFFIXES = [*(suffix for row in images.formats() if row.write for suffix in row.suffixes), ".PNG", ".gif", ".ppm", ""]
WITHOUT_METADATA = ("BMP", "PPM", "TGA")  # formats


@dataclass(frozen=True)
class File:
    """A file to restore.

    Attributes:
        data: its bytes.
        size: height and width of the expected result; None if the file may be refused.
        channels: of the result, with alpha.
        dtype: of its samples.
    """

    data: bytes
    size: tuple[int, int] | None = None
    channels: int = 3
    dtype: Any = np.uint8


def exif(orientation: int) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112], tags[315], tags[0x8769] = orientation, "an artist", {0x829A: 0.25, 0xA002: 7}
    return tags.tobytes()


@st.composite
def intact_files(draw: Callable[..., Any]) -> File:
    """Intact files of every supported format, mode, depth, size and orientation."""
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "P", "1", "PPM", "TGA"]))
    mode = draw(st.sampled_from(MODES.get(kind, list(CHANNELS))))
    depths = {"PNG": ["8", "16"], "TIFF": list(DEPTHS)}.get(kind, ["8"])
    dtype = DEPTHS[draw(st.sampled_from(depths))]
    height, width = draw(st.integers(1, 200)), draw(st.integers(1, 200))
    orientation = draw(st.integers(1, 8)) if kind not in WITHOUT_METADATA else 1
    samples = random_samples(draw, (height, width, CHANNELS[mode]), dtype)
    profile = draw(st.sampled_from([None, wide_gamut()]))
    data = write_file(draw, kind, samples, orientation, profile)
    size = (height, width) if orientation < 5 else (width, height)
    return File(data, size if min(size) >= MIN_SIDE else None, CHANNELS[mode], dtype)


def random_samples(draw: Callable[..., Any], shape: tuple[int, int, int], dtype: Any) -> np.ndarray:
    """Uniform noise, or one value everywhere."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    contrast = draw(st.sampled_from([0.0, 0.1, 1.0]))
    values = np.clip(0.5 + contrast * (rng.random(shape) - 0.5), 0, 1)
    if dtype == np.float32:
        return (values * draw(st.sampled_from([1.0, 1000.0, 1e30])) - draw(st.sampled_from([0, 1]))).astype(dtype)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def write_file(
    draw: Callable[..., Any], kind: str, samples: np.ndarray, orientation: int, profile: bytes | None
) -> bytes:
    """Encode a file with other libraries."""
    samples = np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    if kind == "TIFF":
        colours = samples.shape[2] if samples.ndim > 2 else 1
        extra = {"extrasamples": ["unassalpha"]} if colours in (2, 4) else {}
        options = {
            "compression": draw(st.sampled_from([None, "lzw", "zlib", "packbits"])),
            "byteorder": draw(st.sampled_from("<>")),
            "planarconfig": "contig" if colours > 1 else None,
            **draw(st.sampled_from([{}, {"rowsperstrip": 3}, {"tile": (16, 32)}, {"bigtiff": True}])),
        }
        file = io.BytesIO()
        colour = "rgb" if colours > 2 else "minisblack"
        tags = [(274, "H", 1, orientation)]
        tifffile.imwrite(file, samples, photometric=colour, iccprofile=profile, extratags=tags, **extra, **options)
        return file.getvalue()
    if kind == "PNG" and samples.dtype == np.uint16:
        plain = bytes(imagecodecs.png_encode(samples))
        return plain[:33] + chunk(b"eXIf", exif(orientation)[6:]) + plain[33:]
    image = PIL.Image.fromarray(samples)
    if kind in ("P", "1"):
        image, kind = image.convert(kind), draw(st.sampled_from(["PNG", "TIFF"]))
    options = {"lossless": draw(st.booleans())} if kind == "WEBP" else {}
    metadata = {} if kind in WITHOUT_METADATA else {"exif": exif(orientation), "icc_profile": profile}
    file = io.BytesIO()
    image.save(file, kind, **{key: value for key, value in (options | metadata).items() if value})
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@st.composite
def damaged_files(draw: Callable[..., Any]) -> File:
    """Files with bytes changed, removed, inserted or cut off, more often in the headers."""
    data = bytearray(draw(intact_files()).data)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.one_of(st.integers(0, 400), st.integers(0, 10**6))) % max(1, len(data))
        match draw(st.sampled_from(["flip", "flip", "out", "in", "cut"])):
            case "flip":
                data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
            case "out":
                del data[place : place + draw(st.integers(1, 64))]
            case "in":
                data[place:place] = draw(st.binary(max_size=16))
            case "cut":
                del data[max(1, place) :]
    return File(fix_checksums(bytes(data)) if draw(st.booleans()) else bytes(data))


def fix_checksums(data: bytes) -> bytes:
    """Correct the checksums of a PNG, so that the damage gets past them; leave other files unchanged."""
    whole, at = data[:8], 8
    while data.startswith(b"\x89PNG\r\n\x1a\n") and at + 12 <= len(data):
        end = min(at + 8 + int.from_bytes(data[at : at + 4], "big"), len(data))
        content = data[at + 8 : end]
        whole, at = whole + chunk(data[at + 4 : at + 8], content), end + 4
    return whole if at > 8 else data


HEADS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"II*\0\x08\0\0\0",
    b"MM\0*",
    b"RIFF",
    b"BM",
    b"GIF89a",
    b"II+\0",
    b"P6\n20 20\n255\n",
    b"\0\0\0\x0cjP  \r\n\x87\n",
]
NOISE = st.builds(lambda head, rest: File(head + rest), st.sampled_from(HEADS), st.binary(max_size=300))


@given(
    file=st.one_of(intact_files(), damaged_files(), damaged_files(), NOISE),
    suffix=st.sampled_from(SUFFIXES),
    output=st.sampled_from(["beside", "beside", "named", "stdout", "stdin"]),
)
@hypothesis_settings(suppress_health_check=list(HealthCheck))
def test_any_file_is_restored_or_refused(file: File, suffix: str, output: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "in.bin"
        source.write_bytes(file.data)
        named = folder / f"out{suffix}"
        target = {"named": ["-o", named], "stdout": ["-o", "-"], "stdin": ["-o", "-"]}.get(output, [])
        stdin = file.data if output == "stdin" else None
        argument = "-" if output == "stdin" else source
        result = Dip(app).quick("denoise", argument, *target, "-q", "--warmup", 0, iterations=1, stdin=stdin)
        event(f"exit code {result.exit_code}")

        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert source.read_bytes() == file.data, "the input is unchanged"
        assert not list(folder.rglob("*.tmp")), "no temporary file is left"
        if file.size and output != "named":  # standard output is PNG
            refused = "std" in output and file.dtype == np.float32
            assert result.exit_code == (1 if refused else 0), result.output
        if result.exit_code == 0:
            written = result.stdout_bytes if "std" in output else Path(result.stdout.strip("\n")).read_bytes()
            check_result(written, file, suffix if output == "named" else None)
        else:
            pages = re.match(r"dip: 1/(\d+): ", result.stderr)  # damage may make a stack of it
            sentences = result.stderr.splitlines()
            assert result.exit_code in ((1, 2, 3) if pages else (1, 2)), result.output
            assert all(sentence.startswith("dip: ") for sentence in sentences)
            assert len(sentences) <= (int(pages[1]) + 1 if pages else 1), "one sentence for each page, and one"
            if not pages:
                assert [path.name for path in folder.iterdir()] == ["in.bin"], "refused before anything is written"


def check_result(data: bytes, file: File, suffix: str | None) -> None:
    """Check that the result is an image of the size, channels and depth of the input."""
    image = images.decode(data)
    if file.size:
        assert image.pixels.shape[1:] == file.size
        assert image.alpha is None or file.channels in (2, 4)
        if suffix is None:
            assert image.dtype == file.dtype
            assert len(image.pixels) + (image.alpha is not None) == file.channels
