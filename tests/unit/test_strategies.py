import numpy as np
import pytest

from hanse_common.config import FederationSettings
from hanse_server.checkpoint import check_resumable, latest_checkpoint
from hanse_server.rounds import run_rounds
from hanse_server.store_grid import StoreGrid
from hanse_server.strategies import (
    STRATEGIES,
    make_strategy,
    parameters,
    restore_state,
    strategy_state,
    to_record,
)
from kits.apps.federations import STORES, make_run, make_settings, read_arrays
from kits.apps.local_grid import LocalGrid
from kits.errors import raises

OPTIONS = {
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedAdam": {"eta": 0.05, "beta_1": 0.8},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.25},
    "MultiKrum": {"num_nodes_to_select": 3},
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_runs_and_resumes_bit_for_bit(name, tmp_path, monkeypatch):
    settings = make_settings(strategy=name, strategy_options=OPTIONS.get(name, {}))
    run_dir, federation_dir = make_run(tmp_path / "whole", settings)
    monkeypatch.setenv("HANSE_FEDERATION", str(federation_dir))
    whole = run_rounds(StoreGrid(LocalGrid(len(STORES))), run_dir, settings)
    assert {array.dtype for array in whole.values()} == {np.dtype("float32")}
    initial = read_arrays(run_dir / "initial.safetensors")
    assert any((whole[key] != initial[key]).any() for key in initial)

    run_dir, federation_dir = make_run(tmp_path / "halves", settings)
    monkeypatch.setenv("HANSE_FEDERATION", str(federation_dir))
    grid = StopAfter(LocalGrid(len(STORES)), 2)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(StoreGrid(grid), run_dir, settings)
    assert check_resumable(latest_checkpoint(run_dir), settings).round == 2
    halves = run_rounds(StoreGrid(LocalGrid(len(STORES))), run_dir, settings, resume=True)
    for key in whole:
        assert whole[key].tobytes() == halves[key].tobytes()


class StopAfter(LocalGrid):
    """Somebody presses Ctrl-C after so many rounds."""

    def __init__(self, grid, rounds):
        self.__dict__.update(grid.__dict__)
        self.left = rounds

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        if messages and messages[0].metadata.message_type == "train":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().send_and_receive(messages, timeout=timeout)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdagrad", "FedAdam", "FedYogi"])
def test_a_stateful_strategy_has_state_to_keep(name, tmp_path, monkeypatch):
    settings = make_settings(strategy=name, strategy_options=OPTIONS.get(name, {}), rounds=2)
    run_dir, federation_dir = make_run(tmp_path, settings)
    monkeypatch.setenv("HANSE_FEDERATION", str(federation_dir))
    run_rounds(StoreGrid(LocalGrid(len(STORES))), run_dir, settings)
    state = latest_checkpoint(run_dir).strategy
    assert state
    strategy = make_strategy(settings)
    restore_state(strategy, state)
    again = strategy_state(strategy)
    assert {key: value.tobytes() for key, value in again.items()} == {
        key: value.tobytes() for key, value in state.items()
    }


def test_momentum_keeps_its_order_beyond_ten_arrays():
    strategy = make_strategy(
        make_settings(strategy="FedAvgM", strategy_options={"server_momentum": 0.5})
    )
    strategy.momentum_vector = [np.full(2, i, np.float32) for i in range(12)]
    strategy.current_arrays = to_record({"a": np.ones(2, np.float32)})
    other = make_strategy(make_settings(strategy="FedAvgM"))
    restore_state(other, strategy_state(strategy))
    assert [vector[0] for vector in other.momentum_vector] == list(range(12))
    assert other.current_arrays["a"].numpy().tolist() == [1, 1]


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        ("FedBest", {}, ["FedBest", "known: Bulyan, FedAdagrad"]),
        ("QFedAvg", {}, ["training loss"]),
        ("FedAvg", {"eta": 0.1}, ["'eta'", "known: fraction_evaluate"]),
        ("FedAvg", {"weighted_by_key": 1}, ["weighted_by_key"]),
        ("FedAvg", {"fraction_train": 7.0}, ["fraction_train=7.0", "from 1e-06 to 1"]),
        ("FedAvg", {"fraction_train": 0.0}, ["fraction_train=0.0"]),
        ("FedAvg", {"min_train_nodes": 2.5}, ["whole number"]),
        ("FedAdam", {"eta": True}, ["should be a number"]),
        ("FedAdam", {"eta": float("nan")}, ["out of range"]),
        ("FedTrimmedAvg", {"beta": 0.7}, ["FedTrimmedAvg", "beta"]),
    ],
)
def test_refuses(strategy, options, words):
    federation = FederationSettings.model_construct(
        strategy=strategy, strategy_options=options, secure_aggregation=False
    )
    settings = make_settings().model_copy(update={"federation": federation})
    with raises("config") as caught:
        make_strategy(settings)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_default_is_in_bounds(name):
    kind = STRATEGIES[name]
    make_strategy(make_settings(strategy=name, strategy_options=parameters(kind)))


@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"])
def test_a_strategy_that_compares_stores_is_refused_under_masks(name):
    with raises("config", match="secure aggregation"):
        make_strategy(make_settings(strategy=name, secure_aggregation=True))
