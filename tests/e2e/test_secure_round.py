"""Secure aggregation through Flower: what comes out, and what happens when stores are lost."""

import contextlib
import json
from collections import Counter

import numpy as np
import pytest

from hanse_common.errors import UNABLE
from hanse_common.instructions import ATTEMPT
from hanse_common.manifest_noise import sum_norm
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_common.secagg import dequantize
from hanse_common.vector import flatten
from hanse_server.checkpoint import latest_checkpoint, read_arrays
from hanse_server.rounds import run_rounds
from hanse_server.stage_log import read_stages
from kits.apps.secure_federation import STAGES, said
from kits.errors import raises

LOST, LOST_TOO = "synthetic-02", "synthetic-04"


def train(federation, grid, **content):
    return grid.exchange(federation.messages(**content), timeout=0.02)


def lose_message(faults, stage, stores):
    faults.to_store = lambda store, message: (
        None if store in stores and message.metadata.message_type == STAGES[stage] else message
    )


def lose_reply(faults, stage, stores):
    kind = STAGES[stage]

    def to_server(store, reply):
        return None if store in stores and faults.asked[-1] == (store, kind) else reply

    faults.to_server = to_server


def crash(faults, stage, stores):
    """Let the stores fail within that stage, with a customer's name in the exception."""
    owner, name = {
        "hello": ("hanse_client.rounds.local_update", "compute_update"),
        **{
            s: ("hanse_client.rounds.secure_exchange", f"SecureExchange.{s}")
            for s in STAGES
            if s != "hello"
        },
    }[stage]

    @contextlib.contextmanager
    def around(store, message):
        with pytest.MonkeyPatch.context() as patch:
            if store in stores:

                def fail(*_):
                    raise KeyError("ADA-LOVELACE-77")

                patch.setattr(f"{owner}.{name}", fail)
            yield

    faults.around = around


WAYS = {"message": lose_message, "reply": lose_reply, "crash": crash}
REASONS = {
    "message": "no reply in time",
    "reply": "no reply in time",
    "crash": UNABLE,
}


def test_the_sum_is_that_of_the_stores_own_vectors_to_the_last_integer(federation):
    federation.remember_vectors()
    result = train(federation, federation.grid())
    (reply,) = result.replies

    vectors = federation.vectors
    assert sorted(vectors) == federation.names
    total = sum(vectors.values())
    assert np.array_equal(result.aggregate.total, total)
    assert result.aggregate.survivors == tuple(federation.names)
    assert result.refusals == {}

    layout = federation.manifest().terms("train").layout
    update, statistics = layout.sections
    parts = layout.split(total)
    values = dequantize(parts["update"], update)
    longest = sum_norm(federation.manifest())
    assert result.cut == min(1.0, longest / np.linalg.norm(values))
    mean = values * (result.cut / 5)
    expected = (flatten(federation.arrays) + mean).astype(np.float32)
    got = {name: array.numpy() for name, array in reply.content["arrays"].items()}
    assert np.array_equal(flatten(got).astype(np.float32), expected)
    assert not np.array_equal(expected, flatten(federation.arrays).astype(np.float32))
    customers, losses = dequantize(parts["statistics"], statistics)
    assert dict(reply.content["metrics"]) == {
        "num-examples": 1,
        "customers": customers,
        "losses": losses,
    }


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("FedAvg", {}),
        ("FedAdam", {"eta": 0.01}),
        ("FedAvgM", {"server_momentum": 0.9}),
        ("FedProx", {"proximal_mu": 0.1}),
        ("FedAvg", {"fraction_train": 0.8, "min_train_nodes": 4}),
    ],
)
def test_strategies_run_on_top_unchanged(strategy, options, found_federation):
    federation = found_federation(
        {
            "federation.strategy": strategy,
            "federation.strategy_options": options,
            "federation.evaluate_every": 2,
        }
    )
    arrays = run_rounds(federation.grid(), federation.folder.path, federation.settings)
    lines = [s for s in read_stages(federation.folder.path) if s["stage"] == "train"]
    count = 4 if "min_train_nodes" in options else 5
    assert [line["replies"] for line in lines] == [count, count]
    assert all(set(line["sums"]) == {"customers", "losses"} for line in lines)
    moved = flatten(arrays) - flatten(federation.arrays)
    assert np.isfinite(moved).all()
    assert np.abs(moved).max() > 0
    saved = read_arrays(federation.folder.path / GLOBAL_FILE)
    assert np.array_equal(flatten(saved), flatten(arrays))
    # Two rounds of two steps each, wherever the store was picked twice.
    steps = Counter(federation.charged(name) for name in federation.names)
    assert sum(steps.elements()) == 2 * 2 * count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_store_lost_at_any_stage_costs_the_round_only_that_store(stage, way, federation):
    WAYS[way](federation.faults, stage, {LOST})
    federation.remember_vectors()
    result = train(federation, federation.grid(stage_seconds=0.02))

    # From stage 3 on, the store's vector is in the sum already.
    counted = [n for n in federation.names if n != LOST or stage in ("confirm", "unmask")]
    assert result.aggregate.survivors == tuple(counted)
    assert np.array_equal(result.aggregate.total, sum(federation.vectors[n] for n in counted))
    assert len(result.survivors) == len(counted) and len(result.replies) == 1
    assert result.refusals == {LOST: f"at stage '{stage}': {REASONS[way]}"}
    # Before the roster is closed nobody is missing from it.
    assert result.aggregate.missing == ({} if stage == "hello" else {stage: (LOST,)})
    uploaded = stage in ("confirm", "unmask") or (stage, way) == ("mask", "reply")
    assert federation.charged(LOST) == (2 if uploaded else 0)


