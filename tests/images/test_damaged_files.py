"""Files that are not what they say: cut short, damaged, or bombs. They are told, and take no memory."""

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

from dipcli import images
from dipcli.errors import DipError
from dipcli.images.image import from_array

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
    tags[315], tags[0x8769], tags[0x8825] = "somebody of some name", {0x829A: 0.25, 0xA434: "a lens"}, {1: "N"}
    return tags.tobytes()


def whole() -> dict[str, bytes]:
    """A file of each kind, with EXIF where it can be."""
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
        "TIFF of Pillow": pillow("TIFF", exif=tags()),
        "TIFF of ours": images.encode(images.decode(pillow("PNG", exif=tags())), ".tif"),
        "TIFF tiles": tiff(tile=(16, 16)),
        "TIFF floats": tiff(ARRAY / np.float32(255)),
        "TIFF planes": tiff(np.moveaxis(DEEP, -1, 0), planarconfig="separate"),
    }
    compressed = {f"TIFF {each}": tiff(compression=each, rowsperstrip=5) for each in (None, "lzw", "zlib", "zstd")}
    return files | compressed | {"TIFF packbits": tiff(ARRAY, compression="packbits")}


@pytest.mark.parametrize("kind", whole())
def test_a_file_that_was_cut_short_is_told(kind: str) -> None:
    """Wherever it is cut: the same picture and EXIF come of it, because no more than padding is gone, or a sentence."""
    data = whole()[kind]
    expected = images.decode(data)
    read = []
    for length in {*range(0, len(data), 7), *range(max(0, len(data) - 150), len(data))}:
        try:
            picture = images.decode(data[:length])
        except DipError:
            continue
        read.append(length)
        assert np.array_equal(picture.array(), expected.array()), length
        assert (picture.exif, picture.profile) == (expected.exif, expected.profile), length
    assert kind == "MPO" or len(read) <= 20, "they are whole but for an end mark, or the second of two pictures"


def test_a_png_whose_stream_ends_early_is_told() -> None:
    """Its checksums are right, and Pillow gives black for the rows that are not there."""
    for depth, colour, row in ((8, 2, 1 + 60), (16, 6, 1 + 160), (8, 0, 21)):
        with pytest.raises(DipError, match="to its end"):
            images.decode(png(20, 20, depth, colour, bytes(row * 12)))
        assert images.decode(png(20, 20, depth, colour, bytes(row * 20))).pixels.shape[1:] == (20, 20)


@pytest.mark.parametrize("kind", ["PNG", "PNG deep"])
def test_a_flipped_byte_in_a_png_is_told(kind: str) -> None:
    data = whole()[kind]
    for place in range(0, len(data), 5):
        flipped = bytearray(data)
        flipped[place] ^= 0x55
        with pytest.raises(DipError):
            images.decode(bytes(flipped))


