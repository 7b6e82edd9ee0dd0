"""A coordinator that asks a store for more than the signed terms; the store answers by itself.

Every order ends in its named error, before anything is trained, sent or charged.
"""

import time

import numpy as np
import pytest

from hanse_common.identity import AuthorityKey
from hanse_common.paths import CLIPPING_CHECK_FILE
from hanse_common.privacy.accounting import SampledGaussianSteps
from hanse_common.privacy.charge import Charge
from hanse_common.secagg.messages import Hello, Refusal, Roster
from kits.apps.secure_federation import STAGES, ByHand, forbid_work, said
from kits.errors import raises

STORE = "synthetic-03"


@pytest.fixture
def untrained(federation, monkeypatch):
    """The federation; fails the test if a store trains, judges or noises anything."""
    forbid_work(monkeypatch)
    return federation


def refused(federation, reply, code, *words):
    """Check that a store's reply is that refusal, and that nothing else happened."""
    assert reply.has_error(), "the store did as it was told"
    reason = reply.error.reason
    assert reason.startswith(f"[{code}] "), reason
    for word in words:
        assert word in reason
    folder = federation.node(STORE).folder
    assert not (folder / "ledger.sqlite").exists()
    assert not (folder / "secagg").exists()


BEYOND_THE_MANIFEST = {
    "open update": (
        {"federation.secure_aggregation": False},
        "privacy.statistics_noise_multiplier=None, the manifest says 10.0",
    ),
    "no privacy": (
        {"privacy.mode": "none"},
        "privacy.mode='none', the manifest says 'local'",
    ),
    "no privacy, open": (
        {"privacy.mode": "none", "federation.secure_aggregation": False},
        "privacy.mode='none', the manifest says 'local'",
    ),
    "less noise": (
        {"privacy.noise_multiplier": 3.5},
        "privacy.noise_multiplier=3.5, the manifest says 4.0",
    ),
    "more noise, which nobody agreed on": (
        {"privacy.noise_multiplier": 4.5},
        "privacy.noise_multiplier=4.5, the manifest says 4.0",
    ),
    "higher epsilon": (
        {"privacy.target_epsilon": 9.0},
        "privacy.target_epsilon=9.0, the manifest says 8.0",
    ),
    "higher delta": (
        {"privacy.target_delta": 1e-5},
        "privacy.target_delta=1e-05, the manifest says 1e-06",
    ),
    "more local steps": (
        {"training.local_steps": 3},
        "privacy.local_steps=3, the manifest says 2",
    ),
    "higher sampling rate": (
        {"training.sample_rate": 0.6},
        "privacy.sample_rate=0.6, the manifest says 0.5",
    ),
    "higher clip": (
        {"privacy.max_grad_norm": 5.0},
        "privacy.max_grad_norm=5.0, the manifest says 0.5",
    ),
    "less noise on counts": (
        {"privacy.statistics_noise_multiplier": 5.0},
        "privacy.statistics_noise_multiplier=5.0, the manifest says 10.0",
    ),
    "evaluation sums": (
        {"privacy.evaluation_noise_multiplier": 40.0},
        "privacy.evaluation_noise_multiplier=40.0, the manifest says None",
    ),
}


@pytest.mark.parametrize("order", BEYOND_THE_MANIFEST)
def test_a_term_beyond_the_manifest_is_refused_by_name_with_both_values(order, untrained):
    changes, words = BEYOND_THE_MANIFEST[order]
    reply = untrained.tell(STORE, changes=changes)
    refused(untrained, reply, "policy-violation", f"the coordinator asks for {words}")


def test_terms_that_promise_more_than_their_noise_keeps_are_refused(untrained):
    reply = untrained.tell(STORE, changes={"privacy.noise_multiplier": 0.1})
    refused(untrained, reply, "policy-violation", "do not hold")


@pytest.mark.parametrize("number", [3, 2**20, 0])
def test_only_the_manifests_rounds_are_trained(number, untrained):
    reply = untrained.tell(STORE, **{"server-round": number})
    refused(untrained, reply, "policy-violation", f"round={number}", "1 to 2")


@pytest.mark.parametrize("number", [2**31, -1, -(2**40)])
def test_a_round_that_no_header_can_hold_is_refused(number, untrained):
    reply = untrained.tell(STORE, **{"server-round": number})
    refused(untrained, reply, "malformed-message", "out of range")


def test_the_first_round_starts_from_the_manifests_model(untrained):
    arrays = {name: array + np.float32(1e-7) for name, array in untrained.arrays.items()}
    reply = untrained.tell(STORE, arrays=arrays)
    refused(untrained, reply, "policy-violation", "model=", untrained.manifest().model_digest)


