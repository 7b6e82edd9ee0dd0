"""A store's node against Flower's own SuperLink: TLS, authentication, the pin, real processes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from hanse_client.deployment import enrol
from hanse_client.deployment.cli import app
from hanse_client.deployment.doctor import examine
from hanse_client.deployment.folder import StoreFolder, make_node_key
from hanse_client.deployment.metrics import read_metrics
from hanse_client.deployment.preparing import prepare
from hanse_client.deployment.tls_check import read_tls_end
from hanse_client.features.histories import Histories
from hanse_client.ingest.store_config import load_store
from hanse_client.tasks.interest import InterestModel
from hanse_client.training.train import trained_arrays
from hanse_common.errors import (
    UNABLE,
    ExpiredCertificate,
    NotAdmitted,
    StoreNotReady,
    Unreachable,
    UntrustedServer,
)
from hanse_common.paths import AUTHORITY_FILE, INITIAL_FILE, MANIFEST_FILE, SETTINGS_FILE
from hanse_server.deployment import tls
from kits.alerting import Datagrams
from kits.apps.deployment import Coordinator, Joined, bundle, free_port, lay_out_store, make_tls

pytestmark = pytest.mark.slow

NAMES = ["bremen", "luebeck", "rostock"]


class Federation:
    """Three stores that have come in by the production commands' own functions."""

    def __init__(self, folder: Path, settings, data: list[Path], base: Path, **terms) -> None:
        self.settings = settings
        self.coordinator = Coordinator(folder / "coordinator")
        self.stores: dict[str, StoreFolder] = {}
        self.joined: list[Joined] = []
        self.runs = 0
        model = InterestModel.from_pretrained(base)
        model.train_only(settings.model.trainable)
        for name, source in zip(NAMES, data, strict=True):
            store = lay_out_store(folder / name, name, source)
            enrol.accept_invitation(store, self.coordinator.invitation())
            certificate = self.coordinator.admit(enrol.write_request(store))
            enrol.accept_certificate(store, certificate)
            self.stores[name] = store
        self.run = self.coordinator.found_run(
            "run", settings, trained_arrays(model), NAMES, **terms
        )
        for store in self.stores.values():
            enrol.accept_manifest(store, self.run / "manifest.json")
            enrol.accept_settings(store, self.run / "settings.json")
            enrol.accept_model(store, base)
            prepare(store)

    def again(self) -> Path:
        """A fresh folder for another run under the same terms."""
        self.runs += 1
        folder = self.run.with_name(f"run-{self.runs}")
        folder.mkdir()
        for path in self.run.iterdir():
            if path.name in (SETTINGS_FILE, MANIFEST_FILE, AUTHORITY_FILE, INITIAL_FILE):
                shutil.copyfile(path, folder / path.name)
        return folder

    def join(self, *names: str) -> list[Joined]:
        started = [Joined(self.stores[name].path) for name in names or NAMES]
        self.joined += started
        for process in started:
            process.wait_for("connected to")
        return started

    def stop(self) -> None:
        for process in self.joined:
            process.stop()
        self.coordinator.stop()


@pytest.fixture(scope="module")
def federation(secure_stores, store_cache, tmp_path_factory):
    """Three small synthetic stores, all joined; ends every process afterwards."""
    from hanse_simulations.datasets import make_stores

    settings, prepared = secure_stores
    data = make_stores(settings.data, seed=settings.seed, cache=store_cache).folders[:3]
    changed = settings.with_changes(
        {
            "federation.rounds": 1,
            "federation.evaluate_every": 1,
            "federation.minimum_cohort": 3,
        }
    )
    federation = Federation(
        tmp_path_factory.mktemp("federation"), changed, data, prepared.base_model
    )
    try:
        federation.join()
        yield federation
    finally:
        federation.stop()


@pytest.fixture
def copied(federation, tmp_path):
    """A copy of an enrolled store, to break."""
    shutil.copytree(federation.stores["luebeck"].path, tmp_path / "luebeck")
    return StoreFolder(tmp_path / "luebeck")


def ended(store: StoreFolder, *arguments: str) -> tuple[int, str]:
    """How `join` ends, and what it says last."""
    process = Joined(store.path, *arguments)
    status = process.wait_for_end()
    process.stop()
    return status, process.said().strip().splitlines()[-1]


