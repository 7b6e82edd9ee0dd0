"""How many rounds of a plan the existing ledgers can still pay for."""

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
        store: The store's name.
        spent: Epsilon since the last renewal, at the plan's delta.
        limit: Epsilon limit of the store's policy; that of its last charge if the folder has no
            policy; the plan's target if neither names one.
        rounds_left: Rounds of the plan that stay within the limit, without evaluations; at
            most `accounting.MOST_ROUNDS`.
        enough: Whether the plan's rounds are all among them.
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
        plan: The plan whose rounds are to be paid.

    Raises:
        LedgerError: There is no ledger, or it is damaged.
        ConfigError: A store's policy cannot be read.
    """
    evidences = find(path)
    if not evidences:
        raise LedgerError(f"{path} holds no ledger", hint="give a ledger.sqlite or its folder")
    return [_row(evidence, plan) for evidence in evidences]


def _row(evidence: Evidence, plan: PrivacyPlan) -> LedgerRow:
    entries = evidence.entries()
    # A renewal starts a new budget: charges before it no longer count against the limit.
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