def directory(*entries: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    """A TIFF file of one directory, its values in their places."""
    table = b"".join(struct.pack("<HHII", *each) for each in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(4) + rest


def layout(
    width: int, height: int, bits: int = 8, samples: int = 1, *, compression: int = 1, **more: int
) -> list[tuple[int, int, int, int]]:
    """The entries of a TIFF file without which there is no picture."""
    photometric = more.pop("photometric", 1)
    given = {256: width, 257: height, 258: bits, 259: compression, 262: photometric, 273: 400, 277: samples, 279: 256}
    given |= {int(tag.removeprefix("t")): value for tag, value in more.items()}
    return [(tag, 4, 1, value) for tag, value in given.items()]


def giant_tiff(*arguments: int, **more: int) -> bytes:
    return directory(*layout(*arguments, **more), rest=bytes(600))


def bombs() -> dict[str, bytes]:
    """A few bytes each that say they are giants: hundreds of megabytes to a million times as much."""
    header = pillow("JPEG")
    size = header.index(b"\xff\xc0") + 5
    vp8x = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" + b"\xff\0\0"
    vp8l = pillow("WEBP", lossless=True)
    bmp = pillow("BMP")
    gif = pillow("GIF", "P")
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
        "TIFF": giant_tiff(100_000, 100_000),
        "TIFF deep": giant_tiff(60_000, 60_000, 16, 3, photometric=2),
        "TIFF deflated": giant_tiff(60_000, 60_000, 16, compression=8),
        "TIFF of many samples": giant_tiff(2000, 2000, 16, 65_535),
        "TIFF of a giant tile": giant_tiff(100, 100, 16, t322=60_000, t323=60_000, t324=400, t325=64),
        "TIFF of a palette": giant_tiff(60_000, 60_000, photometric=3),
        "TIFF of bits": giant_tiff(4_000_000_000, 4_000_000_000, 1),
    }


def quiet_bombs() -> dict[str, bytes]:
    """Their picture is small; what stands beside it, or how it is packed, is not: a sentence or the picture."""
    profile = zlib.compress(bytes(2**29), 1)
    overlaid = [(40_000 + each, 7, 2_000_000, 8) for each in range(4000)]
    jpeg = pillow("JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg = jpeg[:size] + struct.pack(">HH", 65_500, 65_500) + jpeg[size + 4 :]
    return {
        "PNG with a giant profile": png(16, 16, 8, 0, bytes(17 * 16), before=chunk(b"iCCP", b"x\0\0" + profile)),
        "PNG with more than it needs": png(16, 16, 8, 0, bytes(2**29)),
        "TIFF of a thousand values in one place": directory(*layout(16, 16), *overlaid, rest=bytes(2_300_000)),
        "TIFF with a value of many": directory(*layout(16, 16), (305, 2, 2**32 - 1, 8), rest=bytes(600)),
        "TIFF with a giant JPEG in it": giant_tiff(16, 16, compression=7, t279=len(jpeg))[:-200] + jpeg,
        "TIFF with a giant stream": giant_tiff(16, 16, compression=8, t279=len(profile)) + profile,
    }


CHILD = """
import base64, json, resource, sys
from dipcli import images
from dipcli.errors import DipError
images.decode(base64.b64decode(sys.stdin.readline()))  # what reading any picture takes once
answers = {}

def memory(what):  # not ru_maxrss, which a child has from its parent
    status = open("/proc/self/status").read()
    return int(status.partition(what + ":")[2].split()[0])

for line in sys.stdin:
    name, data = json.loads(line)
    data = base64.b64decode(data)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is what there is now
    before = memory("VmHWM")
    resource.setrlimit(resource.RLIMIT_AS, (1024 * memory("VmSize") + 2**28, resource.RLIM_INFINITY))
    try:
        images.decode(data)
        answer = "a picture"
    except DipError as error:
        answer = str(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answers[name] = answer, memory("VmHWM") - before
print(json.dumps(answers))
"""


def answered(files: dict[str, bytes]) -> dict[str, tuple[str, int]]:
    """What reading each comes to, and how many kilobytes more it takes, with no more than 256 MB there to be had."""
    from base64 import b64encode

    lines = [b64encode(whole()["PNG"]).decode()]
    lines += [json.dumps([name, b64encode(data).decode()]) for name, data in files.items()]
    command = [sys.executable, "-c", CHILD]
    child = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_a_bomb_is_refused_before_it_takes_memory() -> None:
    assert all(len(each) < 2**16 for each in bombs().values())
    for name, (answer, kilobytes) in answered(bombs()).items():
        assert "larger than can be handled, which is 250 megapixels" in answer, name
        assert kilobytes < 2**14, name


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_what_is_packed_beside_a_picture_takes_no_memory_either() -> None:
    for name, (answer, kilobytes) in answered(quiet_bombs()).items():
        assert "memory" not in answer, name
        assert kilobytes < 2**17, name


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WebP", "TIFF"])
def test_a_bomb_is_one_sentence_of_the_command_line(dip: Dip, tmp_path: Path, name: str) -> None:
    source = tmp_path / "bomb.png"
    source.write_bytes(bombs()[name])
    result = dip.quick("denoise", source)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "make it smaller first" in result.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["bomb.png"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_an_honest_photograph_of_a_hundred_megapixels_is_read(kind: str) -> None:
    """Beyond the limit at which Pillow warns."""
    file = io.BytesIO()
    PIL.Image.new("L", (10_000, 10_000), 77).save(file, kind)
    picture = images.decode(file.getvalue())
    assert picture.pixels.shape == (1, 10_000, 10_000)
    assert picture.pixels[0, -1, -1] == np.float32(77 / 255)


def test_the_limit_is_left_as_it_was() -> None:
    before = PIL.Image.MAX_IMAGE_PIXELS
    images.decode(whole()["JPEG"])
    with pytest.raises(DipError):
        images.decode(bombs()["JPEG"])
    assert before == PIL.Image.MAX_IMAGE_PIXELS
