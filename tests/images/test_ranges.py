"""Values are worked on in the image's own range, and come back exactly, whatever contains them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from samples import noisy, scene

from dipcli import DipError, Image, images
from dipcli.images import from_array

GREY = noisy(scene(40, 48, 1))[..., 0]
PLAIN = from_array(GREY).pixels
DTYPES = [np.uint16, np.uint32, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_eight_bits_are_worked_on_alike_in_any_sample_type(dtype: type) -> None:
    image = from_array(GREY.astype(dtype))
    assert np.array_equal(image.pixels, PLAIN)
    back = image.with_pixels(image.pixels).array()
    assert back.dtype == dtype
    assert np.array_equal(back, GREY)


def test_12_bits_16_bits_and_floats_have_nearly_the_same_pixels() -> None:
    for array in (GREY.astype(np.uint16) * 16, GREY / np.float32(255), GREY.astype(np.uint16) * 257):
        assert np.abs(from_array(array).pixels - PLAIN).max() < 0.005


@pytest.mark.parametrize(
    ("factor", "offset", "dtype"),
    [
        (1e-12, 0, np.float64),
        (1e-12, 0, np.float32),
        (1e12, 0, np.float64),
        (1e9, -3e11, np.float64),
        (1e-3, 0, np.float32),
        (1e-3, 1000, np.float64),
        (8, -1024, np.int16),
        (1, 10_000, np.uint16),
        (1, 2**31 - 300, np.int32),
        (0.1, 0, np.uint8),
        (0.1, 200, np.uint8),
    ],
)
def test_any_unit_is_worked_on_in_its_own_range_and_comes_back(factor: float, offset: float, dtype: type) -> None:
    array = (GREY * np.float64(factor) + offset).astype(dtype)
    image = from_array(array)
    assert np.ptp(image.pixels) > 0.24
    assert np.array_equal(image.with_pixels(image.pixels).array(), array), "bit for bit"
    moved = image.with_pixels(image.pixels * np.float32(0.5)).array().astype(np.float64)
    low = image.range[0]
    assert np.abs(moved - (low + (array.astype(np.float64) - low) / 2)).max() <= 1e-6 * np.ptp(array) + 0.5 * (
        array.dtype.kind != "f"
    )


@given(
    hnp.arrays(np.float64, (16, 17), elements=st.floats(-1e12, 1e12)),
    st.sampled_from([np.float32, np.float64, np.int32, np.int16, np.uint8]),
)
def test_every_array_comes_back_bit_for_bit(array: np.ndarray, dtype: type) -> None:
    limits = np.finfo(dtype) if dtype in (np.float32, np.float64) else np.iinfo(dtype)
    array = array.clip(float(limits.min), float(limits.max)).astype(dtype)
    image = from_array(array)
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1
    assert np.array_equal(image.with_pixels(image.pixels.copy()).array(), array)


@given(hnp.arrays(np.uint8, (16, 16)))
def test_eight_bits_that_fill_a_quarter_of_their_range_are_mapped_as_ever(array: np.ndarray) -> None:
    image = from_array(array)
    usual = np.sort(array.ravel())[3:-3]
    if np.ptp(usual) >= 64:
        assert image.span is None
        assert np.array_equal(image.pixels[0], array / np.float32(255))


def spoil(array: np.ndarray, kind: str) -> np.ndarray:
    """Floats of 0..1 or so with outliers of a kind."""
    array = array / np.float32(255)
    if kind == "hot pixel":
        array[7, 9] = 50
    elif kind == "hot pixels":
        array[::13, ::17] = 8
    elif kind == "dead pixel":
        array[7, 9] = -1000
    elif kind == "highlight":
        array[:4, :4] = np.linspace(20, 900, 16).reshape(4, 4)
    elif kind == "cut off highlight":
        array[:20, :20] = 900
    elif kind == "border of nothing":
        array[:, :6], array[:3] = -9999, -9999
    elif kind == "nodata":
        array[:, :6] = np.finfo(np.float32).min
    return array


@pytest.mark.parametrize(
    "kind",
    ["hot pixel", "hot pixels", "dead pixel", "highlight", "cut off highlight", "border of nothing", "nodata"],
)
def test_outliers_leave_the_range_to_the_others_and_come_back(kind: str) -> None:
    array = spoil(GREY, kind)
    image = from_array(array)
    usual = array == GREY / np.float32(255)
    assert np.array_equal(image.pixels[0][usual], PLAIN[0][usual])
    changed = image.with_pixels(image.pixels * np.float32(0.9)).array()
    assert np.array_equal(changed[~usual], array[~usual])
    assert np.allclose(changed[usual], 0.9 * array[usual], atol=1e-6)


def test_outliers_of_integers() -> None:
    narrow = 10_000 + GREY.astype(np.uint16)
    image = from_array(narrow)
    assert image.span == (narrow.min(), narrow.max())
    for value in (0, 65_535):
        spoilt = narrow.copy()
        spoilt[0], spoilt[20, 20] = value, value
        spoilt_image = from_array(spoilt)
        assert spoilt_image.span == (narrow[1:].min(), narrow[1:].max())
        assert np.all(spoilt_image.with_pixels(1 - spoilt_image.pixels).array()[0] == value)


def drawing(kind: str) -> np.ndarray:
    page = np.full((96, 112), 250.0)
    if kind == "text":  # less than a hundredth of it is ink
        page += np.random.default_rng(0).normal(0, 2, page.shape)
        page[40:43, 10:40] -= 230
    elif kind == "two colours":
        page[:, 40:] = 0
    elif kind == "three colours":
        page[:, 40:], page[:30] = 0, 128
    elif kind == "dark, with a lamp":
        page = 12 + np.random.default_rng(0).normal(0, 4, page.shape)
        page[40:43, 10:40] = 250
    return page.clip(0, 255).round()


@pytest.mark.parametrize("kind", ["text", "two colours", "three colours", "dark, with a lamp"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_ink_and_lamps_are_no_outliers(kind: str, dtype: type) -> None:
    assert from_array(drawing(kind).astype(dtype)).range == (0, 255)
    if kind != "dark, with a lamp":
        assert from_array(drawing(kind).astype(np.uint16) * 257).range == (0, 65_535)
        assert from_array(drawing(kind) / 255).range == (0, 1)


@pytest.mark.parametrize("value", [0, 1, 255, 70_000, -3.5, 1e-30, 1e30, 1e300])
def test_one_value_comes_back(value: float) -> None:
    array = np.full((20, 20), value, np.float64)
    image = from_array(array)
    assert image.span in (None, (value, value))
    assert np.array_equal(image.with_pixels(image.pixels + np.float32(0.1)).array(), array) or image.span is None


def with_alpha(colour: float = 0) -> np.ndarray:
    """A dark-bordered cutout: its left half is transparent."""
    array = np.stack([GREY, np.full_like(GREY, 255)], axis=2)
    array[:, :20] = colour, 0
    return array


def test_transparent_pixels_are_not_fitted_and_keep_their_colour() -> None:
    for colour in (0, 255):
        image = from_array(with_alpha(colour))
        assert image.valid is not None
        assert np.array_equal(image.valid, with_alpha()[..., 1] > 0)
        assert np.array_equal(image.pixels[:, :, :20], np.repeat(image.pixels[:, :, 20:21], 20, axis=2))
        assert np.array_equal(image.with_pixels(1 - image.pixels).array()[:, :20], with_alpha(colour)[:, :20])
        larger = image.with_pixels(np.full((1, 80, 96), 0.5, np.float32)).array()
        assert np.all(larger[..., 0] == 128)
    dark = with_alpha(255)
    dark[:, 20:, 0] //= 5
    assert from_array(dark).range[1] < 64, "nor do they count for the range"


def test_alpha_that_is_zero_everywhere_is_none() -> None:
    array = np.dstack([scene(20, 24), np.zeros((20, 24), np.uint8)])
    assert from_array(array).valid is None
    assert np.array_equal(from_array(array).array(), array), "an array keeps its shape"
    decoded = images.decode(images.encode(from_array(array), ".png"))
    assert decoded.alpha is None
    assert np.array_equal(decoded.array(), array[..., :3])


def test_missing_pixels_are_refused_or_marked() -> None:
    array = GREY / np.float32(255)
    array[3, 4], array[5, 6] = np.nan, np.inf
    with pytest.raises(DipError, match="finite"):
        from_array(array)
    image = from_array(array, missing=True)
    assert image.missing is not None
    assert np.array_equal(image.missing, ~np.isfinite(array))
    assert image.pixels[0, 3, 4] in (PLAIN[0, 3, 3], PLAIN[0, 2, 4], PLAIN[0, 3, 5], PLAIN[0, 4, 4])
    restored = image.with_pixels(np.full_like(image.pixels, 0.25)).array()
    assert np.all(restored == 0.25), "and are not kept"
    with pytest.raises(DipError, match="finite"):
        from_array(np.full((20, 20), np.nan), missing=True)


def test_left_out_pixels_do_not_count_for_the_range_and_are_not_kept() -> None:
    array = 10_000 + GREY.astype(np.uint16)
    array[10:20, 10:20] = np.random.default_rng(0).integers(0, 65536, (10, 10))
    hole = np.zeros(array.shape, bool)
    hole[10:20, 10:20] = True
    image = from_array(array).leave_out(hole)
    assert image.span == (array[~hole].min(), array[~hole].max())
    result = image.with_pixels(np.zeros_like(image.pixels), ~hole).array()
    assert np.all(result[hole] == image.range[0])
    assert np.array_equal(result[~hole], array[~hole])


def test_outliers_are_enlarged_with_the_image() -> None:
    array = GREY / np.float32(255)
    array[10:13, 20:23] = 40
    image = from_array(array)
    larger = image.with_pixels(np.full((1, 80, 96), 0.5, np.float32)).array()
    assert larger[23, 43] == pytest.approx(39.5)
    assert larger[60, 60] == 0.5
    counts = np.where(array > 1, 65_000, 1000 * array).astype(np.uint16)
    assert from_array(counts).with_pixels(np.ones((1, 80, 96), np.float32)).array().max() >= 65_000


def test_channels_without_an_alpha_tag_are_channels() -> None:
    for channels in (2, 4):
        array = np.random.default_rng(0).integers(0, 65536, (20, 24, channels), dtype=np.uint16)
        image = from_array(array, alpha=False)
        assert len(image.pixels) == channels
        assert image.alpha is None
        again: Image = images.decode(images.encode(image, ".tif"))
        assert again.alpha is None
        assert np.array_equal(again.array(), array)
        with_transparency = images.decode(images.encode(from_array(array), ".tif"))
        assert with_transparency.alpha is not None


def test_another_image_in_the_same_container_is_read_in_the_same_range() -> None:
    image = from_array(10_000 + GREY.astype(np.uint16))
    clean = 10_000 + scene(40, 48, 1)[..., 0].astype(np.uint16)
    difference = from_array(clean).match(image).pixels - image.pixels
    assert np.allclose(difference * (image.range[1] - image.range[0]), clean.astype(float) - 10_000 - GREY, atol=0.01)
    assert np.array_equal(from_array(GREY).match(image).pixels, PLAIN), "another container has its own"
