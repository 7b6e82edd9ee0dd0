"""A store's page, from the folder of a store that took part in two rounds."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import time
from pathlib import Path

import polars as pl
import pytest

from hanse_client.deployment.budget import spending
from hanse_client.deployment.dry_run import preview
from hanse_client.deployment.folder import StoreFolder, create, load_node_key, make_node_key
from hanse_client.deployment.leave import Leaving
from hanse_client.deployment.preparing import prepare
from hanse_client.deployment.watch import state as watch_state
from hanse_client.deployment.watch.page import store_page
from hanse_client.ingest.store_config import load_store
from hanse_client.node import append_log
from hanse_common import bundle
from hanse_common.admission import node_key_digest, public_pem
from hanse_common.identity import AuthorityKey
from hanse_common.manifest import SignedManifest
from hanse_common.pages.live.parts import render
from hanse_common.paths import JOIN_LOCK_FILE, MODEL_FOLDER, SETTINGS_FILE
from hanse_common.wording import epsilon
from hanse_server.rounds import run_rounds
from hanse_simulations.datasets import make_stores

PARTS = {"now", "next", "leaves", "costs", "events", "data", "terms"}
QUOTED = "customer ADA-LOVELACE bought 7 RED-HERRINGS"


@pytest.fixture
def store(found_federation, store_cache) -> StoreFolder:
    """A store with its own data, prepared, after two private rounds under masks."""
    changes = {"privacy.mode": "distributed", "training.local_steps": 1}
    federation = found_federation(changes)
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    node, settings = federation.nodes()[0], federation.settings
    made = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    data = next(path for path in made.folders if path.name == node.name)
    shutil.copytree(data, node.folder, dirs_exist_ok=True)
    shutil.copy(data.parent / "catalogue.parquet", node.folder)
    toml = (data / "store.toml").read_text().replace("../catalogue", "catalogue")
    (node.folder / "store.toml").write_text(toml)
    shutil.copytree(node.settings.base_model, node.folder / MODEL_FOLDER)
    (node.folder / SETTINGS_FILE).write_text(settings.model_dump_json())
    folder = StoreFolder(node.folder)
    enrol_with_node_key(folder)
    prepare(folder)
    return folder


def enrol_with_node_key(folder: StoreFolder) -> None:
    """Give a simulated store a node key, and certificate, policy and terms of an authority."""
    make_node_key(folder.node_key, folder.node_public)
    public = public_pem(load_node_key(folder.node_key).public_key())
    authority, before = AuthorityKey.generate(), folder.membership()
    certificate = authority.certify(
        before.certificate.store_id,
        before.certificate.public_key,
        valid_from=before.certificate.valid_from,
        valid_until=before.certificate.valid_until,
        node_key=node_key_digest(public),
    )
    certificate.save(folder.certificate)
    terms = before.manifest.model_copy(update={"fab_digest": bundle.digest()})
    SignedManifest.sign(terms, authority).save(folder.manifest)
    text = folder.policy.read_text()
    folder.policy.write_text(text.replace(before.policy.authority, authority.public.hex()))


def shown(folder: StoreFolder) -> dict[str, str]:
    """The HTML of each part, by name."""
    page = store_page(folder.path)
    return {part.name: render(part, page.environment) for part in page.parts()}


def plain(html: str) -> str:
    """Its text on one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def broken(parts: dict[str, str]) -> set[str]:
    return {name for name, html in parts.items() if "This cannot be read" in html}


