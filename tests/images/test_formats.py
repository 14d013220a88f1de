"""Pictures in and out: nothing is lost, and what is no picture is said to be none."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.images.image import from_array

SIDES = st.integers(16, 24)
LAYOUTS = st.sampled_from([(), (1,), (2,), (3,), (4,)])


def arrays(dtype: type) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(SIDES, SIDES, LAYOUTS).map(lambda parts: (parts[0], parts[1], *parts[2]))
    elements = st.floats(0, 1, width=32) if dtype is np.float32 else None
    return shapes.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=elements))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_samples_survive_the_way_through_a_picture(dtype: type) -> None:
    @given(arrays(dtype))
    @hypothesis_settings(max_examples=25, deadline=None)
    def check(array: np.ndarray) -> None:
        back = from_array(array).array()
        expected = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        assert back.dtype == dtype
        assert np.allclose(back, expected, atol=1e-6) if dtype is np.float32 else np.array_equal(back, expected)

    check()


@pytest.mark.parametrize(
    ("suffix", "dtype", "layout"),
    [
        *[(suffix, np.uint8, layout) for suffix in (".png", ".tif", ".webp") for layout in ((3,), (4,))],
        *[(suffix, np.uint8, ()) for suffix in (".png", ".tif", ".bmp")],
        (".png", np.uint8, (2,)),
        (".bmp", np.uint8, (3,)),
        *[(".png", np.uint16, layout) for layout in ((), (2,), (3,), (4,))],
        (".tif", np.uint16, ()),
        (".tif", np.uint16, (3,)),
        (".tif", np.float32, ()),
        (".tif", np.float32, (3,)),
        *[(".tif", dtype, layout) for dtype in (np.uint8, np.uint16, np.float32) for layout in ((2,), (4,))],
    ],
)
def test_lossless_files_give_back_what_went_in(suffix: str, dtype: type, layout: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shape = (17, 23, *layout)
    array = rng.random(shape, dtype=np.float32)
    if dtype is not np.float32:
        array = (array * np.iinfo(dtype).max).astype(dtype)
    images.check(from_array(array), suffix)
    again = images.decode(images.encode(from_array(array), suffix)).array()
    assert again.dtype == dtype
    assert np.array_equal(again, array)


def test_a_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :48]
    array = np.stack([4 * y, 4 * x, 2 * (x + y)], axis=2).astype(np.uint8)
    path = tmp_path / "x.JPG"
    images.write(images.encode(from_array(array), ".JPG"), path)
    assert np.abs(images.read(path)[0].array().astype(int) - array).mean() < 3


def test_a_palette_becomes_its_colours_and_black_and_white_grey() -> None:
    colours = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)).convert("P")
    for picture, mode in ((colours, "RGB"), (colours.convert("1"), "L")):
        file = io.BytesIO()
        picture.save(file, "PNG")
        assert np.array_equal(images.decode(file.getvalue()).array(), np.asarray(picture.convert(mode)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_that_one_alone(channels: int) -> None:
    """Not those that differ from it in the lower 8 bits."""
    array = np.full((20, 24, channels), 0x1234, np.uint16)
    array[5, 7, -1], array[9] = 0x1235, 0x1334
    plain = images.encode(from_array(array), ".png")
    colour = b"tRNS" + channels * b"\x12\x34"
    chunk = (2 * channels).to_bytes(4) + colour + zlib.crc32(colour).to_bytes(4)
    picture = images.decode(plain[:33] + chunk + plain[33:])
    transparent = (array == 0x1234).all(axis=2)
    assert np.array_equal(picture.alpha, np.where(transparent, 0, 65535))
    assert np.array_equal(picture.array()[..., :-1], array)


def test_an_interlaced_png_of_16_bits_is_read() -> None:
    """Its seven passes, as Adam7 has them: every eighth pixel first."""
    array = np.random.default_rng(0).integers(0, 65536, (20, 24, 3), dtype=np.uint16)
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for y, dy, x, dx in passes for row in array[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", 24, 20, 16, 2, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
    assert np.array_equal(images.decode(data).array(), array)


def test_floats_beyond_0_and_1_keep_their_span() -> None:
    array = np.random.default_rng(0).normal(5, 20, (20, 20, 3)).astype(np.float32)
    picture = from_array(array)
    assert picture.pixels.min() == 0
    assert picture.pixels.max() == 1
    assert np.allclose(picture.array(), array, atol=1e-4)
    written = images.decode(images.encode(picture, ".tif"), span=picture.span)
    assert np.allclose(written.pixels, picture.pixels, atol=1e-6)


def test_what_is_written_is_rounded_to_the_file() -> None:
    picture = from_array(np.zeros((16, 16), np.uint8)).with_pixels(np.full((1, 16, 16), 0.5004, np.float32))
    assert np.allclose(images.decode(images.encode(picture, ".png")).pixels, 128 / 255)


@pytest.mark.parametrize(
    ("array", "way_out"),
    [
        (np.zeros((4, 40), np.uint8), "16x16"),
        (np.zeros((20, 20, 700), np.uint8), "1 to 256"),
        (np.zeros(20, np.uint8), "H, W"),
        (np.zeros((20, 20), np.int64), "8 or 16 bits"),
        (np.full((20, 20), np.nan), "finite"),
        (np.full((20, 20), np.inf), "finite"),
        (np.full((20, 20), 1e300), "finite"),
        (np.tile(np.float32([-3e38, 3e38]), (20, 10)), "too far apart"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(array: np.ndarray, way_out: str) -> None:
    with pytest.raises(DipError, match=way_out):
        from_array(array)


@given(st.binary(max_size=400))
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_picture_or_a_sentence(data: bytes) -> None:
    with pytest.raises(DipError):
        images.decode(data)


@given(st.integers(1, 10_000), st.sampled_from([".png", ".jpg", ".tif", ".webp", ".bmp"]), st.binary(max_size=8))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_picture_or_a_sentence(place: int, suffix: str, damage: bytes) -> None:
    array = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    data = images.encode(from_array(array), suffix)
    place %= len(data)
    with contextlib.suppress(DipError):
        assert np.isfinite(images.decode(data[:place] + damage).pixels).all()


@pytest.mark.parametrize("layout", [(), (2,), (3,), (4,)], ids=str)
def test_each_of_65536_values_survives_png(layout: tuple[int, ...]) -> None:
    """Each is one that 8 bits cannot hold, but for 256 of them."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = np.stack([np.roll(values, 7 * c) for c in range(layout[0])], axis=2) if layout else values
    picture = images.decode(images.encode(from_array(array), ".png"))
    assert picture.dtype == np.uint16
    assert np.array_equal(picture.array(), array)
    assert len(np.unique(picture.pixels)) == 65536
    assert np.array_equal(picture.with_pixels(picture.pixels).array(), array), (
        "as numbers too, not only as they were kept"
    )


