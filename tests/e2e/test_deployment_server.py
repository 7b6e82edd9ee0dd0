"""A coordinator's real processes on loopback: what is reachable, who gets in, what survives.

The SuperLink, the front before it and the stores' nodes are the real ones, over TLS, with
node authentication. Nothing here is faster than its imports: a message to a store's node
starts a process there.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from hanse_common.errors import DeploymentError
from hanse_common.flower import environment
from hanse_server.deployment.control import Control
from hanse_server.deployment.folder import FederationFolder
from hanse_server.deployment.tls_gateway import CALLS
from hanse_server.deployment.up import MOST_CRASHES
from kits.alerting import Datagrams, Webhook
from kits.commands import pids_of
from kits.deployment import PROGRAMS, StoreFiles, found, free_ports, server, succeed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A federation that is up, with one admitted store."""
    root = tmp_path_factory.mktemp("gate")
    found(root / "federation")
    store = StoreFiles(root / "luebeck", "luebeck")
    succeed(server(root / "federation", "admit", store.request, "--yes"))
    succeed(server(root / "federation", "up", "--detach"))
    yield root
    succeed(server(root / "federation", "down"))


def call(port: int, ca: Path, path: str, *, method: str = "POST") -> int:
    """The status that a call gets over TLS."""
    trust = ssl.create_default_context(cafile=str(ca))
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}{path}",
        data=b"" if method == "POST" else None,
        method=method,
        headers={"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE},
    )
    try:
        with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def node(root: Path, store: StoreFiles, ca: Path) -> tuple[int, str]:
    """How Flower's own node ends when it cannot get in, and what it says."""
    fleet, log = FederationFolder(root / "federation").file.fleet, store.folder / "refused.log"
    with log.open("wb") as output:  # no pipe: what Flower's node starts outlives it for a while
        status = subprocess.call(
            [
                str(PROGRAMS / "flower-supernode"),
                *("--superlink", fleet.address, "--root-certificates", str(ca)),
                *("--auth-supernode-private-key", str(store.node_key), "--max-retries", "1"),
                *("--host", "127.0.0.1", "--port", str(free_ports(1)[0])),
            ],
            env=environment(store.folder / "flower"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=120,
        )
    return status, log.read_text()


def test_only_fleet_calls_pass_the_exposed_port(gate):
    folder = FederationFolder(gate / "federation")
    fleet, inner = folder.file.fleet.port, folder.file.superlink.port
    outside, inside = folder.tls / "ca.crt", folder.tls / "loopback-ca.crt"
    for path in ("/v1/control/list-nodes", "/v1/control/start-run", "/v1/runtime/acquire-task"):
        assert call(fleet, outside, path) == 404
    assert call(inner, inside, "/v1/control/list-nodes") == 200
    for path in (
        "/",
        "/docs",
        "/openapi.json",
        "/health",
        "/v1/fleet/register-node",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e/control/list-nodes",
        "/v1/fleet/pull-messages/../../control/list-nodes",
        "/v1/fleet/pull-messages;/../../control/list-nodes",
        "//v1/control/list-nodes",
        "/v1/fleet/pull-messages?x=/v1/control/list-nodes",
    ):
        assert call(fleet, outside, path) == 404, path
    assert call(fleet, outside, "/v1/control/list-nodes", method="GET") == 404
    assert call(fleet, outside, "/v1/fleet/pull-messages", method="GET") == 404


def test_fleet_calls_ask_for_the_signature_of_an_admitted_node(gate):
    folder = FederationFolder(gate / "federation")
    for path in sorted(CALLS):
        assert call(folder.file.fleet.port, folder.tls / "ca.crt", path) == 401, path


def test_the_superlink_listens_on_loopback_only(gate):
    port = FederationFolder(gate / "federation").file.superlink.port
    addresses = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in addresses if line.split()[3] == "0A"]
    assert [a for a in listening if int(a.partition(":")[2], 16) == port] == [
        f"0100007F:{port:04X}"
    ]


def test_a_node_that_was_not_admitted_is_refused(gate, tmp_path):
    stranger = StoreFiles(tmp_path / "stranger", "stranger")
    _, said = node(gate, stranger, gate / "federation" / "tls" / "ca.crt")
    assert "SuperNode terminated" in said  # Flower's node takes a 401 as an order to end
    rows = succeed(server(gate / "federation", "status", "--format", "json")).json["stores"]
    assert [(row["store"], row["connection"]) for row in rows] == [("luebeck", "never")]
    logged = (gate / "federation" / "state" / "up.log").read_text()
    assert "refused a node at 127.0.0.1: its key is not of an admitted store" in logged


