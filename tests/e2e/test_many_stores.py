"""Federations of many stores on one machine, some of which are not there.

Nobody types a command after `run`. Each run ends in a named state by itself, and every ledger
agrees with the round log.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from hanse_common.recipes import synthetic
from hanse_server.stage_log import read_stages
from kits.commands import QuickShops, joined_shops
from kits.nursery import Nursery

pytestmark = pytest.mark.slow

ROUNDS = 2


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


def ledgers_are_true(shops, name):
    """Every store was charged for the rounds whose sum it is in, and for no others."""
    assert shops.audit()["ok"]
    for store in shops.stores:
        summed = {line["round"] for line in trained(shops, name) if store not in line["refusals"]}
        releases = [entry.release for entry in shops.charges(store)]
        charged = {release.round for release in releases if release.kind == "train"}
        assert charged == summed, store


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
