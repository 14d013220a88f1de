"""Colour profile, EXIF, orientation and resolution are kept from any format to any other."""

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
from samples import grey_gamma, wide_gamut

from dipcli import images
from dipcli.images import exif, from_array

ARRAY = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ARTIST = "Jürgen Müller".encode()  # not ASCII
MAKER, LENS, PHOTO, GPS = 0x927C, 0xA434, 0x8769, 0x8825


def exif_block(orientation: int = 1, order: str = "<") -> bytes:
    """An EXIF block with artist, exposure, maker note, GPS position, image size and thumbnail."""
    tags = PIL.Image.Exif()
    tags.endian = order
    tags[exif.ORIENTATION] = orientation
    tags[315] = "J?rgen M?ller.."
    tags[PHOTO] = {0x829A: 0.25, MAKER: b"a note of 21 bytes...", LENS: "a lens", exif.WIDTH: 30, exif.HEIGHT: 20}
    tags[PHOTO][0xA005] = {1: "R98"}
    tags[GPS] = {1: "N", 2: (48.0, 8.0, 30.0)}
    made = bytearray(tags.tobytes().replace(b"J?rgen M?ller..", ARTIST))
    start = len(exif.HEADER) + 8
    end = start + 2 + 12 * struct.unpack_from(order + "H", made, start)[0]
    struct.pack_into(order + "I", made, end, len(made) - len(exif.HEADER))
    return bytes(made) + struct.pack(order + "HHHIII", 1, 0x0103, 3, 1, 6, 0)


def metadata(data: bytes) -> dict[str, object]:
    """The metadata of a file, as Pillow reads it."""
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


def make_file(kind: str, block: bytes, profile: bytes | None = None) -> bytes:
    """A file with an EXIF block and a profile, written by other libraries where they can."""
    if kind == "deep PNG":
        plain = images.encode(from_array(DEEP), ".png")
        profile_chunk = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) if profile else b""
        return plain[:33] + profile_chunk + png_chunk(b"eXIf", block[6:]) + plain[33:]
    if kind == "deep TIFF":
        file = io.BytesIO()
        order, tags = exif.byte_order(block), [(274, "H", 1, exif.orientation(block))]
        tifffile.imwrite(file, DEEP, byteorder=order, photometric="rgb", iccprofile=profile, extratags=tags)
        return exif.to_tiff(file.getvalue(), block)
    if kind == "TIFF":  # of the directory within a directory Pillow writes only the pointer
        code = f"{exif.byte_order(block)}H"
        block = block.replace(struct.pack(code, 0xA005), struct.pack(code, 0xFFFF))
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return pillow(kind, exif=block, icc_profile=profile, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "deep PNG", "deep TIFF")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind: str, orientation: int) -> None:
    data = make_file(kind, exif_block(orientation), SRGB)
    lying = DEEP if kind.startswith("deep") else ARRAY
    if kind == "JPEG":
        lying = np.asarray(PIL.Image.open(io.BytesIO(data)))
    turned = PIL.Image.fromarray((lying >> 8).astype(np.uint8) if kind.startswith("deep") else lying)
    turned.getexif()[exif.ORIENTATION] = orientation
    upright = np.asarray(ImageOps.exif_transpose(turned))
    image = images.decode(data)
    found = image.array()
    assert found.dtype == lying.dtype
    assert np.array_equal(found >> 8 if kind.startswith("deep") else found, upright)
    for suffix in (".png", ".tif") if kind.startswith("deep") else (".png", ".jpg", ".tif", ".webp"):
        again = images.encode(image, suffix)
        assert metadata(again)["orientation"] == 1
        assert images.decode(again).array().shape == upright.shape


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["P", "1"])
def test_orientation_is_applied_once_to_a_tiff_read_by_pillow(mode: str, orientation: int) -> None:
    tags = PIL.Image.Exif()
    tags[exif.ORIENTATION] = orientation
    lying = PIL.Image.fromarray(ARRAY).convert(mode)
    file = io.BytesIO()
    lying.save(file, "TIFF", exif=tags)
    lying.getexif()[exif.ORIENTATION] = orientation
    upright = ImageOps.exif_transpose(lying).convert("RGB" if mode == "P" else "L")
    assert np.array_equal(images.decode(file.getvalue()).array(), np.asarray(upright))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("kind", KINDS)
