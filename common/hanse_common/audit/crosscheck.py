"""Checks a round log against the ledgers and remembered checkpoints of the stores it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanse_common.audit.attempts import announced_uses, check_receipts
from hanse_common.audit.evidence import Evidence, LogEvidence, trusted
from hanse_common.audit.findings import Notes
from hanse_common.audit.naming import store_id
from hanse_common.audit.repeats import Use
from hanse_common.audit.roundlog import LogFile, check_log, read_log
from hanse_common.audit.terms import Finding
from hanse_common.errors import HanseError
from hanse_common.manifest import Manifest, SignedManifest
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger_file import Head
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.receipt import Receipt
from hanse_common.roundlog.records import SUMMED, Announced, Closed, Published


@dataclass(frozen=True, kw_only=True, slots=True)
class LogAudit:
    """The result of auditing one round log.

    Args:
        log: Path of the file.
        records: Number of records.
        announced: Number of announced attempts.
        summed: Number of attempts that gave a sum.
        published: Number of published models.
        checkpoint: The checkpoint in the log's folder.
        cosigned_by: Stores that have ever cosigned the log.
        receipts: Number of stores' receipts.
        matched: Number of receipts whose entry is in a ledger of the evidence.
        heads: By store id, the last entry for which the store gave a receipt.
        rosters: By store id, the number of rosters that list the store.
        given: By store id, the number of its receipts.
        certified: Store ids in rosters, by public key.
        uses: Announced exchanges under each known manifest.
        fault: The first fault; None if there is none.
        verified: Checks that passed, as sentences.
        unverified: Points that could not be checked, and why.
    """

    log: Path
    records: int = 0
    announced: int = 0
    summed: int = 0
    published: int = 0
    checkpoint: Checkpoint | None = None
    cosigned_by: tuple[str, ...] = ()
    receipts: int = 0
    matched: int = 0
    heads: Mapping[str, Head]
    rosters: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)
    certified: Mapping[bytes, str] = field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    fault: Finding | None = None
    verified: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    @property
    def failure(self) -> str:
        """The fault as an error message; empty if there is none."""
        fault = self.fault
        where = f"record {fault.sequence} is " if fault is not None and fault.sequence else ""
        return "" if fault is None else f"{where}{fault.problem}: {fault.detail}"

    def row(self) -> dict[str, object]:
        """Return the audit for JSON."""
        fault, last = self.fault, self.checkpoint
        return {
            "log": str(self.log),
            "ok": fault is None,
            "records": self.records,
            "announced": self.announced,
            "summed": self.summed,
            "published": self.published,
            "checkpoint": last
            and {"size": last.size, "root": last.root.hex(), "log_key": last.log_key.hex()},
            "cosigned_by": list(self.cosigned_by),
            "receipts": self.receipts,
            "matched": self.matched,
            "exchanges": [use.row() for use in self.uses],
            "fault": fault
            and {"record": fault.sequence, "problem": fault.problem, "detail": fault.detail},
            "verified": list(self.verified),
            "unverified": list(self.unverified),
        }


def verify_log(
    evidence: LogEvidence,
    stores: Sequence[Evidence],
    *,
    authority: bytes | None = None,
    remembered: Sequence[Checkpoint] = (),
    known: Sequence[SignedManifest] = (),
) -> LogAudit:
    """Check a round log on its own, then against the evidence of its stores.

    Args:
        evidence: The round log; the manifest is in its folder, or at a store.
        stores: The stores whose evidence is under the same folder.
        authority: The enrolment authority's public key that the auditor trusts; if unset, the
            one that a store's policy names.
        remembered: Checkpoints from an earlier audit, of this log or others.
        known: Manifests from all evidence; only those of this authority count.

    Guarantees:
        Those of `verify_store`.
    """
    notes = Notes()
    authority = _authority(stores, notes) if authority is None else authority
    manifest = _manifest(evidence, stores, authority, notes)
    log = read_log(evidence.path, notes)
    if log is None:
        return LogAudit(log=evidence.path, heads={}, fault=notes.first())
    terms = {} if manifest is None else {manifest.digest(): manifest}
    terms |= trusted(known, authority)
    closed, matched, heads = log.closed(), 0, {}
    uses: tuple[Use, ...] = ()
    if not notes.faults:
        log_key = None if manifest is None else manifest.log_key
        attempts = check_log(log, log_key, terms, authority, notes)
        uses = announced_uses(attempts, terms, notes)
        check_receipts(attempts, terms, notes)
    if not notes.faults:
        # Only now: the receipts' signatures have been checked, so that a difference from a ledger
        # is the store's and not the coordinator's.
        heads = _heads(closed)
        matched = _check_stores(log, stores, manifest, notes)
        if sum(_check_seen(log, "an earlier audit", seen, notes) for seen in remembered):
            notes.verified.append("it goes on from the checkpoint that was remembered")
    return LogAudit(
        log=evidence.path,
        records=len(log.records),
        announced=sum(isinstance(record, Announced) for record in log.records),
        summed=sum(attempt.outcome == SUMMED for attempt in closed),
        published=sum(isinstance(record, Published) for record in log.records),
        checkpoint=log.checkpoint,
        cosigned_by=tuple(sorted({name for attempt in closed for name in attempt.stores})),
        receipts=sum(len(attempt.receipts) for attempt in closed),
        matched=matched,
        heads=heads,
        rosters=Counter(name for attempt in closed for name in attempt.stores),
        given=Counter(receipt.store_id for attempt in closed for receipt in attempt.receipts),
        certified=log.certified(),
        uses=uses,
        fault=notes.first(),
        verified=tuple(notes.verified),
        unverified=tuple(notes.unverified),
    )


def _authority(stores: Sequence[Evidence], notes: Notes) -> bytes | None:
    for evidence in stores:
        try:
            policy = evidence.policy()
        except HanseError:
            continue  # the store's own audit reports it
        if policy is not None:
            notes.unverified.append("the authority is the one that a store names: give --authority")
            return bytes.fromhex(policy.authority)
    notes.unverified.append("who certified the stores' keys: no authority is known")
    return None


def _manifest(
    log: LogEvidence, stores: Sequence[Evidence], authority: bytes | None, notes: Notes
) -> Manifest | None:
    try:
        signed = log.manifest()
        for evidence in stores if signed is None else ():
            signed = signed or evidence.manifest()
        if signed is None:
            notes.unverified.append("the terms: no manifest")
            return None
        return signed.unchecked if authority is None else signed.check(authority)
    except HanseError as error:
        notes.reject("the manifest is not to be trusted", error)
        return None


def _heads(closed: Sequence[Closed]) -> dict[str, Head]:
    heads: dict[str, Head] = {}
    for attempt in closed:
        for receipt in attempt.receipts:
            if receipt.sequence > heads.get(receipt.store_id, Head(0, b"")).sequence:
                heads[receipt.store_id] = Head(receipt.sequence, receipt.entry_hash)
    return heads


def _check_stores(
    log: LogFile, stores: Sequence[Evidence], manifest: Manifest | None, notes: Notes
) -> int:
    """Compare the log with every store; return the number of receipts that ledgers confirm."""
    matched, compared, seen = 0, 0, 0
    certified = log.certified()
    manifests = {attempt.header.manifest_digest for attempt in log.closed()}
    if manifest is not None:
        manifests.add(manifest.digest())
    for evidence in stores:
        seen += _check_witness(log, evidence, notes)
        name = store_id(evidence, certified)
        try:
            entries = evidence.entries()
        except HanseError:
            continue  # the store's own audit reports what is wrong with it
        if name is None or not entries:
            continue
        compared += 1
        matched += _check_ledger(log, evidence.store, name, entries, manifests, notes)
    if not compared:
        notes.unverified.append("what stores have charged: no ledger of a store that it names")
    elif not notes.faults:
        notes.verified += [
            f"{compared} ledgers hold the entry of every receipt that their store gave",
            f"{compared} ledgers charge nothing that the log does not announce",
        ]
    if not seen:
        notes.unverified.append("that stores were shown this log: no checkpoint of theirs")
    elif not notes.faults:
        notes.verified.append(f"{seen} stores have seen this log, and no other")
    return matched


def _check_witness(log: LogFile, evidence: Evidence, notes: Notes) -> bool:
    """Compare the log with a store's checkpoints; return whether it has seen this log."""
    try:
        checkpoints = evidence.checkpoints()
        for checkpoint in checkpoints:
            # An unsigned checkpoint proves nothing: a store could forge another history by it.
            checkpoint.check_signature()
    except HanseError as error:
        notes.reject(f"what {evidence.store} has seen of it is not to be trusted", error)
        return False
    return sum(_check_seen(log, evidence.store, seen, notes) for seen in checkpoints) > 0


