"""The pages in a browser: mouse, keyboard, phone, dark mode, print."""

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
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        opened = player.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with their pages, an index, and an image that failed. Tests must not change them."""
    place = tmp_path_factory.mktemp("runs")
    (place / "in").mkdir()
    dip = Dip(app)
    for count, name in enumerate(("b10.png", "b9.png", "a.png")):
        iio.imwrite(place / "in" / name, noisy(scene(48, 64), seed=count))
    (place / "in/bad.png").write_bytes(b"no image")
    rest = ("--snapshot-at", "1,4,6", "--log-every", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["/usr/bin/dip", "denoise", "a b.png"])
        result = dip.quick("denoise", place / "in", "-o", place / "out", *rest, iterations=6, report=True)
    assert result.exit_code == 3, result.output
    return place / "out"


@contextmanager
def tab(browser: Browser, path: Path, **how: Any) -> Iterator[Tab]:
    """An opened page. Requests other than for the page itself, and console messages, are failures."""
    messages: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    page = context.new_page()
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url[:80]))
    page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
    page.goto(path.as_uri())
    yield page
    assert [message for message in messages if not message.startswith("data:")] == [path.as_uri()]
    context.close()


def test_divider_follows_mouse_and_keys(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html") as page:
        divider = page.get_by_role("slider")
        canvas = page.locator(".canvas").bounding_box()
        assert canvas is not None
        assert divider.get_attribute("aria-valuenow") == "50"
        page.mouse.move(canvas["x"] + canvas["width"] / 2, canvas["y"] + 100)
        page.mouse.down()
        page.mouse.move(canvas["x"] + canvas["width"] / 4, canvas["y"] + 120, steps=4)
        page.mouse.up()
        assert divider.get_attribute("aria-valuenow") == "25"
        page.mouse.move(canvas["x"] + canvas["width"], canvas["y"] + 120)
        assert divider.get_attribute("aria-valuenow") == "25", "the button was released"
        for key, value in (("ArrowRight", "27"), ("PageUp", "37"), ("Home", "0"), ("End", "100"), ("ArrowLeft", "98")):
            divider.press(key)
            assert divider.get_attribute("aria-valuenow") == value
        assert "Input" in str(divider.get_attribute("aria-valuetext"))
        clip = page.evaluate("getComputedStyle(document.querySelector('.half.right')).clipPath")
        split = float(re.findall(r"[\d.]+px", clip)[-1][:-2])
        assert split == pytest.approx(0.98 * canvas["width"], abs=1)


def test_zoom_and_pan(browser: Browser, folder: Path) -> None:
    scale = "document.querySelector('.canvas').getBoundingClientRect().width / 64"
    left = "document.querySelector('.stage').scrollLeft"
    with tab(browser, folder / "a.dip/report.html") as page:
        fit = page.evaluate(scale)
        assert fit == int(fit) > 1, "a small image is enlarged by whole pixels"
        assert page.evaluate("getComputedStyle(document.querySelector('.left img')).imageRendering") == "pixelated"
        page.get_by_role("button", name="Zoom in").click()
        assert page.evaluate(scale) == pytest.approx(1.5 * fit)
        page.get_by_role("button", name="Zoom out").click()
        page.get_by_role("button", name="Zoom out").click()
        assert page.evaluate(scale) == fit, "not smaller than the window"
        stage = page.locator(".stage")
        stage.focus()
        for _ in range(4):
            page.keyboard.press("+")
        assert page.evaluate(scale) == 4 * fit
        middle = "document.querySelector('.stage').clientWidth / 2"
        assert page.evaluate(f"({left} + {middle}) / 64 / ({scale})") == pytest.approx(0.5, abs=0.01), "centre stays"
        box = stage.bounding_box()
        assert box is not None
        before = page.evaluate(left)
        page.mouse.move(box["x"] + 100, box["y"] + 90)
        page.mouse.down()
        page.mouse.move(box["x"] + 70, box["y"] + 90, steps=3)
        page.mouse.up()
        assert page.evaluate(left) == pytest.approx(before + 30, abs=1), "the mouse drags an enlarged image"
        divider = page.get_by_role("slider")
        assert divider.get_attribute("aria-valuenow") == "50"
        split = (
            "parseFloat(getComputedStyle(document.querySelector('.half.right')).clipPath.match(/([\\d.]+)px\\)/)[1])"
        )
        page.wait_for_function(f"Math.abs({split} - {left} - {middle}) < 1.5")
        page.get_by_role("button", name="Fit").click()
        assert page.evaluate(scale) == fit


def test_film_strip_and_lists_choose_the_images(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html") as page:
        strip = page.locator(".strip button")
        assert strip.count() == 3
        source = "document.querySelector('.half.right img').src"
        strip.nth(1).click()
        assert strip.nth(1).get_attribute("aria-pressed") == "true"
        assert page.evaluate(source) == strip.nth(1).locator("img").get_attribute("src")
        strip.nth(1).press("Tab")
        page.keyboard.press("Enter")
        assert strip.nth(2).get_attribute("aria-pressed") == "true"
        assert strip.nth(1).get_attribute("aria-pressed") == "false"
        assert page.evaluate(source) == strip.nth(2).locator("img").get_attribute("src")
        assert page.locator(".tag.right").inner_text() == "Iteration 6"
        page.get_by_label("Right").select_option("Restored")
        assert page.locator(".strip [aria-pressed=true]").count() == 0
        page.get_by_label("Left").select_option("Restored")
        assert not page.get_by_role("slider").is_visible(), "one image needs no divider"


def test_dark_mode_applies_to_page_and_curves(browser: Browser, folder: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        with tab(browser, folder / "a.dip/report.html", color_scheme=scheme) as page:
            ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            curve = page.evaluate(
                "[...document.querySelectorAll('.chart path')].map((path) => getComputedStyle(path).stroke)"
                ".find((stroke) => stroke.startsWith('rgb'))"
            )
            seen.append((sum(map(int, re.findall(r"\d+", ground)[:3])), curve))
    assert seen[0][0] > 700
    assert seen[1][0] < 100
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize("name", ["a.dip/report.html", "index.html"])
def test_phone_needs_no_horizontal_scrolling(browser: Browser, folder: Path, name: str) -> None:
    with tab(browser, folder / name, **PHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        if name != "index.html":
            page.locator(".stage").tap(position={"x": 100, "y": 60})
            assert int(str(page.get_by_role("slider").get_attribute("aria-valuenow"))) < 40


def test_images_are_shown_without_script_and_in_print(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html", java_script_enabled=False) as page:
        for name in ("Input of a.png", "Restored of a.png", "The image at iteration 4"):
            assert page.get_by_alt_text(name).is_visible()
        assert page.get_by_text("All settings").is_visible()
    with tab(browser, folder / "a.dip/report.html") as page:
        page.emulate_media(media="print")
        assert page.locator(".plain").get_by_alt_text("Restored of a.png").is_visible()
        assert not page.locator(".stage").is_visible()


def test_command_line_can_be_copied(browser: Browser, folder: Path) -> None:
    with tab(browser, folder / "a.dip/report.html", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == "dip denoise 'a b.png'"


def test_index_is_sorted_by_click_and_key(browser: Browser, folder: Path) -> None:
    def names() -> list[str]:
        return page.locator("td.name").evaluate_all("(cells) => cells.map((cell) => cell.dataset.value)")

    with tab(browser, folder / "index.html") as page:
        head = page.get_by_role("columnheader", name="Image")
        head.get_by_role("button").click()
        once = ["a.png", "b9.png", "b10.png", "bad.png"]
        assert names() == once, "numbers in names sort as numbers"
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert names() == once[::-1]
        numbers = page.get_by_role("columnheader", name="PSNR to the input")
        numbers.get_by_role("button").press("Space")
        assert head.get_attribute("aria-sort") is None
        shown = page.locator("tbody tr").evaluate_all("(rows) => rows.map((row) => row.cells[5].dataset.value)")
        assert shown[-1] == "", "unknown values are last"
        known = [float(value) for value in shown[:-1]]
        assert known == sorted(known)
        assert len(known) == 3
