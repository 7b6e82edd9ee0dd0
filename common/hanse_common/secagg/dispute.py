"""Publicly verifiable evidence that a dealer dealt a wrong share.

Only two stores can open what one sealed for the other. A store whose share does not open, or
does not match the digests that its dealer signed, reveals the point that the two share keys
agree on, and proves that it is the right one. With that point everybody can open the sealed
share that the dealer signed, and see who is wrong (`check_accusation`).

**The proof.** The accuser's share key is a scalar a = 8w with A = aB (Ed25519 clamps: 8 divides
a), the dealer's public key is P. What they agree on is the u of S = aP. The accuser shows S, and
the same w behind A = w(8B) and S = w(8P): the proof of equal discrete logarithms of Chaum and
Pedersen (CRYPTO 1992), made non-interactive by SHA-512 (Fiat and Shamir) over header, roster,
both ids, both keys, S and both commitments. Points of the base 8P have no component of small
order, and S is checked to have none, so that what the equations say of S holds exactly. A small
component in A or P is no way out: a dealer's X25519 multiplies by a multiple of 8 as well, and
comes to the same S.

**What it reveals.** S opens the shares between these two stores, in this attempt, and nothing
else. It harms only a dealer that cheats, for three reasons, each of which is checked:

1. *The dealer vouched for the wrong share.* It signed each share for its holder, with header
   and roster. Without its signature a store names the dealer and shows nothing: else a
   coordinator would alter what honest stores sealed, for most of the cohort at once, and read
   all their shares with the evidence that it gets. What an honest dealer signs, opens.
2. *The dealer knows S.* Every store proves that it holds its share key (`keys.ShareKey`): else
   a colluder could show an honest store's key plus the base point, have a victim reveal what
   it agrees on with that sum, and work out what it agreed on with the honest store.
3. *The accuser has left the attempt*: it gave no masked vector, so its own secrets hide
   nothing; the share that it shows is one that its dealer spoilt.

The accuser's private share key is never shown, although that would need no proof: it would
open what all other dealers sealed for it.

Arithmetic here is not constant-time. The key was made for this attempt, is used here once for
each dealer that cheats, and is wiped before the evidence leaves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from hanse_common.codec import Writer
from hanse_common.errors import BadShares, BadSignature, MalformedMessage, OutOfTurn, ProtocolError
from hanse_common.identity import StoreKey, verify
from hanse_common.secagg import _edwards, keys
from hanse_common.secagg._edwards import BASE, NEUTRAL, ORDER, Point, add, multiply, negate
from hanse_common.secagg.keys import ShareKey
from hanse_common.secagg.messages import ShareBundle
from hanse_common.secagg.refusal import SCALAR_SIZE, Accusation
from hanse_common.secagg.roster import Cohort
from hanse_common.secagg.shamir import SHARE_SIZE, check_share

_VOUCH_LABEL = b"hanse/secagg/1/vouched-share"
_PROOF_LABEL = b"hanse/secagg/1/agreement-proof"
_NONCE_LABEL = b"hanse/secagg/1/agreement-nonce"
_COFACTOR = 8


def vouch(key: StoreKey, context: bytes, sealed: bytes) -> bytes:
    """Return a dealer's signature over one sealed share.

    Args:
        key: The dealer's identity.
        context: The result of `keys.sealing_context` for attempt, roster, dealer, holder and
            digests.
        sealed: The sealed share.
    """
    return key.sign(_VOUCH_LABEL, context + sealed)


def is_vouched(
    cohort: Cohort, dealer: int, holder: int, sealed: bytes, vouched: bytes, digests: bytes
) -> bool:
    """Whether a dealer signed a sealed share, with these digests, for this holder."""
    context = _context(cohort, dealer, holder, digests)
    try:
        verify(cohort.peers[dealer].identity, vouched, _VOUCH_LABEL, context + sealed)
    except BadSignature:
        return False
    return True


def open_sealed(
    channel: bytes, cohort: Cohort, dealer: int, holder: int, sealed: bytes, digests: bytes
) -> tuple[bytes, bytes]:
    """Open one sealed share.

    Args:
        channel: X25519 secret of the two share keys.
        cohort: The roster.
        dealer: Roster index.
        holder: Roster index.
        sealed: Both shares, as the dealer sealed them for the holder.
        digests: The digests of the two shares that the dealer signed.

    Returns:
        A share of the dealer's mask key, and one of its seed, 33 bytes each.

    Raises:
        BadShares: They do not open, are not field elements, or do not match the digests.
    """
    names = cohort.ids((dealer, holder))
    key = keys.share_key(channel, cohort.header_digest, cohort.roster_digest, *names)
    plaintext = keys.unseal(key, sealed, _context(cohort, dealer, holder, digests))
    key_share, seed_share = plaintext[:SHARE_SIZE], plaintext[SHARE_SIZE:]
    try:
        # Decoders refuse an Unmasking with such a share, so the holder would be missing in
        # stage 4 by the dealer's fault.
        check_share(key_share), check_share(seed_share)
    except MalformedMessage as error:
        raise BadShares(f"shares are not field elements: {error.message}") from None
    if keys.share_digests(key_share, seed_share, cohort.header_digest, *names) != digests:
        raise BadShares("shares do not match the digests that their dealer signed")
    return key_share, seed_share


def accuse(
    cohort: Cohort,
    accuser: int,
    dealer: int,
    key: ShareKey,
    *,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Accusation:
    """Make the evidence against a dealer whose share, as it signed it, is wrong.

    Args:
        cohort: The roster.
        accuser: Roster index of the store whose key it is.
        dealer: Roster index.
        key: The accuser's share key of this attempt.
        entropy: Cryptographic source of random bytes.

    Guarantees:
        The accusation reveals about the key only the point that it agrees on with this dealer.
    """
    # Exact: clamping (RFC 8032, section 5.1.5) clears the three lowest bits of the scalar.
    witness = key.scalar // _COFACTOR
    base = _cleared(cohort.peers[dealer].share_public)
    shared = _edwards.encode(multiply(witness, base))
    statement = _statement(cohort, accuser, dealer, shared)
    # The nonce depends on key and statement as well: two proofs with one nonce reveal the key,
    # and a source of randomness may repeat after a snapshot of a machine is restored.
    seed = hashlib.sha512(_NONCE_LABEL + key.secret.reveal() + entropy(32) + statement)
    nonce = int.from_bytes(seed.digest(), "little") % ORDER
    commitments = multiply(nonce, multiply(_COFACTOR, BASE)), multiply(nonce, base)
    challenge = _challenge(statement, *commitments)
    response = (nonce + challenge * witness) % ORDER
    return Accusation(
        dealer=cohort.peers[dealer].store_id,
        shared=shared,
        challenge=challenge.to_bytes(SCALAR_SIZE, "little"),
        response=response.to_bytes(SCALAR_SIZE, "little"),
    )


def channel_of(cohort: Cohort, accuser: int, accusation: Accusation) -> bytes:
    """Check the proof in an accusation, and return the X25519 secret that it reveals.

    Raises:
        ProtocolError [false-accusation]: The proof is invalid for these two stores in this
            roster.
        ProtocolError [bad-roster]: The dealer is not in the roster.
    """
    dealer = cohort.index(accusation.dealer)
    challenge, response = (
        int.from_bytes(data, "little") for data in (accusation.challenge, accusation.response)
    )
    try:
        shared = _edwards.decode(accusation.shared)
        public = _edwards.decode(cohort.peers[accuser].share_public)
        base = _cleared(cohort.peers[dealer].share_public)
    except MalformedMessage as error:
        raise _false(cohort, accuser, accusation, error.message) from None
    # A proof has one encoding: adding the order to a number would make a second one.
    if challenge >= ORDER or response >= ORDER:
        raise _false(cohort, accuser, accusation, "a number in the proof is not reduced")
    # The verification equations fix S only up to a component of small order: exclude it.
    if _is_neutral(shared) or not _is_neutral(multiply(ORDER, shared)):
        raise _false(cohort, accuser, accusation, "the point is not in the prime-order group")
    commitments = (
        _opened(response, multiply(_COFACTOR, BASE), challenge, public),
        _opened(response, base, challenge, shared),
    )
    statement = _statement(cohort, accuser, dealer, accusation.shared)
    if _challenge(statement, *commitments) != challenge:
        raise _false(cohort, accuser, accusation, "the proof does not hold")
    return _edwards.montgomery(accusation.shared)


def check_accusation(
    cohort: Cohort, accuser: str, accusation: Accusation, bundle: ShareBundle
) -> None:
    """Check, from signed messages and a proof alone, that a dealer dealt a wrong share.

    This returns only if the dealer is guilty.

    Args:
        cohort: The roster, as `check_roster` or `form_cohort` makes it from the Hellos.
        accuser: Id of the store whose signed Refusal holds the accusation.
        accusation: The evidence.
        bundle: The ShareBundle that the accused dealer sent in stage 1.

    Raises:
        ProtocolError [false-accusation]: The proof is invalid, or the share is correct.
        BadSignature: The bundle is not the dealer's.
        OutOfTurn [wrong-header]: The bundle is of another attempt or roster, or of another shape.
        ProtocolError [bad-roster]: One of the two is not in the roster.

    Edge cases:
        A third party that holds a Refusal cannot distinguish an accuser that lies from a
        coordinator that delivered another share than this bundle holds; the coordinator can.
    """
    holder, dealer = cohort.index(accuser), cohort.index(accusation.dealer)
    if holder == dealer:
        raise _false(cohort, holder, accusation, "a store seals no share for itself")
    count = len(cohort)
    digests = (bundle.header_digest, bundle.roster_digest)
    if (
        digests != (cohort.header_digest, cohort.roster_digest)
        or bundle.store_id != accusation.dealer
    ):
        raise OutOfTurn(
            f"shares are not those of {accusation.dealer!r} in this roster", code="wrong-header"
        )
    # `ShareBundle.part` indexes these lists by roster position.
    if (len(bundle.sealed), len(bundle.vouched), len(bundle.digests)) != (
        count - 1,
        count - 1,
        count,
    ):
        raise OutOfTurn(
            f"shares of {accusation.dealer!r} are not for this roster's size", code="wrong-header"
        )
    bundle.check_signature(cohort.peers[dealer].identity)
    channel = channel_of(cohort, holder, accusation)
    sealed, _, digests_of = bundle.part(dealer, holder)
    try:
        open_sealed(channel, cohort, dealer, holder, sealed, digests_of)
    except BadShares:
        return
    raise _false(cohort, holder, accusation, "the share opens, and matches what its dealer signed")


def _context(cohort: Cohort, dealer: int, holder: int, digests: bytes) -> bytes:
    names = cohort.ids((dealer, holder))
    return keys.sealing_context(cohort.header_digest, cohort.roster_digest, digests, *names)


def _cleared(public: bytes) -> Point:
    """Return a point times the cofactor, which has no component of small order."""
    return multiply(_COFACTOR, _edwards.decode(public))


def _opened(response: int, base: Point, challenge: int, public: Point) -> Point:
    return add(multiply(response, base), negate(multiply(challenge, public)))


def _is_neutral(point: Point) -> bool:
    return _edwards.encode(point) == _edwards.encode(NEUTRAL)


def _statement(cohort: Cohort, accuser: int, dealer: int, shared: bytes) -> bytes:
    writer = Writer().blob(_PROOF_LABEL).raw(cohort.header_digest).raw(cohort.roster_digest)
    for index in (accuser, dealer):
        peer = cohort.peers[index]
        writer.text(peer.store_id).raw(peer.share_public)
    return writer.raw(shared).finish()


def _challenge(statement: bytes, *commitments: Point) -> int:
    data = statement + b"".join(_edwards.encode(point) for point in commitments)
    return int.from_bytes(hashlib.sha512(data).digest(), "little") % ORDER


def _false(cohort: Cohort, accuser: int, accusation: Accusation, reason: str) -> ProtocolError:
    name = cohort.peers[accuser].store_id
    return ProtocolError(
        f"{name!r} accuses {accusation.dealer!r} of wrong shares: {reason}",
        code="false-accusation",
        hint="the accused store dealt a correct share; check the accuser's machine",
        culprits=(name,),
    )
