"""Truncated, damaged and oversized files are refused with one sentence, before they take memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from command_line import Dip
from samples import wide_gamut

from dipcli import DipError, images
from dipcli.images import from_array

ARRAY = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
ARRAY[8:16] = 128
DEEP = ARRAY.astype(np.uint16) * 257 + np.uint16(1)


def pillow(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(ARRAY).convert(mode).save(file, kind, **options)
    return file.getvalue()


def tiff(array: np.ndarray = DEEP, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **{"photometric": "rgb", **options})
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colour: int, stream: bytes, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(stream, 1))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


@cache
def tags() -> bytes:
    tags = PIL.Image.Exif()
    tags[315], tags[0x8769], tags[0x8825] = "an artist with a name", {0x829A: 0.25, 0xA434: "a lens"}, {1: "N"}
    return tags.tobytes()


@cache
def intact_files() -> dict[str, bytes]:
    """A file of each kind, with EXIF where the format has it."""
    files = {
        "PNG": pillow("PNG", exif=tags()),
        "PNG palette": pillow("PNG", "P"),
        "PNG deep": images.encode(from_array(DEEP), ".png"),
        "PNG with EXIF last": png(16, 16, 8, 0, bytes(17 * 16))[:-12]
        + chunk(b"eXIf", tags()[6:])
        + chunk(b"IEND", b""),
        "JPEG": pillow("JPEG", exif=tags()),
        "JPEG progressive": pillow("JPEG", progressive=True),
        "JPEG grey": pillow("JPEG", "L"),
        "MPO": pillow("MPO", save_all=True, append_images=[PIL.Image.fromarray(ARRAY)]),
        "WebP": pillow("WEBP", exif=tags()),
        "WebP lossless": pillow("WEBP", "RGBA", lossless=True, icc_profile=wide_gamut()),
        "BMP": pillow("BMP"),
        "BMP palette": pillow("BMP", "P"),
        "GIF": pillow("GIF", "P"),
        "TIFF palette": pillow("TIFF", "P", compression="tiff_lzw"),
        "TIFF G4": pillow("TIFF", "1", compression="group4"),
        "TIFF JPEG": pillow("TIFF", compression="jpeg"),
        "PPM": pillow("PPM"),
        "TGA": pillow("TGA"),
        "SGI": pillow("SGI"),
        "JPEG 2000": pillow("JPEG2000"),
        "TIFF by Pillow": pillow("TIFF", exif=tags()),
        "TIFF by dipcli": images.encode(images.decode(pillow("PNG", exif=tags())), ".tif"),
        "TIFF tiles": tiff(tile=(16, 16)),
        "TIFF floats": tiff(ARRAY / np.float32(255)),
        "TIFF planes": tiff(np.moveaxis(DEEP, -1, 0), planarconfig="separate"),
    }
    compressed = {f"TIFF {name}": tiff(compression=name, rowsperstrip=5) for name in (None, "lzw", "zlib", "zstd")}
    return files | compressed | {"TIFF packbits": tiff(ARRAY, compression="packbits")}


# The readers differ from format to format; more files of one format take the same ways.
FIRST_OF_THEIR_FORMAT = ("PNG", "PNG deep", "JPEG", "MPO", "WebP", "BMP", "GIF", "PPM", "TGA", "JPEG 2000", "TIFF lzw")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind in FIRST_OF_THEIR_FORMAT else pytest.mark.slow) for kind in intact_files()],
)
def test_truncated_file_is_refused_or_read_whole(kind: str) -> None:
    """Wherever it ends: it is refused, or only padding is missing and image and metadata are the same."""
    data = intact_files()[kind]
    expected = images.decode(data)
    read = []
    for length in {*range(0, len(data), 7), *range(max(0, len(data) - 150), len(data))}:
        try:
            image = images.decode(data[:length])
        except DipError:
            continue
        read.append(length)
        assert np.array_equal(image.array(), expected.array()), length
        assert (image.exif, image.profile) == (expected.exif, expected.profile), length
    assert kind == "MPO" or len(read) <= 26, "only an end mark or a footer is missing, or the second image of two"


def test_png_with_too_few_rows_is_refused() -> None:
    """Its checksums are valid, and Pillow reads the missing rows as black."""
    for depth, colour, row in ((8, 2, 1 + 60), (16, 6, 1 + 160), (8, 0, 21)):
        with pytest.raises(DipError, match="to its end"):
            images.decode(png(20, 20, depth, colour, bytes(row * 12)))
        assert images.decode(png(20, 20, depth, colour, bytes(row * 20))).pixels.shape[1:] == (20, 20)


@pytest.mark.parametrize("kind", ["PNG", "PNG deep"])
def test_flipped_byte_in_a_png_is_refused(kind: str) -> None:
    data = intact_files()[kind]
    for place in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[place] ^= 0x55
        with pytest.raises(DipError):
            images.decode(bytes(flipped))


def directory(*entries: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    """A TIFF file of one directory of inline values."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + rest


