"""Files that a run must not overwrite, delete, expose or take for images."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import Dip
from samples import noisy, scene

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(*paths: Path) -> None:
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, noisy(scene(20, 24), seed=seed))


@pytest.mark.parametrize(
    "name", ["log.csv", "run.json", "checkpoint.pt", "snapshots/000001.png", "filled.png", "mine.txt"]
)
@pytest.mark.parametrize("chosen", [True, False], ids=["--run-dir", "default"])
def test_a_folder_of_other_files_is_no_run_folder(dip: Dip, noisy_png: Path, name: str, chosen: bool) -> None:
    folder = noisy_png.with_name("mine" if chosen else "noisy.denoised.dip")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("iteration,loss\n1,2\n" if name == "log.csv" else '{"iterations": 3}')
    before = contents(folder)
    refused = dip.quick("denoise", noisy_png, *(["--run-dir", folder] if chosen else []), iterations=10**6)
    assert refused.exit_code == 2, refused.output
    assert "--run-dir" in refused.stderr
    assert contents(folder) == before


def test_an_empty_folder_and_an_earlier_run_are_run_folders(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for _ in range(2):
        assert dip.quick("denoise", noisy_png, "--run-dir", tmp_path / "new").exit_code == 0


def test_run_folders_of_any_name_hold_no_images_to_restore(
    dip: Dip, noisy_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dip.quick("denoise", noisy_png, "-o", "x.tif", "--run-dir", "runs/first", "--snapshot-at", 1)
    write(Path("photos.dip/a.png"))
    for images in (".", "**/*.png"):
        restored = dip.quick("denoise", images, "-o", "out", "--no-run-dir").stdout.split()
        shutil.rmtree("out")
        assert {Path(path).name for path in restored} >= {"a.png", "noisy.png"}
        assert not any("0000" in path for path in restored), restored
    assert dip.quick("denoise", "runs/first", "-o", "out3").exit_code == 1


@pytest.mark.parametrize("more", [[], ["--no-run-dir"]], ids=" ".join)
@pytest.mark.parametrize("into", [None, "out/"])
def test_images_that_differ_in_the_suffix_keep_their_results(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], into: str | None
) -> None:
    if into and more:
        pytest.skip("without a record the owner of a result elsewhere is unknown")
    monkeypatch.chdir(tmp_path)
    write(Path("a.png"), Path("a.jpg"))
    target = ["-o", into] if into else []
    (first,) = dip.quick("denoise", "a.png", *target, *more).stdout.split()
    before = Path(first).read_bytes()
    (second,) = dip.quick("denoise", "a.jpg", *target, *more).stdout.split()
    assert second != first
    assert Path(first).read_bytes() == before
    if not more:
        assert dip.quick("denoise", "a.png", *target).stdout == f"{first}\n", "its own result is replaced"


def test_images_of_one_name_from_two_folders_keep_their_results(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("x/a.png"), Path("y/a.png"), Path("z/a.png"))
    results = [dip.quick("denoise", folder, "-o", "out/").stdout.strip() for folder in "xy"]
    assert len(set(results)) == 2
    before = contents(Path("out"))
    refused = dip.quick("denoise", "z", "-o", "out/")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert {path: data for path, data in contents(Path("out")).items() if path.suffix == ".png"} == {
        path: data for path, data in before.items() if path.suffix == ".png"
    }
    for folder in "xy":
        assert "1 skipped" in dip.quick("denoise", folder, "-o", "out/").stderr, "each finds its own"


def test_an_interrupted_run_is_not_lost_to_another_image(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.png"), Path("a.jpg"))
    dip.quick("denoise", "a.png", "--keep-checkpoint")
    for gone in ("a.denoised.png", "a.denoised.dip/run.json"):
        Path(gone).unlink()
    checkpoint = Path("a.denoised.dip/checkpoint.pt").read_bytes()
    assert dip.quick("denoise", "a.jpg").stdout == "a.jpg.denoised.png\n"
    assert Path("a.denoised.dip/checkpoint.pt").read_bytes() == checkpoint


@posix
def test_permissions_are_kept(dip: Dip, noisy_png: Path) -> None:
    output = noisy_png.with_name("private.png")
    write(output)
    output.chmod(0o600)
    assert dip.quick("denoise", noisy_png, "-o", output).exit_code == 0
    assert output.stat().st_mode & 0o777 == 0o600
    noisy_png.chmod(0o640)
    assert dip.quick("denoise", noisy_png, "-o", noisy_png, "--overwrite").exit_code == 0
    assert noisy_png.stat().st_mode & 0o777 == 0o640


@posix
def test_links_are_followed(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    write(tmp_path / "there/old.png")
    before = (tmp_path / "there/old.png").read_bytes()
    for name in ("old.png", "new.png"):
        link = tmp_path / f"link_{name}"
        link.symlink_to(tmp_path / "there" / name)
        assert dip.quick("denoise", noisy_png, "-o", link).exit_code == 0
        assert link.is_symlink()
        assert iio.imread(tmp_path / "there" / name).shape == (37, 53, 3)
    assert (tmp_path / "there/old.png").read_bytes() != before
    assert len(list((tmp_path / "there").iterdir())) == 2, "no temporary file is left"


@posix
def test_what_cannot_be_replaced_is_refused_before_the_fit(dip: Dip, noisy_png: Path) -> None:
    output = noisy_png.with_name("x.png")
    write(output)
    output.chmod(0o444)
    before = output.read_bytes()
    refused = dip.quick("denoise", noisy_png, "-o", output, "--overwrite", iterations=10**6)
    assert (refused.exit_code, output.read_bytes()) == (1, before)
    assert "read-only" in refused.stderr
    output.unlink()
    os.mkfifo(output)
    assert dip.quick("denoise", noisy_png, "-o", output, iterations=10**6).exit_code == 1
    assert not output.is_file()


def mask(path: Path, levels: np.ndarray) -> np.ndarray:
    """Write a mask that marks a part of an image of 20x24; return what it marks."""
    marked = np.zeros((20, 24), np.uint8)
    marked[5:9, 5:15] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, levels[marked])
    return marked.astype(bool)


def filled(folder: Path) -> np.ndarray:
    return iio.imread(folder / "filled.png") > 0


def test_masks_are_read_as_their_values(dip: Dip, tmp_path: Path) -> None:
    source = tmp_path / "a.png"
    write(source)
    masks = {
        "white.png": np.array([0, 255], np.uint8),
        "ones.png": np.array([0, 1], np.uint8),
        "bool.tif": np.array([False, True]),
        "label.tif": np.array([0, 7], np.uint16),
        "label.png": np.array([0, 40000], np.uint16),
        "deep.png": np.array([0, 65535], np.uint16),
        "rgb.png": np.array([[0, 0, 0], [255, 255, 255]], np.uint8),
    }
    for name, levels in masks.items():
        marked = mask(tmp_path / name, levels)
        run = tmp_path / f"{name}.run"
        result = dip.quick("inpaint", source, "--mask", tmp_path / name, "-o", tmp_path / "x.png", "--run-dir", run)
        assert result.exit_code == 0, result.output
        assert np.array_equal(filled(run), marked), name
        assert ("filling where" in result.stderr) == (name not in ("white.png", "deep.png", "rgb.png")), name


def test_a_painted_colour_is_refused(dip: Dip, tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    mask(tmp_path / "red.png", np.array([[0, 0, 0], [255, 0, 0]], np.uint8))
    refused = dip.quick("inpaint", tmp_path / "a.png", "--mask", tmp_path / "red.png")
    assert refused.exit_code == 1
    assert "white" in refused.stderr


def test_a_folder_of_masks_has_one_for_each_image(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(*(Path("in", name) for name in ("a.png", "b.jpg", "sub/c.png", "d.png")))
    for name in ("a.png", "b.tif", "sub/c.png"):
        mask(Path("in/masks", name), np.array([0, 255], np.uint8))
    result = dip.quick("inpaint", "in", "--mask", "in/masks", "-o", "out/")
    assert result.exit_code == 3
    assert {Path(path).relative_to("out").as_posix() for path in result.stdout.split()} == {
        "a.png",
        "b.png",
        "sub/c.png",
    }
    assert "d.png" in result.stderr
    assert dip.quick("inpaint", "in/a.png", "--mask", "in/masks", "-o", "x.png").exit_code == 0


def test_a_mask_among_the_images_is_none(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("in/a.png"))
    mask(Path("in/mask.png"), np.array([0, 255], np.uint8))
    for images in (["in"], ["in/a.png", "in/mask.png"]):
        result = dip.quick("inpaint", *images, "--mask", "in/mask.png", "-o", "out/", "--overwrite")
        assert (result.exit_code, result.stdout) == (0, "out/a.png\n"), result.output
