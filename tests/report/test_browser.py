"""The pages in a browser: what a hand, a key and a telephone make of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import pytest
from command_line import Dip
from samples import noisy, scene

from dipcli.cli.app import app

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TELEPHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests here."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        opened = player.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with their pages, an index, and a picture that failed; nobody changes them."""
    place = tmp_path_factory.mktemp("runs")
    (place / "in").mkdir()
    dip = Dip(app)
    for count, name in enumerate(("b10.png", "b9.png", "a.png")):
        iio.imwrite(place / "in" / name, noisy(scene(48, 64), seed=count))
    (place / "in/bad.png").write_bytes(b"no picture")
    rest = ("--snapshot-at", "1,4,6", "--log-every", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["/usr/bin/dip", "denoise", "a b.png"])
        result = dip.quick("denoise", place / "in", "-o", place / "out", *rest, iterations=6, report=True)
    assert result.exit_code == 3, result.output
    return place / "out"


@contextmanager
def tab(browser: Browser, path: Path, **how: Any) -> Iterator[Tab]:
    """A page that has been opened; whatever it asks for but itself, or complains of, is a failure."""
    told: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    page = context.new_page()
    page.on("console", lambda message: told.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: told.append(request.url[:80]))
    page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
    page.goto(path.as_uri())
    yield page
    assert [each for each in told if not each.startswith("data:")] == [path.as_uri()]
    context.close()


