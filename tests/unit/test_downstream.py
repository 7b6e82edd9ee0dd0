"""Injected patterns touch what they say and nothing else; the table holds what was measured."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hanse_client.analytics.occasions import basket_counts, each_day, left_in_cart
from hanse_client.node import Node, list_nodes
from hanse_simulations.downstream.injected_anomalies import bursts, cart_bursts, hijacked
from kits.histories import made

PATTERNS = [bursts, hijacked, cart_bursts]


def shoppers(seed=0, count=12, days=80):
    """Each with a class of their own, coming every other day, a little later each time."""
    rng = np.random.default_rng(seed)
    return made(
        [
            [(float(day) + rng.random() / 2, [customer % 4]) for day in range(0, days, 2)]
            for customer in range(count)
        ]
    )


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("visit_offsets", "visit_days", "visit_facts", "pair_offsets", "pair_classes")
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_repeatable_and_leaves_the_past_as_it_was(pattern):
    histories = shoppers()
    first, again, other = (
        pattern(histories, start=50, stop=80, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert same(first.histories, again.histories)
    assert not same(first.histories, other.histories)
    assert 0 < first.touched.sum() < len(first.touched) == len(first.days)
    if pattern is not cart_bursts:
        assert same(first.histories.until(50), histories.until(50))


def test_a_burst_adds_three_visits_of_one_class_to_the_days_that_it_names():
    histories = shoppers()
    found = bursts(histories, start=50, stop=80, rng=np.random.default_rng(1))
    added = basket_counts(found.histories, found.days, 4) - basket_counts(
        histories, each_day(histories, start=50, stop=80), 4
    )
    assert (added.sum(axis=1) == 3 * found.touched).all()
    assert (added.max(axis=1) == 3 * found.touched).all()


def test_a_hijacked_account_goes_on_with_somebody_elses_visits():
    histories = shoppers()
    found = hijacked(histories, start=50, stop=80, rng=np.random.default_rng(1))
    victims = np.unique(found.days.customers[found.touched])
    assert len(victims) > 0
    visits = dict(zip(histories.visit_days, histories.visit_facts.tobytes(), strict=False))
    for customer, moment, touched in zip(
        found.days.customers, found.days.moments, found.touched, strict=True
    ):
        own = histories.visit_days[slice(*histories.visit_offsets[customer : customer + 2])]
        assert (moment in own) != touched
        assert moment in visits


def test_a_cart_burst_leaves_four_items_more_and_nothing_bought_changes():
    histories = shoppers()
    found = cart_bursts(histories, start=50, stop=80, rng=np.random.default_rng(1))
    left = left_in_cart(found.histories)[found.days.first]
    assert left[found.touched].min() >= 4
    assert left[~found.touched].mean() < left[found.touched].mean()
    assert np.array_equal(found.histories.pair_classes, histories.pair_classes)


def test_patterns_survive_a_store_with_nothing_in_the_window():
    for pattern in PATTERNS:
        found = pattern(shoppers(), start=500, stop=600, rng=np.random.default_rng(1))
        assert len(found.days) == len(found.touched) == 0


@pytest.mark.slow
def test_a_finished_run_is_measured_and_left_as_it_was(tmp_path, monkeypatch, store_cache):
    from hanse_common.recipes import synthetic
    from hanse_simulations.bench.cli import app as bench
    from hanse_simulations.run import create_run, simulate

    monkeypatch.setenv("HANSE_RUNS", str(tmp_path))
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))
    settings = synthetic().with_changes(
        {
            "data.stores": 2,
            "data.customers": 24,
            "federation.rounds": 1,
            "federation.evaluate_every": 1,
            "federation.strategy": "FedAvg",
            "federation.strategy_options": {},
            "privacy": {"mode": "none"},
            "federation.secure_aggregation": False,
            "compute.workers": 1,
            "compare": False,
        }
    )
    folder = create_run(settings, name="small")
    simulate(folder, settings, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    first, again = (
        CliRunner().invoke(bench, ["tasks", "small", "--format", "json"]) for _ in range(2)
    )
    assert first.exit_code == 0, first.output
    assert first.stdout == again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    rows = json.loads(first.stdout)["rows"]
    figures = {
        (row["task"], row["method"], row["part"], row["metric"]): row["value"] for row in rows
    }
    assert len(figures) == len(rows)
    # One round of training says nothing of a trained model; the rules that it starts from do.
    assert figures["swapped baskets", "untrained", "taste", "auc"] > 0.8
    assert figures["bursts", "untrained", "repeats", "auc"] > 0.8
    assert {row["task"] for row in rows} == {
        "swapped baskets",
        "bursts",
        "hijacked days",
        "hijacked accounts",
        "cart bursts",
        "leader changes",
        "next leader",
        *(
            f"buys within {days} days, classes: {classes}"
            for days in ("07", "14", "28")
            for classes in ("bought before", "all")
        ),
        *(
            f"shop and class, {days} days{what}"
            for days in ("07", "14", "28")
            for what in ("", ": rise", ": fall")
        ),
    }
    counted = ("mae", "mape")
    assert all(
        0 <= row["value"] <= 1
        for row in rows
        if row["value"] is not None and row["metric"] not in counted
    )
    assert figures["buys within 28 days, classes: all", "untrained", "", "auc"] > 0.6
    assert len(list_nodes(folder.stores_dir)) == 2
    assert Node(list_nodes(folder.stores_dir)[0]).histories.active().size
    table = CliRunner().invoke(bench, ["tasks", "small"])
    assert "Shared model" in table.stdout
