"""Images are read and written without loss, and what cannot be is refused."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pillow_heif
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import ImageCms
from samples import wide_gamut

from dipcli import DipError, Image, files, images
from dipcli.images import from_array

SIDES = st.integers(16, 24)
LAYOUTS = st.sampled_from([(), (1,), (2,), (3,), (4,)])


def arrays(dtype: type) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(SIDES, SIDES, LAYOUTS).map(lambda parts: (parts[0], parts[1], *parts[2]))
    elements = st.floats(0, 1, width=32) if dtype is np.float32 else None
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_from_array_and_array_are_inverse(dtype: type) -> None:
    @given(arrays(dtype))
    @hypothesis_settings(max_examples=25, deadline=None)
    def check(array: np.ndarray) -> None:
        back = from_array(array).array()
        expected = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        assert back.dtype == dtype
        assert np.allclose(back, expected, atol=1e-6) if dtype is np.float32 else np.array_equal(back, expected)

    check()


def list_layouts(row: images.Format) -> list[tuple[int, ...]]:
    layouts: list[tuple[int, ...]] = [(), *([] if row.max_channels == 1 else [(3,)])]
    layouts += [(2,), (4,)] if row.alpha else []
    return layouts if row.max_channels else [*layouts, (5,)]


@pytest.mark.parametrize(
    ("row", "dtype", "layout"),
    [
        pytest.param(row, np.dtype(dtype), layout, id=f"{row.suffixes[0]}-{dtype}-{layout}")
        for row in images.formats()
        if row.write and row.lossless
        for dtype in row.dtypes
        for layout in list_layouts(row)
    ],
)
def test_lossless_formats_keep_every_sample(row: images.Format, dtype: np.dtype, layout: tuple[int, ...]) -> None:
    """Of the whole table, at each depth, with and without transparency; some formats make three channels of one."""
    array = np.random.default_rng(0).random((17, 23, *layout))
    if dtype.kind != "f":
        array *= min(np.iinfo(dtype).max, 2**52)
    array = array.astype(dtype)
    suffix, image = row.suffixes[0], from_array(array)
    images.check(image, suffix)
    decoded = images.decode(images.encode(image.with_pixels(image.pixels), suffix))
    again = decoded.with_pixels(decoded.pixels).array()
    assert again.dtype == dtype
    if again.ndim > array.ndim or again.shape[2:] == (4,) != layout:
        again = again[..., 0] if layout == () else again[..., 2:]
    assert np.array_equal(again, array)


def test_jpeg_is_close(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :48]
    array = np.stack([4 * y, 4 * x, 2 * (x + y)], axis=2).astype(np.uint8)
    path = tmp_path / "x.JPG"
    images.write(images.encode(from_array(array), ".JPG"), path)
    assert np.abs(images.read(path)[0].array().astype(int) - array).mean() < 3


def test_palette_is_resolved_and_1_bit_becomes_grey() -> None:
    colours = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).convert("P")
    for image, mode in ((colours, "RGB"), (colours.convert("1"), "L")):
        file = io.BytesIO()
        image.save(file, "PNG")
        assert np.array_equal(images.decode(file.getvalue()).array(), np.asarray(image.convert(mode)))


@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_colour_is_compared_in_16_bits(channels: int) -> None:
    """Colours that differ from it in the lower 8 bits stay opaque."""
    array = np.full((20, 24, channels), 0x1234, np.uint16)
    array[5, 7, -1], array[9] = 0x1235, 0x1334
    plain = images.encode(from_array(array), ".png")
    colour = b"tRNS" + channels * b"\x12\x34"
    chunk = (2 * channels).to_bytes(4) + colour + zlib.crc32(colour).to_bytes(4)
    image = images.decode(plain[:33] + chunk + plain[33:])
    transparent = (array == 0x1234).all(axis=2)
    assert np.array_equal(image.alpha, np.where(transparent, 0, 65535))
    assert np.array_equal(image.array()[..., :-1], array)


def test_interlaced_png_of_16_bits_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    """In the seven passes of Adam7, without libpng's warning."""
    array = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), dtype=np.uint16)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for y, dy, x, dx in passes for row in array[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", 24, 20, 16, 2, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
    assert np.array_equal(images.decode(data).array(), array)
    assert capfd.readouterr() == ("", "")


def test_floats_beyond_0_and_1_keep_their_range() -> None:
    array = np.random.default_rng(0).normal(5, 20, (20, 20, 3)).astype(np.float32)
    image = from_array(array)
    assert image.pixels.min() == 0
    assert image.pixels.max() == 1
    assert np.allclose(image.array(), array, atol=1e-4)
    written = images.decode(images.encode(image, ".tif")).match(image)
    assert np.allclose(written.pixels, image.pixels, atol=1e-6)


def test_pixels_are_rounded_to_the_bit_depth() -> None:
    image = from_array(np.tile(np.uint8([0, 255]), (16, 8))).with_pixels(np.full((1, 16, 16), 0.5004, np.float32))
    assert np.all(images.decode(images.encode(image, ".png")).array() == 128)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 40), np.uint8), "16x16"),
        (np.zeros((20, 20, 700), np.uint8), "1 to 256"),
        (np.zeros(20, np.uint8), "H, W"),
        (np.zeros((20, 20), complex), "integers or floats"),
        (np.tile(np.int64([-(2**62), 2**62]), (20, 10)), "too far apart"),
        (np.full((20, 20), np.nan), "finite"),
        (np.full((20, 20), np.inf), "finite"),
        (np.tile(np.float32([-3e38, 3e38]), (20, 10)), "too far apart"),
    ],
)
def test_invalid_array_is_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(DipError, match=message):
        from_array(array)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DipError):
        images.decode(data)


