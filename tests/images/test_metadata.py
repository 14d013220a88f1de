"""What stands beside the pixels: colour profile, EXIF, orientation and resolution, from any format into any other."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from command_line import Dip
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import ImageCms, ImageOps
from samples import wide_gamut

from dipcli import images
from dipcli.images import exif
from dipcli.images.image import from_array

ARRAY = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ARTIST = "Jürgen Müller".encode()  # not ASCII, as in the files that people have
MAKER, LENS, PHOTO, GPS = 0x927C, 0xA434, 0x8769, 0x8825


def block(orientation: int = 1, sign: str = "<") -> bytes:
    """An EXIF block with a name, an exposure, a maker's note, a place, the size as a camera gives it, a thumbnail."""
    tags = PIL.Image.Exif()
    tags.endian = sign
    tags[exif.ORIENTATION] = orientation
    tags[315] = "J?rgen M?ller.."
    tags[PHOTO] = {0x829A: 0.25, MAKER: b"a note of 21 bytes...", LENS: "a lens", exif.WIDTH: 30, exif.HEIGHT: 20}
    tags[PHOTO][0xA005] = {1: "R98"}
    tags[GPS] = {1: "N", 2: (48.0, 8.0, 30.0)}
    made = bytearray(tags.tobytes().replace(b"J?rgen M?ller..", ARTIST))
    start = len(exif.HEADER) + 8
    end = start + 2 + 12 * struct.unpack_from(sign + "H", made, start)[0]
    struct.pack_into(sign + "I", made, end, len(made) - len(exif.HEADER))
    return bytes(made) + struct.pack(sign + "HHHIII", 1, 0x0103, 3, 1, 6, 0)


def told(data: bytes) -> dict[str, object]:
    """What a file says, as Pillow reads it, which is not by our own eyes."""
    image = PIL.Image.open(io.BytesIO(data))
    tags = image.getexif()
    photo = tags.get_ifd(PHOTO)
    return {
        "orientation": tags.get(exif.ORIENTATION, 1),
        "artist": tags.get(315, "").encode("latin1").rstrip(b"\0"),
        "exposure": photo.get(0x829A),
        "note": photo.get(MAKER),
        "lens": photo.get(LENS),
        "size": (photo.get(exif.WIDTH), photo.get(exif.HEIGHT)),
        "latitude": tags.get_ifd(GPS).get(2),
        "rule": tags.get_ifd(0xA005).get(1),
        "profile": image.info.get("icc_profile"),
    }


def pillow(file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(ARRAY).save(file, file_format, **options)
    return file.getvalue()


def made(kind: str, about: bytes, profile: bytes | None = None) -> bytes:
    """A file with a block and a profile, by other programs' hands where they can."""
    if kind == "deep PNG":
        plain = images.encode(from_array(DEEP), ".png")
        beside = (png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) if profile else b"") + png_chunk(
            b"eXIf", about[6:]
        )
        return plain[:33] + beside + plain[33:]
    if kind == "deep TIFF":
        file = io.BytesIO()
        sign, way = exif.byte_order(about), [(274, "H", 1, exif.orientation(about))]
        tifffile.imwrite(file, DEEP, byteorder=sign, photometric="rgb", iccprofile=profile, extratags=way)
        return exif.to_tiff(file.getvalue(), about)
    if kind == "TIFF":  # of the directory within a directory Pillow writes but the pointer
        about = about.replace(
            struct.pack(f"{exif.byte_order(about)}H", 0xA005), struct.pack(f"{exif.byte_order(about)}H", 0xFFFF)
        )
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return pillow(kind, exif=about, icc_profile=profile, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "deep PNG", "deep TIFF")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(kind: str, orientation: int) -> None:
    data = made(kind, block(orientation), SRGB)
    lying = DEEP if kind.startswith("deep") else ARRAY
    if kind == "JPEG":
        lying = np.asarray(PIL.Image.open(io.BytesIO(data)))
    turned = PIL.Image.fromarray((lying >> 8).astype(np.uint8) if kind.startswith("deep") else lying)
    turned.getexif()[exif.ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    picture = images.decode(data)
    found = picture.array()
    assert found.dtype == lying.dtype
    assert np.array_equal(found >> 8 if kind.startswith("deep") else found, upright)
    for suffix in (".png", ".tif") if kind.startswith("deep") else (".png", ".jpg", ".tif", ".webp"):
        again = images.encode(picture, suffix)
        assert told(again)["orientation"] == 1
        assert images.decode(again).array().shape == upright.shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["P", "1"])
