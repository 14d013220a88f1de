"""A raw file's mosaic is restored, and then demosaiced into a linear TIFF."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import rawpy
import tifffile
from command_line import TINY, Dip

from dipcli import DipError, images

BLACK, WHITE = 64, 4095
BAYER, XTRANS = ((2, 2), (0, 1, 1, 2)), ((6, 6), (1, 1, 0, 1, 1, 2) * 6)


def make_dng(mosaic: np.ndarray, *, orientation: int = 1, pattern: tuple[tuple[int, ...], ...] = BAYER) -> bytes:
    """A minimal DNG of 12 bits."""
    identity = tuple(number for value in (1, 0, 0, 0, 1, 0, 0, 0, 1) for number in (value, 1))
    tags = [
        (271, "s", 0, "Acme"), (272, "s", 0, "X1"), (274, "H", 1, orientation), (50708, "s", 0, "Acme X1"),
        (50706, "B", 4, (1, 4, 0, 0)), (50707, "B", 4, (1, 1, 0, 0)),  # version of DNG, and of the reader
        (33421, "H", 2, pattern[0]), (33422, "B", len(pattern[1]), pattern[1]),
        (50714, "H", 1, BLACK), (50717, "H", 1, WHITE),
        (50721, "2i", 9, identity), (50728, "2I", 3, (1, 1, 1, 1, 1, 1)), (50778, "H", 1, 21),  # colours, white, light
    ]  # fmt: skip
    file = io.BytesIO()
    extra = [(*tag, True) for tag in tags]
    tifffile.imwrite(file, mosaic, photometric="cfa", metadata=None, software=False, extratags=extra)
    return file.getvalue()


def make_mosaic(height: int = 48, width: int = 64) -> np.ndarray:
    """Red 1000, green 2000, blue 500, with the noise of counts."""
    rng = np.random.default_rng(0)
    mosaic = np.full((height, width), 2000.0)
    mosaic[::2, ::2], mosaic[1::2, 1::2] = 1000, 500
    return (BLACK + mosaic + rng.normal(0, np.sqrt(mosaic))).round().astype(np.uint16)


def test_planes_of_the_mosaic_are_read() -> None:
    mosaic = make_mosaic()
    image = images.decode(make_dng(mosaic))
    planes = (mosaic[::2, ::2], mosaic[::2, 1::2], mosaic[1::2, 1::2], mosaic[1::2, ::2])
    assert image.alpha is None
    assert image.array().dtype == np.uint16
    assert np.array_equal(image.array(), np.stack(planes, axis=2))


def test_unchanged_planes_are_developed_as_by_rawpy() -> None:
    data = make_dng(make_mosaic())
    with rawpy.imread(io.BytesIO(data)) as raw:
        expected = raw.postprocess(gamma=(1, 1), no_auto_bright=True, output_bps=16, use_camera_wb=True)
    image = images.decode(data)
    written = images.decode(images.encode(image, ".tif"))
    assert np.array_equal(written.array(), expected)


@pytest.mark.parametrize("orientation", [1, 6])
def test_raw_file_becomes_a_linear_tiff(dip: Dip, tmp_path: Path, orientation: int) -> None:
    source = tmp_path / "x.dng"
    source.write_bytes(make_dng(make_mosaic(), orientation=orientation))
    result = dip.quick("denoise", source, "--snapshot-at", 1, report=True)
    assert result.exit_code == 0, result.stderr
    assert "linear" in result.stderr
    with tifffile.TiffFile(tmp_path / "x.denoised.tif") as file:
        page = file.pages.first
        assert page.shape == ((48, 64, 3) if orientation == 1 else (64, 48, 3))
        assert page.dtype == np.uint16
        assert (page.tags["Make"].value, page.tags["Model"].value) == ("Acme", "X1")
        assert page.tags.valueof("Orientation", 1) == 1


@pytest.mark.slow
def test_noise_of_the_counts_is_removed(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.dng"
    source.write_bytes(make_dng(make_mosaic(96, 128)))
    assert dip("denoise", source, "--preset", "fast", "--iters", 60, "--no-report", "--network", TINY).exit_code == 0
    before = images.decode(images.encode(images.decode(source.read_bytes()), ".tif")).array()
    after = images.read(tmp_path / "x.denoised.tif")[0].array()
    assert np.allclose(after.mean((0, 1)), before.mean((0, 1)), rtol=0.03, atol=100)
    assert (after.std((0, 1))[1:] < before.std((0, 1))[1:] / 2).all()


def test_size_of_a_raw_image_cannot_change(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "x.dng").write_bytes(make_dng(make_mosaic()))
    result = dip.quick("superres", tmp_path / "x.dng", "--scale", 2)
    assert result.exit_code == 1
    assert "develop it" in result.stderr


@pytest.mark.parametrize("cut", [1, 1000, 5000])
def test_truncated_raw_file_is_refused(capfd: pytest.CaptureFixture[str], cut: int) -> None:
    with pytest.raises(DipError):
        images.decode(make_dng(make_mosaic())[:-cut])
    assert capfd.readouterr().err == ""


def test_raw_file_that_cannot_be_read_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dng(make_mosaic())
    with pytest.raises(DipError, match="develop it to a TIFF"):
        images.decode(b"FUJIFILMCCD-RAW" + bytes(1000))
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(DipError, match=r"dipcli\[raw\]"):
        images.decode(data)