def test_an_enrolled_store_answers_an_order_to_train_with_a_hello_only(federation):
    """Whatever the coordinator believes about masking."""
    reply = federation.tell(STORE)
    assert set(reply.content) == {"config"}
    assert isinstance(said(reply), Hello)


@pytest.mark.parametrize(
    ("floor", "words"),
    [
        ("minimum_cohort = 5", "minimum_cohort=4, this store's policy requires at least 5"),
        ("colluders = 2", "colluders=1, this store's policy requires at least 2"),
        ("minimum_survivors = 4", "minimum_survivors=0, this store's policy requires at least 4"),
        (
            "threshold_fraction = [3, 4]",
            "threshold_fraction=2/3, this store's policy requires at least 3/4",
        ),
        ("max_epsilon = 7.5", "target_epsilon=8.0, this store's policy requires at most 7.5"),
        ("max_delta = 1e-7", "target_delta=1e-06, this store's policy requires at most 1e-07"),
        ("max_rounds = 1", "rounds=2, this store's policy requires at most 1"),
        ("max_length = 100", "sections.length=208, this store's policy requires at most 100"),
        ('modes = ["distributed"]', "mode=local, this store's policy requires distributed"),
        ('federation = "hanse"', "federation=synthetic, this store's policy requires hanse"),
    ],
)
def test_a_manifest_below_the_stores_floor_is_refused_with_both_values(floor, words, untrained):
    path = untrained.node(STORE).enrolment.folder / "policy.toml"
    field = floor.split(" ")[0]
    lines = [line for line in path.read_text().splitlines() if not line.startswith(field)]
    path.write_text("\n".join([*lines, floor]) + "\n")
    refused(untrained, untrained.tell(STORE), "policy-violation", words)


def test_a_lowered_manifest_signed_by_the_authority_is_refused_all_the_same(untrained):
    """The authority is trusted to admit stores, not to move a store's floor."""
    untrained.sign_again(minimum_cohort=3)
    words = "manifest has minimum_cohort=3, this store's policy requires at least 4"
    refused(untrained, untrained.tell(STORE), "policy-violation", words)


def test_a_manifest_of_another_authority_is_refused(untrained):
    folder = untrained.node(STORE).enrolment.folder
    lines = (folder / "policy.toml").read_text().splitlines()
    key = AuthorityKey.generate().public.hex()
    kept = [line for line in lines if not line.startswith("authority")]
    (folder / "policy.toml").write_text("\n".join([f'authority = "{key}"', *kept]) + "\n")
    refused(untrained, untrained.tell(STORE), "bad-manifest")


def test_a_budget_that_the_round_would_exceed_stops_it_before_training(untrained):
    """Whatever the manifest promises over a whole run; and what it costs is not said."""
    node = untrained.node(STORE)
    limit = node.enrolment.policy.max_epsilon
    # Another federation's run has used it up before.
    spent = SampledGaussianSteps(noise_multiplier=1.0, sample_rate=0.5, count=100)
    node.ledger.charge(Charge(steps=spent, target_delta=1e-6))
    reply = untrained.tell(STORE)
    assert reply.has_error()
    assert reply.error.reason.startswith("[budget-spent] ")
    assert f"{limit:g}" not in reply.error.reason
    assert [entry.kind for entry in node.ledger] == ["charge", "refusal"]
    assert untrained.charged(STORE) == 100
    assert not (node.folder / "secagg").exists()
    assert "would have spent epsilon=" in (node.folder / "log.jsonl").read_text()


def test_a_damaged_record_of_what_was_spent_stops_all_training(untrained):
    node = untrained.node(STORE)
    (node.folder / "ledger.sqlite").write_text("no ledger")
    reply = untrained.tell(STORE)
    assert reply.error.reason.startswith("[ledger] ")
    assert not (node.folder / "secagg").exists()


def test_what_was_spent_adds_up_over_runs(federation):
    """A coordinator may start as many runs as it likes; the budget knows no runs."""
    for run in (1, 2, 3):
        ByHand(federation, run=run).upto("mask")
        assert federation.charged(STORE) == 2 * run


def test_an_expired_certificate_is_the_stores_own_to_notice(federation):
    authority = federation.sign_again()
    node, now = federation.node(STORE), int(time.time())
    old = node.enrolment.certificate
    certificate = authority.certify(
        old.store_id, old.public_key, valid_from=now - 100, valid_until=now - 10
    )
    certificate.save(node.enrolment.folder / "certificate")
    reply = federation.tell(STORE)
    assert reply.error.reason.startswith("[expired-certificate] certificate of 'synthetic-03'")
    assert federation.charged(STORE) == 0
    assert not (node.folder / "secagg" / "journal").exists()