def test_a_node_with_another_root_does_not_talk_to_the_coordinator(gate, tmp_path):
    found(tmp_path / "other")
    luebeck = StoreFiles.__new__(StoreFiles)
    luebeck.folder, luebeck.node_key = gate / "luebeck", gate / "luebeck" / "node.key"
    status, said = node(gate, luebeck, tmp_path / "other" / "tls" / "ca.crt")
    assert status != 0 and "CERTIFICATE_VERIFY_FAILED" in said
    rows = succeed(server(gate / "federation", "status", "--format", "json")).json["stores"]
    assert [(row["store"], row["connection"]) for row in rows] == [("luebeck", "never")]


def test_a_federation_is_up_once(gate):
    again = server(gate / "federation", "up")
    assert again.status == 42 and "is up already" in again.err
    assert server(gate / "federation", "up", "--detach").status == 42


def test_a_front_whose_certificate_has_become_useless_does_not_start(tmp_path):
    found(tmp_path / "f")
    found(tmp_path / "g")
    stray = (tmp_path / "g" / "tls" / "ca.crt").read_bytes()
    (tmp_path / "f" / "tls" / "ca.crt").write_bytes(stray)
    done = server(tmp_path / "f", "up", "--detach")
    assert done.status == 41 and "stores will refuse" in done.err and "[tls]" in done.err


def test_a_taken_port_is_named(gate, tmp_path):
    found(tmp_path / "f")
    taken = FederationFolder(gate / "federation").file.fleet.port
    path = tmp_path / "f" / "federation.toml"
    path.write_text(path.read_text().replace("[fleet]", f"[fleet]\nlisten = {taken}"))
    done = server(tmp_path / "f", "up")
    assert done.status == 41 and "fleet.listen" in done.err


def test_a_process_that_dies_is_started_again_until_that_is_too_often(tmp_path):
    """SuperExec and SuperLink in turn are named; at last `up` ends, and somebody is told."""
    found(tmp_path / "f")
    hook = Webhook()
    with (tmp_path / "f" / "federation.toml").open("a") as file:
        file.write(f"\n[notify.webhook]\nurl = {hook.url!r}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "hanse_server", "up", "--folder", str(tmp_path / "f")],
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = FederationFolder(tmp_path / "f")
    assert process.stderr is not None
    names = ("the SuperExec, which starts runs,", "the SuperLink")
    programs = ("flower-superexec", "hanse_server.deployment.superlink")
    for number in range(MOST_CRASHES + 1):
        assert any("up: 0 stores" in line for line in process.stderr)
        (victim,) = pids_of(programs[number % 2], folder.path)
        assert victim in children(process.pid)
        os.kill(victim, signal.SIGKILL)
        ended = f"{names[number % 2]} ended with status -9"
        if number < MOST_CRASHES:
            line = next(line for line in process.stderr if "starting it again" in line)
            assert json.loads(line)["event"].startswith(ended)
            status = succeed(server(folder.path, "status", "--format", "json")).json
            assert any(ended in warning for warning in status["warnings"])
    assert process.wait(timeout=30) == DeploymentError.exit_status
    assert "superlink.log" in process.stderr.read()
    (told,) = (body for body in hook.bodies if body["event"] == "coordinator-stopped")
    assert (told["event"], told["source"]) == ("coordinator-stopped", "baltic")
    assert "[superlink-failed]" in told["message"] and told["next"] == "hanse server up"
    assert server(tmp_path / "f", "stop").status == 45
    assert not (folder.path / "runs").exists()


def test_up_ends_in_order_with_everything_it_started(tmp_path, monkeypatch):
    """The service manager hears that it is ready, that it is alive, and that it ends."""
    found(tmp_path / "f")
    heard = Datagrams(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(heard.path))
    monkeypatch.setenv("WATCHDOG_USEC", "900000")
    pid = int(succeed(server(tmp_path / "f", "up", "--detach")).out)
    below = children(pid)
    assert len(below) == 2, "the SuperLink and its SuperExec"
    assert succeed(server(tmp_path / "f", "down")).out.strip() == str(pid)
    assert not any(Path(f"/proc/{child}").exists() for child in below)
    assert superlink_gone(FederationFolder(tmp_path / "f"))
    log = (tmp_path / "f" / "state" / "up.log").read_text()
    assert "Traceback" not in log and "error" not in log
    messages = heard.read()
    (ready,) = (message for message in messages if message.startswith("READY=1"))
    assert "WATCHDOG=1" in messages[messages.index(ready) :]
    assert messages.index("STOPPING=1") > messages.index(ready)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()]


def superlink_gone(folder: FederationFolder) -> bool:
    from hanse_common.errors import SuperLinkDown

    try:
        with Control(folder) as control:
            control.nodes()
    except SuperLinkDown:
        return True
    return False