def test_exif_and_profile_are_kept_from_any_format_to_any_other(kind: str, target: str, order: str) -> None:
    data = make_file(kind, exif_block(6, order), wide_gamut())
    image = images.decode(data)
    if image.dtype != np.uint8 and target in (".jpg", ".webp"):
        shallow = from_array((image.array() >> 8).astype(np.uint8))
        image = replace(shallow, exif=image.exif, profile=image.profile)
    found = metadata(images.encode(image, target))
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
def test_colour_profile_is_kept(dip: Dip, tmp_path: Path, suffix: str, name: str) -> None:
    profile = wide_gamut() if name == "wide" else SRGB
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", icc_profile=profile))
    output = tmp_path / f"y{suffix}"
    result = dip.quick("denoise", source, "-o", output, "--snapshot-at", 1)
    assert result.exit_code == 0, result.output
    assert images.read(output)[0].profile == profile
    for written in (output, tmp_path / "y.dip/snapshots/000001.png"):
        assert metadata(written.read_bytes())["profile"] == profile


def test_invalid_profile_is_dropped(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, DEEP, photometric="rgb", extratags=[(34675, "H", 3, (1, 2, 3))])
    assert dip.quick("denoise", source).exit_code == 0
    assert images.read(tmp_path / "x.denoised.tif")[0].profile is None


def test_wide_gamut_profile_is_valid() -> None:
    """The same numbers are a stronger red than in sRGB."""
    red = PIL.Image.new("RGB", (16, 16), (200, 100, 100))
    wide, narrow = (ImageCms.ImageCmsProfile(io.BytesIO(profile)) for profile in (wide_gamut(), SRGB))
    shown = ImageCms.profileToProfile(red, wide, narrow)
    assert shown.getpixel((0, 0))[0] > 215


def test_colour_chunks_of_a_png_are_kept() -> None:
    plain = images.encode(from_array(DEEP), ".png")
    gamma, primaries = png_chunk(b"gAMA", struct.pack(">I", 100_000)), png_chunk(b"cICP", bytes([12, 13, 0, 1]))
    image = images.decode(plain[:33] + gamma + primaries + plain[33:])
    assert np.array_equal(image.array(), DEEP), "they do not change the samples"
    again = images.encode(image, ".png")
    assert gamma + primaries in again
    assert gamma in images.encode(image.to_8_bits(image.pixels), ".png")


@pytest.mark.parametrize("target", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_resolution_is_kept(kind: str, target: str) -> None:
    image = images.decode(pillow(kind, dpi=(300, 150)))
    assert image.resolution == pytest.approx((300, 150), abs=0.02)
    again = PIL.Image.open(io.BytesIO(images.encode(image, target))).info["dpi"]
    assert [float(per_inch) for per_inch in again] == pytest.approx([300, 150], abs=0.02)


def test_resolution_is_swapped_with_the_sides() -> None:
    tags = PIL.Image.Exif()
    tags[exif.ORIENTATION] = 6
    image = images.decode(pillow("PNG", dpi=(300, 150), exif=tags))
    assert image.resolution == pytest.approx((150, 300), abs=0.02)


@pytest.mark.parametrize("dpi", [(0, 0), (0, 72), (10**6, 10**6)])
def test_impossible_resolution_is_dropped(dpi: tuple[int, int]) -> None:
    assert images.decode(pillow("TIFF", dpi=dpi)).resolution is None


def test_tiff_resolution_in_centimetres_or_without_unit() -> None:
    for unit, expected in (("centimeter", (254, 254)), ("none", None)):
        file = io.BytesIO()
        tifffile.imwrite(file, DEEP, photometric="rgb", resolution=(100, 100), resolutionunit=unit)
        assert images.decode(file.getvalue()).resolution == expected


def test_size_in_the_exif_block_is_updated(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.jpg"
    source.write_bytes(make_file("JPEG", exif_block(8)))
    result = dip.quick("superres", source, "--scale", 2, "-o", tmp_path / "y.jpg")
    assert result.exit_code == 0, result.output
    assert metadata((tmp_path / "y.jpg").read_bytes())["size"] == (40, 60)
    assert images.read(tmp_path / "y.jpg")[0].pixels.shape == (3, 60, 40)


def test_thumbnail_is_removed() -> None:
    data = make_file("JPEG", exif_block())
    assert PIL.Image.open(io.BytesIO(data)).getexif()._info.next > 0
    again = images.encode(images.decode(data), ".jpg")
    assert PIL.Image.open(io.BytesIO(again)).getexif()._info.next == 0


def test_shape_notes_of_tifffile_are_dropped() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP, photometric="rgb", metadata={})
    assert b'{"shape"' in file.getvalue()
    assert b'{"shape"' not in images.encode(images.decode(file.getvalue()), ".tif")


def test_too_much_exif_for_jpeg_is_refused_before_the_fit(dip: Dip, tmp_path: Path) -> None:
    tags = PIL.Image.Exif()
    tags[270] = "x" * 70_000
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", exif=tags))
    result = dip.quick("denoise", source, "-o", tmp_path / "y.jpg", iterations=10**7)
    assert result.exit_code == 1
    assert "as much EXIF" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]


