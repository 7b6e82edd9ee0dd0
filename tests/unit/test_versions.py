"""Versions of stores and coordinator: what is sent, and what is said about a difference."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER

from hanse_client.deployment.doctor import _admitted, _versions
from hanse_client.deployment.fleet_api import Address, _named
from hanse_client.deployment.folder import load_node_key
from hanse_client.deployment.node_headers import signed_headers
from hanse_client.deployment.tls_check import handshake
from hanse_common.versions import VERSION_FIELD, VERSION_PATH, Version, other_protocol, own_version
from hanse_server.deployment.connections import Limits
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.node_versions import NodeVersions
from hanse_server.deployment.status import read_status
from kits.deployment import StoreFiles, found, server, succeed
from kits.errors import raises
from kits.gateway import Gate

NEWER, OLDER = (Version(own_version().protocol + step, "9.9") for step in (1, -1))


@pytest.mark.parametrize(
    "text", [None, 7, b"1 0.1.0", "", "1", "1 ", "-1 0.1", "1 0.1\n", "1 " + "9" * 65, "123456 1"]
)
def test_what_is_no_version_counts_as_not_sent(text):
    assert Version.decode(text) == Version(1, "")


def test_a_version_is_read_as_it_was_sent():
    assert Version.decode(own_version().encode()) == own_version()
    assert Version.decode("2 1.0rc1+local.3") == Version(2, "1.0rc1+local.3")


def test_the_one_that_is_behind_is_asked_to_upgrade():
    ahead = other_protocol(NEWER, they="riga", we="this coordinator")
    behind = other_protocol(OLDER, they="riga", we="this coordinator")
    assert ahead.code == behind.code == "unsupported-version"
    assert ahead.hint.startswith("upgrade this coordinator to Hanse 9.9")
    assert behind.hint.startswith(f"upgrade riga to Hanse {own_version().release}")


def test_a_node_raises_what_the_gateway_says_of_versions():
    def call() -> None:
        request = httpx.Request("POST", "https://hanse.example.org/")
        headers = {VERSION_FIELD: OLDER.encode()}
        httpx.Response(426, headers=headers, request=request).raise_for_status()

    with raises("unsupported-version", match=r"hanse.example.org:9443 speaks protocol version 0"):
        _named(call, Address(fleet="hanse.example.org:9443", root=b"", key=None))


def test_the_doctors_question_is_signed_as_flower_signs(gate):
    headers = signed_headers(load_node_key(gate.store.node_key))
    named = {FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER}
    assert set(headers) == named


def test_the_doctor_learns_version_and_admission_in_one_question(gate, tmp_path):
    address, ca = f"127.0.0.1:{gate.serving.port}", (gate.folder.tls / "ca.crt").read_text()
    known = handshake(address, ca, headers=signed_headers(load_node_key(gate.store.node_key)))
    assert (known.admitted, known.coordinator) == (True, own_version())
    stranger = StoreFiles(tmp_path / "stranger", "stranger")
    headers = signed_headers(load_node_key(private(stranger.node_key)))
    refused = handshake(address, ca, headers=headers)
    assert (refused.admitted, refused.coordinator) == (False, None), "strangers learn no release"
    assert gate.behind.bodies == []


def test_the_doctor_says_what_a_difference_of_versions_means():
    assert _versions(own_version()).state == _versions(None).state == "ok"
    assert _versions(Version(own_version().protocol, "9.9")).state == "ok"
    for other in (NEWER, OLDER):
        finding = _versions(other)
        assert finding.state == "failed" and "upgrade" in finding.mend
    assert (_admitted(True).state, _admitted(False).state) == ("ok", "failed")


def test_the_gateway_refuses_another_protocol_and_status_names_the_store(gate):
    def ask(version: Version | None) -> httpx.Response:
        headers = signed_headers(load_node_key(gate.store.node_key))
        headers |= {} if version is None else {VERSION_FIELD: version.encode()}
        url = f"https://127.0.0.1:{gate.serving.port}/v1/fleet/pull-messages"
        return httpx.post(url, headers=headers, content=b"x", verify=gate.trust, trust_env=False)

    assert ask(None).status_code == ask(own_version()).status_code == 200
    answer = ask(NEWER)
    assert answer.status_code == 426 and answer.headers[VERSION_FIELD] == own_version().encode()
    assert "upgrade the coordinator to Hanse 9.9" in answer.text
    assert len(gate.behind.bodies) == 2, "nothing of the third request is passed on"
    assert NodeVersions(gate.folder.state).of(gate.store.node_pem.encode()) == NEWER
    (row,) = read_status(gate.folder).stores
    assert (row.release, row.protocol) == ("9.9", NEWER.protocol)
    assert row.upgrade is not None and row.upgrade.startswith("luebeck speaks protocol version")
    assert "upgrade this coordinator" in row.upgrade
    assert ask(own_version()).status_code == 200
    (row,) = read_status(gate.folder).stores
    assert (row.release, row.upgrade) == (own_version().release, None)


def test_a_stranger_does_not_learn_the_release(gate):
    for method, headers in (("GET", {}), ("POST", {VERSION_FIELD: NEWER.encode()})):
        url = f"https://127.0.0.1:{gate.serving.port}{VERSION_PATH}"
        answer = httpx.request(method, url, headers=headers, verify=gate.trust, trust_env=False)
        assert answer.status_code == (401 if method == "GET" else 404)
        assert VERSION_FIELD not in answer.headers and own_version().release not in answer.text


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> tuple[FederationFolder, StoreFiles]:
    root = tmp_path_factory.mktemp("versions")
    found(root / "federation")
    store = StoreFiles(root / "luebeck", "luebeck")
    private(store.node_key)
    succeed(server(root / "federation", "admit", store.request, "--yes"))
    return FederationFolder(root / "federation"), store


@pytest.fixture
def gate(federation):
    made = Gate(*federation, Limits())
    yield made
    made.stop()


def private(path: Path) -> Path:
    path.chmod(0o600)
    return path
