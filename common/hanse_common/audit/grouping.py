"""Groups the evidence of several federations or arms under one path.

Stores and round logs belong together if they have the same signed terms, if their terms name
the key of the same round log, or if stores in one folder have terms of the same federation's
name. A store without terms belongs to the round log above it, if there is one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hanse_common.audit.crosscheck import LogAudit
from hanse_common.audit.evidence import Evidence, LogEvidence, known_terms, trusted
from hanse_common.manifest import Manifest, SignedManifest


@dataclass(slots=True)
class Group:
    """The evidence of one federation, or of one arm of a run.

    Args:
        stores: Stores that have its terms, or are below its log.
        logs: Audits of its round logs.
        terms: Manifests of these stores and logs, by digest.
    """

    stores: list[Evidence] = field(default_factory=list)
    logs: list[LogAudit] = field(default_factory=list)
    terms: dict[bytes, Manifest] = field(default_factory=dict)


def group_evidence(
    stores: Sequence[Evidence],
    logs: Mapping[LogEvidence, tuple[LogAudit, Sequence[Evidence]]],
    authority: bytes | None,
) -> list[Group]:
    """Return the connected components of the evidence; see the module.

    Args:
        stores: All stores of the audit.
        logs: Each round log with its audit and the stores below its folder.
        authority: The authority whose manifests count; all readable ones if None.

    Guarantees:
        Every store and every log is in exactly one group.
    """
    # A union-find: each tie (terms, key, path) points to the group that has it.
    groups: dict[Hashable, Group] = {}
    held = {store.ledger: _signed(known_terms([store]), authority) for store in stores}
    for log, (audit, mine) in logs.items():
        signed = _signed(known_terms([log]), authority)
        ties = _ties(signed)
        if audit.checkpoint is not None:
            ties.append(("key", audit.checkpoint.log_key.hex()))
        # Position counts only without terms and keys: other arms may be below a log's folder too.
        below = [("store", store.ledger) for store in mine if not ties or not held[store.ledger]]
        group = Group(logs=[audit], terms=trusted(signed, authority))
        _join(groups, [("log", log.path), *ties, *below], group)
    for store in stores:
        signed = held[store.ledger]
        folder = store.ledger.parent.parent
        names = {manifest.unchecked.federation for manifest in signed}
        ties = [("store", store.ledger), *_ties(signed)]
        ties += [("folder", folder, name) for name in sorted(names)]
        _join(groups, ties, Group(stores=[store], terms=trusted(signed, authority)))
    # A group has several ties: by identity, each is returned once.
    return list({id(group): group for group in groups.values()}.values())


def _join(groups: dict[Hashable, Group], ties: Iterable[Hashable], joined: Group) -> None:
    """Add a group under its ties, and merge every group into it that shares one of them."""
    for tie in ties:
        other = groups.get(tie)
        if other is not None and other is not joined:
            joined.stores += other.stores
            joined.logs += other.logs
            joined.terms |= other.terms
            for key in [key for key, group in groups.items() if group is other]:
                groups[key] = joined
        groups[tie] = joined


def _signed(manifests: Sequence[SignedManifest], authority: bytes | None) -> list[SignedManifest]:
    good = trusted(manifests, authority)
    return [signed for signed in manifests if signed.unchecked.digest() in good]


def _ties(signed: Sequence[SignedManifest]) -> list[Hashable]:
    """Return the ties of manifests: their terms, and the keys of the logs that they name."""
    manifests = [one.unchecked for one in signed]
    keys = {manifest.log_key for manifest in manifests if manifest.log_key is not None}
    # With the signature: two authorities may sign the same terms for two federations.
    terms = [("terms", one.unchecked.digest(), one.signature) for one in signed]
    return [*terms, *(("key", key) for key in sorted(keys))]