@given(
    st.integers(1, 10_000),
    st.sampled_from([suffix for row in images.formats() if row.write for suffix in row.suffixes[:1]]),
    st.binary(max_size=8),
)
@hypothesis_settings(deadline=None)
def test_damaged_file_is_read_or_refused(place: int, suffix: str, damage: bytes) -> None:
    array = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    if suffix in (".fits", ".pfm"):
        array = array[..., 0] / np.float32(255)
    data = images.encode(from_array(array), suffix)
    place %= len(data)
    with contextlib.suppress(DipError):
        assert np.isfinite(images.decode(data[:place] + damage).pixels).all()


@pytest.mark.parametrize("layout", [(), (2,), (3,), (4,)], ids=str)
def test_png_keeps_all_65536_values(layout: tuple[int, ...]) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = np.stack([np.roll(values, 7 * c) for c in range(layout[0])], axis=2) if layout else values
    image = images.decode(images.encode(from_array(array), ".png"))
    assert image.dtype == np.uint16
    assert np.array_equal(image.array(), array)
    assert len(np.unique(image.pixels)) >= 65536 - (layout == (2,)), "the colour of the transparent pixel is not used"
    assert np.array_equal(image.with_pixels(image.pixels).array(), array), "as float pixels too"


@pytest.mark.parametrize(
    ("array", "suffix", "message"),
    [
        (np.zeros((20, 20, 4), np.uint8), ".jpg", ".png"),
        (np.zeros((20, 20, 4), np.uint8), ".bmp", ".png"),
        (np.zeros((20, 20), np.uint16), ".jpg", ".png or .tif"),
        (np.zeros((20, 20, 3), np.uint16), ".webp", ".png or .tif"),
        (np.zeros((20, 20, 4), np.uint16), ".bmp", ".png or .tif"),
        (np.zeros((20, 20), np.float32), ".png", "as .tif"),
        (np.zeros((20, 20, 3), np.float32), ".jpg", "as .tif"),
        (np.zeros((20, 20, 5), np.uint8), ".png", ".tif"),
        (np.zeros((16, 65_501), np.uint8), ".jpg", ".tif"),
        (np.zeros((16_384, 16), np.uint8), ".webp", ".tif"),
        (np.zeros((16, 1_000_001), np.uint8), ".png", ".tif"),
        (np.zeros((20, 20), np.uint8), ".xyz", ".png"),
        (np.zeros((20, 20), np.uint8), "", ".png"),
    ],
)
def test_format_that_cannot_hold_the_image_is_refused(array: np.ndarray, suffix: str, message: str) -> None:
    with pytest.raises(DipError, match=message):
        images.check(from_array(array), suffix)


def test_image_beyond_the_size_limit_is_not_written() -> None:
    pixels = np.broadcast_to(np.float32(0), (1, 15_812, 15_812))
    with pytest.raises(DipError, match="250 megapixels"):
        images.check(Image(pixels, np.dtype(np.uint8)), ".tif")


def pillow(mode: str, file_format: str, **options: object) -> bytes:
    """A file of random colours, as Pillow writes it."""
    file = io.BytesIO()
    image = PIL.Image.fromarray(COLOURS)
    image = PIL.Image.fromarray(GREYS) if mode == "I;16" else image.convert(mode)
    image.save(file, file_format, **options)
    return file.getvalue()


def as_pillow_reads(data: bytes, mode: str | None = None) -> np.ndarray:
    image = PIL.Image.open(io.BytesIO(data))
    return np.asarray(image.convert(mode) if mode else image)


def tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    colour = {"photometric": "rgb"} if array.ndim == 3 else {}
    tifffile.imwrite(file, array, **{**colour, **options})
    return file.getvalue()


COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
DEEP = COLOURS.astype(np.uint16) * 257
GREYS = np.asarray(PIL.Image.fromarray(COLOURS).convert("L")).astype(np.uint16)
WITH_ALPHA = np.concatenate([COLOURS // 5 * 5, np.full((20, 24, 1), 51, np.uint8)], axis=2)
PREMULTIPLIED = np.concatenate([WITH_ALPHA[..., :3] // 5, WITH_ALPHA[..., 3:]], axis=2)
PLANES = np.moveaxis(COLOURS, -1, 0)
SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (pillow("RGB", "TIFF", compression="tiff_lzw"), COLOURS),
        (pillow("P", "TIFF"), np.asarray(PIL.Image.fromarray(COLOURS).convert("P").convert("RGB"))),
        (pillow("1", "TIFF", compression="group4"), np.asarray(PIL.Image.fromarray(COLOURS).convert("1").convert("L"))),
        (tiff(GREY, photometric="miniswhite"), 255 - GREY),
        (tiff(PLANES, **SEPARATE), COLOURS),
        (tiff(np.moveaxis(DEEP, -1, 0), **SEPARATE), DEEP),
        *[(tiff(DEEP, compression=name, predictor=2), DEEP) for name in ("lzw", "zlib", "zstd", "packbits")],
        (tiff(COLOURS, compression="lzw", predictor=2, tile=(16, 16)), COLOURS),
        (tiff((DEEP / 65535).astype(np.float32), compression="lzw", predictor=3), (DEEP / 65535).astype(np.float32)),
        (tiff(DEEP[..., 0], photometric="miniswhite"), 65535 - DEEP[..., 0]),
        (tiff(DEEP[..., 0], byteorder=">"), DEEP[..., 0]),
        (pillow("I;16", "TIFF"), GREYS),
        (pillow("RGB", "TIFF", compression="jpeg"), as_pillow_reads(pillow("RGB", "TIFF", compression="jpeg"))),
        (tiff(WITH_ALPHA, extrasamples=["unspecified"]), WITH_ALPHA),
        (tiff(PREMULTIPLIED, extrasamples=["assocalpha"]), WITH_ALPHA),
        (tiff(PREMULTIPLIED.astype(np.uint16) * 257, extrasamples=["assocalpha"]), WITH_ALPHA.astype(np.uint16) * 257),
        (tiff(DEEP, byteorder=">"), DEEP),
        (tiff(DEEP, extratags=[(274, "H", 1, 6)]), np.rot90(DEEP, -1)),
        (tiff(COLOURS / 255), (COLOURS / 255).astype(np.float32)),
        (tiff(np.full((20, 24), 5, np.float32)), np.full((20, 24), 5, np.float32)),
        (pillow("RGB", "PNG", exif=b"Exif\0\0garbage"), COLOURS),
        (pillow("RGB", "GIF"), np.asarray(PIL.Image.open(io.BytesIO(pillow("RGB", "GIF"))).convert("RGB"))),
    ],
    ids=["lzw", "palette", "g4", "white is 0", "planes", "deep planes", "deep lzw", "deep zip", "deep zstd",
         "deep packbits", "tiles", "float lzw", "deep white is 0", "deep grey big endian", "deep grey", "jpeg tiff",
         "unspecified alpha", "premultiplied", "deep premultiplied", "big endian", "deep lying",
         "float64", "constant", "bad exif", "gif"],
)  # fmt: skip
def test_unusual_files_are_read(data: bytes, expected: np.ndarray) -> None:
    assert np.array_equal(images.decode(data).array(), expected)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("kind", ["PPM", "TGA", "SGI", "PCX", "JPEG2000"])
def test_imageio_reads_other_formats_exactly(kind: str, mode: str) -> None:
    data = pillow(mode, kind)
    assert np.array_equal(images.decode(data).array(), np.asarray(PIL.Image.fromarray(COLOURS).convert(mode)))


def test_imageio_reads_16_bit_grey_float_and_alpha_exactly() -> None:
    deep = pillow("I;16", "PPM"), pillow("I;16", "JPEG2000")
    for data in deep:
        assert np.array_equal(images.decode(data).array(), GREYS)
    floats = GREYS.astype(np.float32) / 255
    file = io.BytesIO()
    PIL.Image.fromarray(floats).save(file, "PPM")
    assert np.array_equal(images.decode(file.getvalue()).array(), floats)
    assert np.array_equal(images.decode(pillow("RGBA", "TGA")).alpha, np.full((20, 24), 255))


TWELVE = DEEP >> 4


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (b"P6 24\n# deep\n20 65535\n" + DEEP.astype(">u2").tobytes(), 65535),
        (b"P6 24 20 4095\n" + TWELVE.astype(">u2").tobytes(), 4095),
        (b"P2 24 20 15\n" + " ".join(map(str, (GREY >> 4).ravel())).encode(), 15),
        (imagecodecs.jpeg2k_encode(DEEP, codecformat="jp2", level=0, reversible=True), 65535),
        (imagecodecs.jpeg2k_encode(TWELVE, codecformat="j2k", level=0, reversible=True, bitspersample=12), 4095),
        (imagecodecs.jpegxl_encode(DEEP, lossless=True), 65535),
        (imagecodecs.jpegxl_encode(DEEP, lossless=True, usecontainer=True), 65535),
    ],
    ids=["ppm", "12-bit ppm", "4-bit pgm", "jp2", "12-bit j2k", "jxl", "jxl in a container"],
)
def test_depths_between_8_and_16_bits_are_stretched(data: bytes, most: int) -> None:
    """A value of the file is the same fraction of its white as before."""
    array = images.decode(data).array()
    file = {65535: DEEP, 4095: TWELVE, 15: GREY >> 4}[most]
    assert array.dtype == (np.uint8 if most == 15 else np.uint16)
    assert np.array_equal(np.rint(array / np.iinfo(array.dtype).max * most), file)


