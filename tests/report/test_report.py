"""The page of a run and of a folder of runs: what it shows, and that it never endangers results."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
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
from dipcli.images.image import Image, from_array
from dipcli.records.run_files import CHECKPOINT
from dipcli.records.run_record import BaselineRecord, FileRecord, FitRecord, RunRecord, TileRecord, write_record
from dipcli.report import page
from dipcli.report.charts import build_charts
from dipcli.report.embedding import FILL_COLOUR, MAX_LOSSLESS_SIDE, MAX_SIDE, embed_image, space_evenly, to_samples
from dipcli.report.figures import draw_svg
from dipcli.report.run_folder import RunFolder, read_run_folder
from dipcli.report.text import format_title
from dipcli.text import quote_arguments

GENERATOR = '<meta name="generator" content="dipcli">'


class Page(HTMLParser):
    """A page as a browser parses it."""

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
        return [attributes for name, attributes in self.tags if name == tag]

    def images(self) -> dict[str, np.ndarray]:
        """The images of the page by name."""
        named = [image for image in self.all("img") if image.get("data-name")]
        return {str(image["data-name"]): decode_url(str(image["src"])) for image in named}


def decode_url(url: str) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image)


def restore(folder: Path, *options: object, task: str = "denoise", iterations: int = 3, report: bool = True) -> Path:
    """Restore a small image; the run folder."""
    if not (folder / "noisy.png").exists():
        iio.imwrite(folder / "noisy.png", noisy(scene(48, 64)))
        iio.imwrite(folder / "truth.png", scene(48, 64))
    options = (folder / "noisy.png", "-o", folder / "out.png", *options)
    result = Dip(app).quick(task, *options, iterations=iterations, report=report)
    assert result.exit_code == 0, result.output
    return folder / "out.dip"


def write_run(folder: Path, **fields: Any) -> Path:
    """Write the folder of a run that did not take place: input, output, log and record."""
    folder.mkdir(parents=True)
    for name, image in (("noisy.png", noisy(scene(48, 64))), ("out.png", scene(48, 64))):
        iio.imwrite(folder.parent / name, image)
    (folder / "log.csv").write_text("iteration,seconds,loss,lr\n1,0,0.5,0.01\n2,0,0.4,0.01\n")
    files_ = {
        role: FileRecord(path=str(folder.parent / name), near=f"../{name}")
        for role, name in (("input", "noisy.png"), ("output", "out.png"))
    }
    known: dict[str, Any] = {"input": "noisy.png", "output": "out.png", "task": "denoise", "files": files_}
    write_record(folder / "run.json", RunRecord(**known | fields))
    return folder


def fit_record(**fields: Any) -> FitRecord:
    known: dict[str, Any] = {
        "run": 1,
        "seed": 0,
        "iterations": 9,
        "kept": 3,
        "decay": 0.99,
        "reason": "x",
        "seconds": 1,
    }
    return FitRecord(**known | fields)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a page can show. Tests must not change it."""
    folder = tmp_path_factory.mktemp("full")
    iio.imwrite(folder / "truth.png", scene(48, 64))
    options = ("--reference", folder / "truth.png", "--uncertainty", folder / "map.png", "--log-every", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["dip", "denoise", "noisy.png", "--snapshot-every", "4"])
        return restore(folder, *options, "--snapshot-every", 4, "--snapshot-at", 1, iterations=12)


