"""A deployment on ordinary days: what crashes or goes away comes back, and the run goes on.

One coordinator and five stores by their operators' commands, under terms with which one of them
may be away. Nobody types `resume` here: every run ends by itself, and every ledger is true.
"""

from __future__ import annotations

import re
import shutil
import signal
from contextlib import contextmanager

import polars as pl
import pytest

from hanse_client.features.histories import Histories
from hanse_client.ingest.store_config import load_store
from hanse_common.errors import RoundFailed
from hanse_server.deployment.up import running
from hanse_server.stage_log import CONNECT, read_progress, read_stages
from kits.apps.deployment import Joined
from kits.commands import QuickShops, edit, joined_shops, kill, pids_of
from kits.deployment import wait_for
from kits.disk import small_disk

pytestmark = pytest.mark.slow

ROUNDS = 3
WAIT = {"connect": 240, "absent": 240, "train": 120, "stage": 40}
"""Seconds, longer than any restart on a busy machine; tests of a deadline shorten them."""


@pytest.fixture(scope="module")
def shops(secure_stores, store_cache, tmp_path_factory):
    settings = secure_stores[0].with_changes(
        {
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            # All runs here are under one manifest, whose exchanges are granted once.
            "federation.spare_exchanges": 80,
            "privacy.noise_multiplier": 20.0,
        }
    )
    root = tmp_path_factory.mktemp("days")
    with joined_shops(root, settings, store_cache, wait=WAIT, quick=QuickShops) as shops:
        yield shops


@contextmanager
def waiting_for_seconds(shops, seconds):
    """Runs that are started meanwhile wait for stores no longer than so many seconds."""
    file = shops.folder.path / "federation.toml"
    edit(file, {"connect": seconds, "absent": seconds})
    try:
        yield
    finally:
        edit(file, {"connect": WAIT["connect"], "absent": WAIT["absent"]})


def trained(shops, name):
    """The number of stores in each round's sum."""
    stages = read_stages(shops.run_dir(name))
    return [line["replies"] for line in stages if line["stage"] == "train"]


def ends(shops, name):
    """Wait until a run has finished by itself; returns the stores in each round."""
    assert shops.wait_for_state(name, "finished")["round"] == ROUNDS
    return trained(shops, name)


