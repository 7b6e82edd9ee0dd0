"""Checks one store's ledger against the rest of its evidence.

>>> from tempfile import TemporaryDirectory
>>> from hanse_common.audit.evidence import find
>>> from hanse_common.identity import StoreKey
>>> from hanse_common.privacy.accounting import SampledGaussianSteps
>>> from hanse_common.privacy.charge import Charge
>>> from hanse_common.privacy.ledger import Ledger
>>> folder = TemporaryDirectory()
>>> steps = SampledGaussianSteps(noise_multiplier=2.0, sample_rate=0.1, count=5)
>>> ledger = Ledger.open(Path(folder.name) / "ledger.sqlite", StoreKey.generate())
>>> _ = ledger.charge(Charge(steps=steps, target_delta=1e-6))
>>> (evidence,) = find(Path(folder.name))
>>> audit = verify_store(evidence, second_opinion=False)
>>> audit.fault, round(audit.epsilon, 2), audit.unverified[0]
(None, 0.75, 'whose key signed: no certificate')
>>> folder.cleanup()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse_common.audit.charges import check_terms
from hanse_common.audit.evidence import Evidence, is_there, trusted
from hanse_common.audit.findings import Notes
from hanse_common.audit.limits import check_limits, limits_not_checked
from hanse_common.audit.repeats import Use
from hanse_common.audit.second_opinion import TOLERANCE, agree, second_epsilon, why_not
from hanse_common.audit.terms import Finding
from hanse_common.errors import HanseError, LedgerError
from hanse_common.identity import Certificate
from hanse_common.manifest import SignedManifest
from hanse_common.phases import EVALUATE
from hanse_common.policy import StorePolicy
from hanse_common.privacy import ledger_file
from hanse_common.privacy.accounting import ACCOUNTANT
from hanse_common.privacy.chain import compare, paid
from hanse_common.privacy.charge import NOTHING, Release
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger_file import EMPTY, Head
from hanse_common.privacy.verify import verify_copy


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The result of auditing one store.

    Args:
        store: Name of the store, as in `Evidence`.
        certified_as: The store's id in its certificate; None without one.
        ledger: Path of the ledger.
        entries: Number of entries up to the first fault of the chain.
        charges: Number of paid entries among them.
        rounds: Number of different training rounds that were charged.
        head: The last of these entries, for a later audit to compare with.
        epsilon: Epsilon of all payments.
        target_delta: Delta of `epsilon`: that of the last charge.
        second_epsilon: Epsilon by the second accountant; None without one.
        uses: Charged exchanges under each known manifest.
        fault: The first fault; None if there is none.
        verified: Checks that passed, as sentences.
        unverified: Points that could not be checked, and why.
    """

    store: str
    ledger: Path
    certified_as: str | None = None
    entries: int = 0
    charges: int = 0
    rounds: int = 0
    head: Head = EMPTY
    epsilon: float = 0.0
    target_delta: float = 0.0
    second_epsilon: float | None = None
    uses: tuple[Use, ...] = ()
    fault: Finding | None = None
    verified: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """Return the audit for JSON."""
        fault = self.fault
        return {
            "store": self.store,
            "certified_as": self.certified_as,
            "ledger": str(self.ledger),
            "ok": fault is None,
            "entries": self.entries,
            "charges": self.charges,
            "rounds": self.rounds,
            "head": {"sequence": self.head.sequence, "hash": self.head.hash.hex()},
            "epsilon": self.epsilon,
            "target_delta": self.target_delta or None,
            "second_epsilon": self.second_epsilon,
            "exchanges": [use.row() for use in self.uses],
            "fault": fault
            and {"entry": fault.sequence, "problem": fault.problem, "detail": fault.detail},
            "verified": list(self.verified),
            "unverified": list(self.unverified),
        }


