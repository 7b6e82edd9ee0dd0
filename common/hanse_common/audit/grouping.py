"""Which evidence belongs together, where several federations or arms lie under one path.

Stores and round logs belong to one federation where they hold the same signed terms, where
terms name the key of the same round log, or where stores lie side by side under terms of one
federation's name. A store without terms belongs to the round log above it, if there is one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.evidence import Evidence, LogEvidence, known_terms, trusted
from hanse_common.manifest import Manifest, SignedManifest


@dataclass(slots=True)
class Group:
    """Evidence of one federation, or of one arm of a run.

    Args:
        stores: That hold its terms, or lie below its log.
        logs: Its round logs.
        terms: Manifests that they hold, by digest.
    """

    stores: list[Evidence] = field(default_factory=list)
    logs: list[LogAudit] = field(default_factory=list)
    terms: dict[bytes, Manifest] = field(default_factory=dict)


def group_evidence(
    stores: Sequence[Evidence],
    logs: Mapping[LogEvidence, tuple[LogAudit, Sequence[Evidence]]],
    authority: bytes | None,
) -> list[Group]:
    """Put together what belongs together, directly or through others.

    Args:
        stores: Everything that was handed over.
        logs: Each round log, and the stores below its folder.
        authority: Whose manifests count; all that can be read, if unset.

    Guarantees:
        Every store and every log is in just one group.
    """
    groups: dict[Hashable, Group] = {}
    held = {store.ledger: _signed(known_terms([store]), authority) for store in stores}
    for log, (audit, mine) in logs.items():
        signed = _signed(known_terms([log]), authority)
        ties = _ties(signed)
        if audit.checkpoint is not None:
            ties.append(("key", audit.checkpoint.log_key.hex()))
        # By terms and keys, if there are any: below a log's folder other arms may lie too.
        below = [("store", store.ledger) for store in mine if not ties or not held[store.ledger]]
        one = Group(logs=[audit], terms=trusted(signed, authority))
        _join(groups, [("log", log.path), *ties, *below], one)
    for store in stores:
        signed = held[store.ledger]
        beside = store.ledger.parent.parent
        names = {one.unchecked.federation for one in signed}
        ties = [("store", store.ledger), *_ties(signed)]
        ties += [("beside", beside, name) for name in sorted(names)]
        _join(groups, ties, Group(stores=[store], terms=trusted(signed, authority)))
    return list({id(one): one for one in groups.values()}.values())


def _join(groups: dict[Hashable, Group], ties: Iterable[Hashable], one: Group) -> None:
    """Add a group under its ties; what has one of them already becomes part of it."""
    for tie in ties:
        other = groups.get(tie)
        if other is not None and other is not one:
            one.stores += other.stores
            one.logs += other.logs
            one.terms |= other.terms
            for key in [key for key, found in groups.items() if found is other]:
                groups[key] = one
        groups[tie] = one


def _signed(found: Sequence[SignedManifest], authority: bytes | None) -> list[SignedManifest]:
    good = trusted(found, authority)
    return [one for one in found if one.unchecked.digest() in good]


def _ties(signed: Sequence[SignedManifest]) -> list[Hashable]:
    """Terms with their signature: two authorities may sign the same for two federations."""
    keys = {one.unchecked.log_key for one in signed if one.unchecked.log_key is not None}
    terms = [("terms", one.unchecked.digest(), one.signature) for one in signed]
    return [*terms, *(("key", key) for key in sorted(keys))]