def test_deep_avif_and_jpeg_of_12_bits_are_read() -> None:
    smooth = np.linspace(100, 4000, 20 * 24).reshape(20, 24).astype(np.uint16)
    deep = images.decode(imagecodecs.avif_encode(np.stack([smooth >> 2] * 3, axis=2), bitspersample=10)).array()
    assert np.abs(deep[..., 0] / 65535 - (smooth >> 2) / 1023).max() < 0.02
    data = imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12)
    read = images.decode(data).array()
    assert read.dtype == np.uint16
    assert np.abs(read / 65535 - smooth / 4095).max() < 0.01
    with pytest.raises(DipError, match="truncated"):
        images.decode(data[:-20])


@pytest.mark.parametrize("bits", [8, 10])
def test_heic_is_read(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = np.stack([np.linspace(0, 1, 64 * 64).reshape(64, 64)] * 3, axis=2)
    samples = (smooth * 255).astype(np.uint8) if bits == 8 else (smooth * 65535).astype(np.uint16)
    tags = PIL.Image.Exif()
    tags[315] = "an artist"
    file = io.BytesIO()
    made = pillow_heif.from_bytes("RGB" if bits == 8 else "RGB;16", (64, 64), samples.tobytes())
    made.save(file, quality=95, exif=tags.tobytes())
    image = images.decode(file.getvalue())
    assert image.dtype == samples.dtype
    assert np.abs(image.pixels[1] - smooth[..., 1]).max() < 0.03
    assert image.exif is not None
    assert b"an artist" in image.exif
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DipError, match=r"dipcli\[heic\]"):
        images.decode(file.getvalue())


def test_lab_becomes_srgb() -> None:
    colours = np.full((20, 24, 3), (200, 90, 40), np.uint8)
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(PIL.Image.fromarray(colours), srgb, lab, outputMode="LAB")
    file = io.BytesIO()
    converted.save(file, "TIFF")
    image = images.decode(file.getvalue())
    assert np.abs(image.array().astype(int) - colours).max() <= 3
    assert "sRGB" in " ".join(image.remarks)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x20ftypisom" + bytes(40), "Video"),
        (b"v/1\x01" + bytes(40), "OpenEXR"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (bytes(128) + b"DICM" + bytes(40), "DICOM"),
        (b"%PDF-1.7" + bytes(40), "PDF"),
    ],
)
def test_format_that_is_known_but_not_read_is_named(data: bytes, name: str) -> None:
    with pytest.raises(DipError, match=f"{name} files are not supported: "):
        images.decode(data)


def test_huge_header_of_a_jpeg_xl_is_refused_before_it_is_decoded() -> None:
    data = imagecodecs.jpegxl_encode(np.zeros((16, 70_000), np.uint8), lossless=True)
    assert images.decode(data).pixels.shape == (1, 16, 70_000)
    header = int.from_bytes(data[2:12], "little") | (3 << 1) | (2**30 - 1) << 3  # a height of 2**30
    with pytest.raises(DipError, match="250 megapixels"):
        images.decode(data[:2] + header.to_bytes(10, "little") + data[12:])


