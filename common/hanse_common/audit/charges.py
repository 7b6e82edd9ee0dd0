"""Checks a store's charges against every manifest that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from hanse_common.audit.evidence import Evidence
from hanse_common.audit.findings import Notes
from hanse_common.audit.repeats import Use
from hanse_common.audit.terms import check_charges, under, uses_under
from hanse_common.errors import HanseError
from hanse_common.manifest import Manifest
from hanse_common.privacy.charge import NOTHING
from hanse_common.privacy.entry import Entry


def check_terms(
    evidence: Evidence,
    entries: Sequence[Entry],
    authority: bytes | None,
    certified_as: str | None,
    others: Mapping[bytes, Manifest],
    notes: Notes,
) -> tuple[Use, ...]:
    """Compare a ledger's charges with the store's manifest and with others that they name.

    Args:
        evidence: The store's evidence.
        entries: The verified entries of its ledger.
        authority: The enrolment authority's public key; None if it is not known.
        certified_as: The store's id in its certificate; None without one.
        others: This authority's manifests from all evidence, by digest. A manifest is the same
            wherever it comes from.
        notes: Receive the findings.

    Returns:
        The exchanges charged under each known manifest, by kind.
    """
    try:
        signed = evidence.manifest()
        own = None
        if signed is not None:
            own = signed.unchecked if authority is None else signed.check(authority)
    except HanseError as error:
        notes.reject("the manifest is not to be trusted", error)
        return ()
    charges = Counter(e.release.manifest_digest for e in entries if e.kind == "charge")
    terms = {digest: others[digest] for digest in charges if digest in others}
    if own is not None:
        # Also without a charge: then it is the manifest whose list of stores is checked.
        terms = {own.digest(): own, **terms}
    elif not terms:
        notes.unverified.append("the terms: no manifest")
        return ()
    else:
        notes.unverified.append("the store's own copy of the terms: no manifest of its own")
    if authority is None:
        notes.unverified.append("who signed the manifest: no authority is known")
    for manifest in terms.values():
        _check_one(entries, manifest, certified_as, notes)
    if notes.first() is None and any(under(entries, manifest) for manifest in terms.values()):
        notes.verified.append(
            "every charge under the manifest is as it says, within its grant and its promise"
        )
    for digest, count in sorted(charges.items()):
        if digest not in terms:
            which = "no manifest" if digest == NOTHING else f"manifest {digest.hex()[:9]}…"
            notes.unverified.append(f"the terms of {count} charges that name {which}")
    return tuple(use for manifest in terms.values() for use in uses_under(entries, manifest))


def _check_one(
    entries: Sequence[Entry], manifest: Manifest, certified_as: str | None, notes: Notes
) -> None:
    if certified_as is not None and certified_as not in manifest.stores:
        detail = f"the certificate is of {certified_as!r}, which the manifest does not list"
        notes.fault(0, "no member", detail)
    fault = check_charges(entries, manifest)
    if fault is not None:
        notes.faults.append(fault)
