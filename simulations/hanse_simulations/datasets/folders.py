"""Write stores as folders, once: `<cache>/<data set>/<store>/{events.parquet, store.toml}`.

The folders of one data set share a `catalogue.parquet` next to them. They are built in a
temporary folder and renamed, so that an existing folder is complete, and reused by every run
that needs the same data. Store keys are derived from the data set, not random as a real
store's: pseudonyms decide the order of customers, and a run must repeat bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hanse_client.ingest.store_config import load_store
from hanse_common.config import Split
from hanse_common.durable import replacing_folder
from hanse_common.errors import ConfigError, ContradictingOptions, DataError
from hanse_common.paths import (
    CATALOGUE_FILE,
    CUSTOMER_KEY_FILE,
    EVENTS_FILE,
    HOME_KEY_FILE,
    OWN_STORES_FOLDER,
    STORE_FILE,
)
from hanse_simulations.datasets import complete_journey, one_file, synthetic
from hanse_simulations.datasets.attributes import write_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hanse_common.config import DataSettings
    from hanse_simulations.datasets.dataset import Dataset, Fact

FORMAT: Final = 5
"""Raise it when the same settings make other folders: old ones are then no longer used."""

_SUMMARY = "stores.json"
_KEY, _HOME_KEY = CUSTOMER_KEY_FILE, HOME_KEY_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Folders of stores, each with a `store.toml`, and facts about the data set."""

    folders: tuple[Path, ...]
    """In the order of store names."""
    split: Split
    note: str
    """Licence and origin, or that the stores are synthetic; belongs to every result."""
    facts: Mapping[str, Fact]
    """Figures for the record of a run: stores, customers, events, what was left out."""


def make_stores(data: DataSettings, *, seed: int, cache: Path) -> Stores:
    """Make the stores of the settings, or find them in the cache.

    Args:
        data: Source, partition and limits.
        seed: Seed of synthetic stores and of samples of customers.
        cache: Folder for built data sets; created if it does not exist. One own file is divided
            into it too, so that it must be the run's own folder then.

    Raises:
        ConfigError: The limits do not fit the source.
        ContradictingOptions: Stores would have fewer customers than `data.min_customers`.
        MissingDependency: The data set's package is not installed.
        DataError: Folders cannot be written or read, or `data.path` holds no store.
        DataError [too-few-customers]: No store has `data.min_customers`.
    """
    if data.partition_by is not None:
        return _divided(data, cache)
    if data.source == "stores":
        return _brought(data)
    if data.source == "sequences":
        raise ConfigError(
            "data.source='sequences' is a file of item ids, not a folder of shops",
            hint="run it with `hanse simulate sequences --data FILE`",
        )
    if data.source == "own":
        raise ConfigError(
            "data.source='own' is a deployment's: the data are at the stores",
            hint="simulate with data.source = 'stores' and a folder of stores",
        )
    customers = data.customers
    if customers is None and data.source == "synthetic":
        customers = synthetic.DEFAULT_CUSTOMERS
    if customers is not None and customers < data.min_customers:
        raise ContradictingOptions(
            f"data.customers={customers} contradicts data.min_customers={data.min_customers}",
            hint="raise the one or lower the other",
        )
    digest = _digest(data, seed)
    name = f"{data.source}-{digest[:16]}"
    folder = cache.absolute() / name
    if not folder.exists():
        _build(_load(data, seed), folder, digest)
    stores = _read(folder)
    if data.source == "complete-journey":
        try:
            write_attributes(stores.folders, complete_journey.read_attributes())
        except OSError as error:
            raise _unwritable(folder, error) from error
    return stores


def _load(data: DataSettings, seed: int) -> Dataset:
    if data.source == "synthetic":
        return synthetic.load(data, seed=seed)
    return complete_journey.load(data, seed=seed)


def _digest(data: DataSettings, seed: int) -> str:
    """Digest of the terms that the folders depend on, and of no others: 64 hex digits."""
    terms: dict[str, Any] = {
        "format": FORMAT,
        "source": data.source,
        "stores": data.stores,
        "customers": data.customers,
    }
    if data.source == "complete-journey":
        terms |= {
            "version": complete_journey.version(),
            "partition": data.partition,
            "min_customers": data.min_customers,
        }
    if data.source == "synthetic" or data.customers is not None:
        terms["seed"] = seed
    return hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()


