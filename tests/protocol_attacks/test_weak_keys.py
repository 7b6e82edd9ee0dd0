"""X25519 points of small order: the shared secret would be zero, and known to everybody."""

from __future__ import annotations

import pytest

from federation_kit import Federation, is_wiped
from hanse_common.errors import WeakKey
from hanse_common.secagg.keys import ExchangeKey
from hanse_common.secagg.messages import Roster

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
    with pytest.raises(WeakKey, match="store-002"):
        victim.share(roster)
    assert is_wiped(victim)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: point.hex()[:8])
def test_agreement_never_gives_zero(point):
    with pytest.raises(WeakKey):
        ExchangeKey(b"\x42" * 32).agree(point)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size(size):
    with pytest.raises(WeakKey):
        ExchangeKey(b"\x42" * 32).agree(bytes(size))
