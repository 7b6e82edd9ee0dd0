"""What waits on a store's disk between two messages, and what a crash there costs."""

import contextlib
import stat

import numpy as np
import pytest

from hanse_client import node
from hanse_client.app import _node
from hanse_client.rounds.secure_exchange import Waiting
from hanse_common.privacy import ledger_file
from hanse_common.secagg import Journal
from hanse_common.secagg.state import Stage, StoreState
from kits.apps.secure_federation import STAGES, ByHand, said
from kits.errors import raises

STORE = "synthetic-03"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def secagg(federation, store=STORE):
    return federation.node(store).folder / "secagg"


def masked_sent(federation):
    return [s for s in federation.faults.sent_by_stores if s.store == STORE and said_masked(s)]


def said_masked(sent):
    return sent.kind == STAGES["mask"] and b"hnse\x00\x01\x05" in sent.data


@pytest.mark.parametrize("stage", ["hello", "share", "mask", "confirm"])
def test_only_the_store_can_read_what_waits(stage, federation):
    ByHand(federation).upto(stage)
    folder = secagg(federation)
    assert mode(folder) == 0o700
    assert {path.name for path in folder.iterdir()} == {"journal", "state", "waiting"}
    assert mode(folder / "state") == mode(folder / "waiting") == 0o600


def test_nothing_private_is_left_after_the_last_stage(federation):
    by_hand = ByHand(federation).upto("hello")
    folder = secagg(federation)
    vector = federation.waiting(STORE).vector
    first = StoreState.decode((folder / "state").read_bytes())
    secrets = [s.reveal() for s in (first.seed, first.mask_key.secret, first.share_key.secret)]
    for stage in ("share", "mask", "confirm"):
        by_hand.next(stage)
    held = StoreState.decode((folder / "state").read_bytes())
    secrets += [s.reveal() for s in (*held.seed_shares.values(), *held.mask_key_shares.values())]
    assert len(secrets) == 3 + 2 * 5
    by_hand.next("unmask")

    assert {path.name for path in folder.iterdir()} == {"journal", "state"}
    state = StoreState.decode((folder / "state").read_bytes())
    assert state.stage is Stage.FINISHED
    assert state.seed is state.mask_key is state.share_key is None
    assert not any((state.channels, state.pairs, state.mask_key_shares, state.seed_shares))
    everything = b"".join(
        path.read_bytes()
        for path in federation.node(STORE).folder.rglob("*")
        if path.is_file() and path.suffix != ".npz"
    )
    for secret in secrets:
        assert secret not in everything
        assert secret.hex().encode() not in everything
    for window in np.lib.stride_tricks.sliding_window_view(vector, 4)[::8]:
        assert window.tobytes() not in everything
    entry = Journal.decode((folder / "journal").read_bytes()).runs[1]
    assert entry.closed


def test_own_secrets_are_gone_once_the_vector_is_masked(federation):
    ByHand(federation).upto("mask")
    state = StoreState.decode((secagg(federation) / "state").read_bytes())
    assert state.stage is Stage.MASKED
    assert state.seed is state.mask_key is state.share_key is None


def test_a_failed_check_leaves_no_secret_either(federation):
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]
    said(federation.relay(STORE, "mask", message.encode()[:-1]))
    state = StoreState.decode((secagg(federation) / "state").read_bytes())
    assert state.stage is Stage.ABORTED
    assert state.seed is state.mask_key is state.share_key is None
    assert not (state.channels or state.pairs or state.mask_key_shares or state.seed_shares)


@contextlib.contextmanager
def full_disk(*, but_for_the_ledger=False):
    """Let every durable write fail."""

    def fail(path, *_, **__):
        raise OSError(28, "No space left on device", str(path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "write_durably", fail)
        if not but_for_the_ledger:
            patch.setattr(ledger_file, "write_durably", fail)
        yield


def test_a_crash_before_the_charge_sends_and_charges_nothing(federation):
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]
    with full_disk():
        reply = federation.relay(STORE, "mask", message.encode())
    assert reply.error.reason.startswith("[ledger] A store's record of what was spent cannot be")
    assert masked_sent(federation) == []
    assert federation.charged(STORE) == 0


