"""Which store a folder of evidence is of: by certificate, or by the key that signed its ledger."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from hanse_common.audit.evidence import Evidence
from hanse_common.errors import HanseError


def store_id(evidence: Evidence, certified: Mapping[bytes, str]) -> str | None:
    """The store's id in manifests and rosters; None if nothing says so.

    Args:
        evidence: What was handed over.
        certified: Ids by public key, as a round log's rosters have them. A store that keeps
            its certificate back is known by the signature of its last entry.
    """
    with suppress(HanseError):
        certificates = evidence.certificates()
        if certificates:
            return certificates[0].store_id
    with suppress(HanseError):
        entries = evidence.entries()
        if entries:
            return certified.get(entries[-1].signer)
    return None
