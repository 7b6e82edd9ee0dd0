"""The fresh keys of one attempt, and the keys and digests that are derived from them.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF-SHA256 (RFC 5869), AES-256-GCM (NIST SP 800-38D).
Every derivation binds a constant label, the header's digest and the parties, so that a key
serves one purpose in one attempt for one pair.

>>> Secret(b"k" * 32)
Secret(<32 bytes>)
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hanse_common.codec import Writer, digest
from hanse_common.errors import (
    BadShares,
    BadSignature,
    MalformedMessage,
    ProtocolError,
    WeakKey,
)
from hanse_common.identity import StoreKey, verify
from hanse_common.secagg import _edwards

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16

_SELF_MASK = b"hanse/secagg/1/self-mask"
_PAIR_MASK = b"hanse/secagg/1/pair-mask"
_SHARE_KEY = b"hanse/secagg/1/share-key"
_COMMITMENT = b"hanse/secagg/1/seed-commitment"
MASK_KEY_SHARE = b"hanse/secagg/1/mask-key-share"
SEED_SHARE = b"hanse/secagg/1/seed-share"
_SEALED_SHARES = b"hanse/secagg/1/sealed-shares"
_POSSESSION = b"hanse/secagg/1/share-key-possession"


class Secret:
    """Bytes that hide from `repr`, refuse to be pickled, and can be overwritten.

    Edge cases:
        Overwriting is best effort: Python and the libraries below may have copied the
        bytes. Copies end with the process, which lives for one stage only.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = bytearray(data)

    def reveal(self) -> bytes:
        """Return a copy of the bytes.

        Raises:
            ProtocolError: The secret was wiped.
        """
        if not self._data:
            raise ProtocolError("this secret was wiped")
        return bytes(self._data)

    def wipe(self) -> None:
        """Overwrite the bytes and forget them."""
        self._data[:] = bytes(len(self._data))
        self._data = bytearray()

    @property
    def wiped(self) -> bool:
        """Whether the bytes were overwritten."""
        return not self._data

    def __eq__(self, other: object) -> bool:
        # The time of a comparison must not tell how many leading bytes agree.
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

    # A hash would be a fingerprint of the secret, and change when it is wiped.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret(<{len(self._data)} bytes>)" if self._data else "Secret(<wiped>)"

    def __reduce__(self) -> tuple[object, ...]:
        raise ProtocolError("a secret is not pickled")


class ExchangeKey:
    """An X25519 key pair for one attempt."""

    __slots__ = ("_private", "public", "secret")

    def __init__(self, private: bytes) -> None:
        self.secret = Secret(private)
        # Loading a key costs as much as using it, and it is used once per peer: load it once.
        self._private: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, peer: bytes) -> bytes:
        """Return the X25519 shared secret with a peer's public key.

        Raises:
            WeakKey: It is all zero (RFC 7748, section 6.1), or the peer's key is not
                32 bytes.
        """
        if self._private is None:
            raise ProtocolError("this key was wiped")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        # The library raises this for an all-zero secret too, which it checks itself.
        except ValueError:
            raise WeakKey(f"public key {peer.hex()[:16]}… has small order") from None

    def wipe(self) -> None:
        """Overwrite the private key, and drop the library's copy."""
        self.secret.wipe()
        self._private = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()!r})"


class ShareKey(ExchangeKey):
    """The key pair that seals shares: one scalar, used for X25519 and for Ed25519.

    The public key is the point of edwards25519 as Ed25519 encodes it, which determines one u
    coordinate of curve25519. A store proves by an Ed25519 signature that it holds the key.
    Otherwise a colluder could show a public key that is a function of an honest store's, and
    have a victim reveal what it agreed on with that store (see `dispute.py`).

    The secret is 32 bytes, from which RFC 8032, section 5.1.5, derives the scalar. X25519
    takes that scalar unchanged, because both algorithms clamp alike.
    """

    __slots__ = ()

    def __init__(self, private: bytes) -> None:
        super().__init__(hashlib.sha512(private).digest()[:KEY_SIZE])
        # `secret` is the 32-byte seed, for the store's state and for signing; the library
        # holds the scalar that the base class was given.
        self.secret.wipe()
        self.secret = Secret(private)
        self.public = self._signing_key().public

    @property
    def scalar(self) -> int:
        """The private scalar; `public` is its multiple of the base point."""
        data = bytearray(hashlib.sha512(self.secret.reveal()).digest()[:KEY_SIZE])
        # Clamping of RFC 8032, section 5.1.5: a multiple of 8, with the highest bit 254.
        data[0] &= 248
        data[31] &= 127
        data[31] |= 64
        return int.from_bytes(data, "little")

    def agree(self, peer: bytes) -> bytes:
        """Return the X25519 shared secret with a peer's share key.

        Raises:
            WeakKey: The peer's key has small order, or is not in canonical form.
        """
        return super().agree(share_key_u(peer))

    def prove_possession(self, header_digest: bytes, store_id: str) -> bytes:
        """Return the signature that proves possession of this key, 64 bytes."""
        return self._signing_key().sign(_POSSESSION, _possession(header_digest, store_id))

    def _signing_key(self) -> StoreKey:
        return StoreKey(Ed25519PrivateKey.from_private_bytes(self.secret.reveal()))


