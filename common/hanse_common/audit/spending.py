"""What ledgers say was spent: by round, and what is left.

These read what a ledger says; whether it is to be believed is for `verification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hanse_common.audit.evidence import Evidence
from hanse_common.audit.shared_customers import covered, epsilon_at_stores
from hanse_common.privacy.accounting import epsilon, rounds_left
from hanse_common.privacy.chain import paid
from hanse_common.privacy.entry import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One entry of a ledger.

    Args:
        store: Whose.
        entry: Its number.
        kind: `train` or `evaluate` if something was charged, else the entry's own kind.
        run: The coordinator's number of its run.
        round: The training round.
        attempt: 1 or 2; 0 where there are no attempts.
        mode: The plan's.
        noise_multiplier: As accounted; None in a renewal, as the next three.
        sample_rate: As accounted.
        steps: As accounted.
        stores_per_person: At how many stores one person may be drawn for one sum.
        target_delta: At which epsilon is read.
        epsilon: Of this entry by itself; 0 if nothing was paid.
        cumulative: Of everything ever paid up to here.
        limit: The policy's limit that was in force; None if none.
        left: Of the limit, since the last renewal; None without a limit.
    """

    store: str
    entry: int
    kind: str
    run: int
    round: int
    attempt: int
    mode: str
    noise_multiplier: float | None
    sample_rate: float | None
    steps: int | None
    stores_per_person: int | None
    target_delta: float
    epsilon: float
    cumulative: float
    limit: float | None
    left: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetRow:
    """What one store has spent, and what is left.

    Args:
        store: Whose.
        target_delta: At which epsilon is read; that of the last charge.
        spent: Since the last renewal.
        spent_ever: Over all renewals.
        limit: The policy's; that of the last entry if the policy was not handed over.
        left: Of the limit.
        rounds_left: How many more rounds at the last round's terms stay within the limit.
        covers_stores: At how many stores a person may shop under the figures above.
        at_stores: Epsilon for a person who shops at so many stores that each spent as this
            one did, ever; an upper bound.
    """

    store: str
    target_delta: float
    spent: float
    spent_ever: float
    limit: float | None
    left: float | None
    rounds_left: int | None
    covers_stores: int
    at_stores: dict[int, float]


def rounds_of(evidence: Evidence) -> list[RoundRow]:
    """Return a row per entry.

    Raises:
        LedgerError: The ledger is damaged.
    """
    entries = evidence.entries()
    return [_round(evidence.store, entries[:number]) for number in range(1, len(entries) + 1)]


def budget_of(evidence: Evidence, *, stores: Sequence[int] = (1, 2, 4)) -> BudgetRow | None:
    """Return what is left at a store; None if it has charged nothing.

    Args:
        evidence: Of the store.
        stores: At how many stores a person may shop.

    Raises:
        LedgerError: The ledger is damaged.
        HanseError: The policy or the manifest cannot be read.
    """
    entries = evidence.entries()
    charges = [entry for entry in entries if entry.kind == "charge"]
    if not charges:
        return None
    delta = charges[-1].target_delta
    since = paid(entries, since=last_renewal(entries))
    spent, ever = (epsilon(s, target_delta=delta) for s in (since, paid(entries)))
    policy = evidence.policy()
    limit = policy.max_epsilon if policy else (charges[-1].max_epsilon or None)
    rounds = [entry.steps for entry in charges if entry.release.kind == "train"]
    last = rounds[-1] if rounds else None
    signed = evidence.manifest()
    covers = covered(entries, signed.unchecked if signed else None)
    return BudgetRow(
        store=evidence.store,
        target_delta=delta,
        spent=spent,
        spent_ever=ever,
        limit=limit,
        left=None if limit is None else limit - spent,
        rounds_left=(
            rounds_left(since, last, target_delta=delta, limit=limit) if last and limit else None
        ),
        covers_stores=covers,
        at_stores={
            count: epsilon_at_stores(entries, count, covers=covers, target_delta=delta)
            for count in stores
        },
    )


def _round(store: str, entries: Sequence[Entry]) -> RoundRow:
    entry = entries[-1]
    steps, release, delta = entry.steps, entry.release, entry.target_delta
    limit = entry.max_epsilon or None
    own = since = 0.0
    if delta > 0:
        own = epsilon([steps], target_delta=delta) if steps and entry.spends else 0.0
        since = epsilon(paid(entries, since=last_renewal(entries)), target_delta=delta)
    return RoundRow(
        store=store,
        entry=entry.sequence,
        kind=(release.kind or "charge") if entry.kind == "charge" else entry.kind,
        run=release.run,
        round=release.round,
        attempt=release.attempt,
        mode=release.mode,
        noise_multiplier=steps.noise_multiplier if steps else None,
        sample_rate=steps.sample_rate if steps else None,
        steps=steps.count if steps else None,
        stores_per_person=steps.stores if steps else None,
        target_delta=delta,
        epsilon=own,
        cumulative=entry.epsilon_after,
        limit=limit,
        left=None if limit is None else limit - since,
    )


def last_renewal(entries: Sequence[Entry]) -> int:
    """Number of the entry after which the budget counts; 0 if it was never renewed."""
    return max((entry.sequence for entry in entries if entry.kind == "renewal"), default=0)
