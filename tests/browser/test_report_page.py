"""The report in a real browser: no complaint on its console, nothing off the screen."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse_simulations.report.build import write_report
from kits.browser import Tab, in_a_browser
from kits.runs import write_run

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("runs"), compared=True)).resolve()


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    browser = Tab(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_renders_without_complaint_and_asks_for_nothing(
    tab: Tab, page: Path, width: int, dark: bool
) -> None:
    tab.open(page, width=width, dark=dark)
    sizes = tab.evaluate(
        "[...document.querySelectorAll('svg.plot')]"
        ".map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert len(sizes) == 8
    assert all(w > 250 and h > 120 for w, h in sizes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert "Federated, private" in tab.evaluate("document.body.innerText")
    assert tab.complaints() == []
    assert tab.asked_for() == {page.as_uri()}


def test_tables_of_groups_are_folded_until_they_are_opened(tab: Tab, page: Path) -> None:
    tab.open(page, width=1280)
    visible = "[...document.querySelectorAll('details table')].map(e => e.checkVisibility())"
    before = tab.evaluate(visible)
    assert before.count(True) == 1
    assert before.count(False) > 1
    tab.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert all(tab.evaluate(visible))


def test_text_in_drawings_can_be_read_on_a_phone(tab: Tab, page: Path) -> None:
    tab.open(page, width=360)
    heights = tab.evaluate(
        "[...document.querySelectorAll('svg.plot text')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().d)"
    )
    assert min(heights) >= 8


def test_dark_mode_changes_page_and_drawings(tab: Tab, page: Path) -> None:
    colours = []
    for dark in (False, True):
        tab.open(page, width=1280, dark=dark)
        colours.append(
            tab.evaluate(
                "[getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(document.querySelector('svg.plot text')).fill]"
            )
        )
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_paper_is_white_even_if_the_screen_is_dark(tab: Tab, page: Path) -> None:
    tab.open(page, width=760, dark=True, media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = base64.b64decode(tab.ask("Page.printToPDF", printBackground=False)["data"])
    assert pdf.startswith(b"%PDF")
