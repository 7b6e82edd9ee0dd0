"""What goes wrong in a deployment, each in a run of its own: both sides say it, and go on.

One coordinator and five stores by their operators' commands alone, over TLS with node
authentication. Every fault is a real one: processes are killed, a disk is full, files are
gone, a coordinator is put back to an older state. Every test mends what it broke.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hanse_client.deployment.folder import StoreFolder
from hanse_client.deployment.tls_check import handshake
from hanse_common.errors import UNABLE, RoundFailed, RunNotFound
from hanse_common.manifest import SignedManifest
from hanse_common.paths import PROGRESS_FILE
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.plan import PrivacyPlan
from hanse_server.app import read_settings
from hanse_server.deployment import tls
from hanse_server.stage_log import read_stages
from kits.commands import QuickShops, edit, joined_shops
from kits.deployment import as_toml, wait_for
from kits.disk import small_disk
from kits.errors import raises
from kits.forwarding import Forwarder

pytestmark = pytest.mark.slow

STAGES = 5
"""Of an exchange, a message each to every store."""


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    """Five stores that are joined, for runs of one round that can lose one of them."""
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": 1,
            "federation.evaluate_every": 1,
            # All runs here are under one manifest, whose exchanges are granted once.
            "federation.spare_exchanges": 40,
            "privacy.noise_multiplier": 20.0,
        }
    )
    wait = {"connect": 240, "absent": 1, "train": 90, "stage": 25}
    root = tmp_path_factory.mktemp("faults")
    with joined_shops(root, settings, store_cache, wait=wait, quick=QuickShops) as shops:
        yield shops


def run(shops, name):
    """A run from its start to its end; returns who is in the sum, and why others are not."""
    done = shops.server("run", "--name", name, "--format", "json", timeout=500)
    assert done.json["state"] == "finished"
    return trained(shops, name)


def trained(shops, name):
    (line,) = (line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train")
    return line["replies"], line["refusals"]


def charges(shops):
    return {name: len(shops.charges(name)) for name in shops.stores}


DEATHS = {
    "before it trains": ("bremen", "train:before:1", "hello", 4, 0),
    "before it deals shares": ("danzig", "train.share:before:1", "share", 4, 0),
    "with its upload charged and not sent": ("luebeck", "train.mask:after:1", "mask", 4, 1),
    "before it confirms the survivors": ("riga", "query.confirm:before:1", "confirm", 5, 1),
    "before it gives its shares": ("rostock", "query.unmask:before:1", "unmask", 5, 1),
}


@pytest.mark.parametrize("moment", DEATHS)
def test_a_store_killed_at_any_stage_is_named_and_the_round_goes_on(shops, moment):
    """Who is lost after its masked vector has come is in the sum all the same."""
    name, where, stage, in_the_sum, charged = DEATHS[moment]
    before = charges(shops)
    dying = shops.join_and_die(name, where)
    shops.wait_until_online()
    shops.server("run", "--name", f"killed-at-{stage}", "--detach")
    assert dying.wait_for_end() == -signal.SIGKILL
    dying.stop()
    shops.join(name)  # comes back as soon as the coordinator has given the dead one up
    assert shops.wait_for_end(f"killed-at-{stage}")["state"] == "finished"
    replies, refusals = trained(shops, f"killed-at-{stage}")
    assert (replies, list(refusals)) == (in_the_sum, [name])
    assert refusals[name].startswith(f"at stage '{stage}': ")
    expected = {other: count + 1 for other, count in before.items()} | {
        name: before[name] + charged
    }
    assert charges(shops) == expected, "a ledger counts what may have left, and nothing else"
    shops.wait_until_online()
    assert shops.audit()["ok"]


def test_a_run_that_is_stopped_goes_on_when_it_is_resumed(shops):
    shops.server("run", "--name", "stopped", "--detach")
    progress = shops.run_dir("stopped") / PROGRESS_FILE
    wait_for(progress.exists, "the first stage", 120)
    # A node that stands still keeps the round from its end until the run is stopped.
    still = shops.joined["riga"].process.pid
    os.killpg(still, signal.SIGSTOP)
    try:
        stopped = shops.server("stop", "--format", "json").json
    finally:
        os.killpg(still, signal.SIGCONT)
    assert (stopped["name"], stopped["state"]) == ("stopped", "stopped")
    assert shops.try_server("stop").status == RunNotFound.exit_status
    done = shops.server("resume", "--format", "json", timeout=500).json
    assert (done["state"], trained(shops, "stopped")) == ("finished", (5, {}))


def test_too_few_stores_pause_a_run_which_goes_on_when_they_come_back(shops):
    dying = [shops.join_and_die(name, "train:before:1") for name in ("bremen", "danzig")]
    shops.wait_until_online()
    shops.server("run", "--name", "too-few", "--detach")
    for node in dying:
        assert node.wait_for_end() == -signal.SIGKILL
        node.stop()
    ended = shops.wait_for_end("too-few")
    assert (ended["state"], ended["failure"]["code"]) == ("recovering", RoundFailed.code)
    assert all(name in ended["failure"]["message"] for name in ("bremen", "danzig"))
    for name in ("bremen", "danzig"):
        shops.join(name)
    shops.wait_for_state("too-few", "finished")
    replies, _ = trained(shops, "too-few")
    assert replies in (4, 5), "as many as were back when it went on"
    shops.wait_until_online()


def test_a_stricter_policy_and_a_spent_budget_are_named_at_both_sides(shops):
    """Two of five refuse, so that the run ends; neither is charged, and it goes on later."""
    strict, poor = shops.stores["luebeck"], shops.stores["riga"]
    limit = SignedManifest.load(poor.manifest).unchecked.privacy.target_epsilon
    spend(shops, "riga", Budget(max_epsilon=limit))
    before, refused = charges(shops), len(shops.refused("riga"))
    kept = {store: store.policy.read_text() for store in (strict, poor)}
    edit(strict.policy, {"minimum_cohort": 5})
    edit(poor.policy, {"max_epsilon": limit})
    try:
        done = shops.try_server("run", "--name", "refused", timeout=400)
    finally:
        for store, text in kept.items():
            store.policy.write_text(text)
    assert done.status == RoundFailed.exit_status
    rows = shops.rows()
    for name, code in (("luebeck", "policy-violation"), ("riga", "budget-spent")):
        assert f"[{code}]" in done.err and f"[{code}]" in rows[name]["refusal"]
        assert f"[{code}]" in shops.joined[name].said()
    assert {name: charges(shops)[name] for name in ("luebeck", "riga")} == {
        name: before[name] for name in ("luebeck", "riga")
    }
    assert len(shops.refused("riga")) > refused, "the refusal is in the store's ledger"
    assert shops.audit()["ok"]
    go_on = shops.server("resume", "--name", "refused", "--format", "json", timeout=500)
    assert (go_on.json["state"], trained(shops, "refused")) == ("finished", (5, {}))


def renew_terms(shops, *, spare):
    """Sign other terms, and let every store take them in.

    Round 1 was begun so often by the tests before that it is begun no more under the old ones.
    """
    settings = read_settings(shops.folder.path).with_changes({"federation.spare_exchanges": spare})
    path = shops.folder.path / "settings.toml"
    path.write_text(as_toml(settings.model_dump(mode="json", exclude_none=True)))
    shops.server("manifest", "sign")
    for name, node in shops.joined.items():
        node.stop()
        terms = ("--manifest", shops.folder.manifest, "--settings", shops.folder.settings)
        shops.store(name, "enrol", *terms)
        shops.join(name)
    shops.wait_until_online()


def spend(shops, name, budget):
    """Charge a store's ledger, as for another federation, until nothing more fits."""
    store = shops.stores[name]
    node, plan = store.node(), PrivacyPlan.from_settings(store.settings())
    one, numbers = plan.round_charge(), itertools.count(1)
    for rounds in (64, 8, 1):  # few entries: an audit asks two accountants about each
        charge = replace(one, steps=replace(one.steps, count=rounds * one.steps.count))
        with raises("budget-spent"):
            for number in numbers:
                node.charge(charge.of(round=number), budget=budget)


