"""Many images in one call: which, where to, what is finished; and what goes wrong on the disk."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from command_line import TINY, Dip, start, wait_for
from forks import Fork
from hypothesis import given
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli import files
from dipcli.cli.progress import displays
from dipcli.cli.progress.terminal import Terminal
from dipcli.errors import DipError, UsageError
from dipcli.runs.batches.sources import gather, stems
from dipcli.runs.display import Expected
from dipcli.text import escape_controls

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
QUICK = ("--iters", 2, "--network", TINY, "--input", "noise", "--input-depth", 4)


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, noisy(scene(20, 24), seed=seed))
    return path


def cut(path: Path) -> Path:
    data = draw(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def read_files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file below, when it was written and what is in it."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def printed(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(("text", "failed"), [("notes.txt", 3), pytest.param("text.png", 4, marks=pytest.mark.slow)])
def test_a_folder_with_files_that_are_not_images(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, failed: int
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    good = [f"{number:02d}.png" for number in range(6)]
    for number, name in enumerate(good):
        draw(source / name, number)
    bad = [cut(source / "cut1.png"), cut(source / "cut2.png"), source / text, source / "x.png"]
    bad[2].write_text("not a image")
    bad[3].mkdir()
    total = 6 + failed

    result = dip.quick("denoise", source, "-o", output, "--json")
    assert result.exit_code == 3
    assert f"6 restored, {failed} failed, 0 skipped" in result.stderr
    for path in bad:
        assert result.stderr.count(path.name) == 1, result.stderr
    assert f"Ignored, not images: {bad[2]}\n" in result.stderr or text != "notes.txt"
    assert [record["input"] for record in printed(result) if "error" not in record] == [
        str(source / name) for name in good
    ]
    assert sum("error" in record for record in printed(result)) == failed
    assert {path.name for path in output.glob("*.png")} == set(good)
    assert not [path for path in output.rglob("*") if path.name.startswith(".")], "no lock, no temporary file is left"

    before = read_files(output)
    monkeypatch.setattr("dipcli.runs.run.solve", None)  # a fit would be a bug
    again = dip.quick("denoise", source, "-o", output, "--json")
    assert again.exit_code == 3
    assert read_files(output) == before, "nothing is done again"
    assert f"0 restored, {failed} failed, 6 skipped" in again.stderr
    assert again.stderr.count(": already restored\n") == 6
    assert len(printed(again)) == total
    assert [record["iterations"] for record in printed(again) if record.get("skipped") == "already restored"] == [3] * 6
    for path in bad:
        assert again.stderr.count(path.name) == 1
    plain = dip.quick("denoise", source, "-o", output)
    assert plain.stdout == "", "standard output names what was written"


def test_exit_code_is_1_if_every_image_fails(dip: Dip, tmp_path: Path) -> None:
    cut(tmp_path / "in/a.png")
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "0 restored, 1 failed, 0 skipped; failed: 1/1" in result.stderr
    single = dip.quick("denoise", tmp_path / "in/a.png", "--json")
    assert single.exit_code == 1
    assert "truncated" in printed(single)[0]["error"]


def test_sub_folders_are_kept(dip: Dip, tmp_path: Path) -> None:
    for name in ("a.png", "one/a.png", "one/two/b.PNG"):
        draw(tmp_path / "in" / name)
    alone = draw(tmp_path / "alone.png")
    result = dip.quick("denoise", f"{tmp_path}/in/", alone, "-o", tmp_path / "out", "--no-run-dir", "-q")
    assert result.exit_code == 0, result.stderr
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert found == {"a.png", "one/a.png", "one/two/b.png", "alone.png"}
    assert result.stderr == ""


def test_results_are_not_restored_again(dip: Dip, tmp_path: Path) -> None:
    """Not beside the images, not in a folder among them, not in run folders, not in hidden ones."""
    images = [draw(tmp_path / name) for name in ("a.png", "sub/b.png")]
    for hidden in (".hidden.png", ".trash/c.png"):
        draw(tmp_path / hidden)
    beside = dip.quick("denoise", tmp_path, "--snapshot-at", 1)
    assert beside.exit_code == 0, beside.stderr
    assert beside.stdout.splitlines() == [str(image.with_suffix(".denoised.png")) for image in images]
    assert "hidden" not in beside.stderr
    before = read_files(tmp_path)
    again = dip.quick("denoise", tmp_path, "--snapshot-at", 1)
    assert "0 restored, 0 failed, 2 skipped" in again.stderr
    assert read_files(tmp_path) == before
    for _ in range(2):
        nested = dip.quick("denoise", tmp_path, "-o", tmp_path / "out", "--json")
        assert [record["input"] for record in printed(nested)] == [str(image) for image in images]
    assert dip.quick("denoise", tmp_path / "out").exit_code == 1, "made by this very task"
    assert dip.quick("denoise", tmp_path / "out/a.png", "--json").exit_code == 0, "who names a file means it"
    images[0].unlink()
    assert [record["input"] for record in printed(dip.quick("denoise", tmp_path, "--json"))] == [str(images[1])]


def test_results_without_records_are_recognised_by_name(dip: Dip, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    for count in (1, 0):
        result = dip.quick("denoise", tmp_path, "--no-run-dir")
        assert f"{count} restored, 0 failed, {1 - count} skipped" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.denoised.png"}
    shell = dip.quick("denoise", *sorted(tmp_path.glob("*.png")), "--no-run-dir")
    assert f"Ignored, results of other images: {tmp_path / 'a.denoised.png'}\n" in shell.stderr
    assert "0 restored, 0 failed, 1 skipped" in shell.stderr


@pytest.mark.parametrize("output", [pytest.param([], marks=pytest.mark.slow), ["-o", "out"]], ids=["beside", "folder"])
def test_images_that_differ_only_in_the_suffix_are_all_restored(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/a.jpg", "in/a.jpg.png", "in/B.png", "in/b.bmp", "in/c.png"):
        draw(Path(name))
    result = dip.quick("denoise", "in", *output, "--json")
    assert result.exit_code == 0, result.stderr
    names = [f"{stem}.png" for stem in ("B.png", "a.jpg", "a.jpg.png", "a.png", "b.bmp", "c")]
    names = names if output else [name.removesuffix(".png") + ".denoised.png" for name in names]
    assert [record["output"] for record in printed(result)] == [
        str(Path(*output[1:] or ["in"], name)) for name in names
    ]
    assert all(Path(record["output"]).with_suffix(".dip").is_dir() for record in printed(result))
    assert "0 restored, 0 failed, 6 skipped" in dip.quick("denoise", "in", *output).stderr


names = st.builds("{}.{}".format, st.sampled_from(["a", "A", "b", "a.png", "a.jpg"]), st.sampled_from(["png", "jpg"]))


@given(st.lists(names, unique=True, max_size=8), st.randoms())
def test_names_of_results_are_unique_and_depend_only_on_the_folder(found: list[str], random: Any) -> None:
    paths = [Path(name) for name in found]
    given_to = dict(zip(paths, stems(paths, [Path()] * len(paths)), strict=True))
    assert len(set(given_to.values())) == len(paths)
    for path, stem in given_to.items():
        assert stem in (path.stem, path.name)
        if [other.stem.lower() for other in paths].count(path.stem.lower()) > 1:
            assert stem == path.name
    if len({other.stem.lower() for other in paths}) == len(paths):
        assert all(stem == path.stem for path, stem in given_to.items())
    random.shuffle(paths)
    assert dict(zip(paths, stems(paths, [Path()] * len(paths)), strict=True)) == given_to


def test_two_images_with_one_name_in_one_folder_are_refused(dip: Dip, tmp_path: Path) -> None:
    sources = [draw(tmp_path / name) for name in ("x/a.png", "y/a.png")]
    result = dip.quick("denoise", *sources, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "one at a time" in result.stderr
    assert not (tmp_path / "out").exists()
    assert dip.quick("denoise", *sources, "--no-run-dir").exit_code == 0, "beside them there is room for both"
    with pytest.raises(UsageError):
        stems([Path("a.png"), Path("x/a.png")], [Path(), Path()])


def test_an_image_named_twice_is_restored_once(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "in/a.png")
    monkeypatch.chdir(tmp_path)
    result = dip.quick("denoise", "in", "in/a.png", "in/../in/a.png", tmp_path / "in", "--json")
    assert [record["input"] for record in printed(result)] == ["in/a.png"]


def test_quoted_patterns_are_expanded(dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "b.png", "c.txt.png", "sub/deep/d.png", "set[1]/e.png", "set1/wrong.png"):
        draw(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)

    def found(*arguments: str) -> list[str]:
        return [image.path.as_posix() for image in gather(map(Path, arguments), "denoise").images]

    assert found("*.png") == ["a.png", "b.png", "c.txt.png"]
    assert found("[ab].png") == ["a.png", "b.png"]
    assert found("?.png", "sub/*/*.png") == ["a.png", "b.png", "sub/deep/d.png"]
    assert found("sub/**/*.png") == ["sub/deep/d.png"]
    assert found("set[1]/*.png") == ["set[1]/e.png"], "what is there in these letters is no pattern"
    assert found(f"{tmp_path}/set[1]/*.png") == [f"{tmp_path.as_posix()}/set[1]/e.png"]
    assert found("s?b") == ["sub/deep/d.png"], "a folder that matches is a folder"
    assert gather([Path("*t*")], "denoise").passed == (Path("notes.txt"),)
    assert found("gone*.png") == ["gone*.png"], "reading it will tell"
    assert not gather([Path("a*.png")], "denoise").several, "as if the shell had done it"
    result = dip.quick("denoise", "gone*.png")
    assert (result.exit_code, result.stderr) == (1, "dip: There is no file gone*.png: check the name.\n")
    result = dip.quick("denoise", "*.txt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "notes.txt" in result.stderr
    draw(tmp_path / "[ab].png")
    assert found("[ab].png") == ["[ab].png"]
    if sys.platform != "win32":
        draw(tmp_path / "*.png")
        assert found("*.png") == ["*.png"]


NASTY = [
    "plain.png",
    "[bold]x[reverse].png",
    "[red].png",
    "*?[!a].png",
    ":smile: {0} %s $(x).png",
    " two  spaces .png",
    "line\nbreak\ttab.png",
    "\x1b[31mred.png",
    "Prüfung 写真 \u0301e.png",
    "-dash.png",
    os.fsdecode(b"stray\xff\xfe.png"),
]
WORST = (NASTY[1], NASTY[6], NASTY[10])


@pytest.mark.slow
@LINUX
def test_unusual_file_names_in_a_folder(dip: Dip, tmp_path: Path) -> None:
    folder = tmp_path / "in [bold]\n"
    for name in NASTY:
        draw(folder / name)
        cut(folder / f"cut {name}")
    result = dip.quick("denoise", folder, "-o", tmp_path / "out [/red]\n", "--json", "-v")
    assert result.exit_code == 3
    assert f"{len(NASTY)} restored, {len(NASTY)} failed, 0 skipped" in result.stderr
    records = printed(result)
    assert len(records) == 2 * len(NASTY)
    assert {Path(record["input"]).name for record in records} == {*NASTY, *(f"cut {name}" for name in NASTY)}
    for record in records:
        if "error" not in record:
            assert Path(record["output"]).is_file()
    assert result.stderr.count("dip: ") == len(NASTY), "one line per image"
    assert "\x1b" not in result.stderr
    for part in ("[bold]x[reverse]", "[red]", "*?[!a]", ":smile: {0} %s $(x)", "line\\nbreak\\ttab", "\\x1b[31mred"):
        assert part in result.stderr
    assert "写真" in result.stderr
    assert "stray\\udcff\\udcfe" in result.stderr
    again = dip.quick("denoise", folder, "-o", tmp_path / "out [/red]\n")
    assert f"0 restored, {len(NASTY)} failed, {len(NASTY)} skipped" in again.stderr
    beside = dip.quick("denoise", folder, "--no-run-dir")
    lines = b"".join(os.fsencode(folder / name[:-4]) + b".denoised.png\n" for name in sorted(NASTY))
    assert beside.stdout_bytes == lines, "bytes as they are"


@LINUX
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in WORST else pytest.mark.slow) for name in NASTY],
    ids=range(len(NASTY)),
)
def test_unusual_file_names_in_every_option(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As input, output, mask, reference and run folder."""
    monkeypatch.chdir(tmp_path)
    mask = np.zeros((20, 24), np.uint8)
    mask[4:8, 4:9] = 255
    for folder in ("in", "mask", "true", "out"):
        draw(Path(folder, name))
    iio.imwrite(Path("mask", name), mask)
    run = Path("run", name)
    rest = ("--mask", f"mask/{name}", "--reference", f"true/{name}", "--run-dir", run, "--json", *QUICK)
    result = dip("inpaint", f"in/{name}", "-o", f"out/{name}", *rest)
    assert result.exit_code == 0, result.output
    (record,) = printed(result)
    assert (record["input"], record["output"], record["arguments"]["mask"]) == (
        f"in/{name}", f"out/{name}", f"mask/{name}",
    )  # fmt: skip
    assert json.loads((run / "run.json").read_text()) == record
    assert record["psnr_ref_unknown"] > 0
    assert Path("out", name).stat().st_mtime >= Path("mask", name).stat().st_mtime
    assert sorted(path.name for path in Path("out").iterdir()) == [name], "nothing but the image"
    shown = escape_controls(name)
    assert f"in/{shown}: filling 4.2 % of the image" in result.stderr
    here = dip("denoise", "--no-run-dir", *QUICK, "--", name)
    assert here.exit_code == 1
    assert here.stderr == f"dip: There is no file {shown}: check the name.\n"