def share_key_u(public: bytes) -> bytes:
    """Return the X25519 public key of a share key, given as a point of edwards25519.

    Raises:
        WeakKey: It is not in canonical form.
    """
    try:
        return _edwards.montgomery(public)
    except MalformedMessage as error:
        raise WeakKey(f"public key {error.message}") from None


def check_possession(public: bytes, proof: bytes, header_digest: bytes, store_id: str) -> None:
    """Check the proof that a store holds its share key.

    Raises:
        WeakKey: The proof does not verify, or the key is not a point in canonical form.
    """
    try:
        share_key_u(public)
        verify(public, proof, _POSSESSION, _possession(header_digest, store_id))
    except (BadSignature, WeakKey):
        raise WeakKey(
            f"{store_id!r} does not prove that it holds its share key {public.hex()[:16]}…",
            culprits=(store_id,),
        ) from None


def _possession(header_digest: bytes, store_id: str) -> bytes:
    return Writer().raw(header_digest).text(store_id).finish()


def derive(secret: bytes, label: bytes, header_digest: bytes, *parts: bytes) -> bytes:
    """Derive 32 bytes from a secret.

    Args:
        secret: Input key material.
        label: Constant name of the purpose.
        header_digest: Digest of the attempt's header; the HKDF salt.
        parts: Values that the key is bound to, each encoded behind its length.

    Guarantees:
        A change of one bit in any argument gives an unrelated key.
    """
    info = Writer().blob(label)
    for part in parts:
        info.blob(part)
    return HKDF(hashes.SHA256(), KEY_SIZE, salt=header_digest, info=info.finish()).derive(secret)


def pair_mask_key(
    shared: bytes, header_digest: bytes, context: bytes, first: str, second: str
) -> bytes:
    """Derive the key of the mask that `first` adds and `second` subtracts.

    Args:
        shared: X25519 secret of the two mask keys.
        header_digest: The attempt.
        context: Digest of roster and sharers; stores with other views get unrelated masks.
        first: Id of the store that comes first in the roster.
        second: Id of the other.
    """
    return derive(shared, _PAIR_MASK, header_digest, context, first.encode(), second.encode())


def self_mask_key(seed: bytes, header_digest: bytes, store_id: str) -> bytes:
    """Derive the key of a store's own mask from its 32-byte seed b."""
    return derive(seed, _SELF_MASK, header_digest, store_id.encode())


def share_key(
    shared: bytes, header_digest: bytes, roster_digest: bytes, sender: str, recipient: str
) -> bytes:
    """Derive the key that encrypts the shares from one store to another.

    The two directions have different keys, so that a sealed share cannot be sent back.
    """
    return derive(
        shared, _SHARE_KEY, header_digest, roster_digest, sender.encode(), recipient.encode()
    )


def seed_commitment(seed: bytes, header_digest: bytes, store_id: str) -> bytes:
    """Return the digest that commits a store to its seed b.

    Guarantees:
        The commitment is binding by SHA-256's collision resistance, and hiding because b is
        32 random bytes.
    """
    return digest(_COMMITMENT, header_digest, store_id.encode(), seed)


def share_digest(
    label: bytes, share: bytes, header_digest: bytes, dealer: str, holder: str
) -> bytes:
    """Return the digest of one share, which its dealer signs; the label names the kind.

    Guarantees:
        A share that does not match was altered by its holder; shares that all match and yet
        give a wrong secret were dealt wrongly. The digest hides the share, which is 256
        random bits.
    """
    return digest(label, header_digest, dealer.encode(), holder.encode(), share)


def share_digests(
    mask_key_share: bytes, seed_share: bytes, header_digest: bytes, dealer: str, holder: str
) -> bytes:
    """Return the digests of a mask-key share and a seed share, one after the other."""
    names = (header_digest, dealer, holder)
    return share_digest(MASK_KEY_SHARE, mask_key_share, *names) + share_digest(
        SEED_SHARE, seed_share, *names
    )


def sealing_context(
    header_digest: bytes, roster_digest: bytes, digests: bytes, sender: str, recipient: str
) -> bytes:
    """Return the associated data of sealed shares: attempt, roster, direction, digests."""
    return digest(
        _SEALED_SHARES, header_digest, roster_digest, sender.encode(), recipient.encode(), digests
    )


def seal(key: bytes, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt with AES-256-GCM.

    Returns:
        The nonce, then ciphertext and tag.

    Guarantees:
        The caller draws the nonce at random although the key is fresh: a store that is
        restored from an older copy of its state must not encrypt twice under the same pair.
    """
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Decrypt the output of `seal`.

    Raises:
        BadShares: The tag does not match key, bytes and context.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context)
    # A nonce that is cut short is a ValueError of the library, not an InvalidTag.
    except (InvalidTag, ValueError):
        raise BadShares("an encrypted share does not open") from None
