"""The coordinator's page in a real browser: on a phone, on a desk, in the dark, by the keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kits.browser import Tab, in_a_browser
from kits.watched import (
    check_keyboard,
    check_looks,
    check_structure,
    line,
    made_federation,
    run,
    wait_for_parts,
    watching,
)

pytestmark = in_a_browser

LOST = {"luebeck": "at stage 'mask': no reply in time", "riga": "at stage 'hello': [data] no " * 30}
HOSTILE = {"bremen": "<img src=x onerror=alert(1)>" + "w" * 400}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `rounds.jsonl` of a run with fifty rounds, some of them with losses."""
    folder = made_federation(tmp_path_factory.mktemp("watched"))
    lines = [line(n, seconds=2.0 + n % 7, noise_share=1.02 - n / 2000) for n in range(1, 51)]
    lines[11] |= {"refusals": LOST, "replies": 3, "attempts": 2}
    lines[30] |= {"outcome": "round-failed", "replies": 0, "note": "n" * 300, "refusals": HOSTILE}
    run_dir = run(folder, "a-run-with-a-rather-long-name-2026-11-30-182134", *lines, at=50)
    (run_dir / "failure.json").write_text(
        json.dumps({"code": "round-failed", "message": "m" * 300, "hint": "wait for them"})
    )
    return run_dir / "rounds.jsonl"


@pytest.fixture(scope="module")
def url(rounds: Path) -> Iterator[str]:
    with watching("server", rounds.parents[2]) as address:
        yield address


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    browser = Tab(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_loads_nothing_else_and_is_legible(tab: Tab, url: str, width: int, dark: bool):
    check_looks(tab, url, width=width, dark=dark)
    # What a store wrote is text: it made no element.
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert "<img src=x onerror=alert(1)>" in tab.evaluate("document.body.innerText")


@pytest.mark.parametrize("width", [400, 1600])
def test_a_screen_reader_finds_landmarks_headings_and_tables(tab: Tab, url: str, width: int):
    check_structure(tab, url, width=width)


def test_the_keyboard_goes_through_it_in_order(tab: Tab, url: str):
    check_keyboard(tab, url)


def test_dark_and_light_differ(tab: Tab, url: str):
    colours = set()
    for dark in (False, True):
        tab.open(url, width=1600, dark=dark)
        colours.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


def test_a_new_round_arrives_without_a_reload_and_leaves_the_focus_where_it_was(
    tab: Tab, url: str, rounds: Path
):
    tab.open(url, width=1600)
    wait_for_parts(tab)
    tab.evaluate("window.here = document.querySelector('main'); 1")
    tab.evaluate("document.querySelector('#rounds-title + div .sheet').focus()")
    before = tab.evaluate("document.querySelectorAll('.chart rect').length")
    assert before == 50
    with rounds.open("a") as file:
        file.write(json.dumps(line(51, refusals={"danzig": "gone fishing"}, replies=4)) + "\n")
    tab.wait_until("document.body.innerText.includes('gone fishing')")
    assert tab.evaluate("document.querySelectorAll('.chart rect').length") == 50
    assert tab.evaluate("window.here === document.querySelector('main')")
    assert tab.evaluate("document.activeElement.className") == "sheet tall"
    # The state in words has changed neither: nothing is announced.
    assert tab.evaluate("document.getElementById('announce').textContent") == ""
    assert tab.complaints() == []


def test_a_changed_state_is_announced(tab: Tab, url: str, rounds: Path):
    tab.open(url, width=1600)
    wait_for_parts(tab)
    with rounds.open("a") as file:
        file.write(json.dumps(line(60, stage="done")) + "\n")
    tab.wait_until("document.getElementById('announce').textContent.includes('is finished')")


def test_a_page_that_has_lost_its_server_says_so(tab: Tab, rounds: Path):
    with watching("server", rounds.parents[2]) as address:
        tab.open(address, width=1600)
        wait_for_parts(tab)
    tab.wait_until("document.getElementById('link-text').textContent.includes('not live')", 60)
    assert "not live" in tab.evaluate("document.getElementById('announce').textContent")