def test_page_is_self_contained_and_shows_everything(full: Path) -> None:
    read = Page(full / "report.html")
    assert read.source.index(GENERATOR) < 1024
    shown = read.images()
    assert list(shown) == [
        "Input", "Restored", "Reference", "Uncertainty", *(f"Iteration {number}" for number in (1, 4, 8, 12)),
    ]  # fmt: skip
    for name, file in (("Input", "noisy"), ("Restored", "out"), ("Reference", "truth")):
        assert np.array_equal(shown[name], iio.imread(full.parent / f"{file}.png")), "lossless"
    assert np.array_equal(shown["Iteration 8"], iio.imread(full / "snapshots/000008.png"))
    record = json.loads((full / "run.json").read_text())
    for text in (f"{record['psnr_ref']:.2f} dB", "12 iterations", "--snapshot-every", "skip:channels=8,8", "PyTorch"):
        assert text in read.text
    assert all(image["alt"] for image in read.all("img") if image.get("src"))
    urls = [str(tag[key]) for _, tag in read.tags for key in ("src", "href", "data", "action") if tag.get(key)]
    assert {"../out.png", "log.csv", "run.json"} == {url for url in urls if not url.startswith(("data:", "#"))}
    assert not re.search(r"url\((?!#)|@import|<link|http-equiv=.refresh", read.source)


def read_residual(run: Path) -> list[np.ndarray]:
    read = Page(run / "report.html")
    assert ("Residual" in read.text) == ("Autocorrelation" in read.text)
    return [
        decode_url(str(image["src"])) for image in read.all("img") if image.get("src") and not image.get("data-name")
    ]


def test_residual_of_a_denoised_image_is_shown(dip: Dip, tmp_path: Path) -> None:
    run = write_run(tmp_path / "out.dip")
    assert dip("report", run).exit_code == 0
    shown, lags = read_residual(run)
    removed = iio.imread(tmp_path / "noisy.png").astype(float) - iio.imread(tmp_path / "out.png")
    gain = float(str(re.search(r"times ([\d.]+); grey is zero", Page(run / "report.html").text)[1]))
    assert gain == pytest.approx(255 / (6 * removed.std()), rel=0.05)
    assert np.abs(shown - np.clip(127.5 + gain * removed, 0, 255)).mean() < 3
    assert lags.shape[:2] == (17, 17)
    assert lags[8, 8, 0] == 255
    assert np.abs(np.delete(lags[..., 0].ravel(), 8 * 17 + 8) - 127.5).max() < 40, "independent noise"
    assert re.search(
        r"by one pixel: -?0\.0\d across, -?0\.0\d down; by two: -?0\.0\d across", Page(run / "report.html").text
    )


def test_only_a_denoised_image_of_the_same_size_has_a_residual(dip: Dip, tmp_path: Path) -> None:
    filled, other_size = write_run(tmp_path / "a/out.dip", task="inpaint"), write_run(tmp_path / "b/out.dip")
    iio.imwrite(tmp_path / "b/out.png", scene(40, 64))
    for run in (filled, other_size):
        assert dip("report", run).exit_code == 0
        assert read_residual(run) == []


def test_importing_the_report_does_not_import_torch() -> None:
    code = "import sys, dipcli.report.outputs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("rule", ["holdout", "sigma:level=1", "none"])