def test_profile_of_another_kind_of_image_is_left_out() -> None:
    grey = PIL.Image.fromarray(ARRAY[..., 0])
    file = io.BytesIO()
    grey.save(file, "JPEG", icc_profile=SRGB)
    image = images.decode(file.getvalue())
    assert image.profile is None
    assert "colour profile" in image.remarks[0]


def test_grey_profile_is_applied_in_a_format_of_colours() -> None:
    """WebP has no greys: a profile of grey levels would not be valid in it."""
    image = replace(from_array(ARRAY[..., 0]), profile=grey_gamma(1.0))
    data = images.encode(image, ".webp")
    assert images.decode(data).profile is None
    linear, shown = ARRAY[..., 0].astype(float), images.decode(data).array()[..., 0].astype(float)
    expected = np.where(linear > 5, 255 * (1.055 * (linear / 255) ** (1 / 2.4) - 0.055), shown)
    assert np.abs(shown - expected).max() < 4


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_xmp_is_kept_and_upright(suffix: str) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'
    image = images.decode(pillow("JPEG", xmp=packet))
    assert image.xmp == packet.replace(b"6", b"1")
    again = images.decode(images.encode(image, suffix))
    assert again.xmp == image.xmp
    shown = PIL.Image.open(io.BytesIO(images.encode(image, suffix)))
    shown.load()
    found = shown.info.get("xmp") or shown.info.get("XML:com.adobe.xmp") or b""
    assert b"dc:title" in (found.encode() if isinstance(found, str) else found)


def test_lost_gain_map_is_reported(dip: Dip, tmp_path: Path) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    (tmp_path / "x.jpg").write_bytes(pillow("JPEG", xmp=packet))
    result = dip.quick("denoise", tmp_path / "x.jpg")
    assert "gain map" in result.stderr
    assert b"hdrgm" not in (tmp_path / "x.denoised.png").read_bytes()


def test_lost_colour_chunks_are_reported_unless_they_say_srgb(dip: Dip, tmp_path: Path) -> None:
    plain = images.encode(from_array(ARRAY), ".png")
    chunks = {"hdr": png_chunk(b"cICP", bytes([9, 16, 0, 1])), "srgb": png_chunk(b"sRGB", b"\0")}
    for name, chunk in chunks.items():
        (tmp_path / f"{name}.png").write_bytes(plain[:33] + chunk + plain[33:])
        result = dip.quick("denoise", tmp_path / f"{name}.png", "-o", tmp_path / f"{name}.tif")
        assert ("cICP" in result.stderr) == (name == "hdr"), result.stderr


