"""The image as it is while a run is at work, and the frames of a film strip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from command_line import TINY, Dip
from samples import noisy, scene

from dipcli import files, images
from dipcli.errors import DipError
from dipcli.fitting.state import FittedTile, TilesState
from dipcli.fitting.tiles.tiling import layout
from dipcli.images.image import from_array
from dipcli.problem import Problem
from dipcli.runs import preview
from dipcli.runs.observers import COLUMNS
from dipcli.runs.preview import Frames, Preview, reduce_image, reduction_factor
from dipcli.stopping import Verdict
from dipcli.stopping.step import Step, Tile

QUICK = ("--network", TINY, "--input", "noise", "--input-depth", 4, "--warmup", 0, "--fusion", "none")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def at(number: int, image: torch.Tensor, run: int = 1, tile: Any = None) -> Step:
    return Step(number, torch.tensor(0.1), image, (image,), 0.01, 0.0, run=run, tile=tile)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test or a write moves it on."""
    now = [100.0]
    monkeypatch.setattr(preview, "perf_counter", lambda: now[0])
    return now


def grey(height: int, width: int) -> Any:
    return from_array(np.zeros((height, width), np.uint8))


@pytest.mark.parametrize(("shape", "longest"), [((3, 37, 53), 16), ((1, 100, 20), 33), ((3, 16, 16), 16)])
def test_reduced_it_is_no_longer_than_asked_and_as_bright(shape: tuple[int, ...], longest: int) -> None:
    image, by = random(*shape), reduction_factor(shape, longest)
    small = reduce_image(image, by)
    assert max(small.shape[1:]) <= longest
    high, wide = (side // by * by for side in shape[1:])
    whole = image[:, :high, :wide]
    by_hand = whole.reshape(shape[0], high // by, by, wide // by, by).mean(dim=(2, 4))
    torch.testing.assert_close(small[:, : high // by, : wide // by], by_hand)
    torch.testing.assert_close(
        small[:, -1, -1], image[:, (small.shape[1] - 1) * by :, (small.shape[2] - 1) * by :].mean(dim=(1, 2))
    )


def test_soon_and_then_now_and_then(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first after a second, then every two, or so seldom that it takes a hundredth of the time."""
    path, written = tmp_path / "preview.png", []

    def write(path: Path, data: bytes) -> None:
        written.append(clock[0])
        path.write_bytes(data)
        clock[0] += cost

    monkeypatch.setattr(files, "write", write)
    image = random(1, 20, 24)
    seen = Preview(path, grey(20, 24), Problem(measured=image, shape=(1, 20, 24)))
    cost = 0.001
    for number in range(1, 60):
        seen(at(number, image), Verdict())
        clock[0] += 0.1
    assert np.allclose(np.diff([100.0, *written]), [1.0, 2.0, 2.0], atol=0.11)
    cost = 0.5
    for number in range(60, 2000):
        seen(at(number, image), Verdict())
        clock[0] += 0.1
    assert (np.diff(written[3:]) >= 50).all()
    assert len(written) > 5
    np.testing.assert_array_equal(iio.imread(path), np.rint(image[0].numpy() * 255))
    seen.end()
    seen.end()
    assert not path.exists()


class Doubled:
    """An operator's like: what is measured is half as large."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return image[..., ::2, ::2]

    def window(self, rows: slice, columns: slice) -> Any:
        return self, *(slice(each.start // 2, each.stop // 2) for each in (rows, columns))


@pytest.mark.parametrize("largest", [24, 100, 400], ids=["a tenth", "a third", "whole"])
def test_tiles_are_blended_into_the_whole(
    largest: int, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begins as the measurement; once every tile shows what the truth does there, all of it is the truth."""
    monkeypatch.setattr(preview, "PREVIEW_SIDE", largest)
    height, width = 150, 236
    truth, measured = random(1, height, width), random(1, height // 2, width // 2, seed=1)
    problem = Problem(measured=measured, shape=(1, height, width), operator=Doubled())
    path, image = tmp_path / "preview.png", grey(height, width)
    places = layout((height, width), 2, lambda high, wide: high * wide <= 150 * 130)
    assert len(places) > 1
    tiles = [
        Tile(number, len(places), each, problem.window(each.rows, each.columns))
        for number, each in enumerate(places, start=1)
    ]
    clock[0] += 10
    seen = Preview(path, image, problem)
    clock[0] += 10
    shown = []
    for tile in tiles:
        part = truth[:, tile.place.rows, tile.place.columns]
        seen(at(1, torch.zeros_like(part), tile=tile), Verdict())
        clock[0] += 10
        seen(at(2, part, tile=tile), Verdict(stop="enough"))
        clock[0] += 10
        shown.append(iio.imread(path) / 255)
    whole = reduce_image(truth, reduction_factor(truth.shape, largest))[0].numpy()
    np.testing.assert_allclose(shown[-1], whole, atol=0.51 / 255 if largest == 400 else 0.12)
    np.testing.assert_allclose(shown[-1].mean(), whole.mean(), atol=0.01)
    corner = (slice(-4, None), slice(-4, None))
    before = torch.nn.functional.interpolate(measured[None], (height, width), mode="bilinear")[0]
    if largest == 400:
        np.testing.assert_allclose(shown[0][corner], before[0][corner], atol=0.51 / 255)
    done = tuple(FittedTile(each.place, truth[:, each.place.rows, each.place.columns]) for each in tiles[:-1])
    begin: Any = TilesState(done, (places[-1],), None)  # type: ignore[arg-type]
    again = Preview(path, image, problem, begin)
    clock[0] += 10
    part = truth[:, places[-1].rows, places[-1].columns]
    again(at(7, part, tile=tiles[-1]), Verdict())
    np.testing.assert_array_equal(iio.imread(path) / 255, shown[-1])


def often(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """A preview after each iteration; what each of them showed."""
    monkeypatch.setattr(preview, "FIRST_PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(preview, "PREVIEW_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(preview, "PREVIEW_TIME_FRACTION", 1e9)
    seen: list[np.ndarray] = []
    plain = preview.Preview.__call__

    def call(self: Preview, step: Step, verdict: Verdict) -> None:
        plain(self, step, verdict)
        seen.append(iio.imread(self.path))

    monkeypatch.setattr(preview.Preview, "__call__", call)
    return seen


def test_it_is_there_while_the_run_is_and_changes_nothing(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = noisy_png.with_name("alone.png")
    assert dip.quick("denoise", noisy_png, "-o", alone, "--no-run-dir", iterations=6).exit_code == 0
    seen = often(monkeypatch)
    result = dip("denoise", noisy_png, "--iters", 6, *QUICK, "--snapshot-every", 1)
    assert result.exit_code == 0, result.stderr
    folder = noisy_png.with_name("noisy.denoised.dip")
    assert len(seen) == 6
    for number, each in enumerate(seen, start=1):
        np.testing.assert_array_equal(each, iio.imread(folder / f"snapshots/{number:06d}.png"))
    assert not (folder / "preview.png").exists(), "there is something better now"
    assert noisy_png.with_name("noisy.denoised.png").read_bytes() == alone.read_bytes()
    strip = sorted((folder / "frames").iterdir())
    assert [each.name for each in strip] == ["000001.png", "000002.png", "000005.png"]
    for each in strip:
        np.testing.assert_array_equal(iio.imread(each), iio.imread(folder / "snapshots" / each.name))


@pytest.mark.slow
def test_a_preview_shows_tiles_in_their_places(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "large.png"
    iio.imwrite(source, noisy(scene(150, 240), sigma=5))
    seen = often(monkeypatch)
    result = dip("denoise", source, "--tile", 128, "--iters", 3, "--runs", 2, *QUICK)
    assert result.exit_code == 0, result.stderr
    account = json.loads((tmp_path / "large.denoised.dip/run.json").read_text())
    tiles = account["tiles"]
    assert len(seen) == 6 * len(tiles)
    last = tiles[-1]
    kept = iio.imread(source)
    outside = np.ones(kept.shape[:2], bool)
    outside[: tiles[0]["height"], : tiles[0]["width"]] = False
    np.testing.assert_array_equal(seen[0][outside], kept[outside])
    assert (seen[0][~outside] != kept[~outside]).any()
    before = np.zeros_like(outside)
    before[last["top"] :, last["left"] :] = True
    assert (seen[-1][~before] == seen[-6][~before]).all(), "tiles that are done stay"
    assert not (tmp_path / "large.denoised.dip/frames").exists(), "frames are of the whole"


def test_frames_of_the_first_run_alone_and_none_without_a_report(dip: Dip, noisy_png: Path) -> None:
    folder = noisy_png.with_name("noisy.denoised.dip")
    assert dip("denoise", noisy_png, "--iters", 3, "--runs", 2, "--stop", "none", *QUICK).exit_code == 0
    first = (folder / "frames/000002.png").read_bytes()
    assert dip("denoise", noisy_png, "--iters", 1, *QUICK, "--seed", 1).exit_code == 0
    assert [each.name for each in (folder / "frames").iterdir()] == ["000001.png"], "an earlier run's are gone"
    assert first
    assert dip("denoise", noisy_png, "--iters", 1, *QUICK, "--no-report").exit_code == 0
    assert list((folder / "frames").iterdir()) == []


def test_frames_are_small_and_few(tmp_path: Path) -> None:
    image = random(3, 16, 1200)
    frames = Frames(tmp_path / "frames", grey(16, 1200), Problem(measured=image, shape=(3, 16, 1200)))
    for number in range(1, 1201):
        frames(at(number, image), Verdict())
    frames(at(2000, image, run=2), Verdict())
    strip = sorted((tmp_path / "frames").iterdir())
    assert [int(each.stem) for each in strip] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert iio.imread(strip[0]).shape == (6, 400, 3)


@pytest.mark.parametrize("resumed", [False, True], ids=["started afresh", "gone on with"])
def test_it_stays_when_the_run_is_killed_and_goes_with_the_next(
    resumed: bool, dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = noisy_png.with_name("noisy.denoised.dip")
    with monkeypatch.context() as patch:
        often(patch)
        patch.setattr(images, "write", lambda *_: 1 // 0)
        result = dip("denoise", noisy_png, "--iters", 12, *QUICK, "--checkpoint-every", "0.000001s")
        assert isinstance(result.exception, ZeroDivisionError)
    assert iio.imread(folder / "preview.png").shape == (37, 53, 3)
    if resumed:
        seen = often(monkeypatch)
        result = dip("resume", folder)
        assert len(seen) == 2, "iterations after the checkpoint"
    else:
        result = dip("denoise", noisy_png, "--iters", 2, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert not (folder / "preview.png").exists()


@pytest.mark.parametrize("read", [False, True])
def test_nobody_elses_preview_is_replaced(
    read: bool, dip: Dip, noisy_png: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often(monkeypatch)
    folder = tmp_path / "mine"
    (folder / "frames").mkdir(parents=True)
    mine, frame = folder / "preview.png", folder / "frames/000001.png"
    for each in (mine, frame):
        each.write_bytes(noisy_png.read_bytes())
    (folder / "log.csv").write_text(",".join(COLUMNS))  # an earlier run was here: what is its own, it says itself
    source = mine if read else noisy_png
    output = tmp_path / "out.png"
    result = dip("denoise", source, "-o", output, "--run-dir", folder, "--iters", 2, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert mine.read_bytes() == noisy_png.read_bytes()
    assert frame.read_bytes() == noisy_png.read_bytes()
    assert (folder / "frames/000002.png").exists()
    assert dip("denoise", noisy_png, "-o", mine, "--run-dir", folder, "--iters", 2, *QUICK).exit_code == 0
    assert mine.read_bytes() == output.read_bytes(), "the result is not taken for a preview"


def test_where_it_cannot_be_written_that_is_said_once(
    dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = files.write

    def write(path: Path, data: bytes) -> None:
        if path.name == "preview.png" or path.parent.name == "frames":
            raise DipError(f"Cannot write {path}: No space left on device.")
        plain(path, data)

    monkeypatch.setattr(preview, "FIRST_PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(files, "write", write)
    result = dip("denoise", noisy_png, "--iters", 5, *QUICK)
    assert result.exit_code == 0
    assert result.stderr.count("(preview is disabled, the fit goes on)") == 1
    assert result.stderr.count("(frames is disabled, the fit goes on)") == 1