def verify_store(
    evidence: Evidence,
    *,
    authority: bytes | None = None,
    remembered: Head | None = None,
    receipted: Head | None = None,
    second_opinion: bool = True,
    known: Sequence[SignedManifest] = (),
) -> Audit:
    """Check a store's ledger: chain, signatures, epsilon, limits and terms.

    Args:
        evidence: The store's evidence.
        authority: The enrolment authority's public key that the auditor trusts; if unset, the
            one that the store's policy names.
        remembered: A head of this store from an earlier audit.
        receipted: The last entry for which the coordinator has the store's receipt.
        second_opinion: Also compute epsilon with Opacus, which imports torch.
        known: Manifests from all evidence; those of this authority that charges name count, in
            addition to the store's own.

    Guarantees:
        `verified` holds only what was checked. Faulty evidence raises no error; it is in
        `fault`.
    """
    notes = Notes()
    if not evidence.ledger.exists():
        return _without_ledger(evidence, remembered, receipted)
    policy = _policy(evidence, notes)
    if authority is not None:
        notes.verified.append("the authority is the one that was given")
    elif policy is not None:
        authority = bytes.fromhex(policy.authority)
        notes.unverified.append("the authority is the one that the store names: give --authority")
    certificates = _certificates(evidence, authority, notes)
    entries = _chain(evidence, [c.public_key for c in certificates], notes)
    _heads(entries, remembered, receipted, notes)
    certified_as = certificates[0].store_id if certificates else None
    _limits(entries, policy, notes)
    terms = trusted(known, authority)
    uses = check_terms(evidence, entries, authority, certified_as, terms, notes)
    second = _second_epsilon(entries, notes) if second_opinion else None
    if not second_opinion:
        notes.unverified.append("no second accountant: not asked for")
    if evidence.simulated:
        notes.unverified.append("a simulation: its noise can be repeated, and protects nobody")
    charges = [entry for entry in entries if entry.spends]
    read = [entry for entry in entries if entry.target_delta > 0]
    return Audit(
        store=evidence.store,
        certified_as=certified_as,
        ledger=evidence.ledger,
        entries=len(entries),
        charges=len(charges),
        rounds=len({_round(e.release) for e in charges if e.release.kind != EVALUATE}),
        head=Head(entries[-1].sequence, entries[-1].hash) if entries else EMPTY,
        epsilon=read[-1].epsilon_after if read else 0.0,
        target_delta=read[-1].target_delta if read else 0.0,
        second_epsilon=second,
        uses=uses,
        fault=notes.first(),
        verified=tuple(notes.verified),
        unverified=tuple(notes.unverified),
    )


def _round(release: Release) -> tuple[bytes, int, int]:
    """Return the key of a charge's round: manifest, run and round."""
    # Under a manifest, a round that is repeated in another run is the same round.
    named = release.manifest_digest != NOTHING
    return release.manifest_digest, 0 if named else release.run, release.round


def _without_ledger(evidence: Evidence, remembered: Head | None, receipted: Head | None) -> Audit:
    fault, unverified = None, ["no ledger, and no head: never charged, or both were taken away"]
    known = {remembered, receipted} - {None, EMPTY}
    if ledger_file.head_path(evidence.ledger).exists() or known:
        fault = Finding(sequence=0, problem="the ledger is gone", detail="its head is remembered")
        unverified = []
    return Audit(
        store=evidence.store, ledger=evidence.ledger, fault=fault, unverified=tuple(unverified)
    )


def _policy(evidence: Evidence, notes: Notes) -> StorePolicy | None:
    try:
        return evidence.policy()
    except HanseError as error:
        notes.reject("the policy cannot be read", error)
        return None


def _certificates(evidence: Evidence, authority: bytes | None, notes: Notes) -> list[Certificate]:
    """Return the store's certificates, the current one first; none if one is not trustworthy."""
    try:
        certificates = evidence.certificates()
        for certificate in certificates if authority else ():
            # Checked at its own start: entries stay valid after their certificate has expired.
            certificate.check(authority or b"", now=certificate.valid_from)
            if certificate.store_id != certificates[0].store_id:
                raise LedgerError(f"a certificate is of another store, {certificate.store_id!r}")
    except HanseError as error:
        notes.reject("the certificate is not to be trusted", error)
        return []
    if not certificates:
        notes.unverified.append("whose key signed: no certificate")
    elif authority is None:
        notes.unverified.append("who certified the key: no authority is known")
    else:
        notes.verified.append("the key is certified by the authority")
    return certificates


