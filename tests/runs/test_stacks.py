"""Every page of a stack is restored, and axes and calibration come back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import Dip

from dipcli import images
from dipcli.records.run_record import read_record
from dipcli.settings.outputs import Outputs

PAGES = np.random.default_rng(0).integers(0, 200, (6, 20, 24), dtype=np.uint8)
KINDS: dict[str, dict[str, Any]] = {
    "imagej": {"imagej": True, "resolution": (3.5, 3.5), "metadata": {"axes": "ZYX", "unit": "um", "spacing": 2.0}},
    "ome": {"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}},
    "plain": {"metadata": {"axes": "TYX"}},
}


def describe(path: Path) -> tuple[Any, ...]:
    """Axes, shape, type and calibration, as tifffile reads them."""
    with tifffile.TiffFile(path) as file:
        series, page = file.series[0], file.pages.first
        sizes = re.findall(r'PhysicalSizeX\w*="([^"]*)"', file.ome_metadata or "")
        return series.axes, series.shape, series.dtype, file.imagej_metadata, page.tags[282].value, sizes


@pytest.mark.parametrize("kind", KINDS)
def test_pages_axes_and_calibration_come_back(dip: Dip, tmp_path: Path, kind: str) -> None:
    source = tmp_path / ("x.ome.tif" if kind == "ome" else "x.tif")
    tifffile.imwrite(source, PAGES, **KINDS[kind])
    result = dip.quick("denoise", source)
    assert result.exit_code == 0, result.stderr
    output = source.with_name(f"{source.stem}.denoised.tif")
    assert result.stdout == f"{output}\n"
    assert describe(output) == describe(source)
    restored = tifffile.imread(output)
    for number, page in enumerate(restored, start=1):
        alone = images.read(output.with_suffix(".dip") / f"page{number:04d}.denoised.tif")[0].array()
        assert np.array_equal(page, alone)
    assert len(np.unique(restored, axis=0)) == len(PAGES), "each is its own"


def test_slices_of_a_file_with_one_directory(dip: Dip, tmp_path: Path) -> None:
    """As ImageJ writes stacks beyond 4 GB."""
    description = "ImageJ=1.54f\nimages=6\nslices=6\nunit=um\n"
    with tifffile.TiffWriter(tmp_path / "x.tif", byteorder=">") as writer:
        writer.write(PAGES[0], description=description, metadata=None, resolution=(4, 4), resolutionunit=1)
    with (tmp_path / "x.tif").open("ab") as file:
        file.write(PAGES[1:].tobytes())
    if describe(tmp_path / "x.tif")[1] != PAGES.shape:
        pytest.skip("tifffile put the samples elsewhere")
    assert dip.quick("denoise", tmp_path / "x.tif").exit_code == 0
    assert describe(tmp_path / "x.denoised.tif")[:3] == ("ZYX", PAGES.shape, np.uint8)
    before = images.read(tmp_path / "x.denoised.dip/page0004.tif")[0].array()
    assert np.array_equal(before, PAGES[3])


def test_colour_pages_of_other_sizes_and_depths(dip: Dip, tmp_path: Path) -> None:
    pages = [PAGES[0], np.stack([PAGES[1, :18]] * 3, axis=2).astype(np.uint16) * 257, PAGES[2] / np.float32(255)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page in pages:
            writer.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", compression="zlib")
    assert dip.quick("denoise", tmp_path / "x.tif", "-o", tmp_path / "y.tiff").exit_code == 0
    with tifffile.TiffFile(tmp_path / "y.tiff") as file:
        assert [(page.shape, page.dtype) for page in file.pages] == [(page.shape, page.dtype) for page in pages]


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_superres_scales_the_calibration(dip: Dip, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "x.tif"
    tifffile.imwrite(source, PAGES[:2], **KINDS[kind])
    assert dip.quick("superres", source, "--scale", 2).exit_code == 0
    axes, shape, _, _, resolution, sizes = describe(tmp_path / "x.enlarged.tif")
    assert (axes, shape) == ("ZYX", (2, 40, 48))
    assert resolution[0] / resolution[1] == (7 if kind == "imagej" else 1)
    assert sizes == ([] if kind == "imagej" else ["0.125", "µm"])


def test_some_pages(dip: Dip, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", PAGES, **KINDS["imagej"])
    result = dip.quick("denoise", tmp_path / "x.tif", "--pages", "2-3,5", "-o", tmp_path / "y.tif", "--no-run-dir")
    assert result.exit_code == 0, result.stderr
    axes, shape, _, imagej, resolution, _ = describe(tmp_path / "y.tif")
    assert (axes, shape, imagej["unit"]) == ("ZYX", (3, 20, 24), "um")
    assert resolution == (7, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tif", "y.tif"]


def test_finished_pages_are_skipped_and_the_others_resumed(dip: Dip, tmp_path: Path) -> None:
    source, output, folder = tmp_path / "x.tif", tmp_path / "x.denoised.tif", tmp_path / "x.denoised.dip"
    tifffile.imwrite(source, PAGES[:3], photometric="minisblack")
    assert dip.quick("denoise", source).exit_code == 0
    first = output.read_bytes()
    output.unlink()
    (folder / "page0002.denoised.tif").unlink()
    result = dip.quick("denoise", source)
    assert "1 restored, 0 failed, 2 skipped" in result.stderr
    assert output.read_bytes() == first
    again = dip.quick("denoise", source)
    assert (again.exit_code, again.stdout) == (0, "")
    assert "already restored" in again.stderr


def test_stack_in_a_folder_is_one_image_of_it(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/stack.tif", PAGES[:2])
    tifffile.imwrite(tmp_path / "in/single.tif", PAGES[2])
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    outputs = [json.loads(line)["output"] for line in result.stdout.splitlines()]
    assert sorted(outputs) == [str(tmp_path / "out/single.tif"), str(tmp_path / "out/stack.tif")]
    assert describe(tmp_path / "out/stack.tif")[1] == (2, 20, 24)
    record = read_record(tmp_path / "out/stack.dip")
    assert record is not None
    assert (record.finished, record.iterations) == (True, 6)
    assert "2 skipped" in dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out").stderr


def test_pages_are_fitted_together(dip: Dip, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", PAGES[:4], photometric="minisblack")
    result = dip.quick("denoise", tmp_path / "x.tif", "--batch-size", 2)
    assert result.exit_code == 0, result.stderr
    assert describe(tmp_path / "x.denoised.tif")[1] == (4, 20, 24)


def test_damaged_page_leaves_no_output(dip: Dip, tmp_path: Path) -> None:
    pages = [PAGES[0], np.full((20, 24), np.nan, np.float32)]
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        for page in pages:
            writer.write(page)
    result = dip.quick("denoise", tmp_path / "x.tif")
    assert result.exit_code == 3
    assert "page 2" in result.stderr
    assert "1 restored, 1 failed, 0 skipped; failed: 2/2" in result.stderr
    assert not (tmp_path / "x.denoised.tif").exists()


def test_missing_pixels_of_a_page_are_filled(dip: Dip, tmp_path: Path) -> None:
    pages = PAGES[:2].astype(np.float32)
    pages[1, 5:8, 5:8] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack")
    result = dip.quick("denoise", tmp_path / "x.tif", "--nan", "fill")
    assert result.exit_code == 0, result.stderr
    restored = tifffile.imread(tmp_path / "x.denoised.tif")
    assert restored.shape == pages.shape
    assert np.isfinite(restored).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "y.png"), "6 pages"),
        (("-o", "-"), "6 pages"),
        (("--pages", "9"), "has 6 pages only"),
        (("--pages", "1-x"), "use 3-10"),
        (("--reference", "x.tif"), "are for one image"),
    ],
)
def test_what_a_stack_does_not_allow(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("x.tif", PAGES)
    result = dip.quick("denoise", "x.tif", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]


def test_pages_are_only_for_stacks(dip: Dip, noisy_png: Path) -> None:
    result = dip.quick("denoise", noisy_png, "--pages", 1)
    assert result.exit_code == 2
    assert "is one image" in result.stderr


def test_folder_that_is_not_from_a_run_is_refused(dip: Dip, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", PAGES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/page0001.tif").write_text("mine")
    assert dip.quick("denoise", tmp_path / "x.tif", "--run-dir", tmp_path / "mine").exit_code == 2
    assert (tmp_path / "mine/page0001.tif").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "expected"), [("3-5", [3, 4, 5]), ("5,1, 7-99", [1, 5, 7, 8]), ("9", []), ("2-2,2", [2])]
)
def test_list_of_pages(text: str, expected: list[int]) -> None:
    assert Outputs(pages=text).page_numbers(8) == expected
