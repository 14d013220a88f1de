"""FITS files are read as they are, and come back with header and world coordinates."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from command_line import Dip

from dipcli import DipError, images

STARS = np.random.default_rng(0).normal(1000, 20, (20, 24)).astype(np.float32)


def make(path: Path, samples: np.ndarray, **cards: object) -> Path:
    header = fits.Header({"OBJECT": "M31", "EXPTIME": 30.0, "CRPIX1": 1.0, "CRPIX2": 10.5, "CDELT1": -0.5, **cards})
    fits.PrimaryHDU(samples, header).writeto(path)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int16, np.uint16, np.int32])
def test_values_and_header_come_back(dip: Dip, tmp_path: Path, dtype: type) -> None:
    source = make(tmp_path / "x.fits", (STARS / 5).astype(dtype))
    image = images.read(source)[0]
    assert np.allclose(image.array(), (STARS / 5).astype(dtype), rtol=1e-5)
    assert dip.quick("denoise", source).exit_code == 0
    restored, header = fits.getdata(tmp_path / "x.denoised.fits", header=True)
    assert restored.shape == STARS.shape
    assert restored.dtype.newbyteorder("=") == dtype
    assert (header["OBJECT"], header["EXPTIME"], header["CDELT1"]) == ("M31", 30.0, -0.5)


def test_superres_scales_world_coordinates(dip: Dip, tmp_path: Path) -> None:
    source = make(tmp_path / "x.fits", STARS)
    assert dip.quick("superres", source, "--scale", 2).exit_code == 0
    header = fits.getheader(tmp_path / "x.enlarged.fits")
    assert (header["CRPIX1"], header["CRPIX2"], header["CDELT1"]) == (1.5, 20.5, -0.25)


def test_cube_is_a_stack(dip: Dip, tmp_path: Path) -> None:
    cube = np.stack([STARS, 2 * STARS, 3 * STARS, 4 * STARS]).reshape(2, 2, 20, 24)
    source = make(tmp_path / "x.fits", cube, CTYPE3="FREQ")
    assert dip.quick("denoise", source).exit_code == 0
    restored, header = fits.getdata(tmp_path / "x.denoised.fits", header=True)
    assert restored.shape == cube.shape
    assert header["CTYPE3"] == "FREQ"
    assert np.allclose(restored.mean(axis=(2, 3)), cube.mean(axis=(2, 3)), rtol=0.1)
    assert dip.quick("denoise", source, "--pages", "2-3", "-o", tmp_path / "y.fits").exit_code == 0
    assert fits.getdata(tmp_path / "y.fits").shape == (2, 20, 24)
    with pytest.raises(DipError, match="4 planes"):
        images.read(source)


def test_image_in_an_extension_and_axes_of_length_one(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "x.fits"
    units = [fits.PrimaryHDU(header=fits.Header({"OBSERVER": "me"})), fits.CompImageHDU(STARS, name="SCI")]
    fits.HDUList(units).writeto(source)
    assert dip.quick("denoise", source).exit_code == 0
    assert fits.getheader(tmp_path / "x.denoised.fits")["OBSERVER"] == "me"
    single = make(tmp_path / "single.fits", STARS[None, None])
    assert dip.quick("denoise", single).exit_code == 0
    assert fits.getdata(tmp_path / "single.denoised.fits").shape == (1, 1, 20, 24)


def test_lost_header_is_reported(dip: Dip, tmp_path: Path) -> None:
    result = dip.quick("denoise", make(tmp_path / "x.fits", STARS), "-o", tmp_path / "x.tif")
    assert "FITS header" in result.stderr


@pytest.mark.parametrize("kept", [2880, 3000, 4000])
def test_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    data = make(tmp_path / "x.fits", STARS).read_bytes()
    with pytest.raises(DipError):
        images.decode(data[:kept])


def test_huge_header_and_table_are_refused() -> None:
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])]).writeto(file)
    with pytest.raises(DipError, match="no image"):
        images.decode(file.getvalue())
    file = io.BytesIO()
    fits.PrimaryHDU(STARS).writeto(file)
    huge = file.getvalue().replace(b"NAXIS1  =                   24", b"NAXIS1  =            999999999")
    with pytest.raises(DipError, match="250 megapixels"):
        images.decode(huge)


def test_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(tmp_path / "x.fits", STARS).read_bytes()
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    with pytest.raises(DipError, match=r"dipcli\[fits\]"):
        images.decode(data)