def test_doctor_finds_nothing_wrong_with_a_store_that_is_ready(federation):
    findings = examine(federation.stores["bremen"])
    assert [found for found in findings if found.state == "failed"] == []
    said = {found.check: found.message for found in findings}
    assert "answers in" in said["server"] and "TLSv1" in said["TLS"]
    assert re.search(r"within \d s of the server's", said["clock"])


def test_doctor_and_join_say_the_same_of_another_root(federation, copied, tmp_path):
    make_tls(tmp_path / "other")
    root = (tmp_path / "other" / "ca.crt").read_bytes()
    federation.coordinator.invitation(root=root).save(copied.path / "invitation.json")
    (server,) = (found for found in examine(copied) if found.check == "server")
    assert server.state == "failed" and "[untrusted-server]" in server.message
    status, said = ended(copied, "--patience", "1")
    assert status == UntrustedServer.exit_status
    assert "[untrusted-server]" in said
    (copied.path / "join.log").unlink()
    waiting = Joined(copied.path)
    waiting.wait_for("[untrusted-server]; trying again")
    assert "is somebody in between" in waiting.said()
    waiting.stop()
    assert waiting.process.returncode == 0


def test_a_dry_run_says_what_a_round_costs_and_leaves_no_trace(federation, copied):
    before = {path.name for path in copied.path.iterdir()}
    line = ["join", "--dry-run", "--folder", str(copied.path), "--format", "json"]
    shown = json.loads(CliRunner().invoke(app, line).stdout)
    assert [part["stage"] for part in shown["messages"]] == [
        *("hello", "share", "mask", "confirm", "unmask")
    ]
    cost = shown["cost"]
    assert 0 < cost["epsilon after this round"] <= cost["limit of the policy"]
    assert cost["epsilon of all rounds"] < cost["epsilon with every spare exchange"]
    assert {path.name for path in copied.path.iterdir()} == before


def test_a_private_round_over_tls_with_authentication(federation):
    assert federation.coordinator.online() == set(NAMES)
    run = federation.coordinator.start_run(federation.run, stores=3)
    status = federation.coordinator.wait_for_run(run)
    assert status.sub_status == "completed", federation.coordinator.logged()
    assert list((federation.run / "checkpoints").iterdir())
    for store in federation.stores.values():
        (charge,) = store.node().ledger
        assert (charge.kind, charge.release.round) == ("charge", 1)


def test_a_node_notices_when_the_servers_certificate_ends(federation):
    (certificate,) = tls.read_certificates(federation.coordinator.folder / "tls" / "server.crt")
    store = federation.stores["bremen"]
    assert read_tls_end(store.path) == certificate.not_valid_after_utc.timestamp()
    [found] = [f for f in read_metrics(store.path) if "tls_certificate" in f.name]
    assert found.samples[0].value == certificate.not_valid_after_utc.timestamp()


def test_a_hostile_bundle_is_refused_and_none_of_its_code_runs(federation, tmp_path):
    """It brings a package that shadows the store's own, and would leave a file when imported."""
    canary = tmp_path / "imported"
    code = f"open({str(canary)!r}, 'w').close()\n"
    hostile = bundle(dict.fromkeys(["hanse_client/__init__.py", "torch/__init__.py"], code))
    run = federation.coordinator.start_run(federation.again(), stores=3, fab=hostile)
    status = federation.coordinator.wait_for_run(run)
    assert status.sub_status == "failed"
    assert not canary.exists()
    assert "[foreign-code] the app bundle's SHA-256 is" in status.details
    for process in federation.joined:
        assert ": [foreign-code] the app bundle" in process.said()
        assert "it brings 'hanse_client/__init__.py', 'torch/__init__.py'" in process.said()
    for store in federation.stores.values():
        assert "foreign-code" in (store.path / "log.jsonl").read_text()


def test_a_changed_bundle_without_code_is_refused_as_well(federation):
    changed = bundle({"LICENSE": "MIT\n"})
    run = federation.coordinator.start_run(federation.again(), stores=3, fab=changed)
    assert federation.coordinator.wait_for_run(run).sub_status == "failed"
    assert all("it holds no code" in process.said() for process in federation.joined)