def test_lost_profile_is_reported(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.png"
    source.write_bytes(pillow("PNG", icc_profile=SRGB))
    assert "colour profile" in dip.quick("denoise", source, "-o", tmp_path / "y.bmp").stderr
    assert "colour profile" not in dip.quick("denoise", source, "-o", tmp_path / "y.tif").stderr


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
@hypothesis_settings(deadline=None)
def test_random_exif_block_is_kept_or_dropped(rest: bytes, head: bytes) -> None:
    upright = exif.upright(head + rest)
    if upright is not None:
        assert exif.upright(upright) == upright
        assert len(exif.upright(upright, (1, 2)) or b"") == len(upright)
        file = io.BytesIO()
        tifffile.imwrite(file, ARRAY, byteorder=exif.byte_order(upright), photometric="rgb")
        with_block = exif.to_tiff(file.getvalue(), upright)
        assert np.array_equal(tifffile.imread(io.BytesIO(with_block)), ARRAY)


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=8))
@hypothesis_settings(deadline=None)
def test_damaged_exif_block_does_not_change_pixels(flips: list[tuple[int, int]]) -> None:
    block = bytearray(exif_block(6))
    for place, value in flips:
        block[6 + place % (len(block) - 6)] = value
    image = images.decode(make_file("deep PNG", bytes(block)))
    assert sorted(image.pixels.shape[1:]) == [20, 30]
    for suffix in (".png", ".tif"):
        again = images.decode(images.encode(image, suffix))
        assert np.array_equal(again.array(), image.array())


def test_overlapping_exif_values_take_little_memory() -> None:
    """A thousand values, each of the size of the file."""
    size = 500_000
    entries = 1000 * struct.pack("<HHII", 270, 7, size, 8)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 1001) + entries + struct.pack("<HHII", 315, 2, 4, 0)
    block = exif.from_tiff(data.ljust(size + 8, b"\0"))
    assert block is not None
    assert size < len(block) < 2 * size


GEO = ((33550, "d", 3, (0.5, 0.25, 0.0)), (33922, "d", 6, (2.0, 4.0, 0.0, 444720.0, 3751320.0, 0.0)))
GEO = (*GEO, (34735, "H", 4, (1, 1, 0, 0)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_geotiff_tags_are_kept_and_scaled(dip: Dip, tmp_path: Path, order: str) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, DEEP, photometric="rgb", extratags=[(*tag, True) for tag in GEO], byteorder=order)
    assert dip.quick("denoise", source).exit_code == 0
    assert dip.quick("superres", source, "--scale", 2, "-o", tmp_path / "y.tif").exit_code == 0
    for name, scale, place in (("x.denoised", (0.5, 0.25), (2, 4)), ("y", (0.25, 0.125), (4, 8))):
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as file:
            tags = file.pages.first.tags
            assert tags[33550].value == (*scale, 0)
            assert tags[33922].value == (*place, 0, 444720, 3751320, 0)
            assert tags[34735].value == (1, 1, 0, 0)
    assert "calibration" in dip.quick("denoise", source, "-o", tmp_path / "z.png").stderr


def test_calibration_of_a_single_image_is_kept_and_scaled(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, DEEP[..., 0], imagej=True, resolution=(200 / 13, 8), metadata={"unit": "um"})
    assert dip.quick("superres", source, "--scale", 2, "-o", tmp_path / "y.tif").exit_code == 0
    with tifffile.TiffFile(tmp_path / "y.tif") as file:
        assert file.imagej_metadata["unit"] == "um"
        x, y = (file.pages.first.tags[code].value for code in (282, 283))
    assert (x[0] / x[1], y[0] / y[1]) == pytest.approx((400 / 13, 16))


def test_resolution_of_a_microscope_is_kept() -> None:
    """A million pixels per centimetre are more than a photograph's limit."""
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP, photometric="rgb", resolution=(1e6, 1e6), resolutionunit="centimeter")
    image = images.decode(file.getvalue())
    doubled = image.with_pixels(np.repeat(np.repeat(image.pixels, 2, axis=1), 2, axis=2))
    for changed, expected in ((image, 1_000_000), (doubled, 2_000_000)):
        with tifffile.TiffFile(io.BytesIO(images.encode(changed, ".tif"))) as again:
            tags = again.pages.first.tags
            assert (tags[282].value, tags[296].value) == ((expected, 1), 3)


def test_name_of_the_file_in_ome_xml_is_forgotten() -> None:
    """Programs read the samples of the file that is named there."""
    xml = b'<OME><TiffData IFD="0"><UUID FileName="x.ome.tif">urn:uuid:1</UUID></TiffData></OME>'
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP, photometric="rgb", metadata=None, description=xml)
    with tifffile.TiffFile(io.BytesIO(images.encode(images.decode(file.getvalue()), ".tif"))) as again:
        assert again.pages.first.description == xml.decode().replace(' FileName="x.ome.tif"', "")
