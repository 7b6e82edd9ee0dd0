r"""Fingerprints of a store's sources, by which prepared data are known to be out of date.

Reading a source takes minutes, a fingerprint of it milliseconds: small files are compared by their
content, large ones by size, time of the last change and inode. A query has no fingerprint but its
text; `hanse_client.features.prepare` therefore repeats a query after some hours.

>>> import tempfile
>>> from hanse_client.ingest.store_config import load_store
>>> with tempfile.TemporaryDirectory() as folder:
...     sales, items = Path(folder, "sales.csv"), Path(folder, "items.csv")
...     _ = sales.write_text("user_id,item_id,timestamp\nada,1,2017-01-02\nbob,1,2017-01-03\n")
...     _ = items.write_text("item_id,text,category\n1,milk,DAIRY\n")
...     _ = Path(folder, "store.toml").write_text(
...         "name = 'corner'\n[events]\npath = 'sales.csv'\n[catalogue]\npath = 'items.csv'"
...     )
...     store = load_store(Path(folder, "store.toml"))
...     before = source_fingerprint(store)
...     sales.touch()
...     touched = source_fingerprint(store)
...     _ = sales.write_text("user_id,item_id,timestamp\nbob,1,2017-01-03\n")
...     erased = source_fingerprint(store)
>>> before == touched, before == erased
(True, False)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_client.ingest.sources import files_of
from hanse_common.errors import DataError

if TYPE_CHECKING:
    from hanse_client.ingest.store_config import StoreConfig

LARGEST_READ = 16 << 20
"""Most bytes of a file whose content is compared: they are read in some 20 ms, once a round."""


def source_fingerprint(store: StoreConfig) -> str:
    """Return a digest of `store.toml` and of everything that it names but keys.

    Args:
        store: The store's sources.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        DataError: A file cannot be read, or no file matches.

    Guarantees:
        It differs after every change of a setting, of a small file's content, and of the set of
        files that a pattern matches.

    Edge cases:
        A large file that is overwritten in place, with its size and its time set back, looks
        unchanged, as does a database.
    """
    parts: list[object] = [store.model_dump_json(exclude={"notify"})]
    for source in store.sources:
        if source.sql is None:
            parts += [[str(path), _file(path)] for path in files_of(source)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def queries_database(store: StoreConfig) -> bool:
    """Whether a part of the data comes from a query, which has no fingerprint."""
    return any(source.sql is not None for source in store.sources)


def key_fingerprint(store: StoreConfig) -> str:
    """Return a digest of the keys that pseudonyms and homes depend on; empty if there are none.

    Raises:
        DataError: A key cannot be read.
    """
    paths = [store.pseudonym_key, *([] if store.home_key is None else [store.home_key])]
    contents = [_file(path) for path in paths if path.exists()]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest() if contents else ""


def _file(path: Path) -> str:
    try:
        status = path.stat()
        if status.st_size > LARGEST_READ:
            return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or 'no such file'}") from None