def test_log_has_the_criterion_of_each_rule(dip: Dip, noisy_png: Path, rule: str) -> None:
    assert dip.quick("denoise", noisy_png, "--stop", rule, "--log-every", 5, iterations=10).exit_code == 0
    with noisy_png.with_name("noisy.denoised.dip").joinpath("log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert bool(row["signal"]) == (rule != "none")
        assert row["holdout"] == (row["signal"] if rule == "holdout" else "")


def test_no_report_removes_the_page_of_an_earlier_run(tmp_path: Path) -> None:
    run = restore(tmp_path)
    assert (run / "report.html").exists()
    restore(tmp_path, report=False)
    assert (run / "run.json").exists()
    assert not (run / "report.html").exists()


def test_error_in_the_page_does_not_fail_the_run(dip: Dip, noisy_png: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no page today")

    monkeypatch.setattr(page, "make", fail)
    result = dip.quick("denoise", noisy_png, report=True)
    assert result.exit_code == 0
    assert result.stdout == f"{noisy_png.with_name('noisy.denoised.png')}\n"
    assert "report.html: RuntimeError: no page today" in result.stderr
    assert json.loads(noisy_png.with_name("noisy.denoised.dip").joinpath("run.json").read_text())["finished"]


def test_files_of_others_are_never_replaced(dip: Dip, tmp_path: Path) -> None:
    run = restore(tmp_path, report=False)
    (run / "report.html").write_text("mine")
    (tmp_path / "index.html").write_text("mine too")
    restore(tmp_path)
    for folder in (run, tmp_path):
        result = dip("report", folder)
        assert result.exit_code == 2
        assert "dip report -o" in " ".join(result.stderr.split())
    assert (run / "report.html").read_text() == "mine"
    assert (tmp_path / "index.html").read_text() == "mine too"
    result = dip("report", run, "-o", tmp_path / "page.html")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    assert "out.dip/run.json" in [link.get("href") for link in Page(tmp_path / "page.html").all("a")]
    assert dip("report", run, "-o", tmp_path / "page.html").exit_code == 0, "it is ours"
    assert dip("report", run, "-o", tmp_path).exit_code == 2


HOSTILE_NAMES = [
    '"><script>alert(1)<b>.png',
    "a\nb [x].png",
    "{{ 7*7 }} & <b>.png",
    b"caf\xe9 \xff'$(x).png",
    "a:b?c#d%41.png",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=["markup", "line", "template", "bytes", "url"])
def test_any_file_name_is_escaped(dip: Dip, tmp_path: Path, name: str | bytes) -> None:
    name = os.fsdecode(name)
    iio.imwrite(tmp_path / "plain.png", noisy(scene(48, 64)))
    try:
        (tmp_path / "plain.png").rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system does not allow such a name")
    (tmp_path / "runs").mkdir()
    result = dip.quick("denoise", tmp_path / name, "-o", tmp_path / "runs" / name, report=True)
    assert result.exit_code == 0, result.output
    assert dip("report", tmp_path / "runs").exit_code == 0
    run = (tmp_path / "runs" / name).with_suffix(".dip")
    for read, place in ((Page(run / "report.html"), run), (Page(tmp_path / "runs/index.html"), tmp_path / "runs")):
        assert len(read.all("script")) == 1
        assert not read.all("b")
        assert "49" not in re.findall(r"\{?49\}?", "".join(re.findall(r"<h1>(.*?)</h1>", read.source)))
        links = [str(link["href"]) for link in read.all("a")]
        assert len(links) >= 2
        for link in links:
            assert (place / os.fsdecode(unquote_to_bytes(link))).is_file(), link
    assert format_title(name) in Page(run / "report.html").text.replace("  ", " ")


def assert_shell_reads(arguments: list[str]) -> None:
    try:
        expected = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    except UnicodeEncodeError:  # a lone surrogate: no file system has such a name
        return
    command = quote_arguments(arguments)
    assert "\n" not in command
    shell = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    assert shell.stdout == expected


def test_shell_reads_the_quoted_command_line() -> None:
    assert_shell_reads(["a\udcff'b", "\\", "a\tb\n", "ü x", "$'x'", "a\nü'\\"])


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=8), min_size=1, max_size=4))
def test_shell_reads_any_quoted_command_line(arguments: list[str]) -> None:
    assert_shell_reads(arguments)


