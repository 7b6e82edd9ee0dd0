"""Checks a round log's announcements and stores' receipts against the exchanges granted.

An announcement costs no epsilon: an attempt that ends before vectors are sent is not charged.
More announcements than a manifest grants are therefore only an open point. A store's receipts
beyond the grant are a fault: the store paid for exchanges that it should have refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanse_common.audit.findings import Notes
from hanse_common.audit.repeats import Occurrence, Use, kind_of, uses_of
from hanse_common.manifest import Manifest
from hanse_common.phases import EXCHANGES_PER_ROUND
from hanse_common.roundlog.records import Announced, Closed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedAttempt:
    """An attempt in the log; `closed` is None if the log has no outcome of it."""

    position: int
    announced: Announced
    closed: Closed | None = None
    closed_at: int = 0

    def occurrence(self, place: int, manifest: Manifest) -> Occurrence:
        """Return the attempt as an occurrence of its exchange.

        Args:
            place: The record that counts as its place.
            manifest: The terms, which say what each round releases.
        """
        order = self.announced
        return Occurrence(
            kind=kind_of(order.exchange, manifest),
            round=order.exchange // EXCHANGES_PER_ROUND,
            exchange=order.exchange,
            run=order.run,
            attempt=order.attempt,
            place=place,
        )


def announced_uses(
    attempts: Sequence[LoggedAttempt], terms: Mapping[bytes, Manifest], notes: Notes
) -> tuple[Use, ...]:
    """Compare a log's announcements with the exchanges that each manifest grants.

    Args:
        attempts: Attempts in the order of their announcements.
        terms: The known manifests, by digest.
        notes: Receive an open point for more announcements than exchanges granted.

    Edge cases:
        An attempt that was never closed names no manifest. It counts under that of the last
        closed attempt before it, or else of the first one after it.
    """
    by_manifest: defaultdict[bytes, list[LoggedAttempt]] = defaultdict(list)
    headers = [attempt.closed.header for attempt in attempts if attempt.closed is not None]
    current = headers[0].manifest_digest if headers else next(iter(terms), b"")
    for attempt in attempts:
        if attempt.closed is not None:
            current = attempt.closed.header.manifest_digest
        by_manifest[current].append(attempt)
    uses: list[Use] = []
    for digest, mine in by_manifest.items():
        if digest in terms:
            manifest = terms[digest]
            uses += uses_of(manifest, [one.occurrence(one.position, manifest) for one in mine])
        elif terms:
            notes.unverified.append(
                f"the terms of {len(mine)} announced attempts: no manifest {digest.hex()[:9]}…"
            )
    notes.unverified += [
        f"why {use.used} exchanges of kind {use.kind!r} were announced: the manifest lets a store "
        f"pay for {use.granted}"
        for use in uses
        if use.beyond is not None
    ]
    return tuple(uses)


def check_receipts(
    attempts: Sequence[LoggedAttempt], terms: Mapping[bytes, Manifest], notes: Notes
) -> None:
    """Find stores that gave receipts for more exchanges of a kind than their manifest grants."""
    given: defaultdict[tuple[bytes, str], list[Occurrence]] = defaultdict(list)
    # By outcome, which is the order in which receipts were given: the first receipt beyond the
    # grant is the fault.
    for attempt in sorted(attempts, key=lambda attempt: attempt.closed_at):
        closed = attempt.closed
        if closed is None or closed.header.manifest_digest not in terms:
            continue
        for receipt in closed.receipts:
            # Sequence 0 is the receipt of an exchange without privacy, which charged nothing.
            if receipt.sequence:
                key = closed.header.manifest_digest, receipt.store_id
                manifest = terms[closed.header.manifest_digest]
                given[key].append(attempt.occurrence(attempt.closed_at, manifest))
    for (digest, store), occurrences in given.items():
        for use in uses_of(terms[digest], occurrences):
            excess = use.beyond
            if excess is not None:
                detail = (
                    f"{store} gave receipts for {use.used} exchanges of kind {use.kind!r} under "
                    f"a manifest that grants {use.granted}: {use.named('record')}"
                )
                notes.fault(excess.place, "beyond the manifest's grant", detail)
