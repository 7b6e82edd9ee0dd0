"""The page to be signed in a real browser: on a phone, on a desk, in the dark, on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from hanse_common.audit.report.command import audit_for_signing, write_page
from kits.audit import AuditedRun
from kits.browser import Tab, in_a_browser

pytestmark = in_a_browser


def make_page(run: AuditedRun, page: Path) -> Path:
    report, _ = audit_for_signing(
        run.folder,
        authority=run.authority.public,
        remembered=None,
        second_opinion=False,
        stores=(1, 2, 4),
    )
    write_page(report, page)
    return page.resolve()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    run = AuditedRun(folder / "run", rounds=12, noise_multiplier=8.0)
    run.charge("luebeck", 12, 12, run=2)
    return make_page(run, folder / "page.html")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failed")
    run = AuditedRun(folder / "run")
    run.charge("luebeck", 2, 2, run=2, noise_multiplier=3.9)
    return make_page(run, folder / "page.html")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    browser = Tab(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["page", "failed"])
def test_it_renders_without_complaint_asks_for_nothing_and_fits(
    tab: Tab, which: str, width: int, dark: bool, request: pytest.FixtureRequest
) -> None:
    shown: Path = request.getfixturevalue(which)
    tab.open(shown, width=width, dark=dark)
    assert tab.complaints() == []
    assert tab.asked_for() == {shown.as_uri()}
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    (drawn,) = tab.evaluate(
        "[...document.querySelectorAll('svg.plot')]"
        ".map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert drawn[0] > 250
    assert drawn[1] > 120
    smallest = tab.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.plot text')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().d))"
    )
    assert smallest >= 8


def test_headings_are_in_order_and_numbered(tab: Tab, page: Path) -> None:
    tab.open(page, width=1280)
    levels = tab.evaluate(
        "[...document.querySelectorAll('h1,h2,h3')].map(e => parseInt(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    numbers = tab.evaluate("[...document.querySelectorAll('h2')].map(e => parseInt(e.textContent))")
    assert numbers == list(range(1, 10))


def test_a_failure_fills_the_first_screen_of_a_phone(tab: Tab, failed: Path) -> None:
    tab.open(failed, width=360)
    size, top, bottom = tab.evaluate(
        "(e => [parseFloat(getComputedStyle(e).fontSize), e.getBoundingClientRect().top,"
        " e.parentElement.getBoundingClientRect().bottom])(document.querySelector('.word'))"
    )
    assert tab.evaluate("document.querySelector('.word').textContent") == "FAILED"
    assert size > 30
    assert 0 < top < bottom < 900


@pytest.mark.parametrize("which", ["page", "failed"])
def test_labels_of_the_drawing_stay_inside_of_it(
    tab: Tab, which: str, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(which), width=1280)
    outside = tab.evaluate(
        "[...document.querySelectorAll('svg.plot')].flatMap(svg => {"
        " const box = svg.getBoundingClientRect();"
        " return [...svg.querySelectorAll('text')].filter(t => {"
        "  const r = t.getBoundingClientRect();"
        "  return r.left < box.left || r.right > box.right || r.top < box.top"
        "   || r.bottom > box.bottom; }).map(t => t.textContent); })"
    )
    assert outside == []


def test_paper_is_white_even_if_the_screen_is_dark_and_holds_three_signatures(
    tab: Tab, page: Path
) -> None:
    tab.open(page, width=760, dark=True, media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("document.querySelectorAll('.signatures > div').length") == 3
    pdf = base64.b64decode(tab.ask("Page.printToPDF", printBackground=False)["data"])
    assert pdf.startswith(b"%PDF")
