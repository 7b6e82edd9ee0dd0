"""The roster of an attempt, checked by the same code in every store and the coordinator.

A store's roster index fixes its Shamir point: index i of the sorted roster holds the shares at
point i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from hanse_common.codec import DIGEST_SIZE, Reader, Writer, digest
from hanse_common.errors import OutOfTurn, ProtocolError
from hanse_common.identity import Certificate, check_store_id
from hanse_common.secagg.keys import KEY_SIZE, check_possession, pair_mask_key
from hanse_common.secagg.messages import Hello
from hanse_common.secagg.terms import LARGEST_COHORT, Attempt, Header
from hanse_common.secagg.wire import indices_digest

_ROSTER_LABEL = b"hanse/secagg/1/roster"
_SHARERS_LABEL = b"hanse/secagg/1/sharers"
_SURVIVORS_LABEL = b"hanse/secagg/1/survivors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """The public keys and the commitment of one store in an attempt."""

    store_id: str
    identity: bytes
    mask_public: bytes
    share_public: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Cohort:
    """A checked roster, in the order of store ids.

    Args:
        header_digest: Digest of the attempt's header.
        roster_digest: Digest of the header and of every Hello, as it was encoded.
        peers: The stores, sorted by id.
    """

    header_digest: bytes
    roster_digest: bytes
    peers: tuple[Peer, ...]

    def __len__(self) -> int:
        return len(self.peers)

    def ids(self, indices: Sequence[int]) -> tuple[str, ...]:
        """Return the store ids at roster indices."""
        return tuple(self.peers[index].store_id for index in indices)

    def index(self, store_id: str) -> int:
        """Return a store's roster index.

        Raises:
            ProtocolError [bad-roster]: The store is not in the roster.
        """
        for index, peer in enumerate(self.peers):
            if peer.store_id == store_id:
                return index
        raise ProtocolError(
            f"store {store_id!r} is not in the roster", code="bad-roster", culprits=(store_id,)
        )

    def sharers_digest(self, sharers: tuple[int, ...]) -> bytes:
        """Return the digest of roster and U2."""
        return indices_digest(_SHARERS_LABEL, self.roster_digest, sharers)

    def survivors_digest(self, sharers: tuple[int, ...], survivors: tuple[int, ...]) -> bytes:
        """Return the digest of roster, U2 and U3."""
        return indices_digest(_SURVIVORS_LABEL, self.sharers_digest(sharers), survivors)

    def pair_mask_key(self, shared: bytes, sharers_digest: bytes, one: int, other: int) -> bytes:
        """Derive the key of the mask that the lower index adds and the higher subtracts."""
        first, second = self.ids((min(one, other), max(one, other)))
        return pair_mask_key(shared, self.header_digest, sharers_digest, first, second)

    def encode(self) -> bytes:
        """Return canonical bytes, for a store's state between stages."""
        writer = Writer().raw(self.header_digest).raw(self.roster_digest).u32(len(self.peers))
        for peer in self.peers:
            writer.text(peer.store_id).raw(peer.identity).raw(peer.mask_public)
            writer.raw(peer.share_public).raw(peer.commitment)
        return writer.finish()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read the output of `encode`."""

        def peer() -> Peer:
            return Peer(
                store_id=check_store_id(reader.text()),
                identity=reader.raw(KEY_SIZE),
                mask_public=reader.raw(KEY_SIZE),
                share_public=reader.raw(KEY_SIZE),
                commitment=reader.raw(DIGEST_SIZE),
            )

        return cls(
            header_digest=reader.raw(DIGEST_SIZE),
            roster_digest=reader.raw(DIGEST_SIZE),
            peers=reader.many(peer, size=4, limit=LARGEST_COHORT),
        )


def check_hello(hello: Hello, attempt: Attempt) -> None:
    """Check one Hello without regard to the others.

    Raises:
        OutOfTurn [wrong-header]: It belongs to another run, round, attempt, manifest or model; the
            message names the first field that differs, and both values.
        ProtocolError [bad-certificate]: Its certificate is not the authority's.
        ExpiredCertificate: Its certificate is not valid now.
        ProtocolError [store-excluded]: The manifest does not list the store.
        BadSignature: It is not signed by its certified key.
        WeakKey: The store does not prove that it holds its share key.
    """
    check_header(hello.header, attempt.header, f"hello of {hello.store_id!r}")
    # The certificate before the signature, which is checked under the certified key.
    check_member(hello.certificate, attempt)
    hello.check_signature(hello.certificate.public_key)
    check_possession(hello.share_public, hello.possession, attempt.header.digest(), hello.store_id)


def check_member(certificate: Certificate, attempt: Attempt) -> None:
    """Check that a certificate admits its store to this attempt.

    Raises:
        ProtocolError [bad-certificate]: It is not the authority's.
        ExpiredCertificate: It is not valid now.
        ProtocolError [store-excluded]: The manifest does not list the store.
    """
    certificate.check(attempt.authority, now=attempt.now)
    stores = attempt.terms.stores
    if stores and certificate.store_id not in stores:
        raise ProtocolError(
            f"store {certificate.store_id!r} is not in the manifest",
            code="store-excluded",
            hint="ask the enrolment authority to add it to stores and sign the manifest again",
            culprits=(certificate.store_id,),
        )


def check_header(got: Header, expected: Header, what: str) -> None:
    """Check that a header is this attempt's.

    Raises:
        OutOfTurn [wrong-header]: Names the first field that differs, and both values.
    """
    for name in ("run", "round", "attempt", "manifest_digest", "model_digest"):
        here, there = getattr(expected, name), getattr(got, name)
        if here != there:
            if isinstance(here, bytes):
                here, there = f"{here.hex()[:16]}…", f"{there.hex()[:16]}…"
            raise OutOfTurn(
                f"{what} has {name}={there}, expected {here}",
                code="wrong-header",
                hint="every store must have the same manifest and receive the same model",
            )


def check_roster(hellos: Sequence[Hello], attempt: Attempt) -> Cohort:
    """Check a roster and return it as a cohort.

    Guarantees:
        - Every entry is certified by the authority, valid now, in the manifest, signed by
          its certified key, of this attempt, and proves that it holds its share key.
        - Ids are sorted and unique; so are identity keys and all X25519 keys together.
        - The size is within the manifest's bounds.

    Raises:
        ProtocolError [bad-roster]: Order or uniqueness does not hold, or there are too many stores.
        ProtocolError [cohort-too-small]: There are fewer stores than the manifest's minimum.
        ProtocolError: As for `check_hello`.
    """
    terms = attempt.terms
    # Order and size first: they bound the number of signatures to check.
    ids = [hello.store_id for hello in hellos]
    if any(second <= first for first, second in pairwise(ids)):
        raise ProtocolError("store ids in the roster are not sorted and unique", code="bad-roster")
    if len(hellos) > terms.maximum_cohort:
        raise ProtocolError(
            f"roster has {len(hellos)} stores, maximum_cohort is {terms.maximum_cohort}",
            code="bad-roster",
        )
    if len(hellos) < terms.minimum_cohort:
        raise ProtocolError(
            f"roster has {len(hellos)} stores, minimum_cohort is {terms.minimum_cohort}",
            code="cohort-too-small",
            hint="wait for more stores; the minimum is part of the manifest",
        )
    for hello in hellos:
        check_hello(hello, attempt)
    check_unique(hellos)
    return form_cohort(hellos, attempt.header)


def form_cohort(hellos: Sequence[Hello], header: Header) -> Cohort:
    """Make a cohort from Hellos that are checked already and sorted by store id."""
    header_digest = header.digest()
    # The digest covers complete Hellos, with their signatures: stores that were shown two
    # different Hellos of one store have different rosters.
    return Cohort(
        header_digest=header_digest,
        roster_digest=digest(_ROSTER_LABEL, header_digest, *(hello.encode() for hello in hellos)),
        peers=tuple(
            Peer(
                store_id=hello.store_id,
                identity=hello.certificate.public_key,
                mask_public=hello.mask_public,
                share_public=hello.share_public,
                commitment=hello.commitment,
            )
            for hello in hellos
        ),
    )


def check_unique(hellos: Sequence[Hello]) -> None:
    """Check that no key is used twice, by two stores or for two purposes.

    Raises:
        ProtocolError [bad-roster]: Names two stores with the same key, or one whose two keys are
            the same.
    """
    # One key under two ids would count twice towards the thresholds; one key for masks and for
    # shares would serve two purposes.
    owners: dict[bytes, str] = {}
    for hello in hellos:
        for key in (hello.certificate.public_key, hello.mask_public, hello.share_public):
            other = owners.setdefault(key, hello.store_id)
            if other != hello.store_id or hello.mask_public == hello.share_public:
                raise ProtocolError(
                    f"stores {other!r} and {hello.store_id!r} show the same key",
                    code="bad-roster",
                    culprits=(hello.store_id,),
                )