def layout(
    width: int, height: int, bits: int = 8, samples: int = 1, *, compression: int = 1, **more: int
) -> list[tuple[int, int, int, int]]:
    """The mandatory entries of a TIFF file."""
    photometric = more.pop("photometric", 1)
    given = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 273: 400, 277: samples, 279: 256}
    given |= {int(tag.removeprefix("t")): value for tag, value in more.items()}
    return [(tag, 4, 1, value) for tag, value in given.items()]


def giant_tiff(*arguments: int, **more: int) -> bytes:
    return directory(*layout(*arguments, **more), rest=bytes(600))


@cache
def oversized_files() -> dict[str, bytes]:
    """Small files whose headers declare hundreds of megabytes, or a million times that."""
    header = pillow("JPEG")
    size = header.index(b"\xff\xc0") + 5
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" + b"\xff\0\0"
    vp8l = pillow("WEBP", lossless=True)
    bmp = pillow("BMP")
    gif, tga, sgi, jp2 = pillow("GIF", "P"), pillow("TGA"), pillow("SGI"), pillow("JPEG2000")
    ihdr = jp2.index(b"ihdr") + 4
    return {
        "PNG": png(60_000, 60_000, 8, 2, bytes(1000)),
        "PNG deep": png(60_000, 60_000, 16, 6, bytes(1000)),
        "PNG long": png(2**31 - 1, 1, 16, 6, bytes(1000)),
        "PNG just beyond": png(15_812, 15_812, 8, 0, bytes(1000)),
        "JPEG": header[:size] + struct.pack(">HH", 65_500, 65_500) + header[size + 4 :],
        "WebP": b"RIFF" + struct.pack("<I", len(vp8x) + 4) + b"WEBP" + vp8x,
        "WebP lossless": vp8l[:21] + struct.pack("<I", 0x0FFFFFFF) + vp8l[25:],
        "BMP": bmp[:18] + struct.pack("<ii", 100_000, 100_000) + bmp[26:],
        "GIF": gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:],
        "PPM": b"P6\n60000 60000\n255\n" + bytes(1000),
        "TGA": tga[:12] + struct.pack("<HH", 65_535, 65_535) + tga[16:],
        "SGI": sgi[:6] + struct.pack(">HH", 65_535, 65_535) + sgi[10:],
        "JPEG 2000": jp2[:ihdr] + struct.pack(">II", 60_000, 60_000) + jp2[ihdr + 8 :],
        "TIFF": giant_tiff(100_000, 100_000),
        "TIFF deep": giant_tiff(60_000, 60_000, 16, 3, photometric=2),
        "TIFF deflated": giant_tiff(60_000, 60_000, 16, compression=8),
        "TIFF of many samples": giant_tiff(2000, 2000, 16, 65_535),
        "TIFF of a giant tile": giant_tiff(100, 100, 16, t322=60_000, t323=60_000, t324=400, t325=64),
        "TIFF of a palette": giant_tiff(60_000, 60_000, photometric=3),
        "TIFF of bits": giant_tiff(4_000_000_000, 4_000_000_000, 1),
    }


