"""Fresh keys of one attempt, and what is derived from them.

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

SELF_MASK = b"hanse/secagg/1/self-mask"
PAIR_MASK = b"hanse/secagg/1/pair-mask"
SHARE_KEY = b"hanse/secagg/1/share-key"
COMMITMENT = b"hanse/secagg/1/seed-commitment"
MASK_KEY_SHARE = b"hanse/secagg/1/mask-key-share"
SEED_SHARE = b"hanse/secagg/1/seed-share"
SEALED_SHARES = b"hanse/secagg/1/sealed-shares"
POSSESSION = b"hanse/secagg/1/share-key-possession"


class Secret:
    """Bytes that hide from `repr`, refuse to be pickled, and can be overwritten.

    Edge cases:
        Overwriting is best effort: Python and the libraries below may have copied the
        bytes. The process of a stage is short-lived, which does the rest.
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
        """Whether nothing is left."""
        return not self._data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._data, other._data)

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
        # Loading a key costs as much as using it: load it once.
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
        except ValueError:
            raise WeakKey(f"public key {peer.hex()[:16]}… has small order") from None

    def wipe(self) -> None:
        """Overwrite the private key, and drop the library's copy."""
        self.secret.wipe()
        self._private = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(public={self.public.hex()!r})"


class ShareKey(ExchangeKey):
    """The key by which shares are sealed: one scalar for X25519 and for Ed25519.

    The public key is the point of edwards25519 as Ed25519 encodes it, and stands for one u of
    curve25519. A store proves by an Ed25519 signature that it holds the key: a colluder whose
    public key were a function of an honest store's could have a victim reveal what it agreed
    on with that store (see `dispute.py`).

    The secret is 32 bytes, from which RFC 8032, section 5.1.5, derives the scalar; X25519
    takes the scalar as it is, for both clamp alike.
    """

    __slots__ = ()

    def __init__(self, private: bytes) -> None:
        super().__init__(hashlib.sha512(private).digest()[:KEY_SIZE])
        self.secret.wipe()
        self.secret = Secret(private)
        self.public = self._signing_key().public

    @property
    def scalar(self) -> int:
        """The private scalar; `public` is its multiple of the base point."""
        data = bytearray(hashlib.sha512(self.secret.reveal()).digest()[:KEY_SIZE])
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
        """Return the signature by which its owner shows that it holds the key."""
        return self._signing_key().sign(POSSESSION, _possession(header_digest, store_id))

    def _signing_key(self) -> StoreKey:
        return StoreKey(Ed25519PrivateKey.from_private_bytes(self.secret.reveal()))


def share_key_u(public: bytes) -> bytes:
    """Return the X25519 public key that a share key's public key stands for.

    Raises:
        WeakKey: It is not in canonical form.
    """
    try:
        return _edwards.montgomery(public)
    except MalformedMessage as error:
        raise WeakKey(f"public key {error.message}") from None


def check_possession(public: bytes, proof: bytes, header_digest: bytes, store_id: str) -> None:
    """Check that a store holds the share key that it shows.

    Raises:
        WeakKey: It does not prove it, or the key is no point of the curve in canonical form.
    """
    try:
        share_key_u(public)
        verify(public, proof, POSSESSION, _possession(header_digest, store_id))
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
        parts: What else the key is bound to, each behind its length.

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
        context: Digest of roster and sharers; stores that saw others get unrelated masks.
        first: Id of the store that comes first in the roster.
        second: Id of the other.
    """
    return derive(shared, PAIR_MASK, header_digest, context, first.encode(), second.encode())


def self_mask_key(seed: bytes, header_digest: bytes, store_id: str) -> bytes:
    """Derive the key of a store's own mask from its 32-byte seed b."""
    return derive(seed, SELF_MASK, header_digest, store_id.encode())


def share_key(
    shared: bytes, header_digest: bytes, roster_digest: bytes, sender: str, recipient: str
) -> bytes:
    """Derive the key that encrypts the shares from one store to another, one way."""
    return derive(
        shared, SHARE_KEY, header_digest, roster_digest, sender.encode(), recipient.encode()
    )


def seed_commitment(seed: bytes, header_digest: bytes, store_id: str) -> bytes:
    """Return the digest that commits a store to its seed b.

    Guarantees:
        Binding by SHA-256's collision resistance. Hiding because b is 32 random bytes.
    """
    return digest(COMMITMENT, header_digest, store_id.encode(), seed)


def share_digest(
    label: bytes, share: bytes, header_digest: bytes, dealer: str, holder: str
) -> bytes:
    """Return the digest by which a dealer vouches for a share, under the label of its kind.

    Guarantees:
        A share that does not match was altered by its holder; shares that all match and yet
        give a wrong secret were dealt wrongly. Hiding because shares are 256 random bits.
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
        SEALED_SHARES, header_digest, roster_digest, sender.encode(), recipient.encode(), digests
    )


def seal(key: bytes, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt with AES-256-GCM; the nonce goes in front.

    The nonce is random although the key is fresh: a store that is restored from an older
    copy of its state must not encrypt twice under the same pair.
    """
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Decrypt what `seal` made.

    Raises:
        BadShares: The tag does not match key, bytes and context.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], context)
    except (InvalidTag, ValueError):
        raise BadShares("an encrypted share does not open") from None