# One store is told another thing than the others.


@pytest.mark.parametrize("what", ["model", "settings"])
def test_a_store_that_is_told_something_else_is_in_no_sum(what, found_federation):
    """In the second round the model is the coordinator's to choose, but the same for all."""
    federation = found_federation()
    arrays = {name: array + np.float32(0.01) for name, array in federation.arrays.items()}
    # Of the settings, those that no store's work depends on are in no digest that is signed.
    other = {"model": {"arrays": arrays}, "settings": {"changes": {"recipe": "other"}}}[what]
    orders = {"server-round": 2, "run": 5}
    honest = ByHand(federation, **orders)
    replies = {
        name: federation.tell(name, **{**orders, **(other if name == STORE else {})})
        for name in federation.names
    }
    # An honest coordinator drops it: its Hello is of another exchange.
    with raises("wrong-header"):
        honest.coordinator.receive(said(replies[STORE]))
    # A malicious one shows the roster as if nothing were wrong, to both sides.
    hellos = tuple(said(reply) for _, reply in sorted(replies.items()))
    for name in federation.names:
        own = said(replies[name]).header.digest()
        roster = Roster(header_digest=own, hellos=hellos)
        answer = said(federation.relay(name, "share", roster.encode()))
        assert isinstance(answer, Refusal)
        assert answer.code == "wrong-header"
    # It is alone with whoever was told the same: nobody.
    alone = Roster(
        header_digest=said(replies[STORE]).header.digest(), hellos=(said(replies[STORE]),)
    )
    reply = federation.relay(STORE, "share", alone.encode())
    assert reply.has_error()
    assert all(federation.charged(name) == 0 for name in federation.names)
    assert not any(sent.kind == STAGES["mask"] for sent in federation.faults.sent_by_stores)


def test_a_roster_of_one_is_refused_though_the_header_is_right(federation):
    reply = federation.tell(STORE)
    alone = Roster(header_digest=said(reply).header.digest(), hellos=(said(reply),))
    answer = said(federation.relay(STORE, "share", alone.encode()))
    assert (type(answer), answer.code) == (Refusal, "cohort-too-small")
    assert federation.charged(STORE) == 0


def test_a_store_with_another_manifest_is_left_out(found_federation):
    federation = found_federation()
    authority = federation.sign_again()
    node = federation.node(STORE)
    kept = (node.enrolment.folder / "manifest.json").read_bytes()
    federation.sign_again(authority, rounds=1)
    (node.enrolment.folder / "manifest.json").write_bytes(kept)
    result = federation.grid().exchange(federation.messages(), timeout=0.02)
    (reason,) = result.refusals.values()
    assert reason.startswith("at stage 'hello': [wrong-header] ")
    assert result.aggregate.survivors == tuple(name for name in federation.names if name != STORE)
    assert federation.charged(STORE) == 0


# The same round again, and stages out of their turn.


def test_the_same_attempt_is_made_once(federation, monkeypatch):
    federation.tell(STORE)
    forbid_work(monkeypatch)
    reply = federation.tell(STORE)
    assert reply.error.reason.startswith("[attempt-refused] attempt 1 of round 1")


def test_a_round_gives_no_third_attempt(federation, monkeypatch):
    federation.tell(STORE)
    federation.tell(STORE, attempt=2)
    forbid_work(monkeypatch)
    for attempt in (1, 2):
        reply = federation.tell(STORE, attempt=attempt)
        assert reply.error.reason.startswith("[attempt-refused] ")
    assert federation.tell(STORE, attempt=3).error.reason.startswith("[malformed-message] ")


def test_an_earlier_round_of_the_same_run_is_refused(federation, monkeypatch):
    federation.tell(STORE, **{"server-round": 2})
    forbid_work(monkeypatch)
    assert federation.tell(STORE).error.reason.startswith("[attempt-refused] ")


def test_no_second_attempt_follows_released_shares(federation, monkeypatch):
    ByHand(federation).upto("unmask")
    forbid_work(monkeypatch)
    charged = federation.charged(STORE)
    for name in federation.names:
        reply = federation.tell(name, attempt=2)
        assert reply.error.reason.startswith("[attempt-refused] round 1 of run 1 is closed here")
    assert federation.charged(STORE) == charged == 2


@pytest.mark.parametrize("stage", ["share", "mask", "confirm", "unmask"])
def test_a_stage_with_nothing_waiting_is_refused(stage, untrained):
    reply = untrained.relay(STORE, stage, b"hnse")
    refused(untrained, reply, "out-of-turn")