@contextmanager
def gone(path: Path):
    """A file is elsewhere for a while."""
    aside = path.with_name(f"elsewhere-{path.name}")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


def test_data_that_disappear_are_named_at_both_sides_and_the_round_goes_on(shops):
    store = shops.stores["danzig"]
    # The source too: a node that only lacks what was prepared of it prepares it again.
    events = Path(tomllib.loads(store.store_toml.read_text())["events"]["path"])
    before = charges(shops)
    with gone(store.histories), gone(events):
        replies, refusals = run(shops, "no-data")
    assert (replies, list(refusals)) == (4, ["danzig"])
    assert UNABLE in refusals["danzig"] and "[data]" not in refusals["danzig"]
    stages = json.dumps(read_stages(shops.run_dir("no-data")))
    assert str(store.histories) not in stages and str(events) not in stages
    assert "error" in (store.path / "log.jsonl").read_text().splitlines()[-1]
    assert charges(shops)["danzig"] == before["danzig"]
    assert run(shops, "data-again") == (5, {})


def test_a_full_disk_is_named_at_both_sides_and_nothing_leaves_uncharged(shops):
    with on_a_small_disk(shops, "rostock") as disk:
        shops.wait_until_online()
        before = charges(shops)
        filling = disk / "filling"
        with pytest.raises(OSError, match="No space left"), filling.open("wb") as file:
            while True:
                file.write(bytes(1024))
                file.flush()
        replies, refusals = run(shops, "full-disk")
        filling.unlink()
        assert (replies, list(refusals)) == (4, ["rostock"])
        assert "[disk-full]" in refusals["rostock"], refusals
        assert "[disk-full]" in shops.joined["rostock"].said()
        assert charges(shops)["rostock"] == before["rostock"]
        assert run(shops, "room-again") == (5, {})
        shops.joined["rostock"].stop()
    assert shops.audit()["ok"]


