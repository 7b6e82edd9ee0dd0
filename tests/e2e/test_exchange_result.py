"""What an exchange returns holds everything about it; the grid keeps nothing to ask for."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest
from flwr.serverapp.strategy import FedAvg

from hanse_common.errors import RoundFailed
from hanse_server.stage_log import ExchangeResult
from hanse_server.store_grid import StoreGrid
from kits.apps.secure_federation import STAGES

LOST, LOST_TOO = "synthetic-02", "synthetic-04"


def lose(federation, stage, stores):
    federation.faults.to_store = lambda store, message: (
        None if store in stores and message.metadata.message_type == STAGES[stage] else message
    )


def public_state(grid):
    return {name: value for name, value in vars(grid).items() if not name.startswith("_")}


def test_a_masked_exchange_says_who_took_part_and_what_every_stage_asked(federation):
    result = federation.grid().exchange(federation.messages(), timeout=5)
    everybody = tuple(federation.names)
    assert (result.roster, result.survivors, result.refusals) == (everybody, everybody, {})
    assert (result.attempts, result.outcome, result.error) == (1, "summed", None)
    assert [stage.message_type for stage in result.stages] == list(STAGES.values())
    assert all(stage.asked == everybody and not stage.silent for stage in result.stages)
    assert 0 < result.cut <= 1
    with pytest.raises(FrozenInstanceError):
        result.attempts = 2


def test_both_attempts_are_in_the_stages_and_the_second_one_in_the_roster(federation):
    lose(federation, "hello", {LOST})
    result = federation.grid(stage_seconds=0.02).exchange(federation.messages(), timeout=0.02)
    others = tuple(name for name in federation.names if name != LOST)
    assert (result.roster, result.survivors) == (others, others)
    assert result.stages[0].silent == (LOST,) and result.stages[0].timed_out
    assert result.deadlines == 1


def test_a_lost_exchange_is_a_value_and_an_error_for_whoever_asks_for_replies(federation):
    lose(federation, "mask", {LOST, LOST_TOO})
    grid = federation.grid(stage_seconds=0.02)
    result = grid.exchange(federation.messages(), timeout=0.02)
    assert isinstance(result.error, RoundFailed) and result.outcome == "round-failed"
    assert (result.replies, result.survivors, result.attempts) == ((), (), 2)
    assert set(result.refusals) == {LOST, LOST_TOO}
    assert {stage.attempt for stage in result.stages} == {1, 2}
    with pytest.raises(RoundFailed):
        grid.send_and_receive(federation.messages(), timeout=0.02)


def test_a_grid_keeps_nothing_of_an_exchange_for_its_caller(federation):
    for grid in (federation.grid(stage_seconds=0.02), StoreGrid(federation.faults)):
        grid.stores  # noqa: B018  the names are asked for before the first exchange
        before = dict(public_state(grid))
        grid.exchange(federation.messages(), timeout=0.02)
        assert public_state(grid) == before
        assert not {field.name for field in fields(ExchangeResult)} & set(dir(grid))


def test_a_stock_strategy_of_flower_runs_on_the_grid_and_sees_one_reply_a_round(federation):
    content = federation.content()
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=5, min_available_nodes=5)
    seen, aggregate = [], strategy.aggregate_train

    def watched(number, replies):
        seen.append(list(replies))
        return aggregate(number, seen[-1])

    strategy.aggregate_train = watched
    result = strategy.start(
        grid=federation.grid(),
        initial_arrays=content["arrays"],
        train_config=content["config"],
        num_rounds=2,
        timeout=5,
    )
    assert [len(replies) for replies in seen] == [1, 1]
    assert set(result.arrays) == set(federation.arrays)


def test_an_open_exchange_says_the_same_of_single_replies(federation):
    """Stores that are members refuse an open update, in the words that a result passes on."""
    result = StoreGrid(federation.faults).exchange(federation.messages("query.describe"))
    assert (len(result.replies), result.survivors) == (0, ())
    assert list(result.refusals) == federation.names == list(result.roster)
    assert (result.aggregate, result.cut, result.stages) == (None, None, ())
