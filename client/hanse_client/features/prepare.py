"""Preparation of a store's data from `store.toml`, the initial model and the run's settings.

What is prepared is the task's: `Task.prepare` reads the tables that it needs and returns arrays by
customer. The public inputs come from the federation: what the model ranks, the text encoder, and
the first day of the records. All other inputs are the store's own data and stay there.

A store's data change between rounds: new weeks arrive, and customers are erased. The record of a
preparation holds fingerprints of everything that it was made from; the node compares them before
every round, and computes on nothing that is out of date.
"""

from __future__ import annotations

import hashlib
import json
import os
import time as clock
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hanse_common.config import RunSettings
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, DataError
from hanse_common.manifest_terms import settings_digest
from hanse_common.paths import CONFIG_FILE, PREPARED_FILE, STORE_FILE
from hanse_common.settings_files import read_json

if TYPE_CHECKING:
    from hanse_client.ingest.store_config import StoreConfig
    from hanse_client.node import Node
    from hanse_client.tasks.base import StoreData, Task

_FORMAT = 3
"""Raise it when the same sources and settings give other prepared files. 2 leaves out what no task
reads; 3 orders visits that begin at one time by other numbers. A record without the number, as the
first version wrote it, is none."""
_RECORDS = timedelta(days=365)  # a public constant: the first event would be a customer's own
QUERY_SECONDS = 86_400.0
"""Age at which a query is repeated, in seconds. A database does not report that its rows changed,
and reading them all before every round would take minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """What a task makes of a store's tables, before it is written to the node's file.

    Args:
        data: The store's data, by customer.
        rows: Number of rows read from the tables of customers.
        rejected: Number of those rejected.
        unranked: Number of valid rows that the model cannot use: items, labels or campaigns that
            it does not know.
    """

    data: StoreData
    rows: int
    rejected: int
    unranked: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """The inputs of a file of prepared data, and the counts of ingestion.

    Args:
        sources: Fingerprint of `store.toml` and of the source files; see `source_fingerprint`.
        keys: Fingerprint of the keys that pseudonyms and homes are computed with.
        settings: Digest of the run's settings, with the split in time.
        read: Unix seconds when the sources were read.
        model: Digest of the model's `config.json`, which names all that the model ranks.
        observed_from: First day of the store's records, ISO 8601.
        customers: Number of customers with training examples.
        rows: Number of rows read from the tables of customers.
        rejected: Number of rows rejected.
        unranked: Number of valid rows that the model cannot use. Of an event with an item of a
            class that it does not rank, the visit counts and the class does not.
        format: Version of the format of prepared data.
    """

    sources: str
    keys: str
    settings: str
    read: float
    model: str
    observed_from: str
    customers: int
    rows: int
    rejected: int
    unranked: int
    format: int

    def outdated(
        self,
        model: Path,
        store: StoreConfig,
        settings: RunSettings,
        *,
        query_seconds: float = QUERY_SECONDS,
        now: float | None = None,
    ) -> str:
        """Say in what the prepared data differ from what would be prepared now.

        Args:
            model: Folder of the initial model.
            store: The store's sources.
            settings: The run's.
            query_seconds: Age from which data of a query are out of date.
            now: Unix seconds; the system clock's if unset.

        Returns:
            What has changed, in words without data; empty if the data can be used.

        Raises:
            ConfigError: Model or settings lack something that preparation needs.
            DataError: A source file cannot be read.
        """
        from hanse_client.ingest.fingerprint import (
            key_fingerprint,
            queries_database,
            source_fingerprint,
        )

        now = clock.time() if now is None else now
        if self.model != _model_digest(model):
            return "prepared for another model"
        if self.sources != source_fingerprint(store):
            return "the data have changed since they were prepared"
        if self.keys != key_fingerprint(store):
            return "prepared with another customer key or home key"
        if (self.settings, self.observed_from) != (
            settings_digest(settings).hex(),
            observed_from(store, settings).isoformat(),
        ):
            return "prepared for other settings"
        # A clock that was set back must not make old rows look new.
        if queries_database(store) and not 0 <= now - self.read < query_seconds:
            return "the query of the data was made too long ago"
        return ""

    @classmethod
    def load(cls, histories: Path) -> Preparation | None:
        """Read the record of a file of prepared data.

        Returns:
            None if one of the two files is missing, or another version of Hanse wrote them.
        """
        path = _note(histories)
        if not (path.exists() and histories.exists()):
            return None
        try:
            done = cls(**read_json(path))
        except TypeError:  # fields of another version: the store prepares again
            return None
        return done if done.format == _FORMAT else None


def check_prepared(node: Node, settings: RunSettings) -> None:
    """Refuse to compute on anything but the store's data of today.

    Raises:
        DataError: They are missing, or out of date; says in what.
        ConfigError: `store.toml` or the model cannot be read.

    Guarantees:
        A customer whose rows were deleted from the source files is in no batch that is drawn
        later.

    Edge cases:
        The stores of a simulation have no `store.toml` in their folders: their data were prepared
        from one public data set, and do not change.
    """
    from hanse_client.ingest.store_config import load_store

    if not (node.folder / STORE_FILE).exists():
        return
    store = load_store(node.folder / STORE_FILE)
    done = Preparation.load(node.settings.histories)
    reason = (
        "the store's data are not prepared"
        if done is None
        else done.outdated(node.settings.base_model, store, settings)
    )
    if reason:
        raise DataError(reason, hint="`hanse store data prepare`; `hanse store join` does it too")


def prepare_store(
    store: StoreConfig,
    settings: RunSettings,
    *,
    model: Path,
    target: Path,
    cache: Path,
    report: Callable[[str], None] = lambda _: None,
) -> Preparation:
    """Read a store's tables as the run's task does, and write the prepared data.

    Args:
        store: The store's sources.
        settings: The run's, for the task, the text encoder and the split in time.
        model: Folder of the initial model, which names what the model ranks.
        target: The file to write; an old one is replaced atomically.
        cache: Folder in which text vectors are cached.
        report: Called with a line before each step that may take minutes; it names no customer
            and no count of them.

    Raises:
        ConfigError: `store.toml` lacks a table that the task reads, the model and the settings do
            not match, or the first day of the records is unknown.
        ConfigError [task-not-deployed]: The task cannot read a store's tables.
        DataError: The data cannot be used.
        DataError [other-catalogue]: The catalogue's own vectors are not those of the model.
    """
    import numpy as np

    from hanse_client.ingest.fingerprint import key_fingerprint, source_fingerprint

    digest, begun = _model_digest(model), observed_from(store, settings)
    task = deployed_task(settings.task)
    # Before the data are read: a change in the meantime then makes them out of date at once.
    report("reading the store's data")
    sources, read = source_fingerprint(store), clock.time()
    prepared = task.prepare(store, settings, model=model, cache=cache, report=report)
    _save(prepared.data, target)
    done = Preparation(
        sources=sources,
        keys=key_fingerprint(store),  # afterwards: ingestion creates a missing key
        settings=settings_digest(settings).hex(),
        read=read,
        model=digest,
        observed_from=begun.isoformat(),
        customers=int(np.size(prepared.data.active())),
        rows=prepared.rows,
        rejected=prepared.rejected,
        unranked=prepared.unranked,
        format=_FORMAT,
    )
    # Written after the data: a record that exists always describes a complete file.
    write_durably(_note(target), json.dumps(asdict(done), indent=2) + "\n", mode=0o600)
    return done


def deployed_task(name: str) -> Task:
    """Find a task that can be deployed.

    Raises:
        ConfigError: No installed package has a task of that name.
        ConfigError [task-not-deployed]: It lacks `prepare` or `initial_model`, as a task of
            another package may that was written for simulations.
    """
    from hanse_client.tasks import task_of

    task = task_of(name)
    lacking = [part for part in ("initial_model", "prepare") if not hasattr(task, part)]
    if lacking:
        raise ConfigError(
            f"task {name!r} cannot be deployed: {type(task).__name__} has no "
            f"{' and no '.join(lacking)}",
            code="task-not-deployed",
            hint="its package must add what `hanse_client.Task` describes; until then "
            "the task is for simulations",
        )
    return task


def named_by_model(model: Path, key: str) -> list[str]:
    """Read what an initial model ranks, in its order: items or labels, from its `config.json`.

    Raises:
        ConfigError: The model is of another task, or was not made for a deployment.
    """
    names = read_json(model / CONFIG_FILE).get(key)
    if not isinstance(names, list) or not names:
        raise ConfigError(
            f"the model in {model} names no {key}",
            hint="the coordinator makes it with `hanse model init`, for the task of the settings",
        )
    return [str(name) for name in names]


def observed_from(store: StoreConfig, settings: RunSettings) -> datetime:
    """First day of a store's records: its own setting, or a year before training ends.

    Guarantees:
        The day depends on no customer.

    Raises:
        ConfigError: Neither the store's `observed_from` nor the run's split is set.
    """
    if store.observed_from is not None:
        return datetime.combine(store.observed_from, time.min)
    split = settings.data.split
    if split is None:
        raise ConfigError(
            f"the first day of the records of store {store.name!r} is unknown",
            hint="set observed_from in its store.toml",
        )
    return split.train_until - _RECORDS


def _save(data: StoreData, target: Path) -> None:
    """Replace the file atomically; only its owner can read it."""
    # First, so that a crash in between leaves no record that describes other data.
    _note(target).unlink(missing_ok=True)
    before = os.umask(0o077)  # a file of personal data
    try:
        data.save(target)
    finally:
        os.umask(before)


def _note(histories: Path) -> Path:
    return histories.with_name(PREPARED_FILE)


def _model_digest(model: Path) -> str:
    path = model / CONFIG_FILE
    try:
        read_json(path)
    except ConfigError as error:
        raise ConfigError(error.message, hint="`hanse store enrol --model DIR` first") from None
    return hashlib.sha256(path.read_bytes()).hexdigest()