@pytest.mark.parametrize("stage", ["share", "mask", "confirm", "unmask"])
def test_a_stage_message_of_an_earlier_attempt_changes_nothing(stage, federation):
    before = list(STAGES)[: list(STAGES).index(stage)]
    first = ByHand(federation).upto(before[-1])
    stale = first.coordinator.advance()[STORE]
    second = ByHand(federation, attempt=2).upto(before[-1])
    charged = federation.charged(STORE)
    reply = federation.relay(STORE, stage, stale.encode())
    assert reply.error.reason.startswith("[wrong-header] ")
    assert federation.charged(STORE) == charged
    # The attempt that counts goes on to its end.
    for name in list(STAGES)[list(STAGES).index(stage) :]:
        second.next(name)
    assert second.coordinator.finish().survivors == tuple(federation.names)


@pytest.mark.parametrize("again", ["share", "mask", "confirm", "unmask"])
def test_a_stage_is_answered_once(again, federation):
    """The second asking gets no second masked vector, signature or share, and costs nothing."""
    by_hand = ByHand(federation).upto(again)
    charged = federation.charged(STORE)
    reply = federation.relay(STORE, again, by_hand.messages[STORE].encode())
    assert reply.error.reason.startswith("[out-of-turn] ")
    assert federation.charged(STORE) == charged


def test_garbage_ends_the_attempt_with_a_signed_refusal_that_quotes_nothing(federation):
    by_hand = ByHand(federation).upto("share")
    good = by_hand.coordinator.advance()[STORE].encode()
    answer = said(federation.relay(STORE, "mask", good[:-1]))
    assert (type(answer), answer.code) == (Refusal, "malformed-message")
    answer.check_signature(federation.node(STORE).enrolment.key.public)
    assert federation.charged(STORE) == 0
    # The attempt is over for this store, and its secrets are gone.
    assert federation.relay(STORE, "mask", good).error.reason.startswith("[out-of-turn] ")


def test_evaluation_sums_do_not_leave_a_store_whose_manifest_has_none(untrained):
    """Nor is the model judged at all: a reply would say what it found, if only by its time."""
    for name in untrained.names:
        reply = untrained.tell(name, "evaluate", split="test", **{"server-round": 2})
        assert reply.error.reason.startswith("[policy-violation] ")
        assert not (untrained.node(name).folder / "secagg").exists()
        assert untrained.charged(name) == 0


def test_a_coordinator_cannot_make_the_stores_mask_an_evaluation_they_did_not_agree_to(untrained):
    with raises("round-failed") as raised:
        grid = untrained.grid()
        grid._manifest = untrained.manifest().model_copy(
            update={"evaluation": untrained.manifest().sections}
        )
        list(grid.send_and_receive(untrained.messages("evaluate", split="test"), timeout=0.02))
    assert "hello" in str(raised.value)
    assert all(untrained.charged(name) == 0 for name in untrained.names)


# Questions whose answers would say something about a store's customers.


@pytest.mark.parametrize(
    "changes",
    [
        {"data.min_customers": 24},
        {"data.min_customers": 25},
        {"data.min_customers": 10_000},
        {"data.split.train_until": "1990-01-01T00:00:00"},
        {"training.anchors": 1},
        {"model.trainable": "all"},
    ],
    ids=str,
)
def test_no_order_tells_how_many_customers_a_store_has(changes, untrained):
    """A store of 24 would say so by training when asked for 24, and refusing 25.

    Whatever a store looks at in its data is signed, so that there is nothing to ask.
    """
    reply = untrained.tell(STORE, changes=changes)
    refused(untrained, reply, "policy-violation", "the coordinator asks for settings=")


def test_a_crafted_model_cannot_make_one_customer_stop_the_round(federation):
    """Numbers so large that some customers' gradients overflow, and others' do not.

    If a store failed then, its failing would say that it has such a customer, for free.
    """
    arrays = {name: np.full_like(a, 3e38) for name, a in federation.arrays.items()}
    (federation.node(STORE).folder / CLIPPING_CHECK_FILE).unlink()  # nor in the check
    reply = federation.tell(STORE, arrays=arrays, **{"server-round": 2})
    assert isinstance(said(reply), Hello)


def test_models_that_are_not_finite_are_refused_before_training(untrained):
    arrays = {name: np.full_like(a, np.nan) for name, a in untrained.arrays.items()}
    reply = untrained.tell(STORE, arrays=arrays, **{"server-round": 2})
    refused(untrained, reply, "policy-violation")


def test_honest_orders_go_through(federation):
    """So that the refusals above are not the kit's own failings."""
    by_hand = ByHand(federation).upto("unmask")
    assert by_hand.coordinator.finish().survivors == tuple(federation.names)
    assert {federation.charged(name) for name in federation.names} == {2}