def test_the_divider_follows_mouse_and_keys(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html") as page:
        divider = page.get_by_role("slider")
        stage = page.locator(".stage").bounding_box()
        assert stage is not None
        assert divider.get_attribute("aria-valuenow") == "50"
        sheet = page.locator(".side.right .sheet").bounding_box()
        assert sheet is not None
        page.mouse.move(sheet["x"] + sheet["width"] / 2, stage["y"] + 100)
        page.mouse.down()
        page.mouse.move(sheet["x"] + sheet["width"] / 4, stage["y"] + 120, steps=4)
        page.mouse.up()
        assert divider.get_attribute("aria-valuenow") == "25"
        page.mouse.move(sheet["x"] + sheet["width"], stage["y"] + 120)
        assert divider.get_attribute("aria-valuenow") == "25", "it has been let go"
        for key, value in (("ArrowRight", "27"), ("PageUp", "37"), ("Home", "0"), ("End", "100"), ("ArrowLeft", "98")):
            divider.press(key)
            assert divider.get_attribute("aria-valuenow") == value
        assert "Input" in str(divider.get_attribute("aria-valuetext"))
        right = page.evaluate("getComputedStyle(document.querySelector('.side.right')).clipPath")
        shown = float(re.findall(r"[\d.]+px", right)[-1][:-2])
        assert shown == pytest.approx(sheet["x"] - stage["x"] + 0.98 * sheet["width"], abs=1)


def test_zoom_and_pan(browser: Browser, folder: Path) -> None:
    scale = "new DOMMatrix(getComputedStyle(document.querySelector('.sheet')).transform).a"
    place = "new DOMMatrix(getComputedStyle(document.querySelector('.sheet')).transform).e"
    with tab(browser, folder / "a.dip/report.html") as page:
        fit = page.evaluate(scale)
        assert fit == int(fit) > 1, "a small picture is enlarged by whole pixels"
        assert page.evaluate("getComputedStyle(document.querySelector('.side.left img')).imageRendering") == "pixelated"
        page.get_by_role("button", name="Larger").click()
        assert page.evaluate(scale) == pytest.approx(1.5 * fit)
        page.get_by_role("button", name="Smaller").click()
        page.get_by_role("button", name="Smaller").click()
        assert page.evaluate(scale) == fit, "not smaller than all of it"
        page.locator(".stage").focus()
        for _ in range(4):
            page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        near, before = page.evaluate(scale), page.evaluate(place)
        assert near == 4 * fit
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(place) == before + 60
        page.keyboard.press("0")
        assert page.evaluate(scale) == fit
        stage = page.locator(".stage").bounding_box()
        assert stage is not None
        page.mouse.move(stage["x"] + stage["width"] / 2 + 50, stage["y"] + 90)
        page.mouse.wheel(0, 300)
        assert page.evaluate(scale) == fit, "away from all of it the wheel scrolls the page"
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(500)
        for _ in range(12):
            page.mouse.wheel(0, -240)
        page.wait_for_function(f"{scale} > {2 * fit}")
        page.wait_for_timeout(100)
        before = page.evaluate(place)
        page.mouse.down()
        page.mouse.move(stage["x"] + stage["width"] / 2 + 20, stage["y"] + 90, steps=3)
        page.mouse.up()
        assert page.evaluate(place) == pytest.approx(before - 30, abs=0.5), "what is larger than the stage is dragged"


def test_the_film_strip_and_the_lists_choose_what_is_shown(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html") as page:
        strip = page.locator(".strip button")
        assert strip.count() == 3
        source = "document.querySelector('.side.right img').src"
        strip.nth(1).click()
        assert strip.nth(1).get_attribute("aria-pressed") == "true"
        assert page.evaluate(source) == strip.nth(1).locator("img").get_attribute("src")
        strip.nth(1).press("ArrowRight")
        page.keyboard.press("Enter")
        assert strip.nth(2).get_attribute("aria-pressed") == "true"
        assert strip.nth(1).get_attribute("aria-pressed") == "false"
        assert page.evaluate(source) == strip.nth(2).locator("img").get_attribute("src")
        assert page.locator(".tag.right").inner_text() == "Iteration 6"
        page.get_by_label("Right").select_option("Restored")
        assert page.locator(".strip [aria-pressed=true]").count() == 0
        page.get_by_label("Left").select_option("Restored")
        assert not page.get_by_role("slider").is_visible(), "there is nothing to divide"


def test_it_is_dark_where_that_is_liked_and_the_curves_with_it(browser: Browser, folder: Path) -> None:
    seen = []
    for liked in ("light", "dark"):
        with tab(browser, folder / "a.dip/report.html", color_scheme=liked) as page:
            ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            curve = page.evaluate(
                "[...document.querySelectorAll('.chart path')].map((each) => getComputedStyle(each).stroke)"
                ".find((each) => each.startsWith('rgb'))"
            )
            seen.append((sum(map(int, re.findall(r"\d+", ground)[:3])), curve))
    assert seen[0][0] > 700
    assert seen[1][0] < 100
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize("name", ["a.dip/report.html", "index.html"])
def test_on_a_telephone_nothing_is_wider_than_the_screen(browser: Browser, folder: Path, name: str) -> None:
    with tab(browser, folder / name, **TELEPHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        if name != "index.html":
            page.locator(".stage").tap(position={"x": 100, "y": 60})
            assert int(str(page.get_by_role("slider").get_attribute("aria-valuenow"))) < 40


def test_without_a_script_and_on_paper_the_pictures_are_there(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html", java_script_enabled=False) as page:
        for name in ("Input of a.png", "Restored of a.png", "The picture at iteration 4"):
            assert page.get_by_alt_text(name).is_visible()
        assert page.get_by_text("All settings").is_visible()
    with tab(browser, folder / "a.dip/report.html") as page:
        page.emulate_media(media="print")
        assert page.locator(".plain").get_by_alt_text("Restored of a.png").is_visible()
        assert not page.locator(".stage").is_visible()


def test_the_command_line_is_copied(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "dip denoise 'a b.png'"


def test_the_index_is_sorted_by_a_click_and_by_a_key(browser: Browser, folder: Path) -> None:
    def names() -> list[str]:
        return page.locator("td.name").evaluate_all("(cells) => cells.map((each) => each.dataset.value)")

    with tab(browser, folder / "index.html") as page:
        head = page.get_by_role("columnheader", name="Picture")
        head.get_by_role("button").click()
        once = ["a.png", "b9.png", "b10.png", "bad.png"]
        assert names() == once, "numbers in names are numbers"
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert names() == once[::-1]
        numbers = page.get_by_role("columnheader", name="PSNR to the input")
        numbers.get_by_role("button").press("Space")
        assert head.get_attribute("aria-sort") is None
        shown = page.locator("tbody tr").evaluate_all("(rows) => rows.map((each) => each.cells[5].dataset.value)")
        assert shown[-1] == "", "what is not known is last"
        known = [float(each) for each in shown[:-1]]
        assert known == sorted(known)
        assert len(known) == 3