def test_a_store_whose_data_disappear_says_so_and_stays(federation):
    store = federation.stores["rostock"]
    sales = Path(load_store(store.store_toml).events.path)
    aside = sales.with_name("elsewhere")
    sales.rename(aside)
    try:
        run = federation.coordinator.start_run(federation.again(), stores=3)
        assert federation.coordinator.wait_for_run(run).sub_status == "failed"
    finally:
        aside.rename(sales)
    assert UNABLE in federation.joined[2].said()
    assert "not prepared: no file matches" in federation.joined[2].said()
    assert str(sales) not in federation.coordinator.logged()
    assert str(sales) in (store.path / "log.jsonl").read_text()
    assert federation.coordinator.online() == set(NAMES)


def test_a_customer_erased_while_the_node_runs_is_gone_before_the_next_round(federation):
    store = federation.stores["luebeck"]
    sales = Path(load_store(store.store_toml).events.path)
    events, before = pl.read_parquet(sales), set(Histories.load(store.histories).customers)
    charged = [entry.hash for entry in store.node().ledger]
    left = events.filter(pl.col("user_id") != events["user_id"].min())
    left.write_parquet(store.path / "events.parquet")
    described = store.store_toml.read_text()
    store.store_toml.write_text(described.replace(json.dumps(str(sales)), '"events.parquet"'))
    try:
        run = federation.coordinator.start_run(federation.again(), stores=3)
        assert federation.coordinator.wait_for_run(run).sub_status == "completed"
        (_,) = before - set(Histories.load(store.histories).customers)
        assert "preparing the store's data: the data have changed" in (federation.joined[1].said())
        assert [entry.hash for entry in store.node().ledger][: len(charged)] == charged
    finally:
        store.store_toml.write_text(described)


def test_a_server_that_is_down_is_named(copied):
    invitation = copied.invitation().model_copy(update={"fleet": f"127.0.0.1:{free_port()}"})
    invitation.save(copied.path / "invitation.json")
    status, said = ended(copied, "--patience", "1")
    assert (status, "[unreachable]" in said) == (Unreachable.exit_status, True)


def test_a_node_tells_the_service_manager_what_it_waits_for(copied, tmp_path, monkeypatch):
    invitation = copied.invitation().model_copy(update={"fleet": f"127.0.0.1:{free_port()}"})
    invitation.save(copied.path / "invitation.json")
    heard = Datagrams(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(heard.path))
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    node = Joined(copied.path)
    monkeypatch.undo()
    node.wait_for("trying again")
    node.stop()
    assert node.process.returncode == 0
    said = heard.read()
    (ready,) = (index for index, line in enumerate(said) if line.startswith("READY=1"))
    assert any("[unreachable]" in line for line in said[ready:] if line.startswith("STATUS="))
    assert "WATCHDOG=1" in said[ready:]
    assert "STOPPING=1" in said[ready:]


def test_a_certificate_that_has_expired_is_named(federation, copied):
    request = enrol.write_request(copied)
    expired = federation.coordinator.admit(request, days=-0.01, register=False)
    shutil.copyfile(expired, copied.certificate)
    status, said = ended(copied)
    assert status == ExpiredCertificate.exit_status
    assert "ask the enrolment authority for a new one" in said


def test_a_node_key_that_nobody_admitted_is_not_let_in(federation, copied):
    copied.node_key.unlink()
    make_node_key(copied.node_key, copied.node_public)
    request = enrol.write_request(copied)
    certificate = federation.coordinator.admit(request, register=False)
    enrol.accept_certificate(copied, certificate)
    status, said = ended(copied, "--patience", "1")
    assert (status, "[not-admitted]" in said) == (NotAdmitted.exit_status, True)


def test_two_processes_cannot_be_one_store(federation):
    status, said = ended(federation.stores["bremen"])
    assert status == StoreNotReady.exit_status
    assert "another process is joined" in said


def test_a_store_stops_when_asked_and_says_goodbye(federation):
    process = federation.joined[0]
    process.process.terminate()
    assert process.wait_for_end() == 0
    assert process.said().strip().endswith('"event": "stopped", "store": "bremen"}')
    assert "bremen" not in federation.coordinator.online()


def test_a_revoked_store_ends_and_says_why(federation):
    federation.coordinator.revoke("luebeck")
    process = federation.joined[1]
    assert process.wait_for_end() == NotAdmitted.exit_status
    assert "revoked" in process.said().strip().splitlines()[-1]
