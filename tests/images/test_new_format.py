"""A format added from outside, with names from `dipcli` alone."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from command_line import Dip

from dipcli import Format, Raster, register_format

MAGIC = b"TOY1"


def read_toy(data: bytes) -> Raster:
    height, width = struct.unpack_from("<II", data, 4)
    return Raster(np.frombuffer(data[12:], np.uint8).reshape(height, width))


def write_toy(raster: Raster) -> bytes:
    return MAGIC + struct.pack("<II", *raster.samples.shape) + raster.samples.tobytes()


TOY = Format(name="Toy", suffixes=(".toy",), signatures=(MAGIC,), read=read_toy, write=write_toy, max_channels=1)


@pytest.fixture
def toy_file(tmp_path: Path) -> Path:
    register_format(TOY)
    path = tmp_path / "grey.toy"
    path.write_bytes(write_toy(Raster(np.arange(20 * 24, dtype=np.uint16).reshape(20, 24).astype(np.uint8))))
    return path


def test_a_new_format_is_restored_from_the_command_line(dip: Dip, toy_file: Path) -> None:
    output = toy_file.with_name("clean.toy")
    result = dip.quick("denoise", toy_file, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert read_toy(output.read_bytes()).samples.shape == (20, 24)


def test_a_result_without_a_name_is_written_as_png(dip: Dip, toy_file: Path) -> None:
    assert dip.quick("denoise", toy_file).exit_code == 0
    assert toy_file.with_name("grey.denoised.png").exists()


def test_a_folder_gives_files_of_the_new_format(dip: Dip, toy_file: Path) -> None:
    result = dip.quick("denoise", toy_file.parent, "-o", toy_file.parent / "restored")
    assert result.exit_code == 0, result.stderr
    assert (toy_file.parent / "restored/grey.png").exists()


def test_a_damaged_file_of_the_new_format_is_one_error_message(dip: Dip, toy_file: Path) -> None:
    toy_file.write_bytes(toy_file.read_bytes()[:-5])
    result = dip.quick("denoise", toy_file)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "cannot be read" in result.stderr


def test_the_limits_of_the_new_format_are_checked_before_the_fit(dip: Dip, toy_file: Path, noisy_png: Path) -> None:
    result = dip.quick("denoise", noisy_png, "-o", toy_file.with_name("colours.toy"), iterations=10**7)
    assert result.exit_code == 1
    assert ".toy cannot hold 3 channels" in result.stderr


def test_a_format_without_signature_is_refused() -> None:
    with pytest.raises(ValueError, match="signature"):
        register_format(Format(name="Anonymous", suffixes=(".x",), signatures=(), read=read_toy))
