"""Privacy budget of a store: epsilon spent and left, by its ledger and policy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hanse_client.deployment.enrol import pinned_policy
from hanse_client.deployment.folder import StoreFolder
from hanse_common.audit.evidence import Evidence
from hanse_common.audit.spending import BudgetRow, budget_of
from hanse_common.errors import StoreNotReady
from hanse_common.paths import LEDGER_FILE


def budget_row(folder: StoreFolder) -> BudgetRow | None:
    """The budget by the ledger, for people at 1, 2 and 4 stores; None if nothing was charged.

    Raises:
        LedgerError: The ledger is damaged.
    """
    evidence = Evidence(
        store=folder.node().name,
        ledger=folder.path / LEDGER_FILE,
        enrolment=folder.enrolment,
        simulated=False,
    )
    return budget_of(evidence, stores=(1, 2, 4))


def spending(folder: StoreFolder) -> dict[str, Any]:
    """Epsilon spent, its limit, and the number of rounds left, by printable names.

    Raises:
        LedgerError: The ledger is damaged.
        ConfigError: The policy is malformed.
    """
    name = folder.node().name
    try:
        policy = pinned_policy(folder)
    except StoreNotReady:
        # Without a pinned authority the store was in no federation, and has spent nothing.
        return {"store": name, "spent": 0.0, "spent ever": 0.0, "limit": None, "left": None}
    row, limit = budget_row(folder), policy.max_epsilon
    if row is None:
        return {"store": name, "spent": 0.0, "spent ever": 0.0, "limit": limit, "left": limit}
    table = asdict(row)
    at_stores = {f"at {count} stores": value for count, value in table.pop("at_stores").items()}
    return {key.replace("_", " "): value for key, value in (table | at_stores).items()}
