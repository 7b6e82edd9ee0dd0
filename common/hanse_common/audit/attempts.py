"""What a round log announces and what stores gave receipts for, against what the terms grant.

An announcement costs nobody anything: an attempt that ends before vectors are sent is not
charged. So more announcements than a manifest grants are a question, and a store's receipts
beyond the grant are an answer: it paid for what it should have refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanse_common.audit.findings import Notes
from hanse_common.audit.repeats import EXCHANGES_PER_ROUND, Occurrence, Use, kind_of, uses_of
from hanse_common.manifest import Manifest
from hanse_common.roundlog.records import Announced, Closed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedAttempt:
    """An attempt as the log has it; its outcome is None if it was never closed."""

    position: int
    announced: Announced
    closed: Closed | None = None
    closed_at: int = 0

    def occurrence(self, place: int) -> Occurrence:
        """The attempt as one time that its exchange came, at a record."""
        order = self.announced
        return Occurrence(
            kind=kind_of(order.exchange),
            round=order.exchange // EXCHANGES_PER_ROUND,
            exchange=order.exchange,
            run=order.run,
            attempt=order.attempt,
            place=place,
        )


def announced_uses(
    attempts: Sequence[LoggedAttempt], terms: Mapping[bytes, Manifest], notes: Notes
) -> tuple[Use, ...]:
    """Hold a log's announcements against what each manifest grants.

    Args:
        attempts: In the order of their announcements.
        terms: Manifests that are known, by digest.
        notes: Take what cannot be explained: more announcements than exchanges granted.

    Edge cases:
        An attempt that was never closed names no manifest; it counts under that of the last
        closed attempt before it, or else the first one after it.
    """
    by_manifest: defaultdict[bytes, list[Occurrence]] = defaultdict(list)
    headers = [attempt.closed.header for attempt in attempts if attempt.closed is not None]
    current = headers[0].manifest_digest if headers else next(iter(terms), b"")
    for attempt in attempts:
        if attempt.closed is not None:
            current = attempt.closed.header.manifest_digest
        by_manifest[current].append(attempt.occurrence(attempt.position))
    uses: list[Use] = []
    for digest, occurrences in by_manifest.items():
        if digest in terms:
            uses += uses_of(terms[digest], occurrences)
        elif terms:
            notes.unverified.append(
                f"the terms of {len(occurrences)} announced attempts: no manifest "
                f"{digest.hex()[:9]}…"
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
    """Find a store that gave receipts for more exchanges of a kind than its manifest grants."""
    given: defaultdict[tuple[bytes, str], list[Occurrence]] = defaultdict(list)
    # In the order in which they were closed, as receipts came in.
    for attempt in sorted(attempts, key=lambda attempt: attempt.closed_at):
        closed = attempt.closed
        if closed is None or closed.header.manifest_digest not in terms:
            continue
        for receipt in closed.receipts:
            if receipt.sequence:
                key = closed.header.manifest_digest, receipt.store_id
                given[key].append(attempt.occurrence(attempt.closed_at))
    for (digest, store), occurrences in given.items():
        for use in uses_of(terms[digest], occurrences):
            one = use.beyond
            if one is not None:
                detail = (
                    f"{store} gave receipts for {use.used} exchanges of kind {use.kind!r} under "
                    f"a manifest that grants {use.granted}: {use.named('record')}"
                )
                notes.fault(one.place, "beyond the manifest's grant", detail)