@contextmanager
def on_a_small_disk(shops, name):
    """Move a store to a disk of its own, and back afterwards."""
    store = shops.stores[name]
    size = sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    with small_disk(size // 1024 + 2048) as disk:
        shops.joined[name].stop()
        shutil.copytree(store.path, disk / name, symlinks=True)
        shops.stores[name] = StoreFolder(disk / name)
        shops.join(name)
        try:
            yield disk
        finally:  # whatever happened: the tests that follow go on with this store
            shops.joined[name].stop()
            shutil.rmtree(store.path)
            shutil.copytree(disk / name, store.path, symlinks=True)
            shops.stores[name] = store
            shops.join(name)
    shops.wait_until_online()


def test_a_round_that_a_coordinator_plays_again_is_refused_by_every_store(shops, tmp_path):
    """All five stages once more after the exchange, message for message."""
    renew_terms(shops, spare=38)
    replayed = tmp_path / "replayed.jsonl"
    shops.server("down")
    shops.up(
        PYTHONPATH=str(Path(__file__).parents[1] / "kits" / "apps" / "replaying"),
        HANSE_REPLAYED=str(replayed),
    )
    shops.wait_until_online()
    before = charges(shops)
    assert run(shops, "replayed") == (5, {})
    said = [json.loads(line) for line in replayed.read_text().splitlines()]
    assert len(said) == STAGES * len(shops.stores)
    assert {line["why"].partition("]")[0] for line in said} == {"[attempt-refused", "[out-of-turn"}
    assert all("[attempt-refused]" in line["why"] for line in said if line["kind"] == "train")
    for name in shops.stores:
        assert "train: [attempt-refused]" in shops.joined[name].said()
    assert charges(shops) == {name: count + 1 for name, count in before.items()}
    shops.server("down")
    shops.up()
    shops.wait_until_online()
    assert shops.audit()["ok"]


def test_a_certificate_that_expires_in_mid_run_is_renewed_and_every_store_stays(shops, monkeypatch):
    """A store whose line drops meanwhile waits, says why, and goes on by itself."""
    line = Forwarder()
    monkeypatch.setenv("HTTPS_PROXY", line.url)
    shops.joined["riga"].stop()
    node = shops.join("riga")
    monkeypatch.delenv("HTTPS_PROXY")
    shops.wait_until_online()
    before = pids(shops)
    ends = expire_in(shops, seconds=15)
    shops.server("run", "--name", "expired", "--detach")
    wait_for((shops.run_dir("expired") / PROGRESS_FILE).exists, "the first stage", 120)
    os.killpg(node.process.pid, signal.SIGSTOP)  # the round waits for this store
    wait_for(lambda: datetime.now(UTC) > ends, "the certificate's end", 60)
    assert line.cut() > 0
    os.killpg(node.process.pid, signal.SIGCONT)
    node.wait_for(f"expired on {ends.date()}")
    assert "hanse server tls renew" in node.said() and "in between" not in node.said()
    shops.server("tls", "renew")
    node.wait_for("the server answers again")
    assert shops.wait_for_end("expired")["state"] == "finished"
    assert trained(shops, "expired") == (5, {})
    assert pids(shops) == before, "no process was started anew, at either side"
    line.close()
    shops.joined["riga"].stop()
    shops.join("riga")
    shops.wait_until_online()


def pids(shops):
    nodes = {name: node.process.pid for name, node in shops.joined.items()}
    assert all(node.process.poll() is None for node in shops.joined.values())
    return nodes | {"coordinator": shops.status()["pid"]}


def expire_in(shops, *, seconds):
    """Put a certificate in place that soon expires, and wait until the gateway uses it."""
    folder = shops.folder.tls
    root_key, key = (
        load_pem_private_key((folder / name).read_bytes(), None)
        for name in ("ca.key", "server.key")
    )
    (root,) = tls.read_certificates(folder / "ca.crt")
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=seconds)
    _, certificate = tls.make_server(root_key, root, ("127.0.0.1",), key=key, until=ends)
    tls.save_certificate(folder / "server.crt", certificate)
    fleet, ca = shops.folder.file.fleet.address, (folder / "ca.crt").read_text()
    wait_for(lambda: handshake(fleet, ca).expires == ends.timestamp(), "the new certificate", 10)
    return ends


def test_a_coordinator_put_back_to_an_older_state_is_found_out_by_every_store(shops, tmp_path):
    """Last, since stores that have seen a log go on do not trust what lies before it again."""
    renew_terms(shops, spare=39)
    shops.server("down")
    shutil.copytree(shops.folder.path, tmp_path / "backup")
    shops.up()
    shops.wait_until_online()
    assert run(shops, "before-the-crash") == (5, {})
    shops.server("down")
    shutil.rmtree(shops.folder.path)
    shutil.copytree(tmp_path / "backup", shops.folder.path)
    shops.up()
    shops.wait_until_online()
    before = charges(shops)
    done = shops.try_server("run", "--name", "before-the-crash", timeout=400)
    assert done.status != 0 and "[log-forked]" in done.err
    rows = shops.rows()
    for name in shops.stores:
        assert "[log-forked]" in rows[name]["refusal"]
        assert "[log-forked]" in shops.joined[name].said()
    assert charges(shops) == before
    wait_for(lambda: not shops.status()["progress"], "the run's end", 30)
