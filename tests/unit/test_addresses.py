"""IPv6 wherever an address is taken: in settings, invitations, listeners and the doctor."""

from __future__ import annotations

import socket
import urllib.request

import pytest

from hanse_client.deployment.tls_check import handshake
from hanse_common.addresses import join_address, listening, split_address
from hanse_common.monitoring.endpoint import Endpoint
from hanse_common.monitoring.health import Health, listens
from hanse_server.deployment.folder import FederationFolder, FleetSettings
from kits.deployment import free_ports, server, succeed
from kits.errors import raises


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.mark.parametrize(
    "address",
    [
        *("", "host", "host:", ":9443", "host:0", "host:65536", "host:port", "host:٣", "[::1]"),
        *("::1:9443", "[::1:9443", "::1]:9443", "[host]:9443", "[192.0.2.7]:9443", "a b:1"),
        *("[::1]]:1", "host:000443", "http://host:1", "ho/st:1"),
    ],
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="expected host:port"):
        split_address(address)


@pytest.mark.parametrize("address", ["[fd00::7]:9443", "192.0.2.7:1", "a.example:65535", "[::]:1"])
def test_an_address_is_read_as_it_is_written(address):
    assert join_address(*split_address(address)) == address


def test_the_coordinators_settings_take_ipv6_with_brackets_where_a_port_follows():
    settings = FleetSettings(address="[fd00::7]:9443", bind="[::]")
    assert (settings.host, settings.port, settings.bind) == ("fd00::7", 9443, "::")
    with pytest.raises(ValueError, match=r"such as \[::1\]:9443"):
        FleetSettings(address="fd00::7:9443")


@ipv6
def test_the_wildcard_of_ipv6_listens_to_both_families():
    (port,) = free_ports(1)
    with listening("::", port):
        assert listens("::", port) and listens("[::]", port) and listens("127.0.0.1", port)


@ipv6
def test_metrics_are_served_on_ipv6():
    with Endpoint(
        read=lambda: [], check=lambda: Health(checks={}), host="[::1]", port=0
    ) as endpoint:
        endpoint.start()
        assert endpoint.url.startswith("http://[::1]:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(f"{endpoint.url}/healthz").read() == b"ok\n"


@ipv6
def test_a_coordinator_and_a_doctor_meet_on_ipv6(tmp_path):
    fleet, superlink = free_ports(2)
    words = ("--name", "baltic", "--address", f"[::1]:{fleet}", "--bind", "[::1]")
    succeed(server(tmp_path, "init", *words, "--superlink-port", superlink))
    folder = FederationFolder(tmp_path)
    assert folder.file.fleet.bind == "::1"
    succeed(server(tmp_path, "up", "--detach"))
    try:
        found = handshake(f"[::1]:{fleet}", (folder.tls / "ca.crt").read_text())
        status = succeed(server(tmp_path, "status")).out
        checks = server(tmp_path, "metrics", "--check").out
    finally:
        succeed(server(tmp_path, "down"))
    assert (found.version, found.admitted) == ("TLSv1.3", False)
    assert f"stores connect to [::1]:{fleet}" in status
    assert "fleet: ok" in checks
    with raises("unreachable", match=rf"\[::1\]:{fleet} does not answer"):
        handshake(f"[::1]:{fleet}", (folder.tls / "ca.crt").read_text())
