"""Arithmetic on edwards25519 and the keys on it, against the RFCs and the library."""

from __future__ import annotations

import hashlib
import os

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from hanse_common.secagg import _edwards as edwards
from hanse_common.secagg.keys import ShareKey, check_possession
from kits.errors import raises

# RFC 8032, section 7.1: secret and public keys of tests 1, 2, 3 and SHA(abc).
RFC_8032 = {
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    ),
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    ),
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    ),
    "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42": (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf"
    ),
}
# RFC 7748, section 6.1.
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def clamped(secret: bytes) -> int:
    data = bytearray(secret)
    data[0] &= 248
    data[31] &= 127
    data[31] |= 64
    return int.from_bytes(data, "little")


@pytest.mark.parametrize(("secret", "public"), RFC_8032.items(), ids=lambda text: text[:8])
def test_public_keys_of_rfc_8032(secret, public):
    scalar = clamped(hashlib.sha512(bytes.fromhex(secret)).digest()[:32])
    assert edwards.encode(edwards.multiply(scalar, edwards.BASE)).hex() == public
    point = edwards.decode(bytes.fromhex(public))
    assert edwards.encode(point).hex() == public
    key = ShareKey(bytes.fromhex(secret))
    assert (key.public.hex(), key.scalar) == (public, scalar)


def test_agreement_of_rfc_7748_on_the_edwards_curve():
    alice, bob = (
        edwards.multiply(clamped(bytes.fromhex(key)), edwards.BASE) for key in (ALICE, BOB)
    )
    assert edwards.montgomery(edwards.encode(alice)).hex() == ALICE_PUBLIC
    assert edwards.montgomery(edwards.encode(bob)).hex() == BOB_PUBLIC
    for scalar, point in ((ALICE, bob), (BOB, alice)):
        shared = edwards.multiply(clamped(bytes.fromhex(scalar)), point)
        assert edwards.montgomery(edwards.encode(shared)).hex() == SHARED


def test_the_base_point_stands_for_nine():
    assert edwards.montgomery(edwards.encode(edwards.BASE)) == (9).to_bytes(32, "little")


def test_the_group_laws():
    points = [edwards.multiply(k, edwards.BASE) for k in (1, 2, 3, 5, 2**200 + 7)]
    for one in points:
        total = edwards.encode(edwards.add(one, edwards.negate(one)))
        assert total == edwards.encode(edwards.NEUTRAL)
        for other in points:
            both = edwards.encode(edwards.add(one, other))
            assert both == edwards.encode(edwards.add(other, one))
    by_sum = edwards.add(points[1], points[2])
    assert edwards.encode(by_sum) == edwards.encode(points[3])
    assert edwards.encode(edwards.multiply(edwards.ORDER + 5, edwards.BASE)) == edwards.encode(
        points[3]
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(31),
        bytes(33),
        b"\xff" * 32,
        edwards.FIELD.to_bytes(32, "little"),
        (edwards.FIELD + 1).to_bytes(32, "little"),
        (1 | 1 << 255).to_bytes(32, "little"),  # x is zero, and said to be odd
        (2).to_bytes(32, "little"),  # no point has this y
    ],
    ids=lambda data: f"{len(data)}:{data.hex()[:8]}",
)
def test_bytes_that_are_no_point(data):
    with raises("malformed-message"):
        edwards.decode(data)


def test_share_keys_agree_as_the_library_does():
    for _ in range(20):
        one, other = ShareKey(os.urandom(32)), ShareKey(os.urandom(32))
        assert one.agree(other.public) == other.agree(one.public)
        point = edwards.multiply(one.scalar, edwards.decode(other.public))
        assert edwards.montgomery(edwards.encode(point)) == one.agree(other.public)
        scalar = one.scalar.to_bytes(32, "little")
        same = X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
        assert edwards.montgomery(one.public) == same


def test_possession_is_of_one_key_one_attempt_and_one_store():
    key, other = ShareKey(b"\x01" * 32), ShareKey(b"\x02" * 32)
    proof = key.prove_possession(b"H" * 32, "luebeck")
    check_possession(key.public, proof, b"H" * 32, "luebeck")
    for arguments in (
        (other.public, proof, b"H" * 32, "luebeck"),
        (key.public, proof, b"I" * 32, "luebeck"),
        (key.public, proof, b"H" * 32, "wismar"),
        (key.public, proof[:-1] + b"\x00", b"H" * 32, "luebeck"),
        (b"\xff" * 32, proof, b"H" * 32, "luebeck"),
    ):
        with raises("weak-key"):
            check_possession(*arguments)


def test_a_share_key_hides_and_wipes_itself():
    key = ShareKey(b"\x41" * 32)
    scalar = key.scalar
    assert "AAAA" not in repr(key) and f"{scalar:x}" not in repr(key)
    key.wipe()
    for use in (lambda: key.scalar, lambda: key.agree(key.public)):
        with raises("protocol"):
            use()