def test_a_tiff_that_pillow_reads_is_turned_once(mode: str, orientation: int) -> None:
    tags = PIL.Image.Exif()
    tags[exif.ORIENTATION] = orientation
    lying = PIL.Image.fromarray(ARRAY).convert(mode)
    file = io.BytesIO()
    lying.save(file, "TIFF", exif=tags)
    lying.getexif()[exif.ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(lying).convert("RGB" if mode == "P" else "L")
    assert np.array_equal(images.decode(file.getvalue()).array(), np.asarray(upright))


@pytest.mark.parametrize("sign", ["<", ">"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("kind", KINDS)
def test_exif_and_profile_go_from_any_format_into_any_other(kind: str, target: str, sign: str) -> None:
    data = made(kind, block(6, sign), wide_gamut())
    picture = images.decode(data)
    if picture.dtype != np.uint8 and target in (".jpg", ".webp"):
        shallow = from_array((picture.array() >> 8).astype(np.uint8))
        picture = replace(shallow, exif=picture.exif, profile=picture.profile)
    found = told(images.encode(picture, target))
    artist, rule = (ARTIST, "R98") if kind != "TIFF" else (found["artist"], None)  # Pillow writes ASCII alone
    assert found == {
        "orientation": 1,
        "artist": artist,
        "exposure": 0.25,
        "note": b"a note of 21 bytes...",
        "lens": "a lens",
        "size": (20, 30),
        "latitude": (48.0, 8.0, 30.0),
        "rule": rule,
        "profile": wide_gamut(),
    }


@pytest.mark.parametrize("name", ["sRGB", "wide"])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_colour_profile_is_kept(dip: Dip, tmp_path: Path, suffix: str, name: str) -> None:
    profile = wide_gamut() if name == "wide" else SRGB
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", icc_profile=profile))
    output = tmp_path / f"y{suffix}"
    result = dip.quick("denoise", source, "-o", output, "--snapshot-at", 1)
    assert result.exit_code == 0, result.output
    assert images.read(output)[0].profile == profile
    for written in (output, tmp_path / "y.dip/snapshots/000001.png"):
        assert told(written.read_bytes())["profile"] == profile


def test_a_profile_that_is_none_costs_no_pixels(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, DEEP, photometric="rgb", extratags=[(34675, "H", 3, (1, 2, 3))])
    assert dip.quick("denoise", source).exit_code == 0
    assert images.read(tmp_path / "x.denoised.png")[0].profile is None


def test_the_wide_gamut_profile_is_one() -> None:
    """The same numbers are a stronger red by it than by sRGB."""
    red = PIL.Image.new("RGB", (16, 16), (200, 100, 100))
    wide, narrow = (ImageCms.ImageCmsProfile(io.BytesIO(each)) for each in (wide_gamut(), SRGB))
    shown = ImageCms.profileToProfile(red, wide, narrow)
    assert shown.getpixel((0, 0))[0] > 215


def test_what_a_png_says_of_its_colours_stays_in_it() -> None:
    plain = images.encode(from_array(DEEP), ".png")
    gamma, primaries = png_chunk(b"gAMA", struct.pack(">I", 100_000)), png_chunk(b"cICP", bytes([12, 13, 0, 1]))
    picture = images.decode(plain[:33] + gamma + primaries + plain[33:])
    assert np.array_equal(picture.array(), DEEP), "said of the samples, not done to them"
    again = images.encode(picture, ".png")
    assert gamma + primaries in again
    assert gamma in images.encode(picture.to_8_bits(picture.pixels), ".png")


@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_the_resolution_is_kept(kind: str, target: str) -> None:
    picture = images.decode(pillow(kind, dpi=(300, 150)))
    assert picture.resolution == pytest.approx((300, 150), abs=0.02)
    again = PIL.Image.open(io.BytesIO(images.encode(picture, target))).info["dpi"]
    assert [float(each) for each in again] == pytest.approx([300, 150], abs=0.02)


def test_a_turned_picture_has_its_resolution_turned() -> None:
    tags = PIL.Image.Exif()
    tags[exif.ORIENTATION] = 6
    picture = images.decode(pillow("PNG", dpi=(300, 150), exif=tags))
    assert picture.resolution == pytest.approx((150, 300), abs=0.02)


@pytest.mark.parametrize("dpi", [(0, 0), (0, 72), (10**6, 10**6)])
def test_a_resolution_that_cannot_be_is_none(dpi: tuple[int, int]) -> None:
    assert images.decode(pillow("TIFF", dpi=dpi)).resolution is None


def test_resolutions_of_tiff_in_centimetres_and_in_nothing() -> None:
    for unit, expected in (("centimeter", (254, 254)), ("none", None)):
        file = io.BytesIO()
        tifffile.imwrite(file, DEEP, photometric="rgb", resolution=(100, 100), resolutionunit=unit)
        assert images.decode(file.getvalue()).resolution == expected


def test_the_size_in_the_exif_block_is_that_of_the_result(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.jpg"
    source.write_bytes(made("JPEG", block(8)))
    result = dip.quick("superres", source, "--scale", 2, "-o", tmp_path / "y.jpg")
    assert result.exit_code == 0, result.output
    assert told((tmp_path / "y.jpg").read_bytes())["size"] == (40, 60)
    assert images.read(tmp_path / "y.jpg")[0].pixels.shape == (3, 60, 40)


def test_the_thumbnail_of_the_unrestored_picture_goes() -> None:
    data = made("JPEG", block())
    assert PIL.Image.open(io.BytesIO(data)).getexif()._info.next > 0
    again = images.encode(images.decode(data), ".jpg")
    assert PIL.Image.open(io.BytesIO(again)).getexif()._info.next == 0


def test_notes_on_arrays_are_not_carried_to_other_arrays() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP, photometric="rgb", metadata={})
    assert b'{"shape"' in file.getvalue()
    assert b'{"shape"' not in images.encode(images.decode(file.getvalue()), ".tif")


def test_a_jpeg_that_would_lose_exif_is_refused_before_the_fit(dip: Dip, tmp_path: Path) -> None:
    tags = PIL.Image.Exif()
    tags[270] = "x" * 70_000
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", exif=tags))
    result = dip.quick("denoise", source, "-o", tmp_path / "y.jpg", iterations=10**7)
    assert result.exit_code == 1
    assert "as much EXIF" in result.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.png"]


def test_what_bmp_cannot_keep_is_said(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", icc_profile=SRGB))
    assert "colour profile" in dip.quick("denoise", source, "-o", tmp_path / "y.bmp").stderr
    assert "colour profile" not in dip.quick("denoise", source, "-o", tmp_path / "y.tif").stderr


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
@hypothesis_settings(deadline=None)
def test_any_block_is_kept_or_dropped(rest: bytes, head: bytes) -> None:
    upright = exif.upright(head + rest)
    if upright is not None:
        assert exif.upright(upright) == upright
        assert len(exif.resize(upright, 1, 2)) == len(upright)
        file = io.BytesIO()
        tifffile.imwrite(file, ARRAY, byteorder=exif.byte_order(upright), photometric="rgb")
        with_block = exif.to_tiff(file.getvalue(), upright)
        assert np.array_equal(tifffile.imread(io.BytesIO(with_block)), ARRAY)


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8))
@hypothesis_settings(deadline=None)
def test_a_damaged_block_costs_no_pixels(flips: list[tuple[int, int]]) -> None:
    about = bytearray(block(6))
    for place, value in flips:
        about[6 + place % (len(about) - 6)] = value
    picture = images.decode(made("deep PNG", bytes(about)))
    assert sorted(picture.pixels.shape[1:]) == [20, 30]
    for suffix in (".png", ".tif"):
        again = images.decode(images.encode(picture, suffix))
        assert np.array_equal(again.array(), picture.array())


def test_values_said_to_lie_on_top_of_one_another_fill_no_memory() -> None:
    """A thousand values, each of which is said to be all of the file."""
    size = 500_000
    entries = b"".join(struct.pack("<HHII", 40_000 + each, 7, size, 8) for each in range(1000))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 1001) + struct.pack("<HHII", 315, 2, 4, 0) + entries
    data = data.ljust(size + 8, b"\0")
    assert exif.from_tiff(data) is not None
    assert sum(len(each.value) for each in exif._directory(data, "<", 8)) <= len(data)
