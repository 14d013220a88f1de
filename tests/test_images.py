"""Pictures in and out: nothing is lost, and what is no picture is said to be none."""

from __future__ import annotations

import contextlib
import io
import stat
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
from dipcli.picture import from_array

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
        (".png", np.uint16, ()),
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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_once(orientation: int) -> None:
    from PIL import ImageOps

    array = np.zeros((32, 48, 3), dtype=np.uint8)
    array[:16, :16] = (250, 20, 20)
    tags = PIL.Image.Exif()
    tags[images.ORIENTATION] = orientation
    tags[0x010E] = "a red corner"
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "JPEG", exif=tags, quality=98, subsampling=0)
    picture = images.decode(file.getvalue())
    upright = np.asarray(ImageOps.exif_transpose(PIL.Image.open(file)))
    assert np.array_equal(picture.array(), upright)
    again = PIL.Image.open(io.BytesIO(images.encode(picture, ".jpg")))
    assert again.getexif().get(images.ORIENTATION, 1) == 1
    assert again.getexif()[0x010E] == "a red corner"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_the_colour_profile_is_kept(suffix: str) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    file = io.BytesIO()
    PIL.Image.new("RGB", (20, 20)).save(file, "PNG", icc_profile=profile)
    picture = images.decode(file.getvalue())
    assert picture.profile == profile
    assert images.decode(images.encode(picture, suffix)).profile == profile


def test_floats_beyond_0_and_1_keep_their_span() -> None:
    array = np.random.default_rng(0).normal(5, 20, (20, 20, 3)).astype(np.float32)
    picture = from_array(array)
    assert picture.pixels.min() == 0
    assert picture.pixels.max() == 1
    assert np.allclose(picture.array(), array, atol=1e-4)
    written = images.decode(images.encode(picture, ".tif"), span=picture.span)
    assert np.allclose(written.pixels, picture.pixels, atol=1e-6)


def test_what_is_written_is_rounded_to_the_file() -> None:
    picture = from_array(np.zeros((16, 16), np.uint8)).showing(np.full((1, 16, 16), 0.5004, np.float32))
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


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_16_bit_colour_png_is_not_cut_to_8_bits_in_silence(kind: int) -> None:
    header = images.PNG_SIGNATURE + b"\0\0\0\rIHDR" + (20).to_bytes(4) * 2 + bytes([16, kind, 0, 0, 0])
    with pytest.raises(DipError, match="TIFF"):
        images.decode(header)


def test_a_huge_picture_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images.encode(from_array(np.zeros((64, 64), np.uint8)), ".png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DipError, match="larger than"):
        images.decode(data)


@pytest.mark.parametrize(
    ("picture", "suffix", "way_out"),
    [
        (np.zeros((20, 20, 4), np.uint8), ".jpg", ".png"),
        (np.zeros((20, 20, 4), np.uint8), ".bmp", ".png"),
        (np.zeros((20, 20, 3), np.uint16), ".png", ".tif"),
        (np.zeros((20, 20), np.uint16), ".jpg", ".tif"),
        (np.zeros((20, 20), np.float32), ".png", ".tif"),
        (np.zeros((20, 20), np.uint8), ".xyz", ".png"),
        (np.zeros((20, 20), np.uint8), "", ".png"),
    ],
)
def test_a_format_that_cannot_hold_the_picture_is_refused(picture: np.ndarray, suffix: str, way_out: str) -> None:
    with pytest.raises(DipError, match=way_out):
        images.encode(from_array(picture), suffix)


def pillow(mode: str, file_format: str, **options: object) -> bytes:
    """A file of random colours, as Pillow writes it."""
    file = io.BytesIO()
    PIL.Image.fromarray(COLOURS).convert(mode).save(file, file_format, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    colour = {"photometric": "rgb"} if array.ndim == 3 else {}
    tifffile.imwrite(file, array, **{**colour, **options})
    return file.getvalue()


COLOURS = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
DEEP = COLOURS.astype(np.uint16) * 257
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
        (tiff(DEEP, compression="zlib"), DEEP),
        (tiff(DEEP, byteorder=">"), DEEP),
        (tiff(DEEP, extratags=[(274, "H", 1, 6)]), np.rot90(DEEP, -1)),
        (tiff(COLOURS / 255), (COLOURS / 255).astype(np.float32)),
        (tiff(np.full((20, 24), 5, np.float32)), np.full((20, 24), 5, np.float32)),
        (pillow("RGB", "PNG", exif=b"Exif\0\0garbage"), COLOURS),
        (pillow("RGB", "GIF"), np.asarray(PIL.Image.open(io.BytesIO(pillow("RGB", "GIF"))).convert("RGB"))),
    ],
    ids=["lzw", "palette", "g4", "white is 0", "planes", "deep planes", "deep zip", "big endian", "deep lying",
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
        (pillow("RGB", "GIF", save_all=True, append_images=[PIL.Image.fromarray(COLOURS[::-1])]), "2 pictures"),
    ],
    ids=["cmyk tiff", "int32", "pages", "animated"],
)
def test_what_cannot_be_read_without_loss_is_refused(data: bytes, way_out: str) -> None:
    with pytest.raises(DipError, match=way_out):
        images.decode(data)


def test_cmyk_is_not_taken_for_rgb_with_alpha() -> None:
    file = io.BytesIO()
    PIL.Image.new("CMYK", (20, 20)).save(file, "JPEG")
    with pytest.raises(DipError, match="RGB"):
        images.decode(file.getvalue())


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
