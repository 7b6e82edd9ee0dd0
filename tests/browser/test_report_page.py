"""The report in a real browser: no complaint on its console, nothing off the screen.

Talks to a headless Chromium over a pipe (the DevTools protocol), so that no port is opened
and no driver is needed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures_runs import write_run

from hanse_simulations.report.build import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]

COMPLAINTS = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}


class Tab:
    """One page of a headless browser."""

    def __init__(self, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Out of the way of 3 and 4, where Chromium wants its ends.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]

        def place_ends() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self._process = subprocess.Popen(
            [
                str(CHROMIUM),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                f"--user-data-dir={profile}",
                "--remote-debugging-pipe",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place_ends,
            pass_fds=(3, 4),
        )
        for end in (*ends, to_browser, from_browser):
            os.close(end)
        self._reader = os.fdopen(self._in, "rb", buffering=0)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next()
            if reply.get("id") == self._count:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result

    def open(self, page: Path, *, width: int, dark: bool = False, media: str = "screen") -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._next()

    def evaluate(self, expression: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        self._reader.close()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            block = self._reader.read(1 << 16)
            assert block, "the browser has gone"
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_run(tmp_path_factory.mktemp("runs"))).resolve()


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
    assert len(sizes) == 4
    assert all(w > 250 and h > 120 for w, h in sizes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert "Federated, private" in tab.evaluate("document.body.innerText")
    assert [e for e in tab.events if e["method"] in COMPLAINTS] == []
    asked = {
        event["params"]["request"]["url"]
        for event in tab.events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {page.as_uri()}


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
