"""X25519 points of small order: the shared secret would be zero, and known to everybody."""

from __future__ import annotations

import contextlib

import pytest

from hanse_common.errors import MalformedMessage, WeakKey
from hanse_common.secagg import _edwards, keys
from hanse_common.secagg.keys import ExchangeKey
from hanse_common.secagg.messages import Roster
from kits.errors import raises
from kits.federation import Federation, is_wiped

# All points of order 1, 2, 4 and 8 on the curve and its twist, canonical and not
# (https://cr.yp.to/ecdh.html#validate).
P = 2**255 - 19
SMALL_ORDER = [
    value.to_bytes(32, "little")
    for value in (
        0,
        1,
        P - 1,
        P,
        P + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    )
]


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
@pytest.mark.parametrize("field", ["mask_public", "share_public"])
def test_the_coordinator_refuses_it_and_the_round_goes_on(point, field):
    federation = Federation(6)

    def weaken(name, message):
        if name == "store-002" and type(message).__name__ == "Hello":
            return federation.forged_hello(name, **{field: point})
        return message

    aggregate = federation.run(to_coordinator=weaken)
    federation.assert_exact(aggregate)
    assert "store-002" not in aggregate.survivors
    ((_, error),) = federation.errors
    assert isinstance(error, WeakKey) and error.culprits == ("store-002",)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
@pytest.mark.parametrize("field", ["mask_public", "share_public"])
def test_a_store_refuses_it_from_a_coordinator_that_does_not(point, field):
    federation = Federation(6)
    for name in federation.names:
        federation.start(name)
    bad = federation.forged_hello("store-002", **{field: point})
    hellos = [bad if n == "store-002" else s.hello for n, s in federation.stores.items()]
    roster = Roster(header_digest=federation.attempt.header.digest(), hellos=tuple(hellos))
    victim = federation.stores["store-000"]
    with raises("weak-key", match="store-002"):
        victim.share(roster)
    assert is_wiped(victim)


def small_order_points():
    """The eight points of edwards25519 whose multiple by eight is neutral, encoded."""
    y, points = 2, []
    while not points:
        with contextlib.suppress(MalformedMessage):
            point = _edwards.decode(y.to_bytes(32, "little"))
            # What is left of a point when its component of large order is taken away.
            small = _edwards.multiply(_edwards.ORDER, point)
            multiples = {_edwards.encode(_edwards.multiply(k, small)) for k in range(8)}
            points = sorted(multiples) if len(multiples) == 8 else []
        y += 1
    return points


def forged_possession(point: bytes, header_digest: bytes, store_id: str) -> bytes:
    """A signature that verifies under a point of small order, whose owner knows nothing.

    R = sB needs that the challenge times the point is neutral: every eighth s will do.
    """
    for scalar in range(1, 2000):
        committed = _edwards.encode(_edwards.multiply(scalar, _edwards.BASE))
        proof = committed + scalar.to_bytes(32, "little")
        with contextlib.suppress(WeakKey):
            keys.check_possession(point, proof, header_digest, store_id)
            return proof
    raise AssertionError("no signature was found")


@pytest.mark.parametrize("point", small_order_points(), ids=lambda point: point.hex()[:8])
def test_a_share_key_of_small_order_is_refused_although_anybody_proves_to_hold_it(point):
    federation = Federation(6)
    for name in federation.names:
        federation.start(name)
    digest = federation.attempt.header.digest()
    proof = forged_possession(point, digest, "store-002")
    bad = federation.forged_hello("store-002", share_public=point, possession=proof)
    with raises("weak-key", match="'store-002'"):
        federation.receive(bad)
    hellos = [bad if n == "store-002" else s.hello for n, s in federation.stores.items()]
    with raises("weak-key", match="'store-002'"):
        federation.stores["store-000"].share(Roster(header_digest=digest, hellos=tuple(hellos)))


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_agreement_never_gives_zero(point):
    with raises("weak-key"):
        ExchangeKey(b"\x42" * 32).agree(point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size(size):
    with raises("weak-key"):
        ExchangeKey(b"\x42" * 32).agree(bytes(size))