def _chain(evidence: Evidence, keys: Sequence[bytes], notes: Notes) -> list[Entry]:
    try:
        # Both files are checked before either is read: a pipe or a device would block the audit.
        is_there(ledger_file.head_path(evidence.ledger))
        is_there(evidence.ledger)
        head, copy = evidence.head(), evidence.copy()
        if copy is None:
            raise LedgerError(f"there is no ledger at {evidence.ledger}")
        result = verify_copy(copy, keys[0] if keys else None, keys[1:], head)
    except LedgerError as error:
        notes.reject("the ledger cannot be read", error)
        return []
    if result.fault is not None:
        notes.fault(result.fault.sequence, result.fault.problem, result.fault.detail)
    else:
        notes.verified.append("no entry altered, missing or out of place")
        if keys:
            notes.verified.append("every entry is signed by the certificate's key")
        notes.verified.append(f"every epsilon recomputed ({ACCOUNTANT})")
        if result.unsigned:
            notes.unverified.append("who wrote it: some entries have no signature")
        for entry in result.entries:
            if entry.kind == "recovery":
                notes.unverified.append(
                    f"entries taken from the end before entry {entry.sequence}: the store had "
                    "lost its head, and went on"
                )
        if result.compared is None:
            notes.unverified.append("how far the store says it goes: no ledger.head")
        else:
            notes.verified.append("it goes as far as the store's own head")
    return list(result.entries)


def _heads(
    entries: Sequence[Entry], remembered: Head | None, receipted: Head | None, notes: Notes
) -> None:
    """Compare the ledger with the heads that the auditor and the coordinator have."""
    # The entries of a faulty chain end at its fault, which would look like a cut.
    if notes.first() is not None:
        return
    known = {
        "it goes on from the head that was remembered": remembered,
        "it holds what the store gave the coordinator receipts for": receipted,
    }
    for holds, head in known.items():
        fault = None if head is None else compare(entries, head)
        if fault is not None:
            notes.fault(fault.sequence, fault.problem, fault.detail)
        elif head is not None:
            notes.verified.append(holds)
    if not any(known.values()):
        notes.unverified.append("entries taken from the end: no head that others remember")


def _limits(entries: Sequence[Entry], policy: StorePolicy | None, notes: Notes) -> None:
    fault = check_limits(entries)
    if fault is not None:
        notes.faults.append(fault)
        return
    limited = any(entry.kind == "charge" and entry.max_epsilon > 0 for entry in entries)
    if limited and notes.first() is None:
        notes.verified.append("every charge is within the store's limit that it names")
    notes.unverified += limits_not_checked(entries, policy)


def _second_epsilon(entries: Sequence[Entry], notes: Notes) -> float | None:
    """Recompute every epsilon with the second accountant; return the last value."""
    second: float | None = None
    # Only entries before the first fault: false terms can make an accountant fail.
    fault = notes.first()
    end = fault.sequence if fault is not None and fault.sequence else len(entries) + 1
    for position, entry in enumerate(entries, start=1):
        if entry.kind != "charge" or position >= end:
            continue
        spent = paid(entries[:position])
        reason = why_not(spent, entry.epsilon_after)
        if reason is not None:
            notes.unverified.append(reason)
            return None
        try:
            second = second_epsilon(
                spent, target_delta=entry.target_delta, about=entry.epsilon_after
            )
        except (ArithmeticError, ValueError, RuntimeError) as error:
            notes.unverified.append(f"no second accountant: Opacus cannot compute it ({error})")
            return None
        if not agree(entry.epsilon_after, second):
            detail = (
                f"it says epsilon={entry.epsilon_after:.4g}, Opacus PRV says {second:.4g}: more "
                f"than {TOLERANCE:.0%} apart"
            )
            notes.fault(entry.sequence, "in doubt", detail)
            return second
    if second is not None and fault is None:
        notes.verified.append(f"a second accountant agrees within {TOLERANCE:.0%} (Opacus PRV)")
    return second
