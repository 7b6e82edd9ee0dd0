"""Evidence against a dealer: it convicts who cheats, clears who does not, and shows no more."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from hanse_common.errors import (
    BadShares,
    MalformedMessage,
    ProtocolError,
)
from hanse_common.secagg import _edwards, check_accusation, decode, keys
from hanse_common.secagg.dispute import accuse, channel_of, open_sealed, vouch
from hanse_common.secagg.messages import Accusation, Refusal, ShareBundle
from hanse_common.secagg.roster import check_roster
from hanse_common.secagg.shamir import PRIME
from kits.errors import raises
from kits.federation import Federation, header, is_wiped

DEALER, VICTIM = "store-002", "store-004"
D, V = 2, 4
NEUTRAL = _edwards.NEUTRAL


def small_points():
    """Points whose order divides eight."""
    for y in range(2, 40):
        with contextlib.suppress(MalformedMessage):
            point = _edwards.decode(y.to_bytes(32, "little"))
            yield _edwards.multiply(_edwards.ORDER, point)


def flip(data: bytes, place: int = -1) -> bytes:
    altered = bytearray(data)
    altered[place] ^= 1
    return bytes(altered)


def spoil(federation, bundle, how, *, holder=V, vouching=True):
    """DEALER's bundle with a wrong share for one holder, signed like any other."""
    cohort = federation.coordinator._cohort
    place = holder - (holder > D)
    sealed, vouched, digests = list(bundle.sealed), list(bundle.vouched), list(bundle.digests)
    names = cohort.ids((D, holder))
    ids = cohort.header_digest, cohort.roster_digest
    channel = federation.stores[DEALER]._state.channels[holder].reveal()
    shares = open_sealed(channel, cohort, D, holder, sealed[place], digests[holder])
    if how == "garbage":
        sealed[place] = flip(sealed[place])
    elif how == "other digests":
        digests[holder] = flip(digests[holder])
    else:
        plaintext = {
            "other share": shares[0] + flip(shares[1]),
            "no field element": PRIME.to_bytes(33, "big") + shares[1],
        }[how]
        if how == "no field element":
            digests[holder] = keys.share_digests(plaintext[:33], plaintext[33:], ids[0], *names)
        key = keys.share_key(channel, *ids, *names)
        context = keys.sealing_context(*ids, digests[holder], *names)
        sealed[place] = keys.seal(key, bytes(12), plaintext, context)
    if vouching:
        context = keys.sealing_context(*ids, digests[holder], *names)
        vouched[place] = vouch(federation.keys[DEALER], context, sealed[place])
    altered = replace(bundle, sealed=tuple(sealed), vouched=tuple(vouched), digests=tuple(digests))
    return altered.sign(federation.keys[DEALER])


class Watched:
    """A federation whose DEALER cheats VICTIM, and everything that crossed the wire."""

    def __init__(self, how="garbage", count=7, **options):
        self.federation = Federation(count)
        self.how, self.options = how, options
        self.bundles: dict[str, ShareBundle] = {}
        self.refusals: dict[str, Refusal] = {}

    def tamper(self, name, message):
        if isinstance(message, ShareBundle):
            if name == DEALER and self.how is not None:
                message = spoil(self.federation, message, self.how, **self.options)
            self.bundles[name] = message
        return message

    def run(self, **hooks):
        real = self.federation.receive

        def receive(message):
            data = message if isinstance(message, bytes) else message.encode()
            read = decode(data)
            if isinstance(read, Refusal):
                self.refusals[read.store_id] = read
            real(data)

        self.federation.receive = receive
        return self.federation.run(to_coordinator=self.tamper, **hooks)


@pytest.fixture(scope="module")
def cheated():
    watched = Watched()
    watched.aggregate = watched.run()
    return watched


HOW = ["garbage", "other digests", "other share", "no field element"]


@pytest.mark.parametrize("how", HOW)
def test_one_wrong_share_to_one_victim_convicts_the_dealer(how):
    """It needs no second complaint: before, only the victim was missing, for ever."""
    watched = Watched(how)
    aggregate = watched.run()
    watched.federation.assert_exact(aggregate)
    assert aggregate.proven == watched.federation.coordinator.proven == {DEALER: "bad-shares"}
    assert aggregate.missing == {"mask": (VICTIM,)}
    reasons = watched.federation.coordinator.reasons
    assert reasons == {VICTIM: f"bad-shares: accuses {DEALER}"}
    assert watched.federation.coordinator.suspects == frozenset()
    assert is_wiped(watched.federation.stores[VICTIM])


def test_who_is_convicted_is_to_blame_when_the_round_fails():
    watched = Watched()
    with raises("round-failed") as failure:
        watched.run(drop={"mask": {"store-000", "store-001"}})
    assert failure.value.culprits == (DEALER,)
    assert f"{VICTIM} (bad-shares: accuses {DEALER})" in failure.value.message


