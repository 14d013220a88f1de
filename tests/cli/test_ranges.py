"""The same result in any container, nothing lost, and transparency that does not leave a trace."""

from __future__ import annotations

import io
import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
import tifffile
from command_line import TINY, Dip
from samples import noisy, scene

import dipcli

GREY = noisy(scene(40, 48, 1))[..., 0]
HOLE = np.zeros(GREY.shape, bool)
HOLE[15:21, 22:30] = True
QUICK = {
    "iterations": 20,
    "network": TINY,
    "input": "noise",
    "input_depth": 4,
    "fusion": "none",
    "progress": False,
}


def run(dip: Dip, task: str, array: np.ndarray, folder: Path, *options: object, name: str = "x.tif") -> np.ndarray:
    """The result of a short run on an array, which is written as a file."""
    path, result = folder / name, folder / f"result{Path(name).suffix}"
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        iio.imwrite(path, array)
    ended = dip.quick(task, path, "-o", result, "-q", "--overwrite", *options)
    assert ended.exit_code == 0, ended.output
    return iio.imread(result)


@pytest.mark.parametrize("task", ["denoise", "inpaint", "superres"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_8_bits_in_a_larger_container_have_the_same_result(dip: Dip, tmp_path: Path, task: str, dtype: type) -> None:
    iio.imwrite(tmp_path / "mask.png", HOLE.astype(np.uint8) * 255)
    options = {"inpaint": ("--mask", tmp_path / "mask.png"), "superres": ("--scale", 2)}.get(task, ())
    eight = run(dip, task, GREY, tmp_path, *options, name="x.png")
    other = run(dip, task, GREY.astype(dtype), tmp_path, *options)
    assert other.dtype == dtype
    if np.dtype(dtype).kind == "f":
        assert np.abs(other - eight).max() < 0.51, "not rounded"
    else:
        assert np.array_equal(other, eight)


def test_outlier_does_not_change_the_result_elsewhere(dip: Dip, tmp_path: Path) -> None:
    array = GREY / np.float32(255)
    plain = run(dip, "denoise", array, tmp_path)
    array[30, 40] = 50
    result = run(dip, "denoise", array, tmp_path)
    assert result[30, 40] == 50
    assert np.median(np.abs(result - plain)) < 0.02


def test_noise_level_refers_to_the_range(dip: Dip, tmp_path: Path) -> None:
    """A few counts of noise in 16 bits are found, and said to be what they are of the range."""
    clean = np.tile(np.linspace(20_000, 20_800, 96), (96, 1))
    counts = (clean + np.random.default_rng(0).normal(0, 80, clean.shape)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", counts, photometric="minisblack")
    tifffile.imwrite(tmp_path / "clean.tif", clean.astype(np.uint16), photometric="minisblack")
    options = ("-o", tmp_path / "o.tif", "--json", "--reference", tmp_path / "clean.tif", "--strength", 0)
    ended = dip.quick("denoise", tmp_path / "x.tif", *options)
    assert ended.exit_code == 0
    record = json.loads(ended.stdout)
    assert record["span"] == [counts.min(), counts.max()]
    assert record["sample_type"] == "uint16"
    width = float(np.ptp(counts))
    expected = 10 * np.log10(width**2 / ((counts - clean.astype(np.uint16).astype(float)) ** 2).mean())
    assert record["psnr_ref"] == pytest.approx(expected, abs=0.1)
    assert np.array_equal(iio.imread(tmp_path / "o.tif"), counts)


def test_reference_in_another_container(dip: Dip, tmp_path: Path) -> None:
    figures = []
    iio.imwrite(tmp_path / "clean.png", scene(40, 48, 1)[..., 0])
    for number, array in enumerate((GREY.astype(np.uint16), GREY.astype(np.uint16) * 257, GREY / np.float32(255))):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, array, photometric="minisblack")
        ended = dip.quick("denoise", path, "--json", "--reference", tmp_path / "clean.png")
        figures.append(json.loads(ended.stdout)["psnr_ref"])
    assert figures == pytest.approx([figures[0]] * 3, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_known_pixels_of_any_type_come_back_bit_for_bit(dip: Dip, tmp_path: Path, dtype: type) -> None:
    array = (np.random.default_rng(0).normal(-300, 200, GREY.shape)).astype(dtype)
    array[3, 3] = 30_000
    array[17, 25] = 20_000  # in the hole
    iio.imwrite(tmp_path / "mask.png", HOLE.astype(np.uint8) * 255)
    result = run(dip, "inpaint", array, tmp_path, "--mask", tmp_path / "mask.png")
    assert np.array_equal(result[~HOLE], array[~HOLE])
    assert result[HOLE].max() < 2000


@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint", "dejpeg"])
def test_pixels_that_are_not_finite_are_filled_on_request(dip: Dip, tmp_path: Path, task: str) -> None:
    array = GREY / np.float32(255)
    array[HOLE], array[0], array[30, 30] = np.nan, np.nan, np.inf
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="minisblack")
    iio.imwrite(tmp_path / "mask.png", np.zeros(GREY.shape, np.uint8))
    options = {"inpaint": ("--mask", tmp_path / "mask.png"), "superres": ("--scale", 2)}.get(task, ())
    refused = dip.quick(task, tmp_path / "x.tif", *options)
    assert refused.exit_code == 1
    assert "--nan fill" in refused.stderr
    result = run(dip, task, array, tmp_path, *options, "--nan", "fill")
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    if task == "inpaint":
        assert np.array_equal(result[np.isfinite(array)], array[np.isfinite(array)])


@pytest.mark.slow
def test_missing_pixels_of_a_clean_image_are_filled_by_the_fit() -> None:
    clean = scene(64, 64, 1)[..., 0].astype(np.float32)
    array = clean.copy()
    array[20:24, 40:44] = np.nan
    result = dipcli.denoise(array, nan="fill", iterations=300, network=TINY, input_depth=8, progress=False)
    known = np.isfinite(array)
    assert np.array_equal(result.image[known], array[known]), "there is no noise to remove"
    assert np.abs(result.image - clean)[~known].max() < 12


@pytest.mark.parametrize("task", ["flash", "invert", "impedance"])
def test_tasks_that_cannot_fill_say_so(dip: Dip, tmp_path: Path, task: str) -> None:
    array = GREY / np.float32(255)
    array[3, 3] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="minisblack")
    iio.imwrite(tmp_path / "flash.png", GREY)
    options = {"flash": ("--guide", tmp_path / "x.tif"), "invert": ("--weights", "random")}.get(task, ())
    ended = dip(task, tmp_path / "flash.png" if task == "flash" else tmp_path / "x.tif", *options, "--nan", "fill")
    assert ended.exit_code == 1
    assert "finite" in ended.stderr


def sprite(hidden: int) -> np.ndarray:
    """A red disc with a soft rim on a transparent ground of another colour, RGBA."""
    y, x = np.mgrid[:32, :32] - 15.5
    alpha = (np.clip(11 - np.hypot(y, x), 0, 1) * 255).astype(np.uint8)
    colours = np.where(alpha[..., None] > 0, np.uint8([230, 40, 60]), np.uint8([hidden] * 3))
    return np.dstack([colours, alpha])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["denoise", "superres"])