def test_moved_files_are_found_and_changed_ones_are_reported(dip: Dip, full: Path, tmp_path: Path) -> None:
    shutil.copytree(full.parent, tmp_path / "moved")
    run = tmp_path / "moved" / "out.dip"
    assert {file.state for file in read_run_folder(run).files.values()} == {"found"}
    assert read_run_folder(run).files["input"].path == tmp_path / "moved" / "noisy.png"
    record = json.loads((run / "run.json").read_text())
    for file in record["files"].values():
        file["path"] = str(tmp_path / "nowhere" / Path(file["path"]).name)
    (run / "run.json").write_text(json.dumps(record))
    (tmp_path / "moved" / "truth.png").unlink()
    iio.imwrite(tmp_path / "moved" / "noisy.png", scene(48, 64))
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert "truth.png is not shown: the file was moved or deleted" in read.text
    assert "noisy.png has changed since the run" in read.text
    assert np.array_equal(read.images()["Input"], scene(48, 64))
    assert "Reference" not in read.images()
    (tmp_path / "moved" / "out.png").write_bytes(b"no image")
    (run / "snapshots/000004.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert "out.png is not shown: " in read.text
    assert "snapshots/000004.png is not shown: " in read.text
    assert list(read.images()) == ["Input", "Uncertainty", "Iteration 1", "Iteration 8", "Iteration 12"]


def test_streams_are_on_the_page_of_their_run(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    options = ("-o", "-", "--run-dir", tmp_path / "run")
    result = dip.quick("denoise", "-", *options, stdin=noisy_png.read_bytes(), report=True)
    shown = Page(tmp_path / "run/report.html").images()
    assert np.array_equal(shown["Input"], iio.imread(noisy_png))
    assert np.array_equal(shown["Restored"], iio.imread(result.stdout_bytes))
    assert dip("report", tmp_path / "run").exit_code == 0
    assert "went through a standard stream" in Page(tmp_path / "run/report.html").text


@pytest.mark.slow
def test_page_of_an_unfinished_run_says_so(dip: Dip, tmp_path: Path) -> None:
    options = ("--keep-checkpoint", "--snapshot-at", "1,2", "--log-every", 1)
    run = restore(tmp_path, *options, report=False)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"finished": False}))
    assert dip("report", run).exit_code == 0
    assert "was interrupted; the image is the best" in Page(run / "report.html").text
    (run / "run.json").unlink()
    (tmp_path / "out.png").unlink()
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert "was cut short" in read.text
    assert "iteration: 3" in read.text
    assert "dip resume" in read.text
    assert list(read.images()) == ["Input", "Iteration 1", "Iteration 2"]
    request = read_run_folder(run).request
    assert (request.task, Path(request.input).name) == ("denoise", "noisy.png")
    with files.lock_paths(run):
        assert dip("report", run).exit_code == 0
    assert "still running" in Page(run / "report.html").text
    (run / CHECKPOINT).write_bytes(b"torn")
    assert dip("report", run).exit_code == 0
    assert "was cut short" in Page(run / "report.html").text
    assert list(Page(run / "report.html").images()) == ["Iteration 1", "Iteration 2"]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'{"finished": true}',
        b'{"finished": true, "iterations": "many", "runs": 3}',
        b'{"finished": true, "files": 3}',
    ],
)
def test_unreadable_record_is_an_error_without_traceback(dip: Dip, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.csv").write_text("iteration,seconds,loss,lr\n1,0,0.5,0.01\n2,0,0.4,0.01\n")
    (tmp_path / "run.json").write_bytes(content)
    result = dip("report", tmp_path)
    assert result.exit_code == 1
    message = " ".join(result.stderr.split())
    assert "run.json" in message
    assert "another version" in message


@given(st.binary(max_size=200))
@example(b"1,0.5,1,\n2,nan,1,\n3,0.2")
@example(b'iteration\n1\n\0,\xff\n"2')
def test_any_log_can_be_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "log"
    folder.mkdir(exist_ok=True)
    (folder / "log.csv").write_bytes(b"iteration,seconds,loss,lr,run,tile\n" + content)
    run = read_run_folder(folder)
    assert all(isinstance(row["iteration"], float) for row in run.rows)
    build_charts(run)


def test_folder_without_a_run_is_an_error(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("date,what\n1,mine\n")
    for folder in (tmp_path, tmp_path / "missing"):
        result = dip("report", folder)
        assert result.exit_code == 1
        assert "noisy.denoised.dip" in result.stderr


def test_one_bad_folder_of_several_does_not_stop_the_others(dip: Dip, tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "a" / "out.dip"), write_run(tmp_path / "b" / "out.dip")
    result = dip("report", run, tmp_path / "none")
    assert result.exit_code == 3
    assert result.stdout == f"{run / 'report.html'}\n"
    for option in (("-o", tmp_path / "x.html"), ("--curves", tmp_path / "x.pdf")):
        assert dip("report", run, other, *option).exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "start"),
    [
        (".svg", b"<?xml"),
        pytest.param(".png", b"\x89PNG", marks=pytest.mark.slow),
        pytest.param(".pdf", b"%PDF", marks=pytest.mark.slow),
    ],
)
def test_figures_are_written_and_replace_only_our_own(
    dip: Dip, full: Path, tmp_path: Path, suffix: str, start: bytes
) -> None:
    curves, sheet = tmp_path / f"curves{suffix}", tmp_path / f"sheet{suffix}"
    result = dip("report", full, "-o", tmp_path / "r.html", "--curves", curves, "--sheet", sheet)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'r.html'}\n{curves}\n{sheet}\n")
    assert curves.read_bytes().startswith(start)
    assert sheet.read_bytes().startswith(start)
    if suffix == ".svg":
        assert f"{read_run_folder(full).rows[-1]['psnr_ref_smoothed']:.2f} dB" in sheet.read_text()
    assert dip("report", full, "-o", tmp_path / "r.html", "--curves", curves).exit_code == 0, "it is ours"
    sheet.write_bytes(b"a drawing of mine")
    result = dip("report", full, "-o", tmp_path / "r.html", "--sheet", sheet)
    assert result.exit_code == 2
    assert sheet.read_bytes() == b"a drawing of mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--curves", "curves.jpg"), ".png .pdf .svg"),
        (("--sheet", "sheet"), ".png .pdf .svg"),
        (("--sheet", "a.png", "--curves", "a.png"), "different names"),
    ],
)
def test_unusable_figure_names_are_refused(
    dip: Dip, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dip("report", full, *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_contact_sheet_needs_snapshots(dip: Dip, tmp_path: Path) -> None:
    result = dip("report", write_run(tmp_path / "out.dip"), "--sheet", tmp_path / "s.png")
    assert result.exit_code == 1
    assert "--snapshot-every" in result.stderr


def test_filled_pixels_are_marked(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 30:50] = 255
    iio.imwrite(tmp_path / "mask.png", mask)
    run = restore(tmp_path, "--mask", tmp_path / "mask.png", task="inpaint")
    assert np.array_equal(iio.imread(run / "filled.png"), mask)
    shown = Page(run / "report.html").images()
    assert list(shown) == ["To be filled", "Restored", "Input", "Iteration 1", "Iteration 2"]
    damaged = iio.imread(tmp_path / "noisy.png")
    assert (shown["To be filled"][mask > 0] == FILL_COLOUR).all()
    assert np.array_equal(shown["To be filled"][mask == 0], damaged[mask == 0])


def test_filled_png_of_the_user_is_not_replaced(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "out.dip").mkdir()
    (tmp_path / "out.dip/filled.png").write_bytes(b"mine")
    iio.imwrite(tmp_path / "noisy.png", scene(48, 64))
    iio.imwrite(tmp_path / "mask.png", np.eye(48, 64, dtype=np.uint8) * 255)
    result = dip.quick("inpaint", tmp_path / "noisy.png", "--mask", tmp_path / "mask.png", "-o", tmp_path / "out.png")
    assert result.exit_code == 2
    assert (tmp_path / "out.dip/filled.png").read_bytes() == b"mine"


def test_simulated_damage_makes_the_input_the_reference(tmp_path: Path) -> None:
    run = restore(tmp_path, "--scale", 2, "--simulate", task="superres")
    read = Page(run / "report.html")
    assert {name: image.shape[:2] for name, image in read.images().items()} == {
        "Damaged input": (24, 32),
        "Restored": (48, 64),
        "Reference": (48, 64),
        "Iteration 1": (48, 64),
        "Iteration 2": (48, 64),
    }
    section = next(tag for tag in read.all("section") if tag.get("id") == "images")
    assert (section["data-width"], section["data-height"]) == ("64", "48")
    for row in ("Bicubic", "Nearest", "This run"):
        assert row in read.text


def test_guide_is_shown(tmp_path: Path) -> None:
    iio.imwrite(tmp_path / "lit.png", scene(48, 64))
    run = restore(tmp_path, "--guide", tmp_path / "lit.png", task="flash")
    assert np.array_equal(Page(run / "report.html").images()["Guide"], scene(48, 64))


@pytest.mark.slow
def test_figure_of_a_task_is_shown_instead_of_images(dip: Dip, noisy_png: Path, tmp_path: Path) -> None:
    result = dip("impedance", noisy_png, "-o", tmp_path / "f.png", "--iters", 2, "--size", 32, "-q")
    assert result.exit_code == 0, result.output
    read = Page(tmp_path / "f.dip/report.html")
    assert not read.images()
    (drawn,) = (image for image in read.all("img") if image.get("src"))
    assert decode_url(str(drawn["src"])).shape[:2] == iio.imread(tmp_path / "f.png").shape[:2]
    assert {"../f.png", "../f.svg", "../f.csv"} <= {link["href"] for link in read.all("a")}


def test_preview_and_other_methods_are_shown(dip: Dip, tmp_path: Path) -> None:
    median = BaselineRecord(name="median", seconds=0.25, file="compare/plain.png", psnr_ref=28.125, ssim_ref=0.75)
    run = write_run(tmp_path / "out.dip", comparison=(median,), compared="Nothing is better.")
    for name in ("frames/000002.png", "compare/plain.png", "preview.png"):
        (run / name).parent.mkdir(exist_ok=True)
        iio.imwrite(run / name, scene(24, 32))
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert list(read.images()) == ["Input", "Restored", "Median", "Iteration 2"]
    for text in ("Median 28.12 dB 0.750 0.25 s", "Nothing is better.", "This run"):
        assert text in read.text
    (run / "run.json").unlink()
    (run / "frames/000002.png").unlink()
    assert dip("report", run).exit_code == 0
    assert list(Page(run / "report.html").images()) == ["Preview"]


def test_several_runs_are_labelled(dip: Dip, tmp_path: Path) -> None:
    fits = (fit_record(run=1), fit_record(run=2, kept=5, outlier=True, reason="the end"))
    run = write_run(tmp_path / "out.dip", runs=fits)
    (run / "log.csv").write_text("iteration,loss,run\n1,0.5,1\n9,0.4,1\n1,0.6,2\n9,0.3,2\n")
    for number in (1, 2):
        (run / f"snapshots/run{number}").mkdir(parents=True)
        iio.imwrite(run / f"snapshots/run{number}/000002.png", scene(48, 64))
    assert dip("report", run).exit_code == 0
    read = Page(run / "report.html")
    assert list(read.images()) == ["Input", "Restored", "Run 1, iteration 2", "Run 2, iteration 2"]
    assert "outlier, left out; the end" in read.text
    loss = build_charts(read_run_folder(run))[0]
    assert [(curve.label, curve.kept, curve.style) for curve in loss.curves] == [("run 1", 3, 0), ("run 2", 5, 1)]


def assert_tiles_are_placed(run: Path, width: int, height: int) -> None:
    tiles = json.loads((run / "run.json").read_text())["tiles"]
    assert len(tiles) > 1
    placed = [image for image in Page(run / "report.html").all("img") if image.get("data-place")]
    assert len(placed) == len(tiles)
    for image, tile in zip(placed, tiles, strict=True):
        percent = [float(part) for part in str(image["data-place"]).split()]
        expected = (tile["left"] / width, tile["top"] / height, tile["width"] / width, tile["height"] / height)
        assert percent == pytest.approx([100 * fraction for fraction in expected])


def test_tiles_are_placed_and_listed(dip: Dip, tmp_path: Path) -> None:
    tiles = (TileRecord(left=0, top=0, width=40, height=48), TileRecord(left=24, top=0, width=40, height=48))
    run = write_run(tmp_path / "out.dip", runs=(fit_record(tile=1), fit_record(tile=2)), tiles=tiles)
    for number in (1, 2):
        (run / f"snapshots/tile{number}").mkdir(parents=True)
        iio.imwrite(run / f"snapshots/tile{number}/000002.png", scene(48, 40))
    assert dip("report", run).exit_code == 0
    assert_tiles_are_placed(run, 64, 48)
    assert "Tile 1, iteration 2" in Page(run / "report.html").images()


@pytest.mark.slow
def test_runs_and_tiles_of_real_runs_are_on_the_page(tmp_path: Path) -> None:
    options = ("--log-every", 1, "--stop", "none", "--snapshot-at", 2)
    run = restore(tmp_path, "--runs", 2, *options)
    assert {"Run 1, iteration 2", "Run 2, iteration 2"} <= set(Page(run / "report.html").images())
    loss = build_charts(read_run_folder(run))[0]
    assert [(curve.label, curve.kept, curve.style) for curve in loss.curves] == [("run 1", 3, 0), ("run 2", 3, 1)]
    iio.imwrite(tmp_path / "noisy.png", noisy(scene(130, 200)))
    assert_tiles_are_placed(restore(tmp_path, "--tile", 128, "--warmup", 0, *options), 200, 130)


def run_with_log(rows: list[dict[str, float | None]], **fields: Any) -> RunFolder:
    record = RunRecord(input="x.png", output="y.png", task="denoise", **fields)
    return RunFolder(Path("x.dip"), "finished", record, rows=tuple(rows))


def test_curves_are_thinned_marked_and_in_the_colours_of_the_page() -> None:
    rows = [{"iteration": number, "loss": 1 / number, "signal": 5.0, "run": 1.0} for number in range(1, 9001)]
    found = build_charts(run_with_log(rows, rule="rule emv", runs=(fit_record(kept=70),)))
    assert [chart.title for chart in found] == ["Loss", "Stopping criterion"]
    assert found[1].unit == "variance of the outputs"
    (curve,) = found[0].curves
    assert len(curve.points) <= 1500
    assert (curve.points[0], curve.points[-1]) == ((1, 1), (9000, 1 / 9000))
    assert curve.kept == 70
    drawn = draw_svg(found[0])
    assert "kept 70" in drawn
    assert "<style" not in drawn
    assert "http" not in drawn.replace("http://www.w3.org/", "")
    colours = set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(id|href)="[^"]*"', "", drawn)))
    assert not colours, "all colours come from the page"
    assert {"var(--line0)", "var(--grid)", "var(--faint)"} <= set(re.findall(r"var\(--\w+\)", drawn))
    assert draw_svg(found[0]) == drawn, "reproducible"
    assert build_charts(run_with_log(rows[:1])) == [], "one point is not a curve"


def test_large_images_are_reduced_and_compressed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    image = embed_image("x", from_array(noise))
    assert image.treatment == ""
    assert np.array_equal(decode_url(image.url), noise)
    image = embed_image("x", from_array(scene(40, MAX_LOSSLESS_SIDE + 1)))
    assert image.treatment == "WebP of quality 90"
    assert decode_url(image.url).shape == (40, MAX_LOSSLESS_SIDE + 1, 3)
    image = embed_image("x", from_array(scene(40, 2 * MAX_SIDE)))
    assert image.treatment == f"reduced to {MAX_SIDE}x20 pixels, WebP of quality 90"
    assert image.size == (2 * MAX_SIDE, 40)
    assert decode_url(image.url).shape == (20, MAX_SIDE, 3)


def test_page_states_how_images_were_reduced(dip: Dip, tmp_path: Path) -> None:
    run = write_run(tmp_path / "out.dip")
    iio.imwrite(tmp_path / "out.png", scene(40, 2 * MAX_SIDE))
    assert dip("report", run).exit_code == 0
    assert f"Restored: reduced to {MAX_SIDE}x20 pixels, WebP of quality 90" in Page(run / "report.html").text


def reread(array: np.ndarray) -> Image:
    return images.decode(images.encode(from_array(array), ".tif"))


def test_images_of_every_type_are_converted_for_display() -> None:
    plain = scene(32, 40)
    deep = plain.astype(np.uint16) * 257
    assert np.array_equal(to_samples(reread(plain)), plain)
    assert np.array_equal(to_samples(reread(deep)), plain), "16 bits as 8"
    assert "16 bits shown as 8" in embed_image("x", reread(deep)).treatment
    floats = plain.astype(np.float32) * 3 - 500
    shown = to_samples(reread(floats)).astype(int)
    assert (shown.min(), shown.max()) == (0, 255), "from the smallest to the largest value"
    seven = np.concatenate([plain, plain, plain[..., :1]], axis=2)
    assert np.array_equal(to_samples(reread(seven)), plain)
    assert "first 3 of 7 channels" in embed_image("x", reread(seven)).treatment
    alpha = np.dstack([plain, np.full((32, 40), 128, np.uint8)])
    image = embed_image("x", reread(alpha))
    assert image.has_transparency
    assert np.array_equal(decode_url(image.url), alpha)
    grey = np.dstack([plain[..., 0], np.arange(1280, dtype=np.uint16).reshape(32, 40)])
    assert to_samples(from_array(grey.astype(np.float32) / 65535)).shape == (32, 40, 4)
    assert not embed_image("x", reread(plain[..., 0])).has_transparency


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 400])
def test_even_spacing_includes_the_first_and_the_last(count: int) -> None:
    taken = list(space_evenly(count, 24))
    assert len(taken) == min(count, 24) == len(set(taken))
    assert (taken[0], taken[-1]) == (0, count - 1)


