"""Groups of customers, their figures and intervals; bands stay in the stores' folders."""

import numpy as np
import polars as pl
import pytest

from hanse_client.features.histories import Histories
from hanse_client.tasks.interest.metrics import Figures
from hanse_simulations.datasets import Stores, make_stores
from hanse_simulations.datasets.attributes import FILE, read_attributes, write_attributes
from hanse_simulations.evaluation.gaps import group_figures
from hanse_simulations.evaluation.group_figures import judge_groups
from hanse_simulations.evaluation.grouping import FEWEST, Grouping, groupings
from hanse_simulations.experiment.arms import GAP
from kits.metrics import figures


def test_what_is_judged_of_some_customers_adds_up_to_all():
    whole = figures(np.arange(10), ndcg=np.linspace(0, 1, 20))
    parts = [whole.of(np.arange(4)), whole.of(np.arange(4, 10))]
    assert Figures.pooled(parts).metrics() == pytest.approx(whole.metrics(), nan_ok=True)
    assert set(parts[1].shifted(-4).interest_customers) == set(range(6))


def test_a_gap_is_the_first_group_less_the_last_and_effects_are_paired():
    first, last = np.arange(30), np.arange(30, 60)
    everybody = np.arange(60)
    arms = {
        "alone": {"a": figures(everybody, ndcg=np.repeat([0.5, 0.2], 60))},
        "federated": {"a": figures(everybody, ndcg=np.repeat([0.5, 0.3], 60))},
    }
    found = [Grouping(name="size", groups={"large": {"a": first}, "small": {"a": last}})]
    rows = {(r.group, r.arm, r.metric): r for r in group_figures(arms, found, seed=1)}
    assert rows[GAP, "alone", "ndcg@10"].value == pytest.approx(0.3)
    joining = rows["small", "joining", "ndcg@10"]
    assert joining.value == pytest.approx(0.1)
    # Every customer gains the same, so that a paired draw leaves nothing uncertain.
    assert (joining.low, joining.high) == (pytest.approx(0.1), pytest.approx(0.1))
    area = rows["large", "alone", "rise_auc"]
    assert area.low < area.value < area.high
    assert rows["large", "alone", "rise_auc"].customers == 30


def test_small_groups_are_left_out_and_said(small_stores):
    _, prepared = small_stores
    stores = dict(zip(prepared.names, prepared.load(), strict=True))
    judged = {name: store.active() for name, store in stores.items()}
    name, store = next(iter(stores.items()))
    rare = {str(customer): "rare" for customer in store.customers[: FEWEST - 1]}
    often = {str(customer): "often" for customer in store.customers[FEWEST - 1 :]}
    bands = {name: {"band": {**rare, **often}}}
    found, notes = groupings(stores, judged, bands, until=float("inf"))
    assert {grouping.name for grouping in found} == {"store size", "activity"}
    assert any("rare" in note and str(FEWEST) in note for note in notes)
    activity = next(grouping for grouping in found if grouping.name == "activity")
    most, *_, least = (
        np.concatenate([np.diff(stores[s].visit_offsets)[part] for s, part in members.items()])
        for members in activity.groups.values()
    )
    assert most.min() >= least.max()


def test_bands_are_read_under_pseudonyms_from_the_stores_own_folder(small_stores, store_cache):
    settings, prepared = small_stores
    made = make_stores(settings.data, seed=settings.seed, cache=store_cache)
    folder = next(f for f in made.folders if f.name == prepared.names[0])
    people = pl.read_parquet(folder / "events.parquet")["user_id"].unique().sort()
    table = pl.DataFrame(
        {"user_id": people.cast(pl.String), "age": ["a", "b"] * (len(people) // 2)}
    )
    elsewhere = pl.DataFrame({"user_id": ["nobody"], "age": ["a"]})
    write_attributes([folder], pl.concat([table, elsewhere]))
    try:
        bands = read_attributes(folder)
        histories = Histories.load(prepared.histories[0])
        assert set(bands["age"]) == set(histories.customers)
        assert set(bands["age"].values()) == {"a", "b"}
        by_store = {
            name: figures(store.active(), ndcg=0.5)
            for name, store in zip(prepared.names, prepared.load(), strict=True)
        }
        stores = Stores(folders=(folder,), split=settings.data.split, note="", facts={})
        rows, _ = judge_groups({"alone": by_store}, prepared, prepared.load(), stores, settings)
        assert {row.grouping for row in rows} >= {"store size", "activity"}
    finally:
        (folder / FILE).unlink()