def test_a_crash_after_the_charge_sends_nothing_and_charges_at_most_too_much(federation):
    by_hand = ByHand(federation).upto("share")
    message = by_hand.coordinator.advance()[STORE]
    with full_disk(but_for_the_ledger=True):
        reply = federation.relay(STORE, "mask", message.encode())
    assert reply.has_error()
    assert masked_sent(federation) == []
    assert federation.charged(STORE) == 2
    # Whether the vector left cannot be told from here: this attempt is over for the store.
    assert federation.relay(STORE, "mask", message.encode()).has_error()
    assert masked_sent(federation) == []
    assert federation.charged(STORE) == 2


@pytest.mark.parametrize("stage", ["hello", "share", "confirm", "unmask"])
def test_nothing_is_said_before_it_is_on_disk(stage, federation):
    before = list(STAGES)[: list(STAGES).index(stage)]
    by_hand = ByHand(federation)
    if before:
        by_hand.upto(before[-1])
    with full_disk():
        if stage == "hello":
            reply = federation.tell(STORE)
        else:
            message = by_hand.coordinator.advance()[STORE]
            reply = federation.relay(STORE, stage, message.encode())
    assert reply.error.reason == "[disk-full] The disk that a store's folder is on is full."
    assert federation.charged(STORE) == (2 if stage in ("confirm", "unmask") else 0)


def test_a_store_that_crashes_while_unmasking_can_still_finish(federation):
    """What it said never left, so the coordinator may ask again."""
    by_hand = ByHand(federation).upto("confirm")
    message = by_hand.coordinator.advance()[STORE]
    with full_disk():
        assert federation.relay(STORE, "unmask", message.encode()).has_error()
    reply = federation.relay(STORE, "unmask", message.encode())
    assert not reply.has_error(), reply.error.reason
    assert not (secagg(federation) / "waiting").exists()


def test_a_store_finds_its_attempt_again_after_a_restart(federation):
    """The kit opens the node anew for every message; this shows that it really does."""
    seen = []

    def around(store, _):
        seen.append(_node.cache_info().currsize)
        return contextlib.nullcontext()

    federation.faults.around = around
    ByHand(federation).upto("unmask")
    assert set(seen) == {0}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"nonsense"])
def test_a_damaged_waiting_vector_is_a_named_error(damage):
    with raises("malformed-message"):
        Waiting.decode(damage)


def test_a_cut_waiting_vector_is_a_named_error(federation):
    federation.tell(STORE)
    whole = (secagg(federation) / "waiting").read_bytes()
    assert Waiting.decode(whole).encode() == whole
    for length in range(0, len(whole), 97):
        with raises("malformed-message"):
            Waiting.decode(whole[:length])


def test_a_vector_hides_itself(federation):
    federation.tell(STORE)
    waiting = federation.waiting(STORE)
    assert str(waiting.vector[0]) not in repr(waiting)


def test_a_vector_made_under_another_manifest_is_not_offered_again(federation):
    """Its bounds and noise were other ones; the error would not quote its values either."""
    authority = federation.sign_again()
    federation.tell(STORE)
    first = federation.waiting(STORE)
    sections = federation.manifest().sections
    tight = [s.model_copy(update={"scale": 2}).model_dump() for s in sections]
    federation.sign_again(authority, sections=tight)
    answer = said(federation.tell(STORE, attempt=2))
    assert answer.header.manifest_digest != first.header.manifest_digest
    second = federation.waiting(STORE)
    assert np.abs(second.vector).max() < np.abs(first.vector).max() / 1000
    layout = federation.manifest().terms("train").layout
    with raises("bad-vector") as raised:
        layout.check(first.vector * 1000)
    assert str(int(first.vector.max()) * 1000) not in str(raised.value)
