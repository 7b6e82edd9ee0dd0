"""A page that is watched: what it answers to, what it sends, and what it says of broken parts."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from hanse_common.errors import LedgerError
from hanse_common.pages import page_environment
from hanse_common.pages.live.application import HEADERS, MOST_READERS, application
from hanse_common.pages.live.feed import Feed
from hanse_common.pages.live.parts import LivePage, Part
from hanse_common.pages.live.serving import serve
from kits.errors import raises

GOOD = "<b>Lübeck</b>\u202e"


def page(*parts: Part) -> LivePage:
    return LivePage(
        title="t",
        product="hanse test",
        environment=page_environment("hanse_common", "pages"),
        parts=lambda: parts,
    )


def part(name: str, read: Any) -> Part:
    # A template of the package that shows texts as they are given.
    return Part(name=name, title=name, template="live/unreadable.html.j2", read=read)


def shown(message: str) -> Mapping[str, str]:
    return {"message": message, "hint": "", "code": ""}


def fails(error: Exception) -> Any:
    def read() -> Any:
        raise error

    return read


def ask(live: LivePage, method: str, path: str, names: tuple[str, ...] = (), **headers: str) -> Any:
    async def once() -> httpx.Response:
        app = application(live, Feed(live), names=names)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(once())


def test_a_part_that_cannot_be_read_says_so_in_words_and_the_others_go_on():
    live = page(
        part("ledger", fails(LedgerError("the chain is broken <i>", hint="restore it"))),
        part("disk", fails(PermissionError(13, "Permission denied", "/secret/path"))),
        part("line", fails(KeyError("Ada bought 7"))),
        part("fine", lambda: shown(GOOD)),
    )
    html = ask(live, "GET", "/").text
    assert 'the chain is broken &lt;i&gt; <span class="code">[ledger]</span>' in html
    assert "To repair it: restore it." in html
    assert "Permission denied" in html
    assert "unexpected content (KeyError)" in html
    assert "Ada" not in html
    assert "&lt;b&gt;Lübeck&lt;/b&gt;\\u202e" in html


@pytest.mark.parametrize("path", ["/", "/style.css", "/script.js", "/nothing"])
def test_every_response_lets_the_browser_load_from_here_only(path: str):
    answer = ask(page(), "GET", path)
    assert answer.status_code == (404 if path == "/nothing" else 200)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_the_page_has_no_style_or_script_that_the_policy_would_stop():
    html = ask(page(part("fine", lambda: shown("x"))), "GET", "/").text
    assert "style=" not in html and "<style" not in html and " onclick" not in html
    assert html.count("<script") == html.count('<script src="script.js" defer>') == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_it_answers_get_and_nothing_else(method: str):
    answer = ask(page(), method, "/")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_a_request_under_another_name_is_refused():
    """A web page whose name is made to lead to this machine gets nothing."""
    for host in ("evil.example.org", "127.0.0.1.evil.example.org", "", "hanse.example.org"):
        assert ask(page(), "GET", "/", host=host).status_code == 421, host
    for host in ("localhost:9466", "127.0.0.1:1", "[::1]:80"):
        assert ask(page(), "GET", "/", host=host).status_code == 200, host
    named = ("hanse.example.org",)
    assert ask(page(), "GET", "/", named, host="Hanse.example.org:443").status_code == 200
    assert ask(page(), "GET", "/", named, host="evil.example.org").status_code == 421


def test_without_a_named_proxy_it_listens_on_loopback_only():
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        with raises("config", match="no login"):
            serve(page(), host=host, port=0, announce=fails(AssertionError("it listens")))


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken, raises("config", match="cannot listen"):
        port = taken.getsockname()[1]
        serve(page(), host="127.0.0.1", port=port, announce=fails(AssertionError("no")))


def test_changes_are_sent_and_what_stays_is_not():
    texts = {"a": "one", "b": "same"}
    live = page(*(part(name, lambda name=name: shown(texts[name])) for name in texts))

    async def watch() -> list[tuple[str, str]]:
        feed = Feed(live, period=0.01)
        seen: list[tuple[str, str]] = []
        async with feed.running():
            stream = feed.changes(beat=60)
            async for change in stream:
                assert change is not None
                name, html = change
                seen.append((name, "one" if "one" in html else "two" if "two" in html else "same"))
                if len(seen) == 2:
                    texts["a"] = "two"
                if len(seen) == 3:
                    break
            await stream.aclose()
            assert feed.readers == 0
        return seen

    assert asyncio.run(watch()) == [("a", "one"), ("b", "same"), ("a", "two")]


def test_a_slow_part_does_not_hold_up_those_before_it_nor_the_page():
    released = threading.Event()

    def slow() -> Any:
        assert released.wait(60)
        return shown("at last")

    live = page(part("fast", lambda: shown("here")), part("slow", slow))

    async def watch() -> tuple[str, str]:
        feed = Feed(live)
        await feed.update(seconds=0.01)
        while "fast" not in feed.html:
            await asyncio.sleep(0.01)
        assert "slow" not in feed.html
        transport = httpx.ASGITransport(application(live, feed))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            early = (await client.get("/")).text
        released.set()
        while "slow" not in feed.html:
            await asyncio.sleep(0.01)
        return early, feed.html["slow"]

    early, late = asyncio.run(watch())
    assert "here" in early and "Reading the files" in early
    assert "at last" in late


def test_nothing_is_read_while_nobody_watches():
    reads: list[int] = []
    live = page(part("a", lambda: reads.append(1) or shown("x")))

    async def idle() -> None:
        async with Feed(live, period=0.0).running():
            await asyncio.sleep(0.1)

    asyncio.run(idle())
    assert reads == []


def test_streams_end_with_the_server_and_their_number_is_bounded():
    live = page()

    async def end() -> list[Any]:
        ends = False
        feed = Feed(live, ends=lambda: ends)
        stream = feed.changes(beat=0.0)
        assert await anext(stream) is None  # a beat: the connection holds
        ends = True
        rest = [change async for change in stream]
        feed.readers = MOST_READERS
        transport = httpx.ASGITransport(application(live, feed))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/events")).status_code == 503
        return rest

    assert asyncio.run(end()) == []
