"""`dip inpaint`: the meaning of a mask, and known pixels that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import TINY, Dip
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from samples import scene

from dipcli import images
from dipcli.cli.app import app
from dipcli.images.image import from_array
from dipcli.tasks.inpaint import classify_damage, inpaint


def holed(height: int = 32, width: int = 40) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 10:20] = 255
    return mask


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    image, mask = tmp_path / "img.png", tmp_path / "mask.png"
    iio.imwrite(image, scene(32, 40))
    iio.imwrite(mask, holed())
    return image, mask


def filled(mask: Any, image: np.ndarray | None = None, **rest: Any) -> np.ndarray:
    """Where the task fills, (H, W)."""
    case = inpaint(from_array(scene(32, 40) if image is None else image), mask, **rest)
    assert np.array_equal(case.problem.weight[0].numpy(), case.known.astype(np.float32))
    return ~case.known


def test_white_is_filled_and_with_mask_invert_black(pair: tuple[Path, Path]) -> None:
    white = holed() > 0
    assert np.array_equal(filled(str(pair[1])), white)
    assert np.array_equal(filled(holed()), white)
    assert np.array_equal(filled(holed(), mask_invert=True), ~white)
    assert np.array_equal(filled(255 - holed(), mask_invert=True), white)
    assert np.array_equal(filled(white), white), "yes and no"


def test_a_mask_may_have_transparency_or_colour() -> None:
    painted = np.zeros((32, 40, 4), np.uint8)
    painted[..., :3] = 255
    painted[..., 3] = holed()
    assert np.array_equal(filled(painted), holed() > 0)
    assert np.array_equal(filled(np.repeat(holed()[..., None], 3, axis=2)), holed() > 0)


def test_alpha_fills_the_transparent_pixels_and_makes_them_opaque() -> None:
    image = np.dstack([scene(32, 40), 255 - holed()])
    image[0, 0, 3] = 200  # hardly transparent: known, and stays as it is
    case = inpaint(from_array(image), "alpha")
    assert np.array_equal(~case.known, holed() > 0)
    assert case.image.alpha is not None
    assert (case.image.alpha[holed() > 0] == 255).all()
    assert case.image.alpha[0, 0] == 200
    other = inpaint(from_array(image), holed())
    assert other.image.alpha is not None
    assert np.array_equal(other.image.alpha, image[..., 3]), "with a mask the transparency is carried through"


def test_intermediate_levels_are_thresholded_with_a_remark() -> None:
    mask = holed().astype(np.float32) / 255
    mask[20, :3] = (0.3, 0.5, 0.7)
    case = inpaint(from_array(scene(32, 40)), mask)
    assert list(~case.known[20, :3]) == [False, True, True]
    assert any("intermediate levels" in remark for remark in case.remarks)
    assert not any("intermediate levels" in remark for remark in inpaint(from_array(scene(32, 40)), holed()).remarks)


def test_the_filled_fraction_is_reported_and_a_large_one_gets_a_hint() -> None:
    assert "filling 6.2 % of the image" in inpaint(from_array(scene(32, 40)), holed()).remarks
    remarks = inpaint(from_array(scene(32, 40)), holed(), mask_invert=True).remarks
    assert any("filling 93.8 %" in remark and "--mask-invert" in remark for remark in remarks)


@pytest.mark.parametrize(
    ("mask", "way_out"),
    [
        (np.zeros((32, 40), np.uint8), "nothing.*--mask-invert"),
        (np.full((32, 40), 255, np.uint8), "everything.*--mask-invert"),
        (np.zeros((40, 32), np.uint8), "32x40, the image 40x32"),
        (np.arange(1280).reshape(32, 40) > 5, "all but a few"),
        (np.dstack([holed(), 0 * holed(), 0 * holed()]), "white"),
        ("alpha", "with transparency, this one has none"),
        ("nowhere.png", "no file"),
    ],
    ids=["nothing", "everything", "size", "few", "colour", "alpha", "file"],
)
def test_an_unusable_mask_is_refused_with_a_hint(mask: Any, way_out: str) -> None:
    from dipcli.errors import DipError

    with pytest.raises(DipError, match=way_out):
        inpaint(from_array(scene(32, 40)), mask)


def test_the_kind_of_damage_is_classified_by_its_shape() -> None:
    generator = np.random.default_rng(0)
    assert classify_damage(generator.random((64, 64)) < 0.5) == "scattered"
    assert classify_damage(generator.random((64, 64)) < 0.95) == "scattered"
    strokes = np.zeros((64, 64), bool)
    strokes[::16, 4:60] = strokes[1::16, 4:60] = True
    assert classify_damage(strokes) == "text"
    hole = np.zeros((64, 64), bool)
    hole[20:44, 20:44] = True
    assert classify_damage(hole) == "hole"
    for share in (0.02, 0.1, 0.98):
        assert classify_damage(generator.random((256, 256)) < share) == "scattered"
    edge = np.zeros((64, 64), bool)
    edge[:, 50:] = True
    assert classify_damage(edge) == "hole", "at the border too"


def test_each_kind_has_its_published_settings() -> None:
    from dipcli.tasks.registry import tasks

    task = tasks()["inpaint"]

    def paper(damage: str, **given: Any) -> Any:
        return task.case(from_array(scene(32, 40)), "paper", {"mask": holed(), "damage": damage}, given)[1]

    assert (paper("text").iterations, paper("text").reg_noise, paper("text").rate) == (6000, 0.03, 0.01)
    assert (paper("hole").input_depth, paper("hole").reg_noise, paper("hole").iterations) == (1, 0, 3000)
    assert (paper("region").input, paper("region").iterations) == ("meshgrid", 5000)
    assert (paper("scattered").rate, paper("scattered").iterations) == (0.001, 11000)
    assert paper("auto") == paper("hole"), "as the mask looks"
    other = task.case(from_array(scene(32, 40)), "balanced", {"mask": holed(), "damage": "hole"}, {})[1]
    assert "skips=0x6" in other.network, "the other presets know of holes too"
    for network, parameters in (("unet", "zero"), ("resnet", "reflection")):
        slow = paper("hole", network=network)
        assert (slow.rate, slow.reg_noise, slow.input_depth, slow.iterations) == (0.001, 0, 1, 3000)
        assert slow.pad == parameters
    assert paper("hole", iterations=5).iterations == 5, "what is given goes before it"


def quick(*arguments: object, iterations: int = 3) -> Any:
    return Dip(app).quick("inpaint", *arguments, iterations=iterations)


@pytest.mark.parametrize(
    "array",
    [
        scene(32, 40),
        scene(32, 40, 1)[..., 0],
        np.dstack([scene(32, 40), np.full((32, 40), 77, np.uint8)]),
        scene(32, 40).astype(np.uint16) * 257 + 1,
        np.random.default_rng(0).random((32, 40, 3), dtype=np.float32),
        np.random.default_rng(0).normal(size=(32, 40, 3)).astype(np.float32) * 1000,
    ],
    ids=["rgb", "grey", "alpha", "16 bits", "float", "beyond 0..1"],
)
def test_known_pixels_come_back_bit_for_bit(array: np.ndarray, tmp_path: Path) -> None:
    suffix = ".png" if array.dtype == np.uint8 else ".tif"
    source, mask, output = tmp_path / f"in{suffix}", tmp_path / "mask.png", tmp_path / f"out{suffix}"
    iio.imwrite(source, array)
    iio.imwrite(mask, holed())
    result = quick(source, "--mask", mask, "-o", output)
    assert result.exit_code == 0, result.output
    restored, known = iio.imread(output), holed() == 0
    assert restored.dtype == array.dtype
    assert np.array_equal(restored[known], array[known])
    changed = np.s_[..., :3] if array.shape[2:] == (4,) else np.s_[...]
    assert not np.array_equal(restored[~known][changed], array[~known][changed])


@given(st.integers(16, 24), st.integers(16, 24), st.integers(0, 2**32 - 1), st.sampled_from(["none", "auto"]))
@hypothesis_settings(max_examples=8, deadline=None)
def test_values_under_the_mask_have_no_influence(height: int, width: int, seed: int, fusion: str) -> None:
    from dipcli import inpaint as restore

    generator = np.random.default_rng(seed)
    image, mask = scene(height, width), generator.random((height, width)) < 0.3
    mask[0, 0], mask[0, 1] = True, False
    other = np.where(mask[..., None], generator.integers(0, 256, image.shape), image).astype(np.uint8)
    options = {"iterations": 2, "network": TINY, "input_depth": 4, "fusion": fusion, "progress": False}
    first, second = (restore(values, mask=mask, **options).image for values in (image, other))
    assert np.array_equal(first, second)
    assert np.array_equal(first[~mask], image[~mask])


def test_the_record_has_the_psnr_of_the_hole(pair: tuple[Path, Path]) -> None:
    result = quick(pair[0], "--mask", pair[1], "--reference", pair[0], "--json", "--snapshot-at", "2")
    record = json.loads(result.stdout)
    restored = images.read(pair[0].with_name("img.inpainted.png"))[0].pixels
    truth = images.read(pair[0])[0].pixels
    hole = holed() > 0
    error = np.mean((restored[:, hole] - truth[:, hole]) ** 2)
    assert record["psnr_ref_unknown"] == pytest.approx(-10 * np.log10(error), abs=1e-4)
    assert record["psnr_ref"] > record["psnr_ref_unknown"]
    assert record["psnr_noisy"] is None, "known pixels agree bit for bit"
    assert "unknown pixels" in result.stderr
    snapshot = iio.imread(pair[0].with_name("img.inpainted.dip") / "snapshots/000002.png")
    assert np.array_equal(snapshot[~hole], scene(32, 40)[~hole])


def test_jpeg_output_gets_a_warning(pair: tuple[Path, Path]) -> None:
    result = quick(pair[0], "--mask", pair[1], "-o", pair[0].with_suffix(".jpg"))
    assert "bit for bit" in result.stderr
    assert "bit for bit" not in quick(pair[0], "--mask", pair[1]).stderr


def test_a_missing_mask_is_refused(pair: tuple[Path, Path]) -> None:
    result = quick(pair[0])
    assert result.exit_code == 2
    assert "--mask" in result.stderr


@pytest.mark.slow
def test_a_hole_in_a_linear_ramp_is_filled_from_its_surroundings() -> None:
    """The result is closer to the truth than the mean of the known pixels."""
    from dipcli import inpaint as restore

    y, x = np.mgrid[:32, :40]
    ramp = (40 + 3 * x + 2 * y).astype(np.uint8)
    hole = holed() > 0
    broken = np.where(hole, 0, ramp).astype(np.uint8)
    result = restore(broken, mask=hole, network="skip:channels=16,32:skips=0,4", iterations=200, progress=False)
    error = np.abs(result.image[hole].astype(float) - ramp[hole]).mean()
    assert error < 0.4 * np.abs(ramp[~hole].mean() - ramp[hole]).mean()


def test_known_values_of_a_float64_array_stay_bit_for_bit() -> None:
    from dipcli import inpaint as restore

    array = np.random.default_rng(0).random((32, 40, 3))
    result = restore(array, mask=holed() > 0, network=TINY, input_depth=4, iterations=2, progress=False)
    assert result.image.dtype == np.float64
    assert np.array_equal(result.image[holed() == 0], array[holed() == 0])


def test_the_mask_is_not_overwritten(pair: tuple[Path, Path]) -> None:
    before = pair[1].read_bytes()
    result = quick(pair[0], "--mask", pair[1], "-o", pair[1])
    assert result.exit_code == 2
    assert "--overwrite" in result.stderr
    assert pair[1].read_bytes() == before
