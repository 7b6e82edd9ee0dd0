"""What a store's ledger says of secure rounds, and what a spent budget stops."""

from dataclasses import replace

import numpy as np
import pytest

from hanse_common.instructions import Instructions
from hanse_common.privacy.charge import NOTHING
from hanse_common.privacy.ledger_file import head_path
from hanse_common.privacy.plan import PrivacyPlan
from hanse_common.privacy.verify import verify
from hanse_common.secagg.messages import MaskedVector
from kits.apps.secure_federation import STAGES, ByHand, said

STORE = "synthetic-03"


def ledger(federation, store=STORE):
    return federation.node(store).ledger


def kinds(federation, store=STORE):
    return [entry.kind for entry in ledger(federation, store)]


def key(federation, store=STORE):
    return federation.node(store).enrolment.key.public


def masked(federation, store=STORE):
    """Replies of a store that carried a masked vector."""
    return [
        sent
        for sent in federation.faults.sent_by_stores
        if (sent.store, sent.kind) == (store, STAGES["mask"]) and b"hnse\x00\x01\x05" in sent.data
    ]


def bytes_of(vector):
    return np.ascontiguousarray(vector, "<i8").tobytes()


def with_policy(federation, *lines, store=STORE):
    """Change a store's own limits."""
    path = federation.node(store).enrolment.folder / "policy.toml"
    fields = [line.partition(" ")[0] for line in lines]
    kept = [old for old in path.read_text().splitlines() if old.partition(" ")[0] not in fields]
    path.write_text("\n".join([*kept, *lines]) + "\n")


def test_each_masked_upload_is_one_entry_with_the_rounds_own_digests(federation):
    plan = PrivacyPlan.from_settings(federation.settings)
    for attempt in (1, 2):
        by_hand = ByHand(federation, attempt=attempt).upto("share")
        waiting = {name: federation.waiting(name) for name in federation.names}
        replies = {name: said(r) for name, r in by_hand.next("mask").items()}
        for name in federation.names:
            entries = list(ledger(federation, name))
            assert len(entries) == len(masked(federation, name)) == attempt
            entry, reply = entries[-1], replies[name]
            assert isinstance(reply, MaskedVector)
            header = waiting[name].header
            assert header.digest() == reply.header_digest
            release = entry.release
            assert release.roster_digest == reply.roster_digest != NOTHING
            assert release.manifest_digest == federation.manifest().digest()
            assert release.instructions_digest == header.model_digest
            named = (release.run, release.exchange, release.attempt)
            assert named == (header.run, header.round, attempt)
            assert (release.kind, release.round) == ("train", 1)
            assert (release.mode, release.max_grad_norm) == ("local", plan.max_grad_norm)
            assert (entry.steps, entry.target_delta) == (
                plan.round_charge().steps,
                plan.target_delta,
            )
            assert ledger(federation, name).opens(entry, bytes_of(waiting[name].vector))
            assert not ledger(federation, name).opens(entry, bytes_of(waiting[name].vector + 1))
    for name in federation.names:
        found = verify(federation.node(name).folder / "ledger.sqlite", key(federation, name))
        assert (found.fault, found.unsigned, found.compared) == (None, 0, 2)


def test_an_evaluation_is_an_entry_of_its_own_without_a_clip(found_federation):
    federation = found_federation({"privacy.evaluation_noise_multiplier": 40.0})
    ByHand(federation, "evaluate", split="test", **{"server-round": 2}).upto("mask")
    plan = PrivacyPlan.from_settings(federation.settings)
    for name in federation.names:
        (entry,) = ledger(federation, name)
        assert (entry.release.kind, entry.release.max_grad_norm) == ("evaluate", 0.0)
        assert entry.steps == plan.evaluation_charge().steps


def test_what_fails_before_the_upload_is_in_no_entry(federation):
    for stage in ("hello", "share"):
        ByHand(federation, run=list(STAGES).index(stage) + 1).upto(stage)
    assert all(kinds(federation, name) == [] for name in federation.names)


@pytest.fixture
def spent(federation):
    """A federation in which one store has paid for more than its policy allows."""
    charge = PrivacyPlan.from_settings(federation.settings).round_charge().of(round=1)
    much = replace(charge, steps=replace(charge.steps, count=10_000))
    federation.node(STORE).charge(much)
    return federation


def test_a_spent_budget_is_refused_in_every_run_before_training_and_written_down(
    spent, monkeypatch
):
    def work(*_, **__):
        raise AssertionError("the store began to work")

    monkeypatch.setattr("hanse_client.training.train.train_round", work)
    before = kinds(spent)
    for run in (2, 3):
        reply = spent.tell(STORE, run=run)
        assert reply.error.reason == (
            "[budget-spent] A release would cost more than policy or manifest have left."
        )
    # However often it is asked for, one refusal is written until something is charged.
    assert kinds(spent) == [*before, "refusal"]
    entries = list(ledger(spent))[-1:]
    assert [entry.release.run for entry in entries] == [2]
    header = Instructions.read(
        {"settings": "{}", "server-round": 1, "run": 2, "attempt": 1}, {}, kind="train"
    ).header(spent.manifest().digest())
    assert entries[0].release.exchange == header.round
    assert entries[0].release.instructions_digest != NOTHING
    assert not (spent.node(STORE).folder / "secagg").exists()
    assert verify(ledger(spent).path, key(spent)).fault is None


def test_a_budget_that_was_spent_meanwhile_stops_the_masked_vector(federation):
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]
    node = federation.node(STORE)
    charge = PrivacyPlan.from_settings(federation.settings).round_charge().of(round=1)
    much = replace(charge, steps=replace(charge.steps, count=10_000))
    node.charge(much)
    reply = federation.relay(STORE, "mask", message.encode())
    assert reply.error.reason.startswith("[budget-spent] ")
    assert masked(federation) == []
    assert kinds(federation) == ["charge", "refusal"]


def test_a_renewal_in_the_policy_lets_the_store_go_on_and_is_in_the_ledger(spent):
    assert spent.tell(STORE).error.reason.startswith("[budget-spent] ")
    with_policy(spent, "budget_renews = 2020-01-01")
    ByHand(spent).upto("mask")
    assert kinds(spent)[-2:] == ["renewal", "charge"]
    assert len(masked(spent)) == 1
    with_policy(spent, "budget_renews = 2999-01-01")
    ByHand(spent, run=2).upto("mask")
    assert kinds(spent)[-1] == "charge"


def test_a_restored_older_ledger_stops_all_work_of_an_enrolled_store(federation, monkeypatch):
    ByHand(federation).upto("mask")
    path = federation.node(STORE).folder / "ledger.sqlite"
    older = path.read_bytes()
    ByHand(federation, run=2).upto("mask")
    path.write_bytes(older)
    monkeypatch.setattr("hanse_client.training.train.train_round", None)
    reply = federation.tell(STORE, run=3)
    assert reply.error.reason.startswith("[ledger-went-back] ")
    assert len(masked(federation)) == 2


def test_an_update_whose_charge_cannot_be_written_does_not_leave(federation):
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]
    path = federation.node(STORE).folder / "ledger.sqlite"
    path.mkdir()
    assert federation.relay(STORE, "mask", message.encode()).error.reason.startswith("[ledger] ")
    assert masked(federation) == []
    # The disk was mended: the store goes on from where it was.
    path.rmdir()
    answer = said(federation.relay(STORE, "mask", message.encode()))
    assert isinstance(answer, MaskedVector)
    assert kinds(federation) == ["charge"]
    assert head_path(path).exists()
