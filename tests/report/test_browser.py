"""The page in a real browser: nothing loads, nothing runs that should not, the controls work."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import ByName
from tests.report.sweep_world import HOSTILE_LOSS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


class Opened:
    """A page with all that it said, asked for or tried."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.log: list[str] = []
        self.page.on("console", lambda message: self.log.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.log.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.log.append(f"request: {request.url}"))
        self.page.goto((folder / "report.html").as_uri())
        self.own = f"request: {(folder / 'report.html').as_uri()}"

    def _dialog(self, dialog: Any) -> None:
        self.log.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    @property
    def said(self) -> list[str]:
        """All but the request for the page itself."""
        return [line for line in self.log if line != self.own]

    def column(self, index: int) -> list[str]:
        cells = f"#results-table tbody tr:not([hidden]) > :nth-child({index})"
        values = "all => all.map(one => one.dataset.value)"
        return [str(one) for one in self.page.eval_on_selector_all(cells, values)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def desktop(browser: Any, reported: ByName) -> Iterator[Opened]:
    opened = Opened(browser, reported("hostile"), viewport=DESKTOP, color_scheme="light")
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def phone(browser: Any, reported: ByName) -> Iterator[Opened]:
    touch = {"is_mobile": True, "has_touch": True}
    opened = Opened(browser, reported("hostile"), viewport=PHONE, color_scheme="dark", **touch)
    yield opened
    opened.context.close()


def test_the_page_is_ready_without_a_word_a_request_or_a_dialog(desktop: Opened) -> None:
    assert desktop.page.evaluate("document.documentElement.dataset.ready") == "true"
    assert desktop.page.evaluate("typeof window.hacked") == "undefined"
    assert desktop.page.locator("img, iframe, [onerror], [onclick], [onload]").count() == 0
    assert desktop.said == []


def test_every_chart_is_drawn(desktop: Opened) -> None:
    counts = desktop.page.eval_on_selector_all(
        "[data-chart], #chart-training",
        "all => all.map(one => one.querySelectorAll('.trace').length)",
    )
    assert len(counts) == 4
    assert min(counts) >= 8


def test_hovering_shows_the_hostile_name_as_text(desktop: Opened) -> None:
    shown = desktop.page.evaluate(
        """() => {
          const chart = document.getElementById("chart-frontier");
          const curve = chart.data.findIndex(
            (one) => one.meta && one.meta.series === 3 && one.mode === "markers");
          Plotly.Fx.hover(chart, [{ curveNumber: curve, pointNumber: 0 }]);
          const label = chart.querySelector(".hoverlayer");
          return [label.textContent, label.querySelectorAll("a, script").length];
        }"""
    )
    assert HOSTILE_LOSS in shown[0]
    assert "nats" in shown[0]
    assert shown[1] == 0


def test_headings_sort_by_number_and_back_with_missing_last(desktop: Opened) -> None:
    heading = desktop.page.get_by_role("button", name="Win rate against the reference")
    heading.click()
    rising = desktop.column(4)
    heading.press("Enter")
    falling = desktop.column(4)
    assert rising[-1] == falling[-1] == ""
    numbers = [float(one) for one in rising[:-1]]
    assert numbers == sorted(numbers)
    assert [float(one) for one in falling[:-1]] == sorted(numbers, reverse=True)
    assert desktop.page.locator("th[aria-sort=descending]").count() == 1
    assert desktop.page.locator("th[aria-sort]").count() == 1


def test_the_filter_keeps_the_rows_with_all_words(desktop: Opened) -> None:
    desktop.page.fill("#filter", "cdpo failed")
    assert desktop.column(1) == ["cdpo"]
    assert desktop.page.text_content("#filter-count") == "1 of 20 trials"
    desktop.page.fill("#filter", "")
    assert len(desktop.column(1)) == 20


def test_a_loss_is_hidden_in_every_chart_by_keyboard(desktop: Opened) -> None:
    visible = """() => ["frontier", "win_rate", "displacement"].map((id) =>
      document.getElementById("chart-" + id).data
        .filter((one) => one.meta && one.visible).length)"""
    before = desktop.page.evaluate(visible)
    button = desktop.page.locator(".legend button[data-series='0']").first
    button.focus()
    button.press("Space")
    assert button.get_attribute("aria-pressed") == "false"
    assert desktop.page.evaluate(visible) == [before[0] - 2, before[1] - 2, before[2] - 4]
    button.press("Space")
    assert desktop.page.evaluate(visible) == before


def test_the_selectors_change_what_is_shown(desktop: Opened) -> None:
    page = desktop.page
    page.select_option("#heat-measure", "kl")
    assert page.locator(".heat-view:visible").get_attribute("data-view") == "kl"
    page.select_option("#training-measure", "accuracy")
    assert page.evaluate("document.getElementById('chart-training').data[0].y[0]") == 0.5
    page.select_option("#sample-prompt", "3")
    assert page.locator(".sample:visible").get_attribute("data-prompt") == "3"
    page.select_option("#sample-view", "all")
    assert page.locator(".card:visible").count() == 21
    page.select_option("#sample-view", "series-1")
    assert page.locator(".card:visible").count() == 6


def test_the_colours_follow_the_scheme_and_print_is_light(desktop: Opened) -> None:
    page = desktop.page
    ink = "() => document.getElementById('chart-win_rate').layout.font.color"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(50)
    assert page.evaluate(ink) != light
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(ink) == light
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(ink) != light
    assert page.locator("details:not([open])").count() > 0
    page.emulate_media(color_scheme="light")


def test_printing_gives_pages_of_paper(desktop: Opened) -> None:
    document = desktop.page.pdf(format="A4")
    assert document.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", document)) >= 5


def test_a_phone_scrolls_in_one_direction_only(phone: Opened) -> None:
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 400
    wide = phone.page.evaluate(
        """() => Array.from(document.querySelectorAll("main *"))
          .filter((one) => !one.closest("svg, .scroll") && one.getBoundingClientRect().right > 401)
          .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert phone.said == []


def test_dark_is_dark_also_behind_the_charts(phone: Opened) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    assert phone.page.evaluate(ground) == "rgb(20, 23, 28)"
    chart = "getComputedStyle(document.querySelector('#chart-frontier .main-svg')).backgroundColor"
    assert phone.page.evaluate(chart) == "rgba(0, 0, 0, 0)"


def test_screenshots_are_not_blank(desktop: Opened, phone: Opened, tmp_path: Path) -> None:
    from PIL import Image

    for name, opened in (("desktop", desktop), ("phone", phone)):
        opened.page.screenshot(path=tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            colours = image.convert("RGB").getcolors(maxcolors=1 << 24) or []
            assert len(colours) > 100
            assert image.height >= 800


def test_nothing_ran_or_was_asked_for_after_all_that(desktop: Opened) -> None:
    assert desktop.said == []
    assert desktop.page.evaluate("typeof window.hacked") == "undefined"


def test_a_script_from_elsewhere_would_not_run(desktop: Opened) -> None:
    desktop.page.evaluate(
        """() => {
          const one = document.createElement("script");
          one.textContent = "window.hacked = 9";
          document.body.append(one);
        }"""
    )
    assert desktop.page.evaluate("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in line for line in desktop.said)