def _build(dataset: Dataset, folder: Path, digest: str) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as complete:
            _write(dataset, complete, digest)
    except OSError as error:
        # Another process may have built the same meanwhile; its folder serves as well.
        if not folder.exists():
            raise _unwritable(folder.parent, error) from error


def _write(dataset: Dataset, folder: Path, digest: str) -> None:
    dataset.catalogue.write_parquet(folder / CATALOGUE_FILE)
    customers: dict[str, int] = {}
    rows = 0
    for name, events in dataset.stores:
        store = folder / name
        store.mkdir()
        events.write_parquet(store / EVENTS_FILE)
        (store / STORE_FILE).write_text(
            f"# {dataset.note}\n"
            f"name = {json.dumps(name)}\n"
            f"observed_from = {dataset.observed_from.isoformat()}\n"
            f'home_key = "{_HOME_KEY}"\n\n'
            f'[events]\npath = "{EVENTS_FILE}"\n\n'
            f'[catalogue]\npath = "../{CATALOGUE_FILE}"\n',
            encoding="utf-8",
        )
        _write_key(store / _HOME_KEY, hashlib.sha256(f"{digest}/home".encode()).digest())
        _write_key(store / _KEY, hashlib.sha256(f"{digest}/{name}".encode()).digest())
        customers[name] = events["user_id"].n_unique()
        rows += events.height
    catalogue = dataset.catalogue
    steps = catalogue["category"].str.split("/").list
    summary = {
        "stores": sorted(customers),
        "split": dataset.split.model_dump(mode="json"),
        "note": dataset.note,
        "facts": {
            "stores": len(customers),
            "customers": sum(customers.values()),
            "customers_of_largest": max(customers.values()),
            "customers_of_smallest": min(customers.values()),
            "events": rows,
            "items": catalogue.height,
            "item_texts": catalogue["text"].n_unique(),
            "categories": steps.head(2).list.join("/").n_unique(),
            **dataset.facts,
        },
    }
    (folder / _SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")


def _write_key(path: Path, key: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(key)


def _read(folder: Path) -> Stores:
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        stores = Stores(
            folders=tuple(folder / name for name in summary["stores"]),
            split=Split.model_validate(summary["split"]),
            note=summary["note"],
            facts=summary["facts"],
        )
    except (OSError, ValueError, KeyError):
        stores = None
    if stores is None or not all((path / STORE_FILE).is_file() for path in stores.folders):
        raise DataError(
            f"{folder} is damaged", hint="delete that folder; it is built again when needed"
        ) from None
    return stores


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write stores to {folder}: {error.strerror}",
        hint="name a folder that this user can write, on a disk with space",
    )


def _divided(data: DataSettings, cache: Path) -> Stores:
    """Divide one own file; a run that goes on keeps the stores that it began with."""
    folder = cache.absolute() / OWN_STORES_FOLDER
    if not folder.exists():
        dataset, digest = one_file.divide(data)
        _build(dataset, folder, digest)
        folder.chmod(0o700)  # events of customers
    return _read(folder)


def _brought(data: DataSettings) -> Stores:
    """Find the stores in `data.path`; nothing is copied."""
    if data.path is None or data.split is None:  # both required by DataSettings
        raise ConfigError("data.source='stores' needs data.path and data.split")
    if data.customers is not None:
        raise ConfigError(
            f"data.customers={data.customers} cannot limit your own stores",
            hint="leave it out, or limit each store's own table",
        )
    configs = {path.parent: load_store(path) for path in sorted(data.path.glob(f"*/{STORE_FILE}"))}
    if not configs:
        raise DataError(
            f"data.path={str(data.path)!r} holds no store",
            hint="it needs one sub-folder per store, each with a store.toml",
        )
    by_name: dict[str, Path] = {}
    for folder, config in configs.items():
        if config.name in by_name:
            raise DataError(
                f"{by_name[config.name].name} and {folder.name} are both named {config.name!r}",
                hint="give each store.toml another name",
            )
        by_name[config.name] = folder
    chosen = sorted(by_name)
    if data.stores is not None:
        if data.stores > len(chosen):
            raise ConfigError(
                f"data.stores={data.stores}, and {data.path} holds {len(chosen)}",
                hint=f"ask for at most {len(chosen)}",
            )
        # By name and not by size: which stores there are must not depend on a customer.
        chosen = chosen[: data.stores]
    return Stores(
        folders=tuple(by_name[name].absolute() for name in chosen),
        split=data.split,
        note="",
        facts={"stores": len(chosen), "stores_found": len(by_name)},
    )