@LINUX
@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_the_live_display_shows_unusual_file_names(name: str) -> None:
    shown = io.StringIO()
    terminal = Terminal()
    terminal.console.file = shown
    terminal.console.width = 200
    with terminal.watching(f"3/16 {name}", Expected(10)):
        terminal.note(f"{name}: a remark")
    assert f"{escape_controls(name)}: a remark\n" in shown.getvalue()
    assert f"3/16 {escape_controls(name)}" in shown.getvalue()


def test_pipes_and_links_are_ignored(dip: Dip, tmp_path: Path) -> None:
    """A pipe would be read for ever, a link to a folder above be followed for ever."""
    draw(tmp_path / "in/a.png")
    os.mkfifo(tmp_path / "in/pipe.png")
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    (tmp_path / "in/broken.png").symlink_to(tmp_path / "gone.png")
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert result.exit_code == 3
    assert "1 restored, 1 failed, 0 skipped" in result.stderr
    assert "There is no file" in result.stderr
    assert "pipe.png" in result.stderr.splitlines()[0]


@pytest.mark.slow
def test_an_empty_argument_is_refused(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    result = subprocess.run(
        [sys.executable, "-m", "dipcli", "denoise", ""], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("dip: An argument is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.fixture
def restored(dip: Dip, tmp_path: Path) -> Path:
    """A folder in which two images have been restored into `out`; its images are an hour old."""
    for name in ("a.png", "b.png"):
        path = draw(tmp_path / "in" / name, seed=ord(name[0]))
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    assert dip("denoise", tmp_path / "in", "-o", tmp_path / "in/out", *QUICK).exit_code == 0
    return tmp_path / "in"


def counted(dip: Dip, folder: Path, *more: object) -> tuple[int, int]:
    """How many were restored and how many skipped when the folder is restored once more."""
    result = dip("denoise", folder, "-o", folder / "out", "--json", *QUICK, *more)
    assert result.exit_code == 0, result.stderr
    return sum("skipped" not in record for record in printed(result)), sum(
        "skipped" in record for record in printed(result)
    )


@pytest.mark.slow
def test_finished_images_are_skipped_and_others_restored(dip: Dip, restored: Path) -> None:
    out = restored / "out"
    assert counted(dip, restored) == (0, 2)
    assert counted(dip, restored, "--threads", 1, "--device", "cpu", "--log-every", 1) == (0, 2), "no other result"
    (out / "a.png").unlink()
    assert counted(dip, restored) == (1, 1), "its result is gone"
    (out / "a.dip/run.json").unlink()
    assert counted(dip, restored) == (1, 1), "it was killed"
    (out / "a.dip/run.json").write_text("[not JSON")
    assert counted(dip, restored) == (1, 1)
    draw(restored / "b.png", seed=9)
    assert counted(dip, restored) == (1, 1), "another image"
    os.utime(restored / "b.png")
    assert counted(dip, restored) == (0, 2), "the same image, however new"
    assert counted(dip, restored, "--overwrite") == (2, 0)
    record = json.loads((out / "a.dip/run.json").read_text())
    (out / "a.dip/run.json").write_text(json.dumps({**record, "finished": False}))
    assert counted(dip, restored) == (1, 1), "it was cut short"
    shutil.move(restored, restored.with_name("moved"))
    assert counted(dip, restored.with_name("moved")) == (0, 2), "wherever it lies"


@pytest.mark.parametrize(
    "other",
    [
        ["--seed", 7],
        ["--iters", 5],
        pytest.param(["--preset", "best"], marks=pytest.mark.slow),
        pytest.param(["--loss", "l1"], marks=pytest.mark.slow),
        pytest.param(["--snapshot-at", 1], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_other_options_do_not_replace_a_result(dip: Dip, restored: Path, other: list[object]) -> None:
    before = read_files(restored)
    command = ("denoise", restored, "-o", restored / "out", *QUICK)
    result = dip(*command, *other)
    assert result.exit_code == 0
    assert result.stderr.count("already restored with other options: --overwrite restores it again\n") == 2
    assert read_files(restored) == before
    assert "2 restored" in dip(*command, *other, "--overwrite").stderr
    for more, words in ((other, "already restored\n"), ([], "already restored with other options")):
        assert dip(*command, *more).stderr.count(words) == 2


def test_a_newer_mask_triggers_a_rerun(dip: Dip, tmp_path: Path) -> None:
    holes = np.zeros((20, 24), np.uint8)
    holes[4:8, 4:9] = 255
    mask = tmp_path / "mask.bmp"
    iio.imwrite(mask, holes)
    draw(tmp_path / "in/a.png")
    command = ("inpaint", tmp_path / "in", "--mask", mask, *QUICK)
    assert "1 restored" in dip(*command).stderr
    assert "1 skipped" in dip(*command).stderr
    os.utime(mask, (time.time() + 9, time.time() + 9))
    assert "1 restored" in dip(*command).stderr
    other = dip("denoise", tmp_path / "in", *QUICK, "--json")
    assert [Path(record["input"]).name for record in printed(other)] == ["a.inpainted.png", "a.png"], "of another task"


def test_without_a_record_the_modification_time_decides(dip: Dip, tmp_path: Path) -> None:
    source, output = draw(tmp_path / "in/a.png"), tmp_path / "out/a.png"
    command = ("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert "1 restored" in dip.quick(*command, "--no-run-dir").stderr
    assert "1 skipped" in dip.quick(*command, "--no-run-dir").stderr
    assert "its result exists, without a run record" in dip.quick(*command).stderr
    os.utime(source, (time.time() + 9, time.time() + 9))
    before = output.read_bytes()
    refused = dip.quick(*command, iterations=5)
    assert refused.exit_code == 1
    assert f"{output} exists and is not from a run: --overwrite" in refused.stderr
    assert output.read_bytes() == before, "it may be anybody's"
    assert "1 restored" in dip.quick(*command, "--no-run-dir", iterations=5).stderr
    assert output.read_bytes() != before


def test_a_single_named_image_is_always_restored(dip: Dip, restored: Path) -> None:
    for _ in range(2):
        result = dip("denoise", restored / "a.png", "-o", restored / "out/a.png", *QUICK)
        assert result.stdout == f"{restored / 'out/a.png'}\n"
        assert "restored," not in result.stderr, "no summary of one"
    several = dip("denoise", restored / "a.png", restored / "b.png", "-o", restored / "out", *QUICK)
    assert "0 restored, 0 failed, 2 skipped" in several.stderr


def test_the_display_shows_number_and_count(dip: Dip, restored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = []
    plain = displays.Lines.watching
    monkeypatch.setattr(
        displays.Lines, "watching", lambda self, title, most: [titles.append(title), plain(self, title, most)][1]
    )
    draw(restored / "c.png")
    counted(dip, restored)
    assert titles == ["3/3 c.png"], "those skipped count"
    dip.quick("denoise", restored / "c.png", "-o", restored / "d.png")
    assert titles[1:] == ["c.png"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_current_image_and_ends_the_batch(
    dip: Dip, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    for name in "abcd":
        draw(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "in/out"
    assert dip.quick("denoise", tmp_path / "in/a.png", "-o", f"{out}/").exit_code == 0
    process = start("denoise", tmp_path / "in", "-o", out, "--iters", 10**6, "--log-every", 1, "--json")
    log = out / "b.dip/log.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert [Path(json.loads(line)["input"]).name for line in stdout.splitlines()] == ["a.png", "b.png"]
    assert "0 restored, 0 failed, 1 skipped, 1 cut short, 2 not started" in stderr
    assert {path.name for path in out.glob("*.png")} == {"a.png", "b.png"}
    assert json.loads((out / "b.dip/run.json").read_text())["finished"] is False
    assert counted(dip, tmp_path / "in") == (3, 1), "what was cut short is not finished"


def refuse(code: int) -> Any:
    def refusing(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refusing


def test_a_disk_that_fills_up_during_the_fit_keeps_earlier_results(
    dip: Dip, restored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {path: path.read_bytes() for path in (restored / "out").glob("*.png")}
    plain, writes = os.fsync, []

    def full(handle: int) -> None:
        writes.append(handle)
        if len(writes) % 3 == 0:  # log and checkpoint are started, the image cannot be written
            refuse(errno.ENOSPC)()
        plain(handle)

    monkeypatch.setattr(os, "fsync", full)
    single = dip.quick("denoise", restored / "a.png", "-o", restored / "out/a.png", iterations=5)
    assert single.exit_code == 1
    said = [line for line in single.stderr.splitlines() if line.startswith("dip: ")]
    assert said == [
        f"dip: Cannot write {restored}/out/a.png: No space left on device. Make room, or choose another place."
    ]
    assert {path: path.read_bytes() for path in (restored / "out").glob("*.png")} == images
    assert not list((restored / "out").glob(".*")), "nothing half-written"
    assert len(writes) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_file_size_limit_is_found_before_the_fit(tmp_path: Path) -> None:
    """The same as a full disk for who writes: the system refuses to take more."""
    source = tmp_path / "a.png"
    iio.imwrite(source, noisy(scene(64, 64)))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    process = Fork("denoise", source, *QUICK, code=limited)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == f"dip: Cannot write to {tmp_path}: File too large. Make room, or choose another place.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_written_is_reported_once(
    dip: Dip, restored: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    draw(restored / "c.png")
    cut(restored / "d.png")
    before = read_files(restored)
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse(code))
    for output in (restored / "new/sub", restored / "out"):
        result = dip.quick("denoise", restored, "-o", output, "--json")
        sentence = (
            f": {os.strerror(code)}. {'Make room, or choose' if code == errno.ENOSPC else 'Choose'} another place."
        )
        assert result.stderr.count(sentence) == 1
        assert result.exit_code == (1 if output.name == "sub" else 3), "what is finished is finished"
        assert len(printed(result)) == 4
    beside = dip.quick("denoise", restored)
    assert beside.exit_code == 1
    assert beside.stderr.count(sentence) == 1
    assert read_files(restored) == before


CALLS = """
import json, shlex, subprocess, sys
from command_line import Dip
from dipcli.cli.app import app
for call in sys.argv[1:]:
    if call.startswith("!"):
        done = subprocess.run(call[1:], shell=True, capture_output=True, text=True)
        print(json.dumps([done.returncode, done.stdout, []]))
    else:
        done = Dip(app)("denoise", *shlex.split(call))
        said = [line for line in done.stderr.splitlines() if line.startswith("dip: ")]
        print(json.dumps([done.exit_code, done.stdout, said]))
"""


def inside(folder: Path, *calls: str) -> list[tuple[int, str, list[str]]]:
    """Exit code, standard output and complaints of `dip denoise`, where one may mount what nobody else sees.

    A call that begins with ! is the shell's.
    """
    if sys.platform != "linux" or not shutil.which("unshare"):
        pytest.skip("needs Linux's mount namespaces")
    apart = ["unshare", "-rm"]
    if subprocess.run([*apart, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    quick = " ".join(map(str, QUICK))
    result = subprocess.run(
        [*apart, sys.executable, "-c", CALLS, *(line if line[0] == "!" else f"{line} {quick}" for line in calls)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_keeps_earlier_results(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b.png"):
        draw(tmp_path / name)
    (tmp_path / "disk").mkdir()
    mounted, free, filled, *full, unharmed = inside(
        tmp_path,
        "!mount -t tmpfs -o size=64k none disk",
        "in/a.png -o disk/a.png",
        "!sha256sum disk/a.png disk/a.dip/* > before; cat /dev/zero > disk/rest; df disk",
        "in/b.png -o disk/b.png",
        "in/b.png -o disk/a.png",
        "in/b.png -o disk/b.png --no-run-dir",
        "in -o disk/many",
        "!sha256sum --check --quiet before && ls -A disk",
    )
    assert mounted[0] == 0
    assert free[:2] == (0, "disk/a.png\n"), "there was room"
    assert "100%" in filled[1]
    for code, stdout, said in full:
        assert (code, stdout) == (1, "")
        assert said == [said[0]]
        assert "No space left on device. Make room, or choose another place." in said[0]
    assert unharmed[:2] == (0, "a.dip\na.png\nrest\n")


@pytest.mark.slow
def test_a_read_only_folder_is_not_changed(tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b.png"):
        draw(tmp_path / name)
    mounted, *refused, elsewhere = inside(
        tmp_path,
        "!mount --bind in in && mount -o remount,ro,bind in",
        "in/a.png",
        "in",
        "in/a.png -o in/x.png",
        "in -o in/new",
        "in/a.png -o x.png --run-dir in/x.dip",
        "in -o out",
    )
    assert mounted[0] == 0
    for code, stdout, said in refused:
        assert (code, stdout) == (1, "")
        assert said == [said[0]]
        assert "Read-only file system" in said[0]
    assert elsewhere == (0, "out/a.png\nout/b.png\n", [])
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.png", "b.png"]


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Fork]:
    """A run that is under way, to tmp_path/out.png."""
    output = tmp_path / "out.png"
    process = start("denoise", draw(tmp_path / "a.png"), "-o", output, "--iters", 10**6, "--log-every", 1)
    log = tmp_path / "out.dip/log.csv"
    wait_for(lambda: log.exists() and len(log.read_text().splitlines()) > 3, process)
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_runs_do_not_write_to_one_output(dip: Dip, tmp_path: Path, at_work: Fork) -> None:
    other, output = draw(tmp_path / "in/b.png", 5), tmp_path / "out.png"
    log = (tmp_path / "out.dip/log.csv").read_text()
    for more in ([], ["--no-run-dir"], ["--run-dir", tmp_path / "other"], ["--overwrite"]):
        second = dip.quick("denoise", other, "-o", output, *more)
        assert second.exit_code == 1
        assert f"{output}: another run (process {at_work.pid}) is writing there." in second.stderr
        assert "Traceback" not in second.stderr
    second = dip.quick("denoise", other, "-o", tmp_path / "b.png", "--run-dir", tmp_path / "out.dip")
    assert f"{tmp_path}/out.dip: another run (process {at_work.pid}) is writing there." in second.stderr
    batch = dip.quick("denoise", draw(tmp_path / "in/out.bmp"), draw(tmp_path / "in/z.bmp"), "-o", tmp_path)
    assert batch.exit_code == 0
    assert (tmp_path / "out.bmp.png").exists(), "its usual name is another's"
    assert (tmp_path / "z.png").exists()
    assert not output.exists()
    assert not (tmp_path / "b.png").exists()
    assert (tmp_path / "out.dip/log.csv").read_text().startswith(log), "the first one is unharmed"
    at_work.send_signal(signal.SIGINT)
    stdout, _ = at_work.communicate(timeout=60)
    assert stdout == f"{output}\n"
    assert dip.quick("denoise", other, "-o", output).exit_code == 0
    assert not [path for path in tmp_path.rglob("*") if "lock" in path.name]


@pytest.mark.slow
def test_stale_locks_of_a_killed_run_are_ignored(dip: Dip, tmp_path: Path, at_work: Fork) -> None:
    at_work.kill()
    at_work.communicate()
    for lock in (tmp_path / ".out.png.dip-lock", tmp_path / "out.dip/.dip-lock"):
        assert lock.read_text() == str(at_work.pid)
    third = dip.quick("denoise", tmp_path / "a.png", "-o", tmp_path / "out.png")
    assert third.exit_code == 0, third.stderr
    assert iio.imread(tmp_path / "out.png").shape == (20, 24, 3)
    assert not [path for path in tmp_path.rglob("*") if "lock" in path.name]


def test_locks_are_taken_and_released(tmp_path: Path) -> None:
    long = tmp_path / (251 * "x" + ".png")
    for path in (tmp_path / "a.png", tmp_path, long):
        with files.lock_paths(path), pytest.raises(DipError, match=f"process {os.getpid()}"), files.lock_paths(path):
            pass
        assert not list(tmp_path.iterdir())
    with files.lock_paths(tmp_path / "a.png", tmp_path / "b.png"), files.lock_paths(tmp_path / "c.png"):
        (tmp_path / ".b.png.dip-lock").write_text("unreadable")
        with pytest.raises(DipError, match="another run is writing there"), files.lock_paths(tmp_path / "b.png"):
            pass
    with pytest.raises(ZeroDivisionError), files.lock_paths(tmp_path / "a.png"):
        _ = 1 // 0
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.FileLock, "acquire", refuse(errno.ENOTSUP))
    with files.lock_paths(tmp_path / "a.png"), files.lock_paths(tmp_path / "a.png"):
        pass
    monkeypatch.setattr(files.FileLock, "acquire", refuse(errno.ENOSPC))
    with pytest.raises(DipError, match="No space"), files.lock_paths(tmp_path / "a.png"):
        pass


def test_format_of_the_results_of_a_folder(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.bmp"):
        iio.imwrite(tmp_path / "in" / name, np.zeros((20, 24, 3), np.uint8))
    how = ("denoise", tmp_path / "in", "-o", tmp_path / "out", "--format", "tif")
    assert dip.quick(*how).exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_file()} >= {"a.tif", "b.tif"}
    assert "0 restored, 0 failed, 2 skipped" in dip.quick(*how).stderr
    wrong = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "other", "--format", "xyz")
    assert wrong.exit_code == 1
    assert "cannot be written as .xyz" in wrong.stderr
