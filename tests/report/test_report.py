"""The page of a run: what is on it, what becomes of it, and that it is never in the way."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import imageio.v3 as iio
import numpy as np
import PIL.Image
import pytest
from command_line import Dip
from hypothesis import example, given
from hypothesis import strategies as st
from samples import noisy, scene

from dipcli import files, images
from dipcli.cli.app import app
from dipcli.errors import DipError
from dipcli.images.image import Image, from_array
from dipcli.report import charts, index, page
from dipcli.report import embedding as views
from dipcli.report import figures as drawing
from dipcli.report import text as words
from dipcli.report.run_folder import RunFolder, read_run_folder

GENERATOR = '<meta name="generator" content="dipcli">'


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.ignored = 0
        self.feed(self.source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.ignored += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.ignored -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.ignored:
            self.text += f" {data.strip()}" if data.strip() else ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.tags if each == tag]

    def views(self) -> dict[str, np.ndarray]:
        """The pictures of the page by their names."""
        named = [each for each in self.all("img") if each.get("data-view")]
        return {str(each["data-view"]): pixels(str(each["src"])) for each in named}


def pixels(url: str) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image)


def run_of(folder: Path, *options: object, task: str = "denoise", name: str = "noisy.png", iterations: int = 3) -> Path:
    """A run of a small picture, with its page; its folder."""
    if not (folder / name).exists():
        iio.imwrite(folder / name, noisy(scene(48, 64)))
        iio.imwrite(folder / "truth.png", scene(48, 64))
    result = Dip(app).quick(task, folder / name, "-o", folder / "out.png", *options, iterations=iterations, report=True)
    assert result.exit_code == 0, result.output
    return folder / "out.dip"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a page can have; nobody changes it."""
    folder = tmp_path_factory.mktemp("full")
    iio.imwrite(folder / "truth.png", scene(48, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["dip", "denoise", "noisy.png", "--snapshot-every", "4"])
        return made(folder)


def made(folder: Path) -> Path:
    rest = ("--reference", folder / "truth.png", "--uncertainty", folder / "doubt.png")
    return run_of(folder, *rest, "--log-every", 2, "--snapshot-every", 4, "--snapshot-at", 1, iterations=12)


def test_a_run_leaves_a_page_that_needs_nothing_else(full: Path) -> None:
    read = Page(full / "report.html")
    assert read.source.index(GENERATOR) < 1024
    shown = read.views()
    assert list(shown) == [
        "Input",
        "Restored",
        "True picture",
        "Uncertainty",
        *(f"Iteration {n}" for n in (1, 4, 8, 12)),
    ]
    for name, file in (("Input", "noisy"), ("Restored", "out"), ("True picture", "truth")):
        assert np.array_equal(shown[name], iio.imread(full.parent / f"{file}.png")), "without loss"
    assert np.array_equal(shown["Iteration 8"], iio.imread(full / "snapshots/000008.png"))
    account = json.loads((full / "run.json").read_text())
    for words_ in (
        f"{account['psnr_ref']:.2f} dB",
        "12 iterations",
        "--snapshot-every",
        "skip:channels=8,8",
        "PyTorch",
    ):
        assert words_ in read.text
    assert all(each["alt"] for each in read.all("img") if each.get("src"))
    urls = [str(each[key]) for _, each in read.tags for key in ("src", "href", "data", "action") if each.get(key)]
    assert {"../out.png", "log.csv", "run.json"} == {each for each in urls if not each.startswith(("data:", "#"))}
    assert not re.search(r"url\((?!#)|@import|<link|http-equiv=.refresh", read.source)


def test_every_log_has_the_rules_signal(dip: Dip, noisy_png: Path) -> None:
    for rule in ("holdout", "sigma:level=1", "none"):
        assert dip.quick("denoise", noisy_png, "--stop", rule, "--log-every", 5, iterations=10).exit_code == 0
        with noisy_png.with_name("noisy.denoised.dip").joinpath("log.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        for row in rows:
            assert bool(row["signal"]) == (rule != "none")
            assert row["holdout"] == (row["signal"] if rule == "holdout" else "")


def test_a_page_can_be_left_out_and_an_old_one_does_not_stay(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert (run / "report.html").exists()
    run_of(tmp_path, "--no-report")
    assert (run / "run.json").exists()
    assert not (run / "report.html").exists(), "it told of another run"


def test_what_is_wrong_with_the_page_costs_nothing(dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("no page today")

    monkeypatch.setattr(page, "composed", broken)
    result = dip.quick("denoise", noisy_png, report=True)
    assert result.exit_code == 0
    assert result.stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    assert "there is no new report.html: RuntimeError: no page today" in result.stderr
    assert json.loads(noisy_png.with_name("noisy.denoised.dip").joinpath("run.json").read_text())["finished"]


def test_a_page_of_somebody_else_is_never_replaced(dip: Dip, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--no-report")
    (run / "report.html").write_text("mine")
    (tmp_path / "index.html").write_text("mine too")
    run_of(tmp_path)
    for folder in (run, tmp_path):
        result = dip("report", folder)
        assert result.exit_code == 2
        assert "name another place with dip report -o" in " ".join(result.stderr.split())
    assert (run / "report.html").read_text() == "mine"
    assert (tmp_path / "index.html").read_text() == "mine too"
    result = dip("report", run, "-o", tmp_path / "page.html")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    assert "out.dip/run.json" in [each.get("href") for each in Page(tmp_path / "page.html").all("a")]
    assert dip("report", run, "-o", tmp_path / "page.html").exit_code == 0, "it is ours"
    assert dip("report", run, "-o", tmp_path).exit_code == 2


HOSTILE = [
    '"><script>alert(1)<b>.png',
    "a\nb [x].png",
    "{{ 7*7 }} & <b>.png",
    b"caf\xe9 \xff'$(x).png",
    "a:b?c#d%41.png",
]


@pytest.mark.parametrize("name", HOSTILE, ids=["markup", "line", "template", "bytes", "url"])
def test_whatever_a_picture_is_called(dip: Dip, tmp_path: Path, name: str | bytes) -> None:
    name = os.fsdecode(name)
    iio.imwrite(tmp_path / "plain.png", noisy(scene(48, 64)))
    try:
        (tmp_path / "plain.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this disk does not take such a name")
    (tmp_path / "runs").mkdir()
    result = dip.quick("denoise", tmp_path / name, "-o", tmp_path / "runs" / name, report=True)
    assert result.exit_code == 0, result.output
    assert dip("report", tmp_path / "runs").exit_code == 0
    run = (tmp_path / "runs" / name).with_suffix(".dip")
    for read, place in ((Page(run / "report.html"), run), (Page(tmp_path / "runs/index.html"), tmp_path / "runs")):
        assert len(read.all("script")) == 1
        assert not read.all("b")
        assert "49" not in re.findall(r"\{?49\}?", "".join(re.findall(r"<h1>(.*?)</h1>", read.source)))
        links = [str(each["href"]) for each in read.all("a")]
        assert len(links) >= 2
        for link in links:
            assert (place / os.fsdecode(unquote_to_bytes(link))).is_file(), link
    assert words.title(read_run_folder(run)) in Page(run / "report.html").text.replace("  ", " ")


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=8), min_size=1, max_size=4))
@example(["a\udcff'b", "\\", "a\tb\n", "ü x", "$'x'"])
def test_a_command_line_is_what_the_shell_is_to_read(arguments: list[str]) -> None:
    try:
        meant = b"".join(os.fsencode(each) + b"\0" for each in arguments)
    except UnicodeEncodeError:  # half a pair: no file system has such a name
        return
    command = words.quoted(arguments)
    assert "\n" not in command
    told = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    assert told.stdout == meant


def test_moved_files_are_found_and_changed_ones_told(dip: Dip, full: Path, tmp_path: Path) -> None:
    shutil.copytree(full.parent, tmp_path / "moved")
    run = tmp_path / "moved" / "out.dip"
    assert {each.fate for each in read_run_folder(run).files.values()} == {"there"}
    assert read_run_folder(run).files["input"].path == tmp_path / "moved" / "noisy.png"
    shutil.rmtree(tmp_path / "moved" / "snapshots", ignore_errors=True)
    story = json.loads((run / "run.json").read_text())
    for each in story["files"].values():
        each["path"] = str(tmp_path / "nowhere" / Path(each["path"]).name)
    (run / "run.json").write_text(json.dumps(story))
    (tmp_path / "moved" / "truth.png").unlink()
    iio.imwrite(tmp_path / "moved" / "noisy.png", scene(48, 64))
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert "truth.png is not where it was, and is not shown" in read.text
    assert "noisy.png has changed since the run" in read.text
    assert np.array_equal(read.views()["Input"], scene(48, 64))
    assert "True picture" not in read.views()
    (tmp_path / "moved" / "out.png").write_bytes(b"no picture")
    assert dip("report", run).exit_code == 0
    assert "is not shown: This is not a picture" in Page(run / "report.html").text


def test_what_came_and_went_by_streams_is_on_the_page(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    options = ("-o", "-", "--run-dir", tmp_path / "run")
    result = dip.quick("denoise", "-", *options, stdin=noisy_png.read_bytes(), report=True)
    shown = Page(tmp_path / "run/report.html").views()
    assert np.array_equal(shown["Input"], iio.imread(noisy_png))
    assert np.array_equal(shown["Restored"], iio.imread(result.stdout_bytes))
    assert dip("report", tmp_path / "run").exit_code == 0
    assert "went through a standard stream" in Page(tmp_path / "run/report.html").text


def test_a_run_without_an_end_has_a_page_that_says_so(dip: Dip, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--keep-checkpoint", "--snapshot-at", "1,2", "--log-every", 1, "--no-report")
    account = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(account | {"finished": False}))
    assert dip("report", run).exit_code == 0
    assert "was interrupted: the picture is the best up to then" in Page(run / "report.html").text
    (run / "run.json").unlink()
    (tmp_path / "out.png").unlink()
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert "was cut short" in read.text
    assert "iteration 3" in read.text
    assert "dip resume" in read.text
    assert list(read.views()) == ["Input", "Iteration 1", "Iteration 2"]
    with files.claimed(run):
        assert dip("report", run).exit_code == 0
    assert "still at work" in Page(run / "report.html").text
    (run / "checkpoint.pt").write_bytes(b"torn")
    assert dip("report", run).exit_code == 0
    assert "was cut short" in Page(run / "report.html").text
    assert list(Page(run / "report.html").views()) == ["Iteration 1", "Iteration 2"]


@pytest.mark.parametrize(
    ("wrong", "words_"),
    [
        (b"[]", "was cut short"),
        (b'{"finished": true}', ""),
        (b'{"finished": true, "iterations": "many", "runs": 3}', "is not what this version writes"),
        (b'{"finished": true, "files": 3}', "is not what this version writes"),
    ],
)
def test_a_record_of_another_version_is_no_traceback(dip: Dip, tmp_path: Path, wrong: bytes, words_: str) -> None:
    (tmp_path / "log.csv").write_text("iteration,loss\n1,0.5\n2,0.4\n")
    (tmp_path / "run.json").write_bytes(wrong)
    result = dip("report", tmp_path)
    assert result.exit_code in (0, 1)
    told = result.stderr if result.exit_code else Page(tmp_path / "report.html").text
    assert words_ in " ".join(told.split())


@given(st.binary(max_size=200))
@example(b"1,0.5,1,\n2,nan,1,\n3,0.2")
@example(b'iteration\n1\n\0,\xff\n"2')
def test_whatever_is_in_a_log_is_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "log"
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_bytes(b"iteration,loss,run,tile\n" + content)
    story = read_run_folder(folder)
    assert all(isinstance(row["iteration"], float) for row in story.rows)
    charts.charts(story)


def test_where_there_is_no_run_it_is_said(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("date,what\n1,mine\n")
    for where in (tmp_path, tmp_path / "gone"):
        result = dip("report", where)
        assert result.exit_code == 1
        assert "noisy.denoised.dip" in result.stderr


def test_of_several_runs_those_that_can_be_made_are(dip: Dip, full: Path, tmp_path: Path) -> None:
    shutil.copytree(full, tmp_path / "a.dip")
    result = dip("report", tmp_path / "a.dip", tmp_path / "none")
    assert result.exit_code == 3
    assert result.stdout == f"{tmp_path / 'a.dip/report.html'}\n"
    for option in (("-o", tmp_path / "x.html"), ("--curves", tmp_path / "x.pdf")):
        assert dip("report", tmp_path / "a.dip", full, *option).exit_code == 2


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_figures_for_a_paper(dip: Dip, full: Path, tmp_path: Path, suffix: str, start: bytes) -> None:
    curves, sheet = tmp_path / f"curves{suffix}", tmp_path / f"sheet{suffix}"
    once = [dip("report", full, "-o", tmp_path / "r.html", "--curves", curves, "--sheet", sheet) for _ in range(2)]
    assert [each.exit_code for each in once] == [0, 0], "it replaces what it made"
    assert once[0].stdout == f"{tmp_path / 'r.html'}\n{curves}\n{sheet}\n"
    assert curves.read_bytes().startswith(start)
    assert sheet.read_bytes().startswith(start)
    if suffix == ".svg":
        log = read_run_folder(full).rows
        assert f"{log[-1]['psnr_ref_smoothed']:.2f} dB" in sheet.read_text()
    sheet.write_bytes(b"a drawing of mine")
    result = dip("report", full, "-o", tmp_path / "r.html", "--sheet", sheet)
    assert result.exit_code == 2
    assert sheet.read_bytes() == b"a drawing of mine"


@pytest.mark.parametrize(
    ("options", "words_"),
    [
        (("--curves", "curves.jpg"), "one of .png .pdf .svg"),
        (("--sheet", "sheet"), "one of .png .pdf .svg"),
        (("--sheet", "a.png", "--curves", "a.png"), "a name of its own"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    dip: Dip, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words_: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dip("report", full, *options)
    assert result.exit_code == 2
    assert words_ in " ".join(result.stderr.split())


def test_a_run_without_snapshots_has_no_contact_sheet(dip: Dip, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--no-report")
    result = dip("report", run, "--sheet", tmp_path / "s.png")
    assert result.exit_code == 1
    assert "--snapshot-every" in result.stderr


def test_what_was_filled_can_be_seen(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 255
    iio.imwrite(tmp_path / "mask.png", mask)
    run = run_of(tmp_path, "--mask", tmp_path / "mask.png", task="inpaint")
    assert np.array_equal(iio.imread(run / "filled.png"), mask)
    shown = Page(run / "report.html").views()
    assert list(shown) == ["To be filled", "Restored", "Input", "Iteration 1", "Iteration 2"]
    given_ = iio.imread(tmp_path / "noisy.png")
    assert (shown["To be filled"][mask > 0] == views.MARKED).all()
    assert np.array_equal(shown["To be filled"][mask == 0], given_[mask == 0])


def test_an_own_file_is_not_taken_for_the_mask_of_a_run(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "out.dip").mkdir()
    (tmp_path / "out.dip/filled.png").write_bytes(b"mine")
    iio.imwrite(tmp_path / "noisy.png", scene(48, 64))
    iio.imwrite(tmp_path / "mask.png", np.eye(48, 64, dtype=np.uint8) * 255)
    result = dip.quick("inpaint", tmp_path / "noisy.png", "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 2
    assert (tmp_path / "out.dip/filled.png").read_bytes() == b"mine"


def test_a_small_input_is_shown_as_it_is_and_the_truth_beside_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, "--scale", 2, "--simulate", task="superres")
    read = Page(run / "report.html")
    shown = read.views()
    assert {name: each.shape[:2] for name, each in shown.items()} == {
        "Damaged input": (24, 32),
        "Restored": (48, 64),
        "True picture": (48, 64),
        "Iteration 1": (48, 64),
        "Iteration 2": (48, 64),
    }
    stage = next(each for each in read.all("section") if each.get("id") == "pictures")
    assert (stage["data-width"], stage["data-height"]) == ("64", "48")
    for row in ("Bicubic", "Nearest", "This run"):
        assert row in read.text


def test_a_guide_is_shown_and_a_figure_takes_the_place_of_all(dip: Dip, tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "lit.png", scene(48, 64))
    run = run_of(tmp_path, "--guide", tmp_path / "lit.png", task="flash")
    assert np.array_equal(Page(run / "report.html").views()["Guide"], scene(48, 64))
    result = dip("impedance", tmp_path / "noisy.png", "-o", tmp_path / "f.png", "--iters", 2, "--size", 32, "-q")
    assert result.exit_code == 0, result.output
    read = Page(tmp_path / "f.dip/report.html")
    assert not read.views()
    (drawn,) = (each for each in read.all("img") if each.get("src"))
    assert np.array_equal(pixels(str(drawn["src"])), iio.imread(tmp_path / "f.png")[..., :3])
    assert {"../f.png", "../f.svg", "../f.csv"} <= {each["href"] for each in read.all("a")}


def test_progress_and_other_methods_are_shown_where_there_are_such(dip: Dip, tmp_path: Path) -> None:
    run = run_of(tmp_path, "--log-every", 1, "--no-report")
    for name in ("frames/000002.png", "compare/plain.png", "preview.png"):
        (run / name).parent.mkdir(exist_ok=True)
        iio.imwrite(run / name, scene(24, 32))
    account = json.loads((run / "run.json").read_text())
    told = {"name": "median", "seconds": 0.25, "file": "compare/plain.png", "psnr_ref": 28.125, "ssim_ref": 0.75}
    (run / "run.json").write_text(json.dumps(account | {"comparison": [told], "compared": "Nothing is better."}))
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert list(read.views()) == ["Input", "Restored", "Median", "Iteration 2"]
    for words_ in ("Median 28.12 dB 0.750 0.25 s", "Nothing is better.", "This run"):
        assert words_ in read.text
    (run / "run.json").unlink()
    (run / "frames/000002.png").unlink()
    assert dip("report", run).exit_code == 0
    assert list(Page(run / "report.html").views()) == ["So far"]


def test_runs_and_tiles_are_told_apart(tmp_path: Path) -> None:
    run = run_of(tmp_path, "--runs", 2, "--log-every", 1, "--stop", "none", "--snapshot-at", 2)
    read = Page(run / "report.html")
    assert {"Iteration 2", "Run 1, iteration 2", "Run 2, iteration 2"} & set(read.views()) == {
        "Run 1, iteration 2",
        "Run 2, iteration 2",
    }
    loss = charts.charts(read_run_folder(run))[0]
    assert [(each.label, each.kept, each.colour) for each in loss.curves] == [("run 1", 3, 0), ("run 2", 3, 1)]
    iio.imwrite(tmp_path / "wide.png", noisy(scene(130, 200)))
    run = run_of(tmp_path, "--tile", 128, "--log-every", 1, "--stop", "none", "--snapshot-at", 2, name="wide.png")
    tiles = json.loads((run / "run.json").read_text())["tiles"]
    assert len(tiles) > 1
    placed = [each for each in Page(run / "report.html").all("img") if each.get("data-place")]
    assert len(placed) == len(tiles)
    for each, tile in zip(placed, tiles, strict=True):
        left, top, width, height = (float(part) for part in str(each["data-place"]).split())
        assert (left, width) == pytest.approx((100 * tile["left"] / 200, 100 * tile["width"] / 200))
        assert (top, height) == pytest.approx((100 * tile["top"] / 130, 100 * tile["height"] / 130))


def story_of(rows: list[dict[str, float | None]], **account: object) -> RunFolder:
    return RunFolder(Path("x.dip"), account, "done", {}, rows=tuple(rows))


def test_curves_have_marks_no_more_points_than_can_be_seen_and_no_colours_of_their_own() -> None:
    rows = [{"iteration": n, "loss": 1 / n, "signal": 5.0, "run": 1.0} for n in range(1, 9001)]
    found = charts.charts(story_of(rows, rule="rule emv", runs=[{"kept": 70, "run": 1}]))
    assert [each.title for each in found] == ["Loss", "What the rule goes by"]
    assert found[1].unit == "variance of the outputs"
    (curve,) = found[0].curves
    assert len(curve.points) <= 1500
    assert (curve.points[0], curve.points[-1]) == ((1, 1), (9000, 1 / 9000))
    assert curve.kept == 70
    drawn = drawing.inline(found[0])
    assert "kept 70" in drawn
    assert "<style" not in drawn
    assert "http" not in drawn.replace("http://www.w3.org/", "")
    colours = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id|href)="[^"]*"', "", drawn)))
    assert not colours, "all are the page's"
    assert {"var(--line0)", "var(--grid)", "var(--faint)"} <= set(re.findall(r"var\(--\w+\)", drawn))
    assert drawing.inline(found[0]) == drawn, "same numbers, same bytes"
    assert charts.charts(story_of(rows[:1])) == [], "a point is no curve"


def test_a_picture_fits_into_the_room_there_is() -> None:
    wild = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    data, treatment = views.packed(wild, 1e6)
    assert treatment == ""
    assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(data))), wild)
    for most, told in ((150e3, "WebP of quality"), (20e3, "of its size"), (1.5e3, "of its size")):
        data, treatment = views.packed(wild, most)
        assert len(data) <= most
        assert told in treatment


def picture(array: np.ndarray) -> Image:
    return images.decode(images.encode(from_array(array), ".tif"))


def test_pictures_of_every_kind_are_shown_sensibly() -> None:
    plain = scene(32, 40)
    deep = plain.astype(np.uint16) * 257
    assert np.array_equal(views.samples(picture(plain)), plain)
    assert np.array_equal(views.samples(picture(deep)), plain), "16 bits as 8"
    assert "16 bits shown as 8" in views.embedded("x", picture(deep), 1e6).treatment
    floats = plain.astype(np.float32) * 3 - 100
    shown = views.samples(picture(floats)).astype(int)
    assert (shown.min(), shown.max()) == (0, 255), "from its smallest to its largest value"
    seven = np.concatenate([plain, plain, plain[..., :1]], axis=2)
    assert np.array_equal(views.samples(picture(seven)), plain)
    assert "first 3 of 7 channels" in views.embedded("x", picture(seven), 1e6).treatment
    alpha = np.dstack([plain, np.full((32, 40), 128, np.uint8)])
    view = views.embedded("x", picture(alpha), 1e6)
    assert view.clear
    assert np.array_equal(pixels(view.source), alpha)
    grey = np.dstack([plain[..., 0], np.arange(1280, dtype=np.uint16).reshape(32, 40)])
    assert views.samples(from_array(grey.astype(np.float32) / 65535)).shape == (32, 40, 4)
    assert not views.embedded("x", picture(plain[..., 0]), 1e6).clear


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 400])
def test_a_film_strip_has_the_first_and_the_last(count: int) -> None:
    taken = list(views.evenly(count, 24))
    assert len(taken) == min(count, 24) == len(set(taken))
    assert (taken[0], taken[-1]) == (0, count - 1)


def test_a_batch_has_an_index_with_those_that_failed(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        iio.imwrite(tmp_path / "in" / name, noisy(scene(48, 64)))
    (tmp_path / "in/bad.png").write_bytes(b"no picture")
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out", report=True)
    assert result.exit_code == 3
    assert str(tmp_path / "out/index.html") in " ".join(result.stderr.split())
    assert "index.html" not in result.stdout
    read = Page(tmp_path / "out/index.html")
    assert {each["href"] for each in read.all("a")} == {
        "a.dip/report.html", "a.png", "sub/b.dip/report.html", "sub/b.png",
    }  # fmt: skip
    assert len(read.all("img")) == 2
    assert "bad.png" in read.text
    assert "failed: " in read.text
    (tmp_path / "out/index.html").unlink()
    dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert not (tmp_path / "out/index.html").exists(), "--no-report"


def test_an_index_makes_pages_that_are_missing_and_tells_of_what_is_not_done(
    dip: Dip, full: Path, tmp_path: Path
) -> None:
    for name in ("done", "killed", "torn"):
        shutil.copytree(full, tmp_path / f"{name}.dip")
    (tmp_path / "killed.dip/run.json").unlink()
    (tmp_path / "torn.dip/run.json").write_text('{"finished": true}')
    (tmp_path / "torn.dip/report.html").write_text("mine")
    (tmp_path / "done.dip/report.html").unlink()
    result = dip("report", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'index.html'}\n")
    assert (tmp_path / "done.dip/report.html").exists()
    assert (tmp_path / "torn.dip/report.html").read_text() == "mine"
    read = Page(tmp_path / "index.html")
    assert "1 done, 2 not" in read.text
    assert "cut short" in read.text
    assert "its record cannot be read" in read.text


def test_a_finding_that_is_no_picture_is_left_out() -> None:
    with pytest.raises(DipError, match="no snapshot"):
        views.whole("x", b"\x89PNG\r\n\x1a\n", 1e6)


def test_an_index_made_anew_reads_those_pictures_alone_that_have_changed(
    dip: Dip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    for name in ("a & b.png", "c.png"):
        iio.imwrite(tmp_path / name, noisy(scene(32, 40)))
        assert dip.quick("denoise", tmp_path / name, "-o", tmp_path / "out" / name, report=True).exit_code == 0
    assert dip("report", tmp_path / "out").exit_code == 0
    before = Page(tmp_path / "out/index.html").all("img")
    read: list[str] = []

    def watched(path: Path) -> object:
        read.append(path.name)
        return reading(path)

    reading = index.images.read
    monkeypatch.setattr(index.images, "read", watched)
    assert dip("report", tmp_path / "out").exit_code == 0
    assert (read, Page(tmp_path / "out/index.html").all("img")) == ([], before)
    iio.imwrite(tmp_path / "out/c.png", np.zeros((32, 40, 3), np.uint8))
    os.utime(tmp_path / "out/c.png", (time.time() + 60,) * 2)
    assert dip("report", tmp_path / "out").exit_code == 0
    now = Page(tmp_path / "out/index.html").all("img")
    assert (read, now[0], now[1] == before[1]) == (["c.png"], before[0], False)