def test_anybody_can_check_the_evidence_from_what_was_signed(cheated):
    """Hellos, the dealer's bundle and the victim's refusal, as bytes; no coordinator."""
    federation = cheated.federation
    hellos = [decode(store.hello.encode()) for _, store in sorted(federation.stores.items())]
    cohort = check_roster(hellos, federation.attempt)
    refusal = decode(cheated.refusals[VICTIM].encode())
    refusal.check_signature(federation.keys[VICTIM].public)
    (accusation,) = refusal.accusations
    assert accusation.dealer == DEALER and refusal.culprits == (DEALER,)
    bundle = decode(cheated.bundles[DEALER].encode())
    check_accusation(cohort, VICTIM, accusation, bundle)


def test_evidence_opens_what_lies_between_the_two_and_nothing_else(cheated):
    federation = cheated.federation
    cohort = federation.coordinator._cohort
    (accusation,) = cheated.refusals[VICTIM].accusations
    channel = channel_of(cohort, V, accusation)
    opened = set()
    for dealer, bundle in cheated.bundles.items():
        for holder in range(7):
            at = federation.names.index(dealer)
            if holder == at:
                continue
            sealed, _, digests = bundle.part(at, holder)
            try:
                open_sealed(channel, cohort, at, holder, sealed, digests)
            except BadShares:
                continue
            opened.add((dealer, federation.names[holder]))
    assert opened == {(VICTIM, DEALER)}  # the other way round is what was spoilt


