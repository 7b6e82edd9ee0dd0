"""A `store.toml` of public data, or of a simulation, read under a constant key.

A store's own key would be made beside its file on first use, and its pseudonyms would appear
elsewhere. Data that need no pseudonyms are read under a key that everybody knows, so that the order
of customers is the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hanse_client.ingest.store_config import StoreConfig, load_store
from hanse_common.durable import write_durably


@contextmanager
def public_key() -> Iterator[Path]:
    """Yield a file with the constant key, for as long as the block lasts."""
    with TemporaryDirectory(prefix="hanse-") as folder:
        path = Path(folder) / "public.key"
        write_durably(path, bytes(32), mode=0o600)
        yield path


@contextmanager
def public_store(path: Path) -> Iterator[StoreConfig]:
    """Yield a store's sources under the constant key; neither key of the store is touched.

    Args:
        path: The `store.toml`.

    Raises:
        ConfigError: See `load_store`.
    """
    config = load_store(path)
    with public_key() as key:
        yield config.model_copy(update={"pseudonym_key": key, "home_key": None})