def _check_seen(log: LogFile, store: str, seen: Checkpoint, notes: Notes) -> bool:
    """Compare the log with a remembered checkpoint; return whether it is of this log."""
    # Another key signs another log, about which this checkpoint says nothing.
    if log.checkpoint is None or seen.log_key != log.checkpoint.log_key:
        return False
    size = len(log.tree)
    if seen.size > size:
        detail = f"{store} has seen {seen.size} records of it"
        notes.fault(size + 1, "cut off", detail)
    elif log.tree.root(seen.size) != seen.root:
        detail = f"{store} was shown other records up to this one"
        notes.fault(seen.size, "another history", detail)
    return True


def _check_ledger(
    log: LogFile,
    store: str,
    name: str,
    entries: Sequence[Entry],
    manifests: set[bytes],
    notes: Notes,
) -> int:
    """Compare a store's receipts with its ledger, and its charges with the log.

    Args:
        log: The log, checked on its own.
        store: The store's name in findings.
        name: Its id in rosters.
        entries: The entries of its ledger.
        manifests: Digests of the manifests whose charges the log must announce.
        notes: Receive the findings.

    Returns:
        The number of receipts whose entry is in the ledger.
    """
    matched, announced = 0, set()
    for position, record in enumerate(log.records, start=1):
        if isinstance(record, Announced):
            announced.add((record.run, record.exchange, record.attempt))
        if not isinstance(record, Closed):
            continue
        for receipt in record.receipts:
            if receipt.store_id != name or not receipt.sequence:
                continue
            wrong = _differs(receipt, record, entries)
            if wrong:
                notes.fault(position, "against a ledger", f"{store} {wrong}")
            else:
                matched += 1
    for entry in entries:
        release = entry.release
        if entry.kind != "charge" or release.manifest_digest not in manifests:
            continue
        if (release.run, release.exchange, release.attempt) not in announced:
            detail = (
                f"{store} has charged entry {entry.sequence} for attempt {release.attempt} of "
                f"round {release.round}, which the log does not announce"
            )
            notes.fault(len(log.records) + 1, "missing", detail)
            break
    return matched


def _differs(receipt: Receipt, record: Closed, entries: Sequence[Entry]) -> str:
    """Return how a ledger differs from a receipt of its store; empty if it does not."""
    if receipt.sequence > len(entries):
        return f"gave a receipt for entry {receipt.sequence}, its ledger has {len(entries)}"
    # Entries are numbered from 1. The hash is compared first, since it covers the rest.
    entry, header = entries[receipt.sequence - 1], record.header
    if entry.hash != receipt.entry_hash:
        return f"gave a receipt for another entry {receipt.sequence} than its ledger has"
    release = entry.release
    charged = (release.run, release.exchange, release.attempt, release.manifest_digest)
    if (
        entry.kind != "charge"
        or charged != (header.run, header.round, header.attempt, header.manifest_digest)
        or release.instructions_digest != header.model_digest
        or release.roster_digest != record.roster_digest
    ):
        return f"gave a receipt for entry {receipt.sequence}, which charges something else"
    return ""