def ledgers_are_true(shops, name, before):
    """Every store was charged for what it was in, and for no more rounds than were begun."""
    audit = shops.audit()
    assert audit["ok"], audit
    stages = [line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train"]
    for store, count in before.items():
        summed = sum(store not in line["refusals"] for line in stages)
        assert len(shops.charges(store)) >= count + summed


def charges(shops):
    return {name: len(shops.charges(name)) for name in shops.stores}


def test_stores_that_are_killed_and_come_back_cost_no_round(shops):
    """Two of five die in round 1: the second attempt waits until they are back."""
    before = charges(shops)
    dying = [shops.join_and_die(name, "train:before:1") for name in ("bremen", "danzig")]
    shops.wait_until_online()
    shops.server("run", "--name", "killed", "--detach")
    for node in dying:
        assert node.wait_for_end() == -signal.SIGKILL
        node.stop()
    run_dir = shops.run_dir("killed")
    wait_for(lambda: read_progress(run_dir).get("stage") == CONNECT, "the run waits", 120)
    assert {"bremen", "danzig"} >= set(read_progress(run_dir)["waiting"])
    assert "waited for" in {row["stage"] for row in shops.rows().values()}
    for name in ("bremen", "danzig"):
        shops.join(name)
    assert ends(shops, "killed") == [5] * ROUNDS
    first = next(line for line in read_stages(run_dir) if line["stage"] == "train")
    assert (first["round"], first["attempts"]) == (1, 2)
    ledgers_are_true(shops, "killed", before)


def test_a_run_begins_without_a_store_and_takes_it_in_when_it_comes(shops):
    shops.joined["riga"].stop()
    before = charges(shops)
    shops.server("run", "--name", "late", "--stores", "4", "--detach")
    shops.wait_for_round("late", 1)
    shops.join("riga")
    found = ends(shops, "late")
    assert found[0] == 4 and found[-1] in (4, 5)
    shops.wait_until_online()
    ledgers_are_true(shops, "late", before)


# The run's own process and the SuperLink are killed in `test_deployment.py`.
CRASHES = {
    "what starts runs": lambda shops: kill(pids_of("flower-superexec", shops.folder.path)[0]),
    "the coordinator": lambda shops: kill(running(shops.folder)),
    "every machine": lambda shops: [
        kill(running(shops.folder)),
        *(node.kill() for node in shops.joined.values()),
    ],
}


@pytest.mark.parametrize("what", CRASHES)
def test_a_run_goes_on_by_itself_after_a_crash(shops, what):
    name, before = f"after-{list(CRASHES).index(what)}", charges(shops)
    shops.server("run", "--name", name, "--detach")
    shops.wait_for_round(name, 2)
    CRASHES[what](shops)
    if what in ("the coordinator", "every machine"):
        wait_for(lambda: running(shops.folder) is None, "the end of `up`", 30)
        wait_for(lambda: not shops.superlinks(), "the end of the SuperLink", 60)
        assert shops.status()["run"]["state"] == "lost"
        shops.up()
    if what == "every machine":
        for store in shops.stores:
            shops.join(store)
    assert ends(shops, name) == [5] * ROUNDS
    shops.wait_until_online()
    ledgers_are_true(shops, name, before)


def test_too_few_stores_pause_a_run_until_they_are_back(shops):
    """It pauses before anything is asked of anybody, says what it lacks, and goes on."""
    for name in ("bremen", "danzig"):
        shops.joined[name].stop()
    wait_for(lambda: len(shops.online()) == 3, "two stores offline", 60)
    before = charges(shops)
    with waiting_for_seconds(shops, 3):
        done = shops.try_server("run", "--name", "paused", timeout=300)
    assert done.status == RoundFailed.exit_status
    assert "bremen, danzig" in done.err and "goes on by itself when 4" in done.err
    state = shops.status()["run"]
    assert (state["state"], state["failure"]["code"]) == ("recovering", RoundFailed.code)
    assert charges(shops) == before
    for name in ("bremen", "danzig"):
        shops.join(name)
    assert set(ends(shops, "paused")) <= {4, 5}
    shops.wait_until_online()
    ledgers_are_true(shops, "paused", before)


def test_a_run_that_its_operator_stopped_stays_stopped(shops):
    shops.server("run", "--name", "stopped", "--detach")
    shops.wait_for_round("stopped", 1)
    shops.server("stop")
    shops.server("down")
    shops.up()
    shops.wait_until_online()
    assert shops.status()["run"]["state"] == "stopped"
    done = shops.server("resume", "--format", "json", timeout=500).json
    assert (done["state"], done["round"]) == ("finished", ROUNDS)


def test_a_second_node_of_a_store_does_not_get_in(shops, tmp_path):
    copy = tmp_path / "luebeck"
    shutil.copytree(shops.stores["luebeck"].path, copy, symlinks=True)
    second = Joined(copy, "--patience", "5")
    try:
        assert second.wait_for_end() != 0
        assert "running twice" in second.said()
    finally:
        second.stop()
    shops.server("run", "--name", "twice", "--detach")
    assert ends(shops, "twice") == [5] * ROUNDS


def test_a_full_disk_at_the_coordinator_pauses_the_run_until_there_is_room(shops, tmp_path):
    before = charges(shops)
    runs = shops.folder.runs
    aside = tmp_path / "runs"
    shutil.move(runs, aside)
    with small_disk(4096) as disk:
        runs.symlink_to(disk)
        try:
            shops.server("run", "--name", "full", "--detach")
            shops.wait_for_round("full", 1)
            filling = disk / "filling"
            with pytest.raises(OSError, match="No space left"), filling.open("wb") as file:
                while True:
                    file.write(bytes(1024))
                    file.flush()
            shops.wait_for_state("full", "recovering")
            filling.unlink()
            assert ends(shops, "full")[-1] == 5
            ledgers_are_true(shops, "full", before)
            shutil.copytree(disk / "full", aside / "full")
        finally:
            runs.unlink()
            shutil.move(aside, runs)


def test_an_erased_customer_takes_part_no_more_and_the_ledger_goes_on(shops):
    """The store's node notices the changed source by itself, and prepares it again."""
    store, before = shops.stores["luebeck"], charges(shops)
    events = load_store(store.store_toml).events
    column, rows = events.source_of("user_id")[0], pl.read_parquet(events.path)
    prepared = set(Histories.load(store.histories).customers)
    rows.filter(pl.col(column) != rows[column].min()).write_parquet(events.path)
    try:
        shops.server("run", "--name", "erased", "--detach")
        assert ends(shops, "erased") == [5] * ROUNDS
        assert len(prepared - set(Histories.load(store.histories).customers)) == 1
        assert charges(shops) == {name: count + ROUNDS for name, count in before.items()}
        ledgers_are_true(shops, "erased", before)
    finally:
        rows.write_parquet(events.path)


CLOCKS = {"ahead": 600, "behind": -600}


@pytest.mark.parametrize("way", CLOCKS)
def test_a_wrong_clock_is_named_and_the_run_goes_on_without_the_store(shops, way):
    shops.joined["rostock"].stop()
    wait_for(lambda: len(shops.online()) == 4, "a store offline", 60)
    wrong = shops.join_with_clock("rostock", CLOCKS[way])
    try:
        shops.server("run", "--name", f"clock-{way}", "--stores", "4", "--detach")
        assert set(ends(shops, f"clock-{way}")) == {4}
        wrong.wait_for("clock")
        assert f"{abs(CLOCKS[way])} s {'ahead of' if way == 'ahead' else 'behind'}" in said(wrong)
    finally:
        wrong.stop()
    shops.join("rostock")
    shops.wait_until_online()


def said(node: Joined) -> str:
    """What a node said, with seconds rounded to the nearest ten."""
    return re.sub(r"(\d+) s\b", lambda m: f"{round(int(m[1]), -1)} s", node.said())


def test_terms_without_a_store_that_left_let_the_run_go_on(shops):
    """Last, since it changes the terms: two stores are gone for good, and three train on."""
    gone = ("bremen", "danzig")
    for name in gone:
        shops.joined[name].stop()
    wait_for(lambda: len(shops.online()) == 3, "two stores offline", 60)
    with waiting_for_seconds(shops, 3):
        shops.server("run", "--name", "fewer", "--detach")
        shops.wait_for_state("fewer", "recovering")
    words = [word for name in gone for word in ("--without", name)]
    shops.server("manifest", "sign", *words)
    terms = ("--manifest", shops.folder.manifest, "--settings", shops.folder.settings)
    for name in ("luebeck", "riga", "rostock"):
        shops.joined[name].stop()
        shops.edit_policy(name, minimum_cohort=3)
        shops.store(name, "enrol", *terms)
        shops.join(name)
    assert ends(shops, "fewer") == [3] * ROUNDS
    assert shops.audit()["ok"]
