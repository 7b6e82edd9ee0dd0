"""Prometheus metrics and health checks of a store, read from its node's folder.

Nothing derives from customers but epsilon, which the ledger has charged: no loss, no count, no
accuracy. Refusals are counted by code; their texts stay in `log.jsonl`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_client.deployment.budget import budget_row, evidence_of
from hanse_client.deployment.tls_check import read_tls_end
from hanse_client.node import Node
from hanse_common.audit.evidence import Evidence
from hanse_common.audit.spending import BudgetRow
from hanse_common.errors import HanseError
from hanse_common.locks import is_locked
from hanse_common.monitoring.codes import OTHER, code_in
from hanse_common.monitoring.health import Health
from hanse_common.paths import JOIN_LOCK_FILE, STORE_LOG_FILE
from hanse_common.phases import EVALUATE
from hanse_common.rotation import all_json_lines

if TYPE_CHECKING:
    from prometheus_client import Metric

    from hanse_common.privacy.entry import Entry


def read_metrics(folder: Path) -> Iterator[Metric]:
    """Yield the metrics of a node.

    Raises:
        ConfigError: The folder is not a node's.
        LedgerError: The ledger is damaged.
    """
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    evidence = evidence_of(Node(folder))

    refusals = CounterMetricFamily(
        "hanse_store_refusals", "What the store refused, by code.", labels=["code"]
    )
    codes, last = _refusals(folder)
    for code, count in sorted(codes.items()):
        refusals.add_metric([code], count)
    yield refusals
    yield GaugeMetricFamily(
        "hanse_store_joined", "1 while the node runs.", value=is_locked(folder / JOIN_LOCK_FILE)
    )
    yield GaugeMetricFamily(
        "hanse_store_last_exchange_timestamp_seconds",
        "When the store last computed, charged or refused anything; 0 if never.",
        value=last,
    )
    for certificate in evidence.certificates()[:1]:
        yield GaugeMetricFamily(
            "hanse_store_certificate_end_timestamp_seconds",
            "When the store's certificate ends.",
            value=certificate.valid_until,
        )

    tls_end = read_tls_end(folder)
    if tls_end is not None:
        yield GaugeMetricFamily(
            "hanse_store_tls_certificate_end_timestamp_seconds",
            "When the coordinator's TLS certificate ends, as the node last saw it.",
            value=tls_end,
        )

    entries = evidence.entries()
    kinds = CounterMetricFamily(
        "hanse_store_ledger_entries", "Entries of the ledger, by kind.", labels=["kind"]
    )
    for kind, count in sorted(Counter(entry.kind for entry in entries).items()):
        kinds.add_metric([kind], count)
    yield kinds
    yield CounterMetricFamily(
        "hanse_store_rounds", "Training rounds taken part in.", value=_rounds(entries)
    )
    yield from _budget_metrics(_budget(evidence))


def read_health(folder: Path) -> Health:
    """Check whether the node runs, and whether it could take part in a round."""
    checks = {
        "joined": "" if is_locked(folder / JOIN_LOCK_FILE) else "`hanse store join` does not run"
    }
    try:
        evidence = evidence_of(Node(folder))
        row = _budget(evidence)
        certificates = evidence.certificates()
    except HanseError as error:
        return Health(checks=checks | {"folder": f"{error} [{error.code}]"})
    spent = row is not None and row.rounds_left == 0
    checks["budget"] = "the policy's epsilon is spent" if spent else ""
    if evidence.enrolment is not None:
        checks["certificate"] = _certificate_fault([c.valid_until for c in certificates[:1]])
    return Health(checks=checks)


def _certificate_fault(ends: list[int]) -> str:
    """The fault of a certificate with these ends of validity; empty if there is none."""
    if not ends:
        return "the store is not admitted yet"
    if ends[0] < time.time():
        return f"it ended on {datetime.fromtimestamp(ends[0], UTC).date()}"
    return ""


def _rounds(entries: list[Entry]) -> int:
    """Number of rounds in which the store trained; a round that was charged twice counts once."""
    trained = (e.release for e in entries if e.kind == "charge" and e.release.kind != EVALUATE)
    return len({(release.run, release.round) for release in trained})


def _refusals(folder: Path) -> tuple[Counter[str], float]:
    """Errors in the store's log, counted by code, and the time of the last line in Unix seconds."""
    codes: Counter[str] = Counter()
    last = 0.0
    for line in all_json_lines(folder / STORE_LOG_FILE):
        written = line.get("time")
        last = max(last, written) if isinstance(written, float) else last
        if "error" in line:
            codes[code_in(str(line["error"])) or OTHER] += 1
    return codes, last


def _budget(evidence: Evidence) -> BudgetRow | None:
    """The budget that is left."""
    row, policy = budget_row(evidence), evidence.policy()
    if row is not None or policy is None:
        return row
    limit = policy.max_epsilon
    return BudgetRow(
        store=evidence.store,
        target_delta=0.0,
        spent=0.0,
        spent_ever=0.0,
        limit=limit,
        left=limit,
        rounds_left=None,
        covers_stores=1,
        at_stores={},
    )


def _budget_metrics(row: BudgetRow | None) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    if row is None:
        return
    for name, text, value in (
        ("epsilon_spent", "Epsilon charged since the last renewal.", row.spent),
        ("epsilon_spent_ever", "Epsilon charged over all renewals.", row.spent_ever),
        ("epsilon_limit", "Epsilon that the policy allows.", row.limit),
        ("epsilon_left", "Epsilon that is left of it.", row.left),
        ("rounds_left", "Rounds of the manifest that are left of it.", row.rounds_left),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"hanse_store_{name}", text, value=value)
