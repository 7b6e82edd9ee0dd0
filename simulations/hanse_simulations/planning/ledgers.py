"""What existing ledgers leave for a plan: a budget that was partly spent buys fewer rounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hanse_common.audit.evidence import Evidence, find
from hanse_common.audit.spending import last_renewal
from hanse_common.errors import LedgerError
from hanse_common.privacy.accounting import epsilon
from hanse_common.privacy.chain import paid
from hanse_common.privacy.plan import PrivacyPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerRow:
    """One store's ledger, compared with a plan.

    Args:
        store: Whose.
        spent: Epsilon since the last renewal, at the plan's delta.
        limit: That of the store's policy; that of its last charge if no policy lies there;
            the plan's own target if neither says any.
        rounds_left: How many rounds of the plan stay within the limit, without evaluations;
            at most `accounting.MOST_ROUNDS`.
        enough: Whether those are all of the plan's rounds.
    """

    store: str
    spent: float
    limit: float
    rounds_left: int
    enough: bool


def ledger_rows(path: Path, plan: PrivacyPlan) -> list[LedgerRow]:
    """Read every ledger under a path.

    Args:
        path: A `ledger.sqlite`, a store's folder, or a run's folder.
        plan: Whose rounds are to be paid.

    Raises:
        LedgerError: There is no ledger, or it is damaged.
        ConfigError: A store's policy cannot be read.
    """
    found = find(path)
    if not found:
        raise LedgerError(f"{path} holds no ledger", hint="give a ledger.sqlite or its folder")
    return [_row(evidence, plan) for evidence in found]


def _row(evidence: Evidence, plan: PrivacyPlan) -> LedgerRow:
    entries = evidence.entries()
    spent = paid(entries, since=last_renewal(entries))
    policy = evidence.policy()
    claims = [entry.max_epsilon for entry in entries if entry.kind == "charge"]
    limit = policy.max_epsilon if policy else (claims[-1] if claims else 0.0)
    limit = limit or plan.target_epsilon
    left = plan.rounds_left(spent, limit=limit)
    return LedgerRow(
        store=evidence.store,
        spent=epsilon(spent, target_delta=plan.target_delta),
        limit=limit,
        rounds_left=left,
        enough=left >= plan.rounds,
    )
