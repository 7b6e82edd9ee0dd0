"""What a coordinator and a store show of a real secure run: true figures, and no customer's."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hanse_common.audit.evidence import Evidence
from hanse_common.audit.spending import budget_of
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.monitoring import MAY_BE_SHOWN_BY_A_COORDINATOR, MAY_BE_SHOWN_BY_A_STORE

COMMANDS = {"server": "hanse_server.metrics_cli", "store": "hanse_client.deployment.metrics_cli"}


@contextmanager
def serving(side: str, folder: Path):
    """The real command in a process of its own; yields where it answers."""
    program = f"import typer; from {COMMANDS[side]} import metrics; typer.run(metrics)"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--folder", str(folder), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        yield process.stderr.readline().strip().removesuffix("/metrics")
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(url: str) -> dict[tuple[str, ...], float]:
    """Samples by name and label values."""
    status, text = get(f"{url}/metrics")
    assert status == 200
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(url: str) -> dict[str, tuple[str, ...]]:
    """Names of figures and of their labels."""
    _, text = get(f"{url}/metrics")
    return {
        family.name: tuple(sorted({label for s in family.samples for label in s.labels} - {"le"}))
        for family in text_string_to_metric_families(text)
        if family.samples
    }


@pytest.fixture
def whole_run(found_federation, tmp_path):
    """Two private rounds under masks; a store leaves the first one at stage 2."""
    changes = {"privacy.mode": "distributed", "training.local_steps": 1}
    (tmp_path / "coordinator" / "runs").mkdir(parents=True)
    federation = found_federation(changes, name="coordinator/runs/trial")
    settings = federation.folder.path / "settings.json"
    settings.write_text(federation.settings.model_dump_json())
    absent = federation.names[1]
    told = []

    def to_store(store, message):
        if (store, message.metadata.message_type) == (absent, "train.mask") and not told:
            told.append(store)
            return None
        return message

    federation.faults.to_store = to_store
    run_rounds(federation.grid(stage_seconds=0.05), federation.folder.path, federation.settings)
    assert told == [absent]
    return federation, tmp_path / "coordinator"


def test_a_coordinators_figures_are_those_of_its_run(whole_run):
    federation, folder = whole_run
    certificates = folder / "certificates"
    certificates.mkdir()
    for node in federation.nodes():
        node.enrolment.certificate.save(certificates / node.name)
    stages = read_stages(folder / "runs" / "trial")
    with serving("server", folder) as url:
        found, names = figures(url), shown(url)
    trained = [stage for stage in stages if stage["stage"] == "train"]
    assert found["hanse_run_rounds_done", "trial"] == len(trained) == 2
    assert found["hanse_run_rounds", "trial"] == federation.settings.federation.rounds
    assert found["hanse_run_finished", "trial"] == 1
    assert found["hanse_run_failed", "", "trial"] == 0
    assert found["hanse_attempts_total", "trial", "train"] == 2
    assert found["hanse_stage_stores", "trial", "train"] == 5
    lost = ("hanse_stores_lost_total", "mask", "no-reply", "trial", "train", federation.names[1])
    assert found[lost] == 1
    assert found["hanse_stage_seconds_count", "trial", "train"] == 2
    total = sum(stage["seconds"] for stage in trained)
    assert found["hanse_stage_seconds_sum", "trial", "train"] == pytest.approx(total)
    assert 0.8 < found["hanse_noise_share", "trial"] < 1.2
    until = federation.nodes()[0].enrolment.certificate.valid_until
    ends = found["hanse_certificate_end_timestamp_seconds", federation.names[0]]
    assert ends == pytest.approx(until)
    assert names.items() <= MAY_BE_SHOWN_BY_A_COORDINATOR.items()
    # What the stores' vectors add up to is in the run's folder, and not here.
    sums = {value for stage in stages for value in stage["sums"].values()}
    assert sums
    assert not sums & set(found.values())


def test_a_stores_figures_are_those_of_its_ledger(whole_run):
    federation, _ = whole_run
    node = federation.nodes()[0]
    evidence = Evidence(
        store=node.name,
        ledger=node.folder / "ledger.sqlite",
        enrolment=node.enrolment.folder,
        simulated=True,
    )
    row = budget_of(evidence, stores=())
    log = [json.loads(line) for line in (node.folder / "log.jsonl").read_text().splitlines()]
    node.log(error="DataError: customer ADA bought twice")
    with serving("store", node.folder) as url:
        found, names = figures(url), shown(url)
    assert found[("hanse_store_epsilon_spent",)] == pytest.approx(row.spent)
    assert found[("hanse_store_epsilon_left",)] == pytest.approx(row.left)
    assert found[("hanse_store_epsilon_limit",)] == pytest.approx(row.limit)
    assert found[("hanse_store_rounds_left",)] == row.rounds_left
    assert found[("hanse_store_rounds_total",)] == 2
    assert found["hanse_store_ledger_entries_total", "charge"] == len(evidence.entries())
    assert found["hanse_store_refusals_total", "data"] == 1
    last = found[("hanse_store_last_exchange_timestamp_seconds",)]
    assert last >= log[-1]["time"]
    assert names.items() <= MAY_BE_SHOWN_BY_A_STORE.items()
    losses = {line["loss"] for line in log if "loss" in line}
    assert losses
    assert not losses & set(found.values())


def test_a_store_is_ready_while_its_node_runs_and_may_take_part(whole_run):
    federation, _ = whole_run
    node = federation.nodes()[0]
    with serving("store", node.folder) as url, (node.folder / "join.lock").open("w") as lock:
        assert get(f"{url}/healthz") == (200, "ok\n")
        status, text = get(f"{url}/readyz")
        assert status == 503
        assert json.loads(text)["checks"]["joined"] == "`hanse store join` does not run"
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert get(f"{url}/readyz")[0] == 200
        assert figures(url)[("hanse_store_joined",)] == 1
        # A damaged ledger is told by its code, and hides neither the others nor the process.
        (node.folder / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
        assert get(f"{url}/readyz")[0] == 503
        found = figures(url)
        assert found["hanse_read_errors", "ledger"] == 1
        assert found[("hanse_store_joined",)] == 1


def test_a_spent_budget_is_not_ready(whole_run):
    federation, _ = whole_run
    node = federation.nodes()[0]
    policy = node.enrolment.folder / "policy.toml"
    lines = [line for line in policy.read_text().splitlines() if not line.startswith("max_eps")]
    policy.write_text("\n".join([*lines, "max_epsilon = 0.01\n"]))
    with (node.folder / "join.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = check("store", node.folder)
    assert done.returncode == 6
    assert json.loads(done.stdout)["checks"]["budget"] == "the policy's epsilon is spent"


def check(side: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from hanse_common.cli import main; main()"
    command = (side, "metrics", "--folder", folder, "--check", "--format", "json")
    return subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_coordinator_is_ready_when_stores_can_connect(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (tmp_path / "federation.toml").write_text(
            f"name = 'trial'\n[fleet]\naddress = 'coordinator:{port}'\nbind = '127.0.0.1'\n"
        )
        checks = json.loads(check("server", tmp_path).stdout)["checks"]
        assert checks["up"] == "`hanse server up` does not run"
        assert checks["fleet"] == "ok"
        assert checks["certificate"].endswith("server.crt cannot be read")
        (tmp_path / "state").mkdir()
        write_certificate(tmp_path / "tls" / "server.crt")
        with (tmp_path / "state" / "up.pid").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = check("server", tmp_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert set(json.loads(done.stdout)["checks"].values()) == {"ok"}
    done = check("server", tmp_path)
    assert done.returncode == 6
    assert "[not-ready]" in done.stderr


def write_certificate(path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "coordinator")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path.parent.mkdir()
    path.write_bytes(made.public_bytes(Encoding.PEM))


def test_an_endpoint_on_loopback_answers_nobody_who_came_by_another_name(tmp_path):
    """A web page whose name is made to lead to this machine gets nothing."""
    with serving("server", tmp_path) as url:
        assert get(f"{url}/metrics", Host="evil.example.org")[0] == 403
        assert get(f"{url}/metrics", Host="localhost:9464")[0] == 200
        assert get(f"{url}/../etc/passwd")[0] == 404
