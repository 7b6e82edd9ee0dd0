"""Golden bytes, once by this code and once by hand from the standards it names."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hanse_common.identity import Certificate
from hanse_common.secagg import Header, decode, dispute, keys
from hanse_common.secagg.masking import Keystream
from hanse_common.secagg.messages import Message, StoreMessage
from hanse_common.secagg.roster import Cohort, Peer
from hanse_common.secagg.shamir import PRIME, Weights, split
from kits.errors import raises
from kits.vectors import AUTHORITY, CERTIFICATE, HEADER, STORE, fixed, messages, read

GOLDEN = read("messages.txt")
REFUSED = read("refused.txt")
KNOWN = read("derivations.txt")
ROSTER, SEED = b"\x44" * 32, b"\x77" * 32


# Messages


@pytest.mark.parametrize("name", messages())
def test_messages_encode_to_the_golden_bytes(name):
    message = messages()[name]
    assert message.encode().hex() == GOLDEN[name].hex()
    assert decode(GOLDEN[name]) == message
    if isinstance(message, StoreMessage):
        message.check_signature(STORE.public)


def test_the_certificate_encodes_to_the_golden_bytes():
    certificate = Certificate.decode(GOLDEN["Certificate"])
    assert certificate == CERTIFICATE
    certificate.check(AUTHORITY.public, now=1_750_000_000)


def test_every_kind_of_message_has_golden_bytes():
    assert {kind.__name__ for kind in Message.kinds.values()} == GOLDEN.keys() - {"Certificate"}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_bytes_give_the_named_error(name):
    with raises(name.partition(":")[0]):
        decode(REFUSED[name])


# Derivations, by this code


def shared() -> bytes:
    return keys.ExchangeKey(bytes(range(32))).agree(KNOWN["X25519 public of 20..3f"])


def test_header():
    assert HEADER.encode() == KNOWN["header"]
    assert Header.decode(KNOWN["header"]) == HEADER
    assert HEADER.digest() == KNOWN["header digest"]


def test_agreement():
    assert keys.ExchangeKey(bytes(range(32))).public == KNOWN["X25519 public of 00..1f"]
    assert shared() == KNOWN["X25519 shared"]
    other_side = keys.ExchangeKey(bytes(range(32, 64))).agree(KNOWN["X25519 public of 00..1f"])
    assert other_side == KNOWN["X25519 shared"]


def test_derived_keys():
    digest = HEADER.digest()
    pair = keys.pair_mask_key(shared(), digest, ROSTER, "luebeck", "wismar")
    assert pair == KNOWN["pair mask key"]
    assert keys.self_mask_key(SEED, digest, "luebeck") == KNOWN["self mask key"]
    for one, other in (("luebeck", "wismar"), ("wismar", "luebeck")):
        key = keys.share_key(shared(), digest, ROSTER, one, other)
        assert key == KNOWN[f"share key {one} to {other}"]


def share_keys() -> tuple[keys.ShareKey, keys.ShareKey]:
    """Of luebeck and of wismar."""
    return keys.ShareKey(bytes(range(32))), keys.ShareKey(bytes(range(32, 64)))


def test_share_keys():
    one, other = share_keys()
    assert one.public == KNOWN["share key public of 00..1f"]
    assert other.public == KNOWN["share key public of 20..3f"]
    assert one.agree(other.public) == other.agree(one.public) == KNOWN["share keys shared"]
    proof = one.prove_possession(HEADER.digest(), "luebeck")
    assert proof == KNOWN["possession of 00..1f by luebeck"]
    keys.check_possession(one.public, proof, HEADER.digest(), "luebeck")


def cohort() -> Cohort:
    """Luebeck and wismar with the share keys above."""
    peers = tuple(
        Peer(
            store_id=name,
            identity=STORE.public,
            mask_public=bytes(32),
            share_public=key.public,
            commitment=bytes(32),
        )
        for name, key in zip(("luebeck", "wismar"), share_keys(), strict=True)
    )
    return Cohort(header_digest=HEADER.digest(), roster_digest=ROSTER, peers=peers)


def test_evidence():
    accusation = dispute.accuse(cohort(), 0, 1, share_keys()[0], entropy=fixed(0x0E))
    assert accusation.dealer == "wismar"
    assert accusation.shared == KNOWN["evidence of luebeck against wismar: point"]
    assert accusation.challenge == KNOWN["evidence of luebeck against wismar: challenge"]
    assert accusation.response == KNOWN["evidence of luebeck against wismar: response"]
    assert dispute.channel_of(cohort(), 0, accusation) == KNOWN["share keys shared"]


def test_a_vouched_share():
    context, sealed = KNOWN["sealing context"], KNOWN["sealed shares"]
    vouched = dispute.vouch(STORE, context, sealed)
    assert vouched == KNOWN["vouched share"]
    digests = KNOWN["share digests"]
    assert dispute.is_vouched(cohort(), 0, 1, sealed, vouched, digests)
    assert not dispute.is_vouched(cohort(), 1, 0, sealed, vouched, digests)


def test_commitment_and_digests():
    digest = HEADER.digest()
    assert keys.seed_commitment(SEED, digest, "luebeck") == KNOWN["seed commitment"]
    shares = (b"\x01" * 33, b"\x00" + b"\x02" * 32)
    digests = keys.share_digests(*shares, digest, "luebeck", "wismar")
    assert digests == KNOWN["share digests"]
    context = keys.sealing_context(digest, ROSTER, digests, "luebeck", "wismar")
    assert context == KNOWN["sealing context"]
    key = KNOWN["share key luebeck to wismar"]
    sealed = keys.seal(key, b"\x0c" * 12, b"".join(shares), context)
    assert sealed == KNOWN["sealed shares"]
    assert keys.unseal(key, sealed, context) == b"".join(shares)


def test_keystream():
    stream = Keystream(KNOWN["self mask key"])
    assert stream.take(8).tobytes() == KNOWN["keystream, words 0 to 7"]
    stream.take(262_136)
    assert stream.take(8).tobytes() == KNOWN["keystream, words 262144 to 262151"]


def test_shares():
    shares = split(bytes(range(32)), threshold=3, count=5, entropy=fixed(0x5A))
    assert shares == [KNOWN[f"share {x} of 5, threshold 3"] for x in range(1, 6)]
    assert Weights((5, 1, 3)).combine([shares[4], shares[0], shares[2]]) == bytes(range(32))


# The same, by hand


def hkdf_sha256(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for 32 bytes of output."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def lengths(size: int, *parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(size, "big") + part for part in parts)


def test_header_digest_by_hand():
    data = lengths(8, b"hanse/secagg/1/header", KNOWN["header"])
    assert hashlib.sha256(data).digest() == KNOWN["header digest"]


def test_pair_mask_key_by_hand():
    info = lengths(4, b"hanse/secagg/1/pair-mask", ROSTER, b"luebeck", b"wismar")
    key = hkdf_sha256(KNOWN["X25519 shared"], KNOWN["header digest"], info)
    assert key == KNOWN["pair mask key"]


def test_self_mask_key_by_hand():
    info = lengths(4, b"hanse/secagg/1/self-mask", b"luebeck")
    assert hkdf_sha256(SEED, KNOWN["header digest"], info) == KNOWN["self mask key"]


def test_share_key_by_hand():
    info = lengths(4, b"hanse/secagg/1/share-key", ROSTER, b"wismar", b"luebeck")
    key = hkdf_sha256(KNOWN["X25519 shared"], KNOWN["header digest"], info)
    assert key == KNOWN["share key wismar to luebeck"]


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Affine = tuple[int, int]


def plus(one: Affine, other: Affine) -> Affine:
    """RFC 8032, section 5.1: the sum of two points in affine coordinates."""
    (x1, y1), (x2, y2) = one, other
    t = D * x1 * x2 * y1 * y2
    return (
        (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P,
    )


def times(scalar: int, point: Affine) -> Affine:
    total = (0, 1)
    for bit in bin(scalar)[2:]:
        total = plus(total, total)
        total = plus(total, point) if bit == "1" else total
    return total


def written(point: Affine) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def point_of(data: bytes) -> Affine:
    y, odd = int.from_bytes(data, "little") % 2**255, data[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    root = root if root * root % P == square else root * pow(2, (P - 1) // 4, P) % P
    return (root if root % 2 == odd else P - root), y


def test_evidence_by_hand():
    """The equations of Chaum and Pedersen, and what SHA-512 is taken of."""
    name = "evidence of luebeck against wismar: "
    shared, challenge, response = (
        KNOWN[name + part] for part in ("point", "challenge", "response")
    )
    publics = KNOWN["share key public of 00..1f"], KNOWN["share key public of 20..3f"]
    accuser, dealer = map(point_of, publics)
    base = point_of((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
    c, z = int.from_bytes(challenge, "little"), int.from_bytes(response, "little")
    order = 2**252 + 27742317777372353535851937790883648493
    hashed = lengths(4, b"hanse/secagg/1/agreement-proof") + KNOWN["header digest"] + ROSTER
    hashed += lengths(4, b"luebeck") + publics[0] + lengths(4, b"wismar") + publics[1] + shared
    for eight, target in ((times(8, base), accuser), (times(8, dealer), point_of(shared))):
        hashed += written(plus(times(z, eight), times(order - c, target)))
    assert int.from_bytes(hashlib.sha512(hashed).digest(), "little") % order == c
    y = point_of(shared)[1]
    assert (1 + y) * pow(1 - y, -1, P) % P == int.from_bytes(KNOWN["share keys shared"], "little")


def test_commitment_by_hand():
    data = lengths(8, b"hanse/secagg/1/seed-commitment", KNOWN["header digest"], b"luebeck", SEED)
    assert hashlib.sha256(data).digest() == KNOWN["seed commitment"]


@pytest.mark.parametrize("first_word", [0, 262_144])
def test_keystream_by_hand(first_word):
    """SP 800-38A, counter mode: block i is the encryption of i."""
    block_cipher = Cipher(algorithms.AES(KNOWN["self mask key"]), modes.ECB()).encryptor()
    counters = [(first_word // 4 + i).to_bytes(16, "big") for i in range(2)]
    expected = KNOWN[f"keystream, words {first_word} to {first_word + 7}"]
    assert block_cipher.update(b"".join(counters)) == expected


def test_shares_by_hand():
    """f(x) = c x^2 + c x + secret over the prime, with the constant coefficient source."""
    coefficient = int.from_bytes(b"\x5a" * 64, "big") % (2**256 + 297)
    secret = int.from_bytes(bytes(range(32)), "big")
    for x in range(1, 6):
        value = (coefficient * x * x + coefficient * x + secret) % PRIME
        assert value.to_bytes(33, "big") == KNOWN[f"share {x} of 5, threshold 3"]


def test_the_prime_is_the_smallest_above_two_to_the_256():
    """Miller-Rabin with 64 fixed bases; every candidate below it is composite."""

    def probably_prime(n: int) -> bool:
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in range(2, 66):
            x = pow(base, odd, n)
            if x in (1, n - 1):
                continue
            for _ in range(twos - 1):
                x = x * x % n
                if x == n - 1:
                    break
            else:
                return False
        return True

    assert probably_prime(PRIME)
    assert not any(probably_prime(n) for n in range(2**256 + 1, PRIME))