def test_colour_under_full_transparency_is_neither_fitted_nor_spread(task: str) -> None:
    function, options = getattr(dipcli, task), {"scale": 2} if task == "superres" else {"loss": "l1"}
    results = [function(sprite(hidden), **options, **QUICK | {"iterations": 150}).image for hidden in (0, 255)]
    alpha = results[0][..., 3]
    assert np.array_equal(results[0][alpha > 0], results[1][alpha > 0]), "it has no influence"
    rim = (alpha > 0) & (alpha < 255)
    assert np.abs(results[0][rim][:, :3].astype(int) - [230, 40, 60]).max() < 25
    if task == "denoise":
        for result, hidden in zip(results, (0, 255), strict=True):
            assert np.array_equal(result[alpha == 0], sprite(hidden)[alpha == 0])


@pytest.mark.slow
def test_transparent_tiles_are_not_fitted(dip: Dip, tmp_path: Path) -> None:
    """Neither the first nor a later one, and they stop no run."""
    image = np.dstack([noisy(scene(150, 420)), np.zeros((150, 420), np.uint8)])
    image[:, 180:260, 3] = 255
    iio.imwrite(tmp_path / "x.png", image)
    tiled = ("--tile", 128, "--warmup", 0)
    ended = dip.quick("denoise", tmp_path / "x.png", "-o", tmp_path / "o.png", *tiled, "--overwrite")
    assert ended.exit_code == 0, ended.output
    result = iio.imread(tmp_path / "o.png")
    assert np.array_equal(result[:, :180], image[:, :180])
    assert not np.array_equal(result[:, 180:260], image[:, 180:260])


def test_transparent_pixels_do_not_count_in_guards_and_estimates() -> None:
    """A noisy object on a large transparent ground is no drawing, and its noise is found."""
    from dipcli.tasks.registry import tasks

    image = np.dstack([noisy(scene(160, 160)), np.zeros((160, 160), np.uint8)])
    image[..., :3][:, 70:] = 0
    image[:, :70, 3] = 255
    case, settings = tasks()["denoise"].case(dipcli.images.to_image(image), "fast", {}, {})
    assert settings.iterations is None
    assert case.problem.companion is not None
    assert case.problem.companion.noise.typical_level * 255 == pytest.approx(25, rel=0.2)


def test_bmp_with_an_empty_fourth_channel_stays_visible(dip: Dip, tmp_path: Path) -> None:
    """Pillow takes the fourth byte of 32 bits for alpha."""
    colours = noisy(scene(20, 24))
    rows = np.dstack([colours[::-1, :, ::-1], np.zeros((20, 24), np.uint8)]).tobytes()
    header = b"BM" + (54 + len(rows)).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    header += b"".join(n.to_bytes(4, "little") for n in (40, 24, 20)) + b"\1\0\x20\0" + bytes(24)
    (tmp_path / "x.bmp").write_bytes(header + rows)
    assert dip.quick("denoise", tmp_path / "x.bmp", "-q").exit_code == 0
    assert iio.imread(tmp_path / "x.denoised.png").shape == (20, 24, 3)