def test_batch_writes_an_index_with_its_failures(dip: Dip, tmp_path: Path) -> None:
    (tmp_path / "in/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        iio.imwrite(tmp_path / "in" / name, noisy(scene(48, 64)))
    (tmp_path / "in/bad.png").write_bytes(b"no image")
    result = dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out", report=True)
    assert result.exit_code == 3
    assert str(tmp_path / "out/index.html") in " ".join(result.stderr.split())
    assert "index.html" not in result.stdout
    read = Page(tmp_path / "out/index.html")
    assert {link["href"] for link in read.all("a")} == {
        "a.dip/report.html", "a.png", "sub/b.dip/report.html", "sub/b.png",
    }  # fmt: skip
    assert len(read.all("img")) == 2
    assert "bad.png" in read.text
    assert "failed: " in read.text
    (tmp_path / "out/index.html").unlink()
    dip.quick("denoise", tmp_path / "in", "-o", tmp_path / "out")
    assert not (tmp_path / "out/index.html").exists(), "--no-report"


def test_index_writes_missing_pages_and_lists_unfinished_runs(dip: Dip, tmp_path: Path) -> None:
    runs = {name: write_run(tmp_path / name / "out.dip") for name in ("done", "interrupted", "killed", "torn")}
    record = json.loads((runs["interrupted"] / "run.json").read_text())
    (runs["interrupted"] / "run.json").write_text(json.dumps(record | {"finished": False, "psnr_ref": 28.5}))
    (runs["killed"] / "run.json").unlink()
    (runs["torn"] / "run.json").write_text('{"finished": true}')
    (runs["torn"] / "report.html").write_text("mine")
    result = dip("report", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'index.html'}\n")
    assert (runs["done"] / "report.html").exists()
    assert (runs["torn"] / "report.html").read_text() == "mine"
    read = Page(tmp_path / "index.html")
    for text in ("1 finished, 3 not finished", "interrupted", "cut short", "unreadable record", "28.50"):
        assert text in read.text
    iio.imwrite(tmp_path / "done/out.png", np.zeros((48, 64, 3), np.uint8))
    assert dip("report", tmp_path).exit_code == 0
    assert decode_url(str(Page(tmp_path / "index.html").all("img")[0]["src"])).max() == 0, "thumbnails are current"