def test_it_shows_what_budget_and_dry_run_show_and_nothing_of_a_customer(store):
    append_log(store.path, round=2, error=f"[data] {QUOTED}")
    append_log(store.path, round=2, loss=0.98765, step=1, steps=1)
    with (store.path / JOIN_LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts = shown(store)
    assert set(parts) == PARTS
    assert not broken(parts)
    assert "The node runs and takes part." in parts["now"]
    told = spending(store)
    assert f"ε spent {epsilon(told['spent'])} of at most {told['limit']:g}" in plain(parts["now"])
    assert f"Rounds left {told['rounds left']:,}" in plain(parts["now"])
    sent = preview(store)
    for message in sent.messages:
        assert f"{message.stage} {message.size:,} {message.content}" in plain(parts["leaves"])
    assert "charged train, round 2" in plain(parts["events"])
    assert "refused: data" in plain(parts["events"])
    assert "Data up to date" in plain(parts["now"])
    assert "events.parquet" in parts["data"]
    everything = "".join(parts.values())
    assert "ADA" not in everything and "HERRING" not in everything and "0.98" not in everything
    events = pl.read_parquet(load_store(store.store_toml).events.path)
    words = {str(value) for row in events.head(400).iter_rows() for value in row} - {
        store.path.name
    }
    telling = {word for word in words if not re.fullmatch(r"[\d.:-]{1,6}|[a-z]{1,10}", word)}
    assert len(telling) > 100
    text = plain(everything)
    assert not [word for word in telling if word in text]


def test_counts_of_customers_are_not_shown(store):
    before = {name: html for name, html in shown(store).items() if name != "now"}
    note = store.path / "prepared.json"
    counts = json.loads(note.read_text())
    counts |= {"customers": 98_765, "rows": 87_654, "rejected": 76_543, "unranked": 65_432}
    note.write_text(json.dumps(counts))
    after = {name: html for name, html in shown(store).items() if name != "now"}
    assert before == after


def test_a_node_that_does_not_run_is_told_how_to(store):
    parts = shown(store)
    assert "The node does not run: the store takes part in no round." in parts["now"]
    assert f"hanse store join --folder {store.path}" in parts["next"]


def test_changed_data_are_said_with_the_command_that_prepares_them(store, monkeypatch):
    assert "outdated" not in shown(store)["data"]
    path = load_store(store.store_toml).events.path
    pl.read_parquet(path).head(-5).write_parquet(path)
    # Within the same half minute the comparison counts.
    later = time.time() + 60
    monkeypatch.setattr(watch_state.time, "time", lambda: later)
    parts = shown(store)
    assert "the data have changed since they were prepared" in parts["data"]
    assert f"hanse store data prepare --folder {store.path}" in parts["next"]


def test_a_spent_budget_is_said_first(store):
    policy = store.policy.read_text()
    lines = [line for line in policy.splitlines() if not line.startswith("max_epsilon")]
    store.policy.write_text("\n".join([*lines, "max_epsilon = 0.01\n"]))
    parts = shown(store)
    assert "The budget is spent" in parts["now"]
    assert "raise max_epsilon or set budget_renews" in parts["next"]


def test_a_store_that_left_is_not_told_to_join(store):
    Leaving(after_round=2, left=True).save(store.path)
    parts = shown(store)
    assert "This store has left the federation." in parts["now"]
    assert "hanse store leave --stay" in parts["next"]
    assert "hanse store join" not in parts["next"]


@pytest.mark.parametrize(
    ("damaged", "parts"),
    [
        ("ledger.sqlite", {"events", "costs", "leaves", "terms"}),
        ("store.toml", {"data"}),
        ("settings.json", {"leaves"}),
        ("enrolment/manifest.json", {"leaves", "terms"}),
        ("enrolment/policy.toml", {"leaves", "costs"}),
        ("leaving.json", {"now"}),
    ],
)
def test_a_damaged_file_is_said_in_its_parts_and_the_others_go_on(store, damaged, parts):
    path = store.path / damaged
    path.write_bytes(b"SQLite format 3\0" + b"[x" * 5000)
    found = broken(shown(store))
    assert parts <= found
    assert found < PARTS


def test_a_new_store_is_told_what_to_send_for(tmp_path: Path):
    folder = StoreFolder(tmp_path / "luebeck")
    create(folder, "luebeck")
    parts = shown(folder)
    assert "This store is not enrolled yet." in parts["now"]
    assert f"hanse store enrol --folder {folder.path}" in parts["next"]
