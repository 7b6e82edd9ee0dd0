"""The terms of an attempt: admitted stores, cohort sizes, thresholds and vector layout.

The header names one attempt of one round. It is part of every key derivation and of all
authenticated data, so that no message of one attempt is valid in another.

>>> from hanse_common.secagg.layout import Layout, Section
>>> terms = Terms(layout=Layout((Section("update", 10, clip=1.0),)), maximum_cohort=100)
>>> terms.threshold(30), terms.survivors(30)
(21, 21)
"""

from __future__ import annotations

from dataclasses import dataclass

from hanse_common.codec import DIGEST_SIZE, Reader, Writer, digest
from hanse_common.errors import MalformedMessage, ProtocolError
from hanse_common.secagg.layout import Layout

VERSION = 1
"""Protocol version; bound into every header."""

SMALLEST_COHORT = 3
LARGEST_COHORT = 10_000
MAX_ATTEMPTS = 2
MAX_OPENINGS = 16
"""Default of `Terms.max_openings`: enough for repeats after crashes and lost rounds, and too
few for asking an exchange again until the answer is useful."""
HEADER_SIZE = 2 + 8 + 4 + 1 + 2 * DIGEST_SIZE

_HEADER_LABEL = b"hanse/secagg/1/header"


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One attempt of one round, under one manifest, from one model.

    Every participant computes it from its own copies: a store that was sent another model or
    another manifest has another header.

    Args:
        run: The coordinator's run number, below 2^64.
        round: Number of the exchange, below 2^32.
        attempt: 1 or 2.
        manifest_digest: 32 bytes.
        model_digest: 32 bytes; digest of all instructions of stage 0, the model among them.

    Raises:
        MalformedMessage: A value is out of range.
    """

    run: int
    round: int
    attempt: int
    manifest_digest: bytes
    model_digest: bytes

    def __post_init__(self) -> None:
        if not (0 <= self.run < 2**64 and 0 <= self.round < 2**32):
            raise MalformedMessage(f"run={self.run} or round={self.round} is out of range")
        if not 1 <= self.attempt <= MAX_ATTEMPTS:
            raise MalformedMessage(f"attempt={self.attempt} is not in 1..{MAX_ATTEMPTS}")
        if len(self.manifest_digest) != DIGEST_SIZE or len(self.model_digest) != DIGEST_SIZE:
            raise MalformedMessage(f"digests in a header are {DIGEST_SIZE} bytes")

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        writer = Writer().u16(VERSION).u64(self.run).u32(self.round).u8(self.attempt)
        return writer.raw(self.manifest_digest).raw(self.model_digest).finish()

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Read a header.

        Raises:
            MalformedMessage: It is not a header of this version in canonical form.
        """
        reader = Reader(data, "header")
        version = reader.u16()
        if version != VERSION:
            raise MalformedMessage(f"header has version {version}, this is version {VERSION}")
        header = cls(
            run=reader.u64(),
            round=reader.u32(),
            attempt=reader.u8(),
            manifest_digest=reader.raw(DIGEST_SIZE),
            model_digest=reader.raw(DIGEST_SIZE),
        )
        reader.end()
        return header

    def digest(self) -> bytes:
        """Return the 32 bytes that identify this attempt in messages and derivations."""
        return digest(_HEADER_LABEL, self.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The manifest's terms of secure aggregation.

    Args:
        layout: Sections and bounds of the vector.
        maximum_cohort: Most stores in a round.
        minimum_cohort: Fewest stores in a roster.
        colluders: Number of stores that may collude with the coordinator without exposing the
            others.
        threshold_fraction: Numerator and denominator; the threshold is the floor of
            that fraction of the cohort, plus one.
        minimum_survivors: Fewest stores in a sum, if more than the threshold.
        stores: Ids that may take part; empty admits every certified store.
        max_openings: Most times that a store begins one exchange, over all runs and attempts.

    Raises:
        ProtocolError [unsafe-terms]: A guarantee could not hold; the message names the field.

    Guarantees:
        - Every threshold is above (cohort + colluders) / 2: no two disjoint groups of
          honest stores can both reach it.
        - Every sum holds at least two honest stores.
        - No sum of `maximum_cohort` vectors within the layout's bounds overflows.
    """

    layout: Layout
    maximum_cohort: int
    minimum_cohort: int = 5
    colluders: int = 1
    threshold_fraction: tuple[int, int] = (2, 3)
    minimum_survivors: int = 0
    stores: frozenset[str] = frozenset()
    max_openings: int = MAX_OPENINGS

    def __post_init__(self) -> None:
        if not SMALLEST_COHORT <= self.minimum_cohort <= self.maximum_cohort <= LARGEST_COHORT:
            raise ProtocolError(
                f"{SMALLEST_COHORT} <= minimum_cohort={self.minimum_cohort} <= "
                f"maximum_cohort={self.maximum_cohort} <= {LARGEST_COHORT} does not hold",
                code="unsafe-terms",
            )
        numerator, denominator = self.threshold_fraction
        # In integers: floor(n/2) + 1 is a majority, and at 1 the threshold would exceed n.
        if not (denominator > 0 and denominator <= 2 * numerator < 2 * denominator):
            raise ProtocolError(
                f"threshold_fraction={numerator}/{denominator} is not in [1/2, 1)",
                code="unsafe-terms",
            )
        if not 0 <= self.minimum_survivors <= self.minimum_cohort:
            raise ProtocolError(
                f"minimum_survivors={self.minimum_survivors} is not in "
                f"0..minimum_cohort={self.minimum_cohort}",
                code="unsafe-terms",
            )
        if self.colluders < 0 or self.survivors(self.minimum_cohort) > self.minimum_cohort:
            raise ProtocolError(
                f"colluders={self.colluders} leave no safe threshold in a cohort of "
                f"{self.minimum_cohort}",
                code="unsafe-terms",
                hint="raise minimum_cohort to at least colluders + 2",
            )
        if not 1 <= self.max_openings < 2**31:
            raise ProtocolError(
                f"max_openings={self.max_openings} is not in 1..{2**31 - 1}", code="unsafe-terms"
            )
        largest = self.layout.largest_cohort()
        if self.maximum_cohort > largest:
            raise ProtocolError(
                f"sums of maximum_cohort={self.maximum_cohort} stores could overflow, "
                f"these bounds allow {largest}",
                code="unsafe-terms",
                hint="lower a section's scale or clip",
            )

    def threshold(self, cohort: int) -> int:
        """Return how many stores must confirm, and release shares, in a roster of `cohort`."""
        numerator, denominator = self.threshold_fraction
        # The second term keeps 2t - n > C: two lists of survivors with t signatures each have
        # more than C signers in common, hence an honest one, which signs only once.
        return max(
            cohort * numerator // denominator + 1,
            (cohort + self.colluders) // 2 + 1,
        )

    def survivors(self, cohort: int) -> int:
        """Return how many vectors a sum must hold in a roster of `cohort`."""
        # Colluders can subtract their own vectors; two honest ones must remain.
        return max(self.threshold(cohort), self.colluders + 2, self.minimum_survivors)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """The inputs of a participant of one attempt, known before any message.

    Args:
        header: Computed by the participant itself.
        terms: From the manifest that the participant checked.
        authority: The enrolment authority's public key, as the participant pins it.
        now: Unix seconds, against which certificates are checked.
    """

    header: Header
    terms: Terms
    authority: bytes
    now: int
