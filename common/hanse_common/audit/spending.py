"""Tables of a ledger's charges by round, and of its spent and remaining budget.

The ledger is read as it is; `verify_store` checks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from hanse_common.audit.evidence import Evidence
from hanse_common.audit.shared_customers import covered, epsilon_at_stores
from hanse_common.audit.terms import under
from hanse_common.errors import PrivacyError
from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import plan_of
from hanse_common.phases import TRAIN
from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon, rounds_left
from hanse_common.privacy.chain import paid
from hanse_common.privacy.entry import Entry


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """One entry of a ledger.

    Args:
        store: Name of the store.
        entry: Number of the entry.
        kind: `train` or `evaluate` for a charge, else the entry's own kind.
        run: The coordinator's number of the run.
        round: The training round.
        attempt: 1 or 2; 0 for exchanges without attempts.
        mode: Mode of the privacy plan.
        noise_multiplier: The accounted value; None in a renewal, like the next three.
        sample_rate: The accounted value.
        steps: The accounted number.
        stores_per_person: At how many stores one person may be drawn for one sum.
        target_delta: Delta at which epsilon is computed.
        epsilon: Epsilon of this entry alone; 0 if nothing was paid.
        cumulative: Epsilon of all payments up to this entry.
        limit: The policy's limit at the time; None if there was none.
        left: Remainder of the limit since the last renewal; None without a limit.
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
    """The spent and the remaining budget of one store.

    Args:
        store: Name of the store.
        target_delta: Delta at which epsilon is computed: that of the last charge.
        spent: Epsilon since the last renewal.
        spent_ever: Epsilon over all renewals.
        limit: The policy's limit; without a policy that of the last charge.
        left: Remainder of the limit.
        rounds_left: How many more rounds stay within the limit: those that the manifest plans
            next; without a manifest, rounds like the last one.
        covers_stores: At how many stores a person may shop for the values above to hold.
        at_stores: By number of stores, an upper bound on epsilon for a person at so many stores
            that each spent as this one did over all renewals.
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
    """Return one row per entry.

    Raises:
        LedgerError: The ledger is damaged.
    """
    entries = evidence.entries()
    return [_round(evidence.store, entries[:number]) for number in range(1, len(entries) + 1)]


def budget_of(evidence: Evidence, *, stores: Sequence[int] = (1, 2, 4)) -> BudgetRow | None:
    """Return a store's budget; None if it has charged nothing.

    Args:
        evidence: The store's evidence.
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
    # The policy of today comes first: the ledger only has the limit at the last charge.
    limit = policy.max_epsilon if policy else (charges[-1].max_epsilon or None)
    signed = evidence.manifest()
    manifest = signed.unchecked if signed else None
    covers = covered(entries, manifest)
    return BudgetRow(
        store=evidence.store,
        target_delta=delta,
        spent=spent,
        spent_ever=ever,
        limit=limit,
        left=None if limit is None else limit - spent,
        rounds_left=None if limit is None else _rounds_left(charges, manifest, since, limit=limit),
        covers_stores=covers,
        at_stores={
            count: epsilon_at_stores(entries, count, covers=covers, target_delta=delta)
            for count in stores
        },
    )


def _rounds_left(
    charges: Sequence[Entry],
    manifest: Manifest | None,
    spent: Sequence[SampledGaussianSteps],
    *,
    limit: float,
) -> int | None:
    """Return how many rounds a limit still allows; None if no round has ever been charged.

    Args:
        charges: The ledger's charges.
        manifest: The terms of the next rounds; None if they are missing.
        spent: The steps since the last renewal.
        limit: Epsilon that must not be exceeded.
    """
    plan = None
    # Terms that promise more than they keep are refused elsewhere, and say nothing here.
    with suppress(PrivacyError):
        plan = None if manifest is None else plan_of(manifest)
    if plan is not None and manifest is not None:
        paid_rounds = {
            (entry.release.kind, entry.release.round) for entry in under(charges, manifest)
        }
        done = Counter(kind for kind, _ in paid_rounds)
        return plan.rounds_left(spent, limit=limit, done=done)
    rounds = [entry for entry in charges if entry.release.kind == TRAIN]
    if not rounds or rounds[-1].steps is None:
        return None
    last = rounds[-1]
    return rounds_left(spent, rounds[-1].steps, target_delta=last.target_delta, limit=limit)


def _round(store: str, entries: Sequence[Entry]) -> RoundRow:
    entry = entries[-1]
    steps, release, delta = entry.steps, entry.release, entry.target_delta
    limit = entry.max_epsilon or None  # in an entry, 0 means no limit
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
    """Return the number of the last renewal, after which the budget counts; 0 without one."""
    return max((entry.sequence for entry in entries if entry.kind == "renewal"), default=0)