def kept_back(stage, store):
    """Whether no vector of the store is masked where messages are lost at that stage."""
    return stage == "mask" and store in (LOST, LOST_TOO)


@pytest.mark.parametrize("stage", STAGES)
def test_a_round_below_its_threshold_fails_after_two_attempts(stage, found_federation):
    """A second attempt draws anew what was masked, and offers again what was not; each masked
    upload is charged."""
    federation = found_federation({"federation.rounds": 1, "federation.spare_exchanges": 2})
    faults, path = federation.faults, federation.folder.path
    lose_message(faults, stage, {LOST, LOST_TOO})
    attempts, vectors = [], {}
    before = faults.to_server

    def to_server(store, reply):
        if faults.asked[-1][1] == "train" and not reply.has_error():
            attempts.append((said(reply).header.attempt, store))
            waiting = federation.waiting(store)
            first = vectors.setdefault(store, waiting.vector)
            again = said(reply).header.attempt == 2
            masked = again and federation.charged(store) > 0
            assert np.array_equal(first, waiting.vector) == (not masked)
        return before(store, reply)

    faults.to_server = to_server
    with raises("round-failed") as raised:
        run_rounds(federation.grid(stage_seconds=0.02), path, federation.settings, timeout=0.02)
    # Whoever gave shares in the first attempt takes part in no second.
    failed_at, absent = stage, [LOST, LOST_TOO]
    if stage == "unmask":
        failed_at, absent = "hello", [n for n in federation.names if n not in absent]
    count = 5 - len(absent)
    said_first = (
        f"attempt 2 of round 1 has {count} stores at stage '{failed_at}', needed are 4; "
        f"missing: {failed_at}: {', '.join(absent)}; "
    )
    assert raised.value.message.startswith(said_first)
    reasons = raised.value.message.removeprefix(said_first)
    why = "[attempt-refused]" if stage == "unmask" else "no reply in time"
    for store in absent:
        assert f"{store}: at stage '{failed_at}': {why}" in reasons
    assert {number for number, _ in attempts} == {1, 2}
    saying_hello = {s for s in federation.names if stage != "hello" or s not in (LOST, LOST_TOO)}
    assert Counter(attempts)[1, "synthetic-01"] == 1
    assert {store for number, store in attempts if number == 1} == saying_hello
    for store in saying_hello:
        # Whoever masked in the first attempt, and gave no shares in it.
        drawn_again = {
            "mask": store not in (LOST, LOST_TOO),
            "confirm": True,
            "unmask": store in (LOST, LOST_TOO),
        }.get(stage, False)
        assert federation.steps_trained(store) == (4 if drawn_again else 2)

    uploads = {"hello": 0, "share": 0, "mask": 2, "confirm": 2, "unmask": 1}[stage]
    for store in federation.names:
        assert federation.charged(store) == (0 if kept_back(stage, store) else 2 * uploads)
    assert not (path / GLOBAL_FILE).exists()
    assert latest_checkpoint(path).round == 0
    kept = latest_checkpoint(path).arrays
    assert np.array_equal(flatten(kept), flatten(read_arrays(path / INITIAL_FILE)))

    faults.heal()
    run_rounds(federation.grid(), path, federation.settings, resume=True)
    lines = [s for s in read_stages(path) if s["stage"] == "train"]
    assert [(line["round"], line["replies"]) for line in lines] == [(1, 5)]
    for store in federation.names:
        before = 0 if kept_back(stage, store) else 2 * uploads
        assert federation.charged(store) == 2 + before


def test_a_second_attempt_saves_the_round(federation):
    """Two stores are lost to the first attempt only; the second has all five."""
    faults = federation.faults
    numbers = {}

    def to_store(store, message):
        config = message.content.get("config", {})
        if ATTEMPT in config:
            numbers[store] = config[ATTEMPT]
        lost = store in (LOST, LOST_TOO) and numbers.get(store) == 1
        return None if lost and message.metadata.message_type == "train.mask" else message

    faults.to_store = to_store
    federation.remember_vectors()
    result = train(federation, federation.grid(stage_seconds=0.02))
    assert set(numbers.values()) == {2}
    assert result.aggregate.survivors == tuple(federation.names)
    assert np.array_equal(result.aggregate.total, sum(federation.vectors.values()))
    charged = {name: federation.charged(name) for name in federation.names}
    assert charged == {name: 2 if name in (LOST, LOST_TOO) else 4 for name in federation.names}
    assert result.refusals == {}


def test_a_store_that_cannot_train_is_left_out_and_charged_nothing(federation):
    path = federation.node(LOST).folder / "node.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "histories": "/nowhere/ADA.npz"}))
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    lines = [s for s in read_stages(federation.folder.path) if s["stage"] == "train"]
    assert [line["replies"] for line in lines] == [4, 4]
    reason = f"at stage 'hello': {UNABLE}"
    assert [line["refusals"] for line in lines] == [{LOST: reason}] * 2
    assert federation.charged(LOST) == 0


def test_what_a_run_writes_down_holds_nothing_of_one_store(federation):
    """What is told of each stage: counts, sums and the noise of the whole."""
    run_rounds(federation.grid(), federation.folder.path, federation.settings)
    for line in read_stages(federation.folder.path):
        assert set(line) == {
            *("round", "stage", "split", "replies", "refusals", "sums", "seconds", "time"),
            *("attempts", "noise_share", "outcome", "cut", "deadlines", "note", "releases"),
        }
        assert not any(name in json.dumps(line) for name in federation.names)
