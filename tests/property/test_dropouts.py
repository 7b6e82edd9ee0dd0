"""Stores that fall silent at every stage: the sum stays exact, or the round fails by name."""

from __future__ import annotations

import pytest

from hanse_common.secagg import Stage
from kits.errors import raises
from kits.federation import STAGES, Federation, is_wiped


@pytest.mark.parametrize("count", [3, 4, 5, 8, 12])
def test_the_sum_is_exact_with_everybody(count):
    federation = Federation(count)
    aggregate = federation.run()
    assert list(aggregate.survivors) == federation.names
    federation.assert_exact(aggregate)
    assert aggregate.missing == {} and aggregate.liars == ()
    for store in federation.stores.values():
        assert store.stage is Stage.FINISHED and is_wiped(store)


@pytest.mark.parametrize("stage", STAGES)
def test_one_store_drops_out_at_each_stage(stage):
    federation = Federation(7)
    aggregate = federation.run(drop={stage: {"store-002"}})
    federation.assert_exact(aggregate)
    assert aggregate.missing.get(stage, ()) == (() if stage == "hello" else ("store-002",))
    in_sum = "store-002" in aggregate.survivors
    assert in_sum == (stage in ("confirm", "unmask"))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_exactly_the_threshold_survives(stage):
    federation = Federation(9)  # threshold 7
    aggregate = federation.run(drop={stage: {"store-000", "store-008"}})
    federation.assert_exact(aggregate)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_one_fewer_than_the_threshold_fails_and_names_the_missing(stage):
    federation = Federation(9)
    lost = {"store-000", "store-004", "store-008"}
    with raises("round-failed") as failure:
        federation.run(drop={stage: lost})
    assert f"{stage}: store-000, store-004, store-008" in failure.value.message
    assert "6 stores" in failure.value.message and "needed are 7" in failure.value.message


@pytest.mark.parametrize("stage", STAGES)
def test_everybody_drops_out_at_once(stage):
    federation = Federation(5)
    with raises("round-failed"):
        federation.run(drop={stage: federation.names})


def test_drop_outs_spread_over_all_stages():
    federation = Federation(12, minimum_cohort=5)  # roster of 11, threshold 8
    aggregate = federation.run(
        drop={
            "hello": {"store-011"},
            "share": {"store-000"},
            "mask": {"store-005"},
            "confirm": {"store-007"},
        }
    )
    federation.assert_exact(aggregate)
    assert len(aggregate.survivors) == 9
    assert aggregate.missing == {
        "share": ("store-000",),
        "mask": ("store-005",),
        "confirm": ("store-007",),
    }


def test_a_second_attempt_after_a_failed_one_is_exact():
    federation = Federation(5)
    with raises("round-failed"):
        federation.run(drop={"mask": {"store-000", "store-001"}})
    again = federation.next_attempt()
    again.assert_exact(again.run())


def test_fewer_stores_than_the_manifest_lists_are_named():
    federation = Federation(5, stores=frozenset([f"store-{i:03}" for i in range(5)]))
    with raises("round-failed", match="hello: store-001"):
        federation.run(drop={"hello": {"store-001"}})