def compression_bombs(size: int = 2**29) -> dict[str, bytes]:
    """Small images with metadata or streams that decompress to this many bytes, or with overlapping values."""
    profile = zlib.compress(bytes(size), 1)
    overlapping = [(40_000 + number, 7, 2_000_000, 8) for number in range(4000)]
    jpeg = pillow("JPEG")
    header = jpeg.index(b"\xff\xc0") + 5
    jpeg = jpeg[:header] + struct.pack(">HH", 65_500, 65_500) + jpeg[header + 4 :]
    return {
        "PNG with a giant profile": png(16, 16, 8, 0, bytes(17 * 16), before=chunk(b"iCCP", b"x\0\0" + profile)),
        "PNG with surplus rows": png(16, 16, 8, 0, bytes(size)),
        "TIFF of overlapping values": directory(*layout(16, 16), *overlapping, rest=bytes(2_300_000)),
        "TIFF with a value of 4 GB": directory(*layout(16, 16), (305, 2, 2**32 - 1, 8), rest=bytes(600)),
        "TIFF with a giant JPEG in it": giant_tiff(16, 16, compression=7, t279=len(jpeg))[:-200] + jpeg,
        "TIFF with a giant stream": giant_tiff(16, 16, compression=8, t279=len(profile)) + profile,
    }


CHILD = """
import base64, json, resource, sys
from dipcli import images
from dipcli.errors import DipError
images.decode(base64.b64decode(sys.stdin.readline()))  # imports, and memory taken once
answers = {}

def memory(what):  # ru_maxrss includes the parent's
    status = open("/proc/self/status").read()
    return int(status.partition(what + ":")[2].split()[0])

for line in sys.stdin:
    name, data = json.loads(line)
    data = base64.b64decode(data)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the peak
    before = memory("VmHWM")
    resource.setrlimit(resource.RLIMIT_AS, (1024 * memory("VmSize") + 2**28, resource.RLIM_INFINITY))
    try:
        images.decode(data)
        answer = "an image"
    except DipError as error:
        answer = str(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers[name] = answer, memory("VmHWM") - before
print(json.dumps(answers))
"""


def decode_in_child(files: dict[str, bytes]) -> dict[str, tuple[str, int]]:
    """Decode files in a process limited to 256 MB; return the outcome and peak memory in kilobytes of each."""
    from base64 import b64encode

    lines = [b64encode(intact_files()["PNG"]).decode()]
    lines += [json.dumps([name, b64encode(data).decode()]) for name, data in files.items()]
    command = [sys.executable, "-c", CHILD]
    child = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", oversized_files())
def test_oversized_file_is_refused(name: str) -> None:
    data = oversized_files()[name]
    assert len(data) < 2**16
    with pytest.raises(DipError, match="larger than the limit of 250 megapixels"):
        images.decode(data)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_oversized_file_is_refused_before_memory_is_allocated() -> None:
    for name, (answer, kilobytes) in decode_in_child(oversized_files()).items():
        assert "larger than the limit of 250 megapixels" in answer, name
        assert kilobytes < 2**14, name


def test_oversized_profile_is_dropped() -> None:
    """It decompresses to more than 32 MB."""
    assert images.decode(compression_bombs(2**26)["PNG with a giant profile"]).profile is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_compression_bomb_takes_little_memory() -> None:
    for name, (answer, kilobytes) in decode_in_child(compression_bombs()).items():
        assert "memory" not in answer, name
        assert kilobytes < 2**17, name


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WebP", "TIFF", "PPM"])
def test_oversized_file_is_one_error_message(dip: Dip, tmp_path: Path, name: str) -> None:
    source = tmp_path / "bomb.png"
    source.write_bytes(oversized_files()[name])
    result = dip.quick("denoise", source)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "make it smaller first" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.png"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM"])
def test_100_megapixels_are_read(kind: str) -> None:
    """Beyond the limit at which Pillow warns."""
    file = io.BytesIO()
    PIL.Image.new("L", (10_000, 10_000), 77).save(file, kind)
    image = images.decode(file.getvalue())
    assert image.pixels.shape == (1, 10_000, 10_000)
    assert image.samples is not None
    assert image.samples[-1, -1, 0] == 77


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF palette", "BMP", "PPM", "WebP"])
def test_limit_of_pillow_does_not_apply(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert images.decode(intact_files()[kind]).pixels.shape == (3, 24, 20)


def test_limit_of_pillow_is_restored() -> None:
    before = PIL.Image.MAX_IMAGE_PIXELS
    images.decode(intact_files()["JPEG"])
    with pytest.raises(DipError):
        images.decode(oversized_files()["JPEG"])
    assert before == PIL.Image.MAX_IMAGE_PIXELS
