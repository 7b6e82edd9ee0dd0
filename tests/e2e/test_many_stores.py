"""Federations of many stores on one machine, some of which are not there or leave for good.

Nobody types a command after `run`. Each run ends in a named state by itself, and every ledger
agrees with the round log.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

import psutil
import pytest

from hanse_common.recipes import synthetic
from hanse_server.stage_log import read_stages
from kits.commands import QuickShops, joined_shops
from kits.deployment import wait_for
from kits.nursery import Nursery

pytestmark = pytest.mark.slow

ROUNDS = 2
STORES = int(os.environ.get("HANSE_TEST_STORES", "20"))
"""Connected at once; three tenths of them leave."""
PATIENCE = 1800
"""Seconds that a step of many stores may take on a busy machine."""


@contextmanager
def many(root, cache, count, **changes):
    """So many stores of a few customers each, which share the noise, and their nursery."""
    settings = synthetic().with_changes(
        {
            "model.kind": "visits",
            "data.stores": count,
            "data.customers": 12,
            "federation.rounds": ROUNDS,
            "federation.evaluate_every": ROUNDS,
            "federation.strategy": "FedAvg",
            "federation.strategy_options": {},
            "privacy.target_epsilon": 8.0,
            "privacy.mode": "distributed",
            "training.local_steps": 1,
            "training.sample_rate": 0.1,
            "privacy.noise_multiplier": 20.0,
            **changes,
        }
    )
    # Some are away: a run waits for them no longer than this.
    wait = {"connect": 5, "absent": 5, "train": 600, "stage": 300}
    with (
        Nursery(root / "nursery.log") as nursery,
        joined_shops(
            root, settings, cache, wait=wait, count=count, quick=QuickShops, join=nursery.join
        ) as shops,
    ):
        yield shops


def trained(shops, name):
    return [line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train"]


def ledgers_are_true(shops, name, *, gone=frozenset()):
    """Every store was charged for the rounds whose sum it is in; only one that died, for more."""
    assert shops.audit()["ok"]
    for store in shops.stores:
        summed = {line["round"] for line in trained(shops, name) if store not in line["refusals"]}
        releases = [entry.release for entry in shops.charges(store)]
        charged = {release.round for release in releases if release.kind == "train"}
        assert charged >= summed if store in gone else charged == summed, store


def test_two_of_twelve_are_away_at_the_start(tmp_path, store_cache):
    """The default terms allow it: after the deadline the run begins without them, and ends."""
    with many(tmp_path, store_cache, 12) as shops:
        away = {"riga", "store-9"}
        for name in away:
            shops.joined[name].stop()
        done = shops.server("run", "--name", "ten", "--format", "json", timeout=580).json
        assert (done["state"], done["round"]) == ("finished", ROUNDS)
        found = [(line["replies"], set(line["refusals"])) for line in trained(shops, "ten")]
        assert found == [(10, away)] * ROUNDS
        ledgers_are_true(shops, "ten")
        assert not any(shops.charges(name) for name in away)
        rows = shops.rows()
        assert {name for name, row in rows.items() if row["connection"] == "offline"} == away


def test_three_tenths_of_the_stores_leave_for_good_in_mid_run(tmp_path, store_cache):
    """The terms were signed for that; those who stay train to the end."""
    stays = STORES - 3 * STORES // 10
    terms = {"federation.minimum_cohort": stays, "federation.minimum_survivors": stays - 2}
    begun = time.monotonic()
    with many(tmp_path, store_cache, STORES, **terms) as shops:
        connected = time.monotonic() - begun
        leaving = list(shops.stores)[stays:]
        shops.server("run", "--name", "left", "--detach")
        wait_for(lambda: len(trained(shops, "left")) == 1, "the first round", PATIENCE)
        shops.wait_for_round("left", 2)
        for name in leaving:
            shops.joined[name].kill()
        ends = ("finished", "failed", "ended early", "recovering")
        wait_for(lambda: shops.status()["run"]["state"] in ends, "the end", PATIENCE)
        ended = shops.status()["run"]
        assert (ended["state"], ended["round"]) == ("finished", ROUNDS), ended
        first, last = trained(shops, "left")
        assert (first["replies"], first["refusals"]) == (STORES, {})
        assert (last["replies"], sorted(last["refusals"])) == (stays, sorted(leaving))
        ledgers_are_true(shops, "left", gone=leaving)
        print(
            f"{STORES} stores connected after {connected:.0f} s, rounds of "
            f"{first['seconds']:.0f} and {last['seconds']:.0f} s with {last['attempts']} attempts, "
            f"{held(shops) >> 20} MiB held, {cpu_seconds(shops):.0f} CPU-seconds of nodes"
        )


def nodes(shops):
    return [psutil.Process(node.pid) for node in shops.joined.values() if node.running]


def held(shops) -> int:
    """Bytes of all nodes, with what they share counted once."""
    return sum(process.memory_full_info().pss for process in nodes(shops))


def cpu_seconds(shops) -> float:
    """Of the nodes, without the processes that answer their messages."""
    return sum(sum(process.cpu_times()[:2]) for process in nodes(shops))
