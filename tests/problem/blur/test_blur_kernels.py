"""Kernels from a name, a file or an array; what cannot be a kernel is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dipcli.errors import DipError, UsageError
from dipcli.problem.blur.kernels import read_kernel

SIZE = (40, 50)


def check(kernel: np.ndarray) -> None:
    assert kernel.dtype == np.float32
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    assert all(side % 2 for side in kernel.shape)


def test_a_gaussian_has_its_sigma() -> None:
    kernel = read_kernel("gaussian:1.6", SIZE)
    check(kernel)
    assert kernel.shape == (15, 15)
    distance = np.arange(-7, 8)
    assert np.sqrt((kernel.sum(axis=0) * distance**2).sum()) == pytest.approx(1.6, rel=0.01)


def test_motion_along_a_row_is_a_mean_of_pixels() -> None:
    assert np.allclose(read_kernel("motion:9:0", SIZE), np.full((1, 9), 1 / 9))
    assert np.allclose(read_kernel("motion:9:90", SIZE), np.full((9, 1), 1 / 9))
    assert np.allclose(read_kernel("motion:1:20", SIZE), np.ones((1, 1)))


def test_the_angle_is_counter_clockwise() -> None:
    kernel = read_kernel("motion:11:30", SIZE)
    check(kernel)
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - np.array(kernel.shape)[:, None, None] // 2
    assert (kernel * x * -y).sum() > 0, "the right end is up"
    assert np.allclose(kernel, kernel[::-1, ::-1])


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.floats(0, 1e6)))
@settings(deadline=None)
def test_any_image_with_light_is_a_kernel(values: np.ndarray) -> None:
    if not values.any():
        return
    kernel = read_kernel(values, SIZE)
    check(kernel)
    assert kernel.max() == pytest.approx((values / values.sum()).max(), abs=1e-6)


def test_the_middle_of_odd_sides_stays_the_origin() -> None:
    values = np.zeros((9, 7))
    values[4, 3] = values[4, 4] = 1
    assert np.allclose(read_kernel(values, SIZE), [[0, 0.5, 0.5]])


def test_even_sides_are_centred_by_the_centroid() -> None:
    values = np.zeros((8, 8))
    values[2:5, 4:7] = 1
    assert np.allclose(read_kernel(values, SIZE), np.full((3, 3), 1 / 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_file_is_read_whatever_its_size_and_range(tmp_path: Path, dtype: type, channels: int) -> None:
    samples = np.zeros((5, 5, channels), dtype)
    samples[1:4, 2, :3] = 20
    if channels == 4:
        samples[..., 3] = np.iinfo(dtype).max
    path = tmp_path / "psf.tif"
    tifffile.imwrite(path, samples.squeeze(), photometric="rgb" if channels > 1 else "minisblack")
    assert np.allclose(read_kernel(str(path), SIZE), np.full((3, 1), 1 / 3))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gaussian", "not complete"),
        ("gaussian:", "not complete"),
        ("gaussian:-1", "not complete"),
        ("gaussian:nan", "not complete"),
        ("motion:9", "not complete"),
        ("motion:0.5:30", "not complete"),
        ("motion:9:inf", "not complete"),
        ("gaussian:1e300", "too large"),
        ("motion:1e300:0", "too large"),
        ("motion:45:90", "too large"),
        ("nowhere.png", "no such file"),
        (np.zeros((5, 5)), "black"),
        (np.ones((41, 3)), "too large"),
        (-np.ones((3, 3)), "negative"),
        (np.full((3, 3), np.nan), "not finite"),
        (np.ones(5), "not an image"),
        (np.ones((0, 3)), "not an image"),
    ],
)
def test_what_is_no_kernel_is_refused(source: object, message: str) -> None:
    with pytest.raises((DipError, UsageError), match=message):
        read_kernel(source, SIZE)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "psf.png"
    path.write_text("light")
    with pytest.raises(DipError, match="cannot be read"):
        read_kernel(path, SIZE)
