"""What stores have charged under the signed terms, as far as the round log tells it.

A store's ledger and its policy's limit are its own and stay there. Public are the number of
exchanges that the terms grant, and the signed receipts of charged uploads in the round log.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from pathlib import Path

from hanse_common.manifest import Manifest
from hanse_common.manifest_terms import grant_of
from hanse_common.paths import ROUND_LOG_FILE
from hanse_common.roundlog.file import FORMAT, read_records
from hanse_common.roundlog.records import Closed, decode


def granted_uploads(manifest: Manifest) -> int | None:
    """Return how many uploads the terms let a store charge; None without privacy."""
    grant = grant_of(manifest)
    return None if grant is None else sum(grant.exchanges.values())


def charged_uploads(folder: Path, manifest: Manifest) -> dict[str, int]:
    """Return the number of uploads that each store has charged under the terms.

    Args:
        folder: The federation's folder; without a round log, nothing was charged.
        manifest: The signed terms.

    Raises:
        RoundLogError: The round log cannot be read.
    """
    path = folder / ROUND_LOG_FILE
    if not path.exists():
        return {}
    status = path.stat()
    # Kept until the file changes: a log of a thousand exchanges takes a second to decode.
    return _charged(path, manifest.digest(), (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=4)
def _charged(path: Path, manifest: bytes, _: tuple[int, int]) -> dict[str, int]:
    with FORMAT.reading(path) as database:
        bodies = read_records(database, path)
    closed = (record for record in map(decode, bodies) if isinstance(record, Closed))
    return dict(
        Counter(
            receipt.store_id
            for record in closed
            if record.header.manifest_digest == manifest
            for receipt in record.receipts
            if receipt.sequence
        )
    )