def test_second_channel_of_a_tiff_stays_a_channel(dip: Dip, tmp_path: Path) -> None:
    channels = noisy(scene(40, 48, 2))
    tifffile.imwrite(
        tmp_path / "x.tif", channels, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"]
    )
    iio.imwrite(tmp_path / "mask.png", HOLE.astype(np.uint8) * 255)
    mask = ("--mask", tmp_path / "mask.png")
    for task, result, options in (("denoise", "denoised", ()), ("inpaint", "inpainted", mask)):
        ended = dip.quick(task, tmp_path / "x.tif", *options, "--snapshot-at", 2, report=True)
        assert ended.exit_code == 0, ended.output
        assert "could not write" not in ended.stderr
        with tifffile.TiffFile(tmp_path / f"x.{result}.tif") as file:
            assert file.pages[0].extrasamples == (tifffile.EXTRASAMPLE.UNSPECIFIED,)
            assert (file.asarray() != channels).any(axis=(0, 1)).all(), "both are restored"
    refused = dip.quick("denoise", tmp_path / "x.tif", "-o", tmp_path / "x.png")
    assert refused.exit_code == 1
    assert "2 channels" in refused.stderr


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_of_an_array_in_any_unit(channels: int) -> None:
    """As from a microscope: photon counts without an upper end, or Hounsfield units."""
    for array in (scene(40, 48, channels).astype(np.float64) * 1e6, -1000 + 3 * scene(40, 48, channels).astype(int)):
        result = dipcli.denoise(array, alpha=False, **QUICK).image
        assert result.shape == array.shape
        assert result.dtype == array.dtype
        assert np.abs(result - array).max() < np.ptp(array)
        assert np.abs(result - array).mean() < np.ptp(array) / 4


@pytest.mark.slow
def test_dark_jpeg_keeps_its_coefficients(dip: Dip, tmp_path: Path) -> None:
    """They refer to the whole range, of which the image fills little."""
    file = io.BytesIO()
    PIL.Image.fromarray(noisy(scene(48, 64), 10) // 6).save(file, "JPEG", quality=60)
    (tmp_path / "x.jpg").write_bytes(file.getvalue())
    ended = dip("dejpeg", tmp_path / "x.jpg", "--iters", 60, "--network", TINY, "--no-report", "--json")
    assert ended.exit_code == 0
    record = json.loads(ended.stdout)
    assert "span" not in record
    assert "100.0 % of its coefficients agree" in record["conclusion"]
    decoded = np.asarray(PIL.Image.open(tmp_path / "x.jpg")).astype(int)
    assert np.abs(iio.imread(record["output"]).astype(int) - decoded).mean() < 4


def test_mask_of_one_value_is_taken_as_it_is(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "x.png", GREY)
    iio.imwrite(tmp_path / "mask.png", np.full(GREY.shape, 255, np.uint8))
    ended = dip.quick("inpaint", tmp_path / "x.png", "--mask", tmp_path / "mask.png")
    assert ended.exit_code == 1
    assert "everything" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [(), ("--stop", "holdout"), ("--stop", "sigma"), ("--loss", "l1"), ("--time", "60s")]
)
def test_image_without_noise_ends_at_once_whatever_the_method(dip: Dip, tmp_path: Path, options: tuple) -> None:
    """A drawing of flat colours: no rule looks for its noise, nothing is advised, and it comes back."""
    drawing = np.full((96, 96, 3), 255, np.uint8)
    drawing[::12, 20:70], drawing[40:44] = 0, (200, 30, 30)
    iio.imwrite(tmp_path / "x.png", drawing)
    ended = dip("denoise", tmp_path / "x.png", "--json", "--no-report", *options)
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["iterations"] == 1
    assert np.array_equal(iio.imread(tmp_path / "x.denoised.png"), drawing)
    assert "no noise was found" in ended.stderr
    assert "try" not in ended.stderr


def test_no_advice_against_what_helps_and_none_for_what_does_not() -> None:
    """Noise that neighbours share is not called texture; black and white of a drawing are not called impulses."""
    from samples import shaded, smooth_noise

    from dipcli.problem.independent.impulses import measure_outlier_fraction
    from dipcli.problem.noise import measure_noise
    from dipcli.tasks.denoise import make_remarks
    from dipcli.tasks.denoising.impulses import find

    noisy_pixels = shaded() + smooth_noise(0.7, 8)
    (remark,) = make_remarks(noisy_pixels, measure_noise(noisy_pixels), 0.0)
    assert "share the noise" in remark
    page = np.ones((3, 96, 96), np.float32)
    page[:, 8:60:3, 8:60:3] = 0
    outliers = measure_outlier_fraction(page)
    assert outliers > 0.02
    assert find(measure_noise(page), page, outliers) is None