def test_the_share_key_is_never_shown(monkeypatch):
    seen = []
    real = accuse

    def watching(cohort, accuser, dealer, key, **more):
        seen.append((key.secret.reveal(), key.scalar))
        return real(cohort, accuser, dealer, key, **more)

    monkeypatch.setattr("hanse_common.secagg.dealing.accuse", watching)
    watched = Watched()
    watched.run()
    ((secret, scalar),) = seen
    data = watched.refusals[VICTIM].encode()
    for value in (scalar, scalar // 8, scalar % _edwards.ORDER, scalar // 8 % _edwards.ORDER):
        assert value.to_bytes(32, "little") not in data
    assert secret not in data


@pytest.mark.parametrize("field", ["sealed", "digests", "vouched"])
def test_a_coordinator_that_alters_what_honest_stores_sealed_gets_no_evidence(field):
    """Else it would alter every share for most stores, and read all of them afterwards."""
    federation = Federation(7)
    outgoing = federation.up_to("mask")
    for name in federation.names[1:]:
        delivery = outgoing[name]
        changed = {field: tuple(flip(data) for data in getattr(delivery, field))}
        if field == "vouched":
            changed["sealed"] = tuple(flip(data) for data in delivery.sealed)
        store = federation.stores[name]
        with raises("bad-shares") as refusal:
            store.accept(replace(delivery, **changed))
        assert len(refusal.value.culprits) == 6
        answer = store.refuse(refusal.value)
        assert answer.accusations == () and len(answer.culprits) == 6
        assert is_wiped(store)


def test_shares_of_two_dealers_swapped_on_the_way_give_no_evidence():
    federation = Federation(7)
    delivery = federation.up_to("mask")[VICTIM]
    swapped = {}
    for field in ("sealed", "vouched", "digests"):
        first, second, *others = getattr(delivery, field)
        swapped[field] = (second, first, *others)
    store = federation.stores[VICTIM]
    with raises("bad-shares") as refusal:
        store.accept(replace(delivery, **swapped))
    assert refusal.value.culprits == ("store-000", "store-001")
    assert store.refuse(refusal.value).accusations == ()


def test_a_dealer_that_does_not_vouch_for_its_wrong_share_is_convicted_of_that():
    """The victim shows nothing, as the coordinator might have altered the share."""
    watched = Watched(vouching=False)
    aggregate = watched.run()
    assert watched.refusals[VICTIM].accusations == ()
    assert aggregate.proven == {DEALER: "bad-signature"}
    assert aggregate.missing == {"mask": (VICTIM,)}


def test_a_complaint_without_evidence_of_a_share_that_is_vouched_for_counts_as_one():
    federation = Federation(7)
    federation.up_to("mask")
    complaint = Refusal(
        header_digest=federation.attempt.header.digest(),
        store_id=VICTIM,
        code="bad-shares",
        culprits=(DEALER,),
    ).sign(federation.keys[VICTIM])
    federation.receive(complaint)
    assert federation.coordinator.proven == {}
    assert federation.coordinator.suspects == frozenset()


# Accusations that do not hold


def honest():
    """A federation at stage 2, its roster, and what VICTIM's key would show of DEALER."""
    federation = Federation(7)
    federation.up_to("mask")
    cohort = federation.coordinator._cohort
    key = federation.stores[VICTIM]._state.share_key
    return federation, cohort, accuse(cohort, V, D, key)


def say(federation, *accusations, name=VICTIM):
    refusal = Refusal(
        header_digest=federation.attempt.header.digest(),
        store_id=name,
        code="bad-shares",
        culprits=tuple(sorted({accusation.dealer for accusation in accusations})),
        accusations=accusations,
    ).sign(federation.keys[name])
    federation.receive(refusal)


def test_a_true_proof_against_an_honest_dealer_convicts_the_accuser():
    federation, cohort, accusation = honest()
    channel_of(cohort, V, accusation)  # the proof holds: what it opens is the point
    say(federation, accusation)
    assert federation.coordinator.proven == {VICTIM: "false-accusation"}
    assert federation.coordinator.suspects == frozenset()


def altered(accusation: Accusation) -> dict[str, Accusation]:
    point = _edwards.decode(accusation.shared)
    torsion = next(p for p in small_points() if _edwards.encode(p) != _edwards.encode(NEUTRAL))
    number = {
        field: int.from_bytes(getattr(accusation, field), "little")
        for field in ("challenge", "response")
    }
    other = _edwards.encode(_edwards.add(point, _edwards.BASE))
    changes = {
        "another secret": {"shared": other},
        "the inverse": {"shared": _edwards.encode(_edwards.negate(point))},
        "the neutral point": {"shared": _edwards.encode(NEUTRAL)},
        "a small component": {"shared": _edwards.encode(_edwards.add(point, torsion))},
        "no point": {"shared": (2).to_bytes(32, "little")},
        "not reduced": {"shared": b"\xff" * 32},
        "zero proof": {"challenge": bytes(32), "response": bytes(32)},
    }
    for field, value in number.items():
        changes[f"{field} altered"] = {field: flip(getattr(accusation, field), 0)}
        changes[f"{field} not reduced"] = {field: (value + _edwards.ORDER).to_bytes(32, "little")}
    return {name: replace(accusation, **change) for name, change in changes.items()}


WAYS = sorted(altered(honest()[2]))


@pytest.mark.parametrize("way", WAYS)
def test_an_altered_proof_convicts_the_accuser(way):
    federation, cohort, accusation = honest()
    forged = altered(accusation)[way]
    with raises("false-accusation", match=f"'{VICTIM}' .* '{DEALER}'"):
        channel_of(cohort, V, forged)
    say(federation, forged)
    assert federation.coordinator.proven == {VICTIM: "false-accusation"}


@pytest.mark.parametrize("byte", range(0, 96, 7))
def test_every_part_of_the_proof_counts(byte):
    _, cohort, accusation = honest()
    fields = ("shared", "challenge", "response")
    field = fields[byte // 32]
    forged = replace(accusation, **{field: flip(getattr(accusation, field), byte % 32)})
    with raises("false-accusation"):
        channel_of(cohort, V, forged)


def test_a_proof_is_of_one_attempt_one_roster_and_one_pair():
    _, cohort, accusation = honest()
    peers = cohort.peers
    renamed = tuple(
        replace(peer, store_id="store-0045") if at == V else peer for at, peer in enumerate(peers)
    )
    for other, accuser in (
        (replace(cohort, header_digest=header(round=9).digest()), V),
        (replace(cohort, roster_digest=bytes(32)), V),
        (replace(cohort, peers=renamed), V),
        (cohort, 5),
    ):
        with raises("false-accusation", match="proof"):
            channel_of(other, accuser, accusation)
    with raises("false-accusation", match="proof"):
        channel_of(cohort, V, replace(accusation, dealer="store-003"))
    with raises("bad-roster"):
        channel_of(cohort, V, replace(accusation, dealer="store-999"))


def test_another_stores_evidence_repeated_convicts_who_repeats_it():
    watched = Watched()
    federation = watched.federation
    federation.up_to("mask", to_coordinator=watched.tamper)
    store = federation.stores[VICTIM]
    cohort = federation.coordinator._cohort
    stolen = accuse(cohort, V, D, store._state.share_key)
    say(federation, stolen, name="store-005")
    assert federation.coordinator.proven == {"store-005": "false-accusation"}
    say(federation, stolen, name=VICTIM)
    assert federation.coordinator.proven[DEALER] == "bad-shares"


@pytest.mark.parametrize("dealer", ["store-006", "store-999", VICTIM])
def test_evidence_against_a_store_that_dealt_nothing(dealer):
    federation = Federation(7)
    federation.up_to("mask", drop={"share": {"store-006"}})
    cohort = federation.coordinator._cohort
    accusation = accuse(cohort, V, D, federation.stores[VICTIM]._state.share_key)
    say(federation, replace(accusation, dealer=dealer))
    assert federation.coordinator.proven == {VICTIM: "false-accusation"}


def test_evidence_that_comes_when_no_shares_are_kept_is_a_complaint():
    federation = Federation(7)
    federation.up_to("mask")
    cohort = federation.coordinator._cohort
    accusation = accuse(cohort, V, D, federation.stores[VICTIM]._state.share_key)
    federation = Federation(7)
    federation.up_to("confirm")
    say(federation, accusation)
    assert federation.coordinator.proven == {}
    assert federation.coordinator.reasons == {VICTIM: f"bad-shares: accuses {DEALER}"}


def test_a_store_leaves_once():
    federation, _, accusation = honest()
    say(federation, replace(accusation, challenge=bytes(32)))
    before = dict(federation.coordinator.proven), dict(federation.coordinator.reasons)
    say(federation, accusation)
    assert (federation.coordinator.proven, federation.coordinator.reasons) == before


def test_a_reason_names_a_few_of_many():
    federation = Federation(9)
    federation.up_to("mask")
    complaint = Refusal(
        header_digest=federation.attempt.header.digest(),
        store_id=VICTIM,
        code="bad-shares",
        culprits=tuple(name for name in federation.names if name != VICTIM),
    ).sign(federation.keys[VICTIM])
    federation.receive(complaint)
    said = federation.coordinator.reasons[VICTIM]
    assert said == "bad-shares: accuses store-000, store-001, store-002 and 5 more"


# Who checks, and with what


def test_the_bundle_must_be_the_dealers_of_this_attempt(cheated):
    federation, cohort = cheated.federation, cheated.federation.coordinator._cohort
    (accusation,) = cheated.refusals[VICTIM].accusations
    bundle = cheated.bundles[DEALER]
    check_accusation(cohort, VICTIM, accusation, bundle)
    forged = replace(bundle, sealed=tuple(flip(data) for data in bundle.sealed))
    with raises("bad-signature"):
        check_accusation(cohort, VICTIM, accusation, forged)
    for wrong in (
        replace(bundle, header_digest=bytes(32)),
        replace(bundle, roster_digest=bytes(32)),
        replace(bundle, sealed=bundle.sealed[1:]),
        replace(bundle, vouched=()),
        replace(bundle, digests=bundle.digests[1:]),
        cheated.bundles["store-003"],
    ):
        signed = wrong.sign(federation.keys[DEALER])
        with raises("wrong-header"):
            check_accusation(cohort, VICTIM, accusation, signed)


@pytest.mark.parametrize("whose", ["accuser", "dealer"])
def test_a_small_component_in_a_key_changes_nothing(whose):
    """Both sides multiply by a multiple of eight: the point is the same, and so is the proof."""
    federation = Federation(7)
    federation.up_to("mask")
    cohort = federation.coordinator._cohort
    at = V if whose == "accuser" else D
    torsion = next(p for p in small_points() if _edwards.encode(p) != _edwards.encode(NEUTRAL))
    point = _edwards.decode(cohort.peers[at].share_public)
    mixed = _edwards.encode(_edwards.add(point, torsion))
    peers = list(cohort.peers)
    peers[at] = replace(peers[at], share_public=mixed)
    changed = replace(cohort, peers=tuple(peers))
    victim, dealer = (federation.stores[name]._state for name in (VICTIM, DEALER))
    expected = dealer.channels[V].reveal()
    assert victim.share_key.agree(changed.peers[D].share_public) == expected
    accusation = accuse(changed, V, D, victim.share_key)
    if whose == "dealer":
        assert channel_of(changed, V, accusation) == expected
        return
    # An accuser with such a key can prove the true point, one time in eight, or none.
    try:
        channel = channel_of(changed, V, accusation)
    except ProtocolError as error:
        assert error.code == "false-accusation"
    else:
        assert channel == expected


def test_the_proof_uses_fresh_randomness_and_the_statement():
    """Two proofs with one nonce and two challenges would give the key away."""
    federation = Federation(7)
    federation.up_to("mask")
    cohort = federation.coordinator._cohort
    key = federation.stores[VICTIM]._state.share_key
    stuck = [accuse(cohort, V, dealer, key, entropy=bytes) for dealer in (D, 3)]
    assert len({each.challenge for each in stuck}) == 2
    numbers = [
        (int.from_bytes(a.challenge, "little"), int.from_bytes(a.response, "little")) for a in stuck
    ]
    (c1, z1), (c2, z2) = numbers
    guess = (z1 - z2) * pow(c1 - c2, -1, _edwards.ORDER) % _edwards.ORDER
    assert guess != key.scalar // 8 % _edwards.ORDER
    again = accuse(cohort, V, D, key)
    assert again.challenge != stuck[0].challenge and again.shared == stuck[0].shared
