"""Identifies the store of a folder of evidence by certificate, or by the ledger's signing key."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from hanse_common.audit.evidence import Evidence
from hanse_common.errors import HanseError


def store_id(evidence: Evidence, certified: Mapping[bytes, str]) -> str | None:
    """Return the store's id in manifests and rosters; None if it cannot be determined.

    Args:
        evidence: The store's evidence.
        certified: Store ids by public key, from a round log's rosters. They identify a store
            that withholds its certificate, by the signature of its last entry.
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