@pytest.mark.parametrize(
    ("picture", "suffix", "way_out"),
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
        (np.broadcast_to(np.uint8(0), (15_812, 15_812)), ".tif", "250 megapixels"),
        (np.zeros((20, 20), np.uint8), ".xyz", ".png"),
        (np.zeros((20, 20), np.uint8), "", ".png"),
    ],
)
def test_a_format_that_cannot_hold_the_picture_is_refused(picture: np.ndarray, suffix: str, way_out: str) -> None:
    with pytest.raises(DipError, match=way_out):
        images.check(from_array(picture), suffix)


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
        *[(tiff(DEEP, compression=each, predictor=2), DEEP) for each in ("lzw", "zlib", "zstd", "packbits")],
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
def test_odd_files_are_read_as_they_look(data: bytes, expected: np.ndarray) -> None:
    assert np.array_equal(images.decode(data).array(), expected)


def test_a_transparent_colour_of_a_palette_is_transparent() -> None:
    commonest = int(np.bincount(np.asarray(PIL.Image.fromarray(COLOURS).convert("P")).ravel()).argmax())
    alpha = images.decode(pillow("P", "PNG", transparency=commonest)).alpha
    assert alpha is not None
    assert set(np.unique(alpha)) == {0, 255}


@pytest.mark.parametrize(
    ("data", "way_out"),
    [
        (pillow("CMYK", "TIFF"), "convert it to RGB"),
        (tiff(GREY.astype(np.int32)), "convert them"),
        (tiff(np.stack([GREY.astype(np.uint16)] * 5), photometric="minisblack"), "5 pages"),
        (pillow("RGB", "TIFF", save_all=True, append_images=[PIL.Image.fromarray(COLOURS)]), "2 pages"),
        *[
            (pillow("RGB", kind, save_all=True, append_images=[PIL.Image.fromarray(COLOURS[::-1])]), way_out)
            for kind, way_out in (("GIF", "2 pictures"), ("WEBP", "2 pictures"), ("PNG", "animated"))
        ],
        (pillow("CMYK", "JPEG"), "CMYK pictures are not supported: convert it to RGB"),
        (pillow("LAB", "TIFF"), "convert it to RGB"),
        (pillow("YCbCr", "TIFF"), "convert it to RGB"),
        (tiff(np.stack([DEEP[:16, :16]] * 16), volumetric=True, tile=(16, 16, 16)), "depth of 16"),
        (pillow("L", "PPM"), "known format"),
        (pillow("RGB", "JPEG2000"), "known format"),
    ],
    ids=[
        "cmyk tiff",
        "int32",
        "pages",
        "8-bit pages",
        "gif",
        "webp",
        "apng",
        "cmyk",
        "lab",
        "ycc",
        "volume",
        "ppm",
        "jpeg 2000",
    ],
)
def test_what_cannot_be_read_without_loss_is_refused(data: bytes, way_out: str) -> None:
    with pytest.raises(DipError, match=way_out):
        images.decode(data)


def test_a_page_that_shows_the_same_smaller_is_no_page() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(DEEP, photometric="rgb")
        writer.write(DEEP[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(images.decode(file.getvalue()).array(), DEEP)


def test_of_a_phones_two_pictures_the_first_is_the_picture() -> None:
    data = pillow("RGB", "MPO", save_all=True, append_images=[PIL.Image.fromarray(COLOURS[::-1])])
    assert PIL.Image.open(io.BytesIO(data)).n_frames == 2
    picture = images.decode(data)
    assert np.array_equal(picture.array(), as_pillow_reads(data))
    assert PIL.Image.open(io.BytesIO(images.encode(picture, ".jpg"))).format == "JPEG"


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_palettes_of_any_size_become_their_colours(mode: str, bits: int) -> None:
    palette = PIL.Image.fromarray(COLOURS).quantize(2**bits)
    file = io.BytesIO()
    palette.save(file, "PNG", bits=bits, **({"transparency": bytes([0, 99])} if mode == "RGBA" else {}))
    assert file.getvalue()[24:26] == bytes([bits, 3])
    assert np.array_equal(images.decode(file.getvalue()).array(), as_pillow_reads(file.getvalue(), mode))


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    files.write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DipError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.png"]


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_bytes(b"")
    files.write(ours, b"")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DipError, match="is a folder"):
        images.read(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DipError, match="Cannot make"):
        files.make_folder(tmp_path / "file" / "below")
