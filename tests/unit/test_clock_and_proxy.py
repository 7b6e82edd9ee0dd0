"""A store's connection to the coordinator: a wrong clock, an expired certificate, a proxy."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hanse_client.deployment.fleet_api import Address, _named, connected
from hanse_client.deployment.proxy import no_proxy_variables, proxy_for
from hanse_client.deployment.stopping import Stop
from hanse_client.deployment.tls_check import handshake
from hanse_common.errors import NotAdmitted
from hanse_common.flower import environment
from kits.apps.deployment import make_tls
from kits.errors import raises

VARIABLES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def refusal(clock: float | None) -> NotAdmitted:
    """What a node raises on a 401 of a server whose clock is `clock` seconds behind its own."""
    headers = {} if clock is None else {"Date": formatdate(time.time() - clock, usegmt=True)}

    def call() -> None:
        request = httpx.Request("POST", "https://hanse.example.org/")
        httpx.Response(401, headers=headers, request=request).raise_for_status()

    with pytest.raises(NotAdmitted) as caught:
        _named(call, Address(fleet="hanse.example.org:9443", root=b"", key=None))
    return caught.value


@pytest.mark.parametrize(("clock", "words"), [(600, "600 s ahead of"), (-600, "behind that of")])
def test_a_clock_ten_minutes_off_is_named_and_not_taken_for_an_unknown_key(clock, words):
    error = refusal(clock)
    assert words.split(" s ")[-1] in error.message and "clock" in error.message
    assert "NTP" in error.hint


@pytest.mark.parametrize("clock", [0, 2, -200, None])
def test_a_refused_key_is_named_where_the_clock_is_right(clock):
    error = refusal(clock)
    assert "does not know this store's node key" in error.message
    assert "clock" not in error.message


@pytest.mark.parametrize(("status", "hint"), [(502, "ingress"), (504, "ingress"), (503, "")])
def test_an_answer_that_the_coordinator_never_gives_is_told_from_its_own(status, hint):
    def call() -> None:
        request = httpx.Request("POST", "https://hanse.example.org/")
        httpx.Response(status, request=request).raise_for_status()

    with raises("unreachable", match=f"answers {status}") as caught:
        _named(call, Address(fleet="hanse.example.org:9443", root=b"", key=None))
    assert (hint in caught.value.hint) if hint else not caught.value.hint


class Forwarding:
    """A TLS server that answers one request at a time, and a proxy before it."""

    def __init__(self, folder, *, allow: bool) -> None:
        folder = folder / "tls"
        make_tls(folder)
        self.ca = (folder / "ca.crt").read_text()
        self.asked: list[str] = []
        self._allow = allow
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        plain, _ = self._listener.accept()
        with plain:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += plain.recv(1024)
            self.asked += request.decode().splitlines()
            if not self._allow:
                plain.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
            plain.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._context.wrap_socket(plain, server_side=True) as secure:
                secure.recv(4096)
                date = formatdate(time.time() - 600, usegmt=True)
                answer = f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
                secure.sendall(answer.encode())


def test_doctor_connects_through_the_proxy_that_the_environment_names(tmp_path, monkeypatch):
    proxy = Forwarding(tmp_path, allow=True)
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:pass%20word@127.0.0.1:{proxy.port}")
    result = handshake("127.0.0.1:9443", proxy.ca)
    assert str(result.proxy) == f"127.0.0.1:{proxy.port}"
    assert proxy.asked[0].startswith("CONNECT 127.0.0.1:9443")
    assert "Proxy-Authorization: Basic YWRhOnBhc3Mgd29yZA==" in proxy.asked
    assert result.clock == pytest.approx(600, abs=5)


def test_a_proxy_that_refuses_is_named_without_its_password(tmp_path, monkeypatch):
    proxy = Forwarding(tmp_path, allow=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:secret@127.0.0.1:{proxy.port}")
    with raises("unreachable", match=r"through the proxy 127.0.0.1:\d+: .*407") as caught:
        handshake("127.0.0.1:9443", proxy.ca)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        *(("10.0.0.0/8", "10.1.2.3"), ("[::1]", "::1"), ("fd00::/8", "fd00::7"), ("::1", "::1")),
        *(("*", "hanse.example.org"), ("example.org", "hanse.example.org")),
    ],
)
def test_no_proxy_lists_addresses_networks_and_domains(listed, host, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", f"intranet, {listed}")
    assert proxy_for(host) is None
    assert proxy_for("192.0.2.1") is None if listed == "*" else proxy_for("192.0.2.1") is not None


@pytest.mark.parametrize("listed", ["[::1]", "fd00::/8", "ö.example", "a:b:c"])
def test_what_httpx_cannot_read_in_no_proxy_ends_neither_side(listed, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:secret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", listed)
    with pytest.raises(httpx.InvalidURL):
        httpx.Client()
    with no_proxy_variables():
        httpx.Client().close()
    assert os.environ["NO_PROXY"] == listed, "hidden for the moment only"
    for name, value in environment(Path(), inherited=dict(os.environ)).items():
        monkeypatch.setenv(name, value)
    httpx.Client().close()


def test_an_ipv6_address_behind_a_proxy_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://[fd00::1]:3128")
    assert str(proxy_for("hanse.example.org")) == "[fd00::1]:3128"
    with raises("config", match="cannot be asked for the IPv6 address fd00::7"):
        proxy_for("fd00::7")


def test_a_node_names_the_proxy_and_not_its_password(tmp_path, monkeypatch):
    proxy = Forwarding(tmp_path, allow=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:secret@127.0.0.1:{proxy.port}")
    key = ec.generate_private_key(ec.SECP384R1())
    address = Address(fleet="127.0.0.1:9443", root=proxy.ca.encode(), key=key)
    with (
        raises("unreachable", match=r"through the proxy 127.0.0.1:\d+: .*407") as caught,
        connected(address, stop=Stop(), patience=0.0),
    ):
        pass
    assert "secret" not in str(caught.value) and "password" in caught.value.hint


def test_no_proxy_makes_a_connection_direct(monkeypatch):
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", "127.0.0.1,.example.org")
    assert proxy_for("127.0.0.1") is None and proxy_for("hanse.example.org") is None
    assert str(proxy_for("hanse.example.com")) == "proxy.example:3128"


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "https://proxy:3128", "http://:x", ""])
def test_a_variable_that_names_no_http_proxy_is_refused_or_ignored(value, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", value)
    if not value:
        assert proxy_for("hanse.example.org") is None
        return
    with raises("config", match="HTTPS_PROXY"):
        proxy_for("hanse.example.org")


def test_the_coordinators_programs_reach_each_other_without_the_proxy(tmp_path, monkeypatch):
    """Flower's own client would ask the proxy for 127.0.0.1."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    variables = environment(tmp_path, inherited=dict(os.environ))
    assert variables["HTTPS_PROXY"] == "http://proxy.example:3128"
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, variables[name])
    assert proxy_for("127.0.0.1") is proxy_for("localhost") is proxy_for("intranet.example") is None
    assert proxy_for("hanse.example.org") is not None
