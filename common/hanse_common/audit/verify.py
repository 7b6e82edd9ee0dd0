"""Verifies all evidence under a path: round logs, then the ledgers of their stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse_common.audit.crosscheck import LogAudit, verify_log
from hanse_common.audit.evidence import Evidence, Files, LogEvidence, find, find_logs, known_terms
from hanse_common.audit.missing import Gaps, find_gaps
from hanse_common.audit.naming import store_id
from hanse_common.audit.remembered import Remembered
from hanse_common.audit.store_checks import Audit, verify_store
from hanse_common.errors import AuditFailed
from hanse_common.roundlog.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of an audit of all evidence under a path.

    Args:
        evidence: The evidence of each store, as it was read.
        stores: The audit of each store, in the same order.
        logs: The audit of each round log.
        gone: Stores whose ledger an earlier audit saw, and that have none now.
        logs_gone: Keys of round logs that an earlier audit saw, and that are missing now.
        gaps: Evidence that manifests and round logs name and that is missing.
        all_required: Whether missing evidence is a fault, and not an open point.
    """

    evidence: tuple[Evidence, ...]
    stores: tuple[Audit, ...]
    logs: tuple[LogAudit, ...]
    gone: tuple[str, ...]
    logs_gone: tuple[str, ...] = ()
    gaps: Gaps
    all_required: bool = False

    @property
    def faults(self) -> list[str]:
        """All faults, as error messages."""
        faults = [
            f"{store}: its ledger is remembered, and is not there any more" for store in self.gone
        ]
        faults += [
            f"the round log of key {key[:16]}… is remembered, and is not there any more"
            for key in self.logs_gone
        ]
        faults += [f"{a.store}: {a.fault}" for a in self.stores if a.fault is not None]
        faults += [f"{log.log.name}: {log.failure}" for log in self.logs if log.fault]
        return faults + (self.gaps.faults if self.all_required else [])

    def row(self) -> dict[str, object]:
        """Return the result for JSON."""
        return {
            "ok": not self.faults,
            "stores": [audit.row() for audit in self.stores],
            "logs": [log.row() for log in self.logs],
            "gone": list(self.gone),
            "logs_gone": list(self.logs_gone),
            "missing": self.gaps.row(),
        }

    def check(self) -> None:
        """Raise an error if there is a fault.

        Raises:
            AuditFailed: There is a fault; the message names the first, and the number of others.
        """
        faults = self.faults
        if faults:
            others = f"; {len(faults) - 1} more faults" if faults[1:] else ""
            raise AuditFailed(
                faults[0] + others,
                hint="ask for the original files, and for an explanation",
            )


def verify_all(
    path: Path,
    *,
    authority: bytes | None = None,
    remembered: Remembered | None = None,
    second_opinion: bool = True,
    require_all: bool = False,
) -> Verdict:
    """Verify every round log and ledger under a path, on its own and against the others.

    Args:
        path: A ledger, a round log, a store's folder, or a run's folder with all its arms.
        authority: The enrolment authority's public key that the auditor trusts.
        remembered: Ends of ledgers and logs from an earlier audit.
        second_opinion: Also compute epsilon with Opacus, which imports torch.
        require_all: Treat missing evidence as a fault.

    Raises:
        LedgerError: There is neither a ledger nor a round log.
    """
    earlier = remembered or Remembered()
    files = Files()  # one cache for all checks: see its guarantee
    logs = [LogEvidence(path=log, files=files) for log in find_logs(path)]
    stores = find(path, files)
    below = {log: _stores_of(log, logs, stores) for log in logs}
    known = known_terms([*stores, *logs])
    # Logs first: the receipts in them say how far each ledger must go.
    audited = {
        log: verify_log(
            log, below[log], authority=authority, remembered=earlier.checkpoints, known=known
        )
        for log in logs
    }
    heads = dict(earlier.heads)
    audits = []
    for evidence in stores:
        log = next((audited[log] for log in logs if evidence in below[log]), None)
        name = None if log is None else store_id(evidence, log.certified)
        audits.append(
            verify_store(
                evidence,
                authority=authority,
                remembered=heads.pop(evidence.store, None),
                receipted=None if log is None or name is None else log.heads.get(name),
                second_opinion=second_opinion,
                known=known,
            )
        )
    gone = tuple(sorted(store for store, head in heads.items() if head.sequence))
    return Verdict(
        evidence=tuple(stores),
        stores=tuple(audits),
        logs=tuple(audited.values()),
        gone=gone,
        logs_gone=_gone(earlier.checkpoints, list(audited.values())),
        gaps=find_gaps(
            stores,
            {log: (audited[log], below[log]) for log in logs},
            authority=authority,
        ),
        all_required=require_all,
    )


def _gone(remembered: Sequence[Checkpoint], logs: Sequence[LogAudit]) -> tuple[str, ...]:
    """Return the keys of remembered logs that are missing."""
    # A log that cannot be read may be any of them; it is a fault already.
    here = [None if log.checkpoint is None else log.checkpoint.log_key for log in logs]
    keys = {seen.log_key.hex() for seen in remembered if seen.log_key not in here}
    return () if None in here else tuple(sorted(keys))


def _stores_of(
    log: LogEvidence, logs: Sequence[LogEvidence], stores: Sequence[Evidence]
) -> list[Evidence]:
    """Return the stores below a log's folder that are not below a deeper log's folder."""
    here = log.path.parent
    deeper = [other.path.parent for other in logs if here in other.path.parent.parents]
    return [
        evidence
        for evidence in stores
        if here in evidence.ledger.parents
        and not any(folder in evidence.ledger.parents for folder in deeper)
    ]
