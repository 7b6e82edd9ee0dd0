"""Privacy budget of a store: epsilon spent and left, by its ledger and policy.

Composing the losses of hundreds of charges takes an accountant seconds. The result depends on
nothing but the ledger's last hash, the policy, the terms and the accountant, so it is kept in the
folder under a digest of these, and computed anew when one of them changes. `hanse store join`
does so between rounds. What a round may still spend is never read from this file: the ledger
composes that itself for every charge.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hanse_client.deployment.enrol import pinned_policy
from hanse_client.deployment.folder import StoreFolder
from hanse_client.node import Node
from hanse_common.audit.evidence import Evidence
from hanse_common.audit.spending import BudgetRow, budget_of
from hanse_common.decoding import json_file
from hanse_common.durable import write_durably
from hanse_common.errors import StoreNotReady
from hanse_common.paths import BUDGET_FILE, LEDGER_FILE
from hanse_common.privacy.accounting import accountant

_STORES = (1, 2, 4)
"""At how many stores a person shops for whom epsilon is shown."""
_FORM = 1
"""Version of the file; part of the digest."""


def evidence_of(node: Node) -> Evidence:
    """The ledger and the membership files of a store."""
    return Evidence(
        store=node.name,
        ledger=node.folder / LEDGER_FILE,
        enrolment=None if node.enrolment is None else node.enrolment.folder,
        simulated=node.settings.seed is not None,
    )


def budget_row(evidence: Evidence) -> BudgetRow | None:
    """The budget by the ledger, for people at 1, 2 and 4 stores; None if nothing was charged.

    Raises:
        LedgerError: The ledger is damaged.
        HanseError: Policy or manifest cannot be read.
    """
    entries = evidence.entries()
    if not any(entry.kind == "charge" for entry in entries):
        return None
    policy, signed = evidence.policy(), evidence.manifest()
    parts: tuple[Any, ...] = (
        *(_FORM, evidence.store, list(_STORES), accountant(), entries[-1].hash.hex()),
        None if policy is None else policy.model_dump(mode="json"),
        None if signed is None else signed.unchecked.digest().hex(),
    )
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return _row(evidence, key)


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
    row, limit = budget_row(evidence_of(folder.node())), policy.max_epsilon
    if row is None:
        return {"store": name, "spent": 0.0, "spent ever": 0.0, "limit": limit, "left": limit}
    table = asdict(row)
    at_stores = {f"at {count} stores": value for count, value in table.pop("at_stores").items()}
    return {key.replace("_", " "): value for key, value in (table | at_stores).items()}


# In memory too, for an endpoint that runs as a user who cannot write the folder.
@lru_cache(maxsize=8)
def _row(evidence: Evidence, key: str) -> BudgetRow | None:
    path = evidence.ledger.with_name(BUDGET_FILE)
    row = read_row(path, key)
    if row is None:
        row = budget_of(evidence, stores=_STORES)
        with suppress(OSError):
            text = json.dumps({"key": key, "row": None if row is None else asdict(row)})
            write_durably(path, text + "\n", mode=0o600, sync=False)
    return row


def read_row(path: Path, key: str) -> BudgetRow | None:
    """Read a row that was computed before; None if the file holds none, or another's.

    Args:
        path: The file, whose content may be anything.
        key: The digest of everything that the row depends on.
    """
    table = json_file(path)
    if table.get("key") != key:
        return None
    with suppress(ValidationError):
        return TypeAdapter(BudgetRow).validate_python(table.get("row"))
    return None