def test_imageio_keeps_profile_exif_and_orientation() -> None:
    tags = PIL.Image.Exif()
    tags[0x0112], tags[315] = 6, "an artist"
    data = pillow("RGB", "AVIF", exif=tags, icc_profile=wide_gamut(), quality=100)
    image = images.decode(data)
    assert image.pixels.shape == (3, 24, 20)
    assert image.profile == wide_gamut()
    assert image.exif is not None
    assert b"an artist" in image.exif


def test_table_of_formats_is_consistent() -> None:
    suffixes = [suffix for row in images.formats() for suffix in row.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(images.has_image_suffix(Path(f"x{suffix.upper()}")) for suffix in suffixes)
    grey = from_array(GREY)
    for row in images.formats():
        for suffix in row.suffixes if row.write else ():
            data = images.encode(grey if "uint8" in row.dtypes else from_array(GREY / np.float32(255)), suffix)
            assert data.startswith(row.signatures)
            assert images.decode(data).pixels.shape[1:] == GREY.shape
    assert images.default_suffix(grey) == ".png"
    assert {images.default_suffix(from_array(np.zeros(s, t))) for s, t in (((20, 20), "f4"), ((20, 20, 5), "u1"))} == {
        ".tif"
    }


def test_transparent_palette_colour_becomes_alpha() -> None:
    commonest = int(np.bincount(np.asarray(PIL.Image.fromarray(COLOURS).convert("P")).ravel()).argmax())
    alpha = images.decode(pillow("P", "PNG", transparency=commonest)).alpha
    assert alpha is not None
    assert set(np.unique(alpha)) == {0, 255}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pillow("CMYK", "TIFF"), "convert it to RGB"),
        (tiff(np.stack([GREY.astype(np.uint16)] * 5), photometric="minisblack"), "5 pages"),
        (pillow("RGB", "TIFF", save_all=True, append_images=[PIL.Image.fromarray(COLOURS)]), "2 pages"),
        *[
            (pillow("RGB", kind, save_all=True, append_images=[PIL.Image.fromarray(COLOURS[::-1])]), message)
            for kind, message in (
                ("GIF", "animated GIF with 2 frames"),
                ("WEBP", "animated WebP with 2 frames"),
                ("PNG", "animated PNG with 2 frames"),
                ("AVIF", "animated AVIF with 2 frames"),
            )
        ],
        (pillow("CMYK", "JPEG"), "CMYK images are not supported: convert it to RGB"),
        (pillow("YCbCr", "TIFF"), "convert it to RGB"),
        (tiff(np.stack([DEEP[:16, :16]] * 16), volumetric=True, tile=(16, 16, 16)), "depth of 16"),
        (pillow("CMYK", "JPEG2000"), "CMYK images are"),
        (pillow("RGB", "SGI", bpc=2), "more than 8 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "known format"),
    ],
    ids=[
        "cmyk tiff",
        "pages",
        "8-bit pages",
        "gif",
        "webp",
        "apng",
        "animated avif",
        "cmyk",
        "ycc",
        "volume",
        "cmyk by imageio",
        "deep sgi",
        "eps",
    ],
)
def test_file_that_cannot_be_read_without_loss_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DipError, match=message):
        images.decode(data)


def test_reduced_page_is_not_counted() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(DEEP, photometric="rgb")
        writer.write(DEEP[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(images.decode(file.getvalue()).array(), DEEP)


def test_first_image_of_an_mpo_is_read() -> None:
    data = pillow("RGB", "MPO", save_all=True, append_images=[PIL.Image.fromarray(COLOURS[::-1])])
    assert PIL.Image.open(io.BytesIO(data)).n_frames == 2
    image = images.decode(data)
    assert np.array_equal(image.array(), as_pillow_reads(data))
    assert PIL.Image.open(io.BytesIO(images.encode(image, ".jpg"))).format == "JPEG"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_palettes_of_any_size_are_resolved(mode: str, bits: int) -> None:
    palette = PIL.Image.fromarray(COLOURS).quantize(2**bits)
    file = io.BytesIO()
    palette.save(file, "PNG", bits=bits, **({"transparency": bytes([0, 99])} if mode == "RGBA" else {}))
    assert file.getvalue()[24:26] == bytes([bits, 3])
    assert np.array_equal(images.decode(file.getvalue()).array(), as_pillow_reads(file.getvalue(), mode))


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    files.write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DipError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_bytes(b"")
    files.write(ours, b"")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DipError, match="is a folder"):
        images.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DipError, match="Cannot make"):
        files.make_folder(tmp_path / "file" / "below")
