"""Every source of data with and without one customer: what is public of it, and what is whose.

A source lays its data out in a folder, leaves one customer out if it is told to, and makes of
them what a run would start with, by the product's own functions. `Made` holds that in digests.
The data lie in the same place in both variants, and only what is made of them does not.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pytest

from hanse_client.features.histories import Histories
from hanse_client.tasks import task_of
from hanse_client.tasks.next_item.item_vectors import public_vectors
from hanse_client.tasks.review.features import prepare_reviews, read_reviews
from hanse_client.training.statistics import exchanged_arrays
from hanse_common.config import RunSettings
from hanse_common.manifest_terms import base_model_digest, manifest_for, settings_digest
from hanse_common.recipes import (
    conversion,
    grocery,
    reviews,
    sequences,
    sequences_by_texts,
    synthetic,
)
from hanse_simulations.datasets import campaigns, complete_journey, make_stores
from hanse_simulations.datasets.sequences import read_sequences
from hanse_simulations.datasets.synthetic import SPLIT
from hanse_simulations.experiment.conversion import study_of as conversion_study
from hanse_simulations.experiment.enrolment import store_ids
from hanse_simulations.experiment.next_item import study_of as sequences_study
from hanse_simulations.experiment.prepare import Prepared, prepare_run
from hanse_simulations.experiment.review import study_of as reviews_study
from hanse_simulations.experiment.study import Study, deal_out

KNOWN_NOISE = {"privacy.noise_multiplier": 30.0}
"""Solving for it looks at settings alone, and takes seconds."""


@dataclass(frozen=True)
class Made:
    """What a run starts with."""

    public: Mapping[str, str]
    """All that is shipped, shown or used before any noise, or its digest."""
    customers: Mapping[tuple[str, str], str]
    """(store, customer) -> digest of what is prepared of them."""


class Source(Protocol):
    """Where data come from."""

    def people(self, home: Path) -> list[Any]:
        """Whom to leave out, one after the other; lays out what it has to look at."""
        ...

    def made(self, home: Path, out: Path, without: Any) -> Made:
        """Lay the data out in `home` without somebody, and prepare them in `out`."""
        ...


def digest(*parts: Any) -> str:
    """SHA-256 of arrays and text."""
    state = hashlib.sha256()
    for part in parts:
        array = isinstance(part, np.ndarray)
        state.update(np.ascontiguousarray(part).tobytes() if array else repr(part).encode())
    return state.hexdigest()


def by_customer(store: str, data: Any) -> dict[tuple[str, str], str]:
    """Digests of what a prepared store has of each customer."""
    found = {}
    for index, name in enumerate(data.customers.tolist()):
        if isinstance(data, Histories):
            a, b = data.visit_offsets[index : index + 2]
            pairs = slice(*data.pair_offsets[[a, b]])
            parts = [
                *(data.visit_days[a:b], data.visit_vectors[a:b], data.visit_facts[a:b]),
                *(np.diff(data.pair_offsets[a : b + 1]), data.pair_classes[pairs]),
                *(int(data.homes[index]), data.observed_from),
            ]
        else:
            one = data.select(np.array([index]))
            parts = [getattr(one, field) for field in (*one.BY_CUSTOMER, *one.BY_ENTRY)]
        found[store, name] = digest(*parts)
    return found


def started(settings: RunSettings, stores: Mapping[str, Any], base: Path, *more: Any) -> Made:
    """Collect what a run would start with.

    Args:
        settings: As they are handed out.
        stores: Prepared data by store.
        base: Folder of the base model.
        more: What else is public.
    """
    task = task_of(settings.task)
    model = task.load_model(base)
    task.freeze(model, settings)
    initial = exchanged_arrays(task, model, settings)  # what `initial.safetensors` and round 1 hold
    terms = manifest_for(settings, initial, store_ids(list(stores)), federation="f")
    files = {path.name: digest(path.read_bytes()) for path in sorted(base.iterdir())}
    assert {"config.json", "model.safetensors"} <= set(files) and base_model_digest(base)
    owned: dict[tuple[str, str], str] = {}
    for store, data in stores.items():
        owned |= by_customer(store, data)
    public = {
        "stores": json.dumps(list(stores)),
        "settings": settings.model_dump_json(),
        "settings digest": settings_digest(settings).hex(),
        "manifest": terms.model_dump_json(),
        "base digest": str(base_model_digest(base)),
        "initial": digest(*initial.items()),
        "more": digest(*more),
    }
    return Made(public=public | files, customers=owned)


def of_shops(settings: RunSettings, out: Path) -> Made:
    """Make shops and prepare their histories, as `hanse simulate` does.

    Args:
        settings: Their encoder is a folder, beside which text vectors are kept.
        out: Where to.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_CACHE", str(out))
        out.mkdir(parents=True, exist_ok=True)
        encoder = Path(settings.model.encoder)
        encoder.with_name("texts").mkdir(exist_ok=True)
        (out / "texts").symlink_to(encoder.with_name("texts"))  # embedded once for all variants
        stores, fixed, prepared = prepare_run(out / "run", settings.with_changes(KNOWN_NOISE))
    catalogues = [folder / ".." / "catalogue.parquet" for folder in stores.folders]
    public = [path.read_bytes() for path in catalogues if path.exists()]
    histories = dict(zip(prepared.names, prepared.load(), strict=True))
    return started(fixed, histories, prepared.base_model, stores.split, stores.note, *public)


def of_study(settings: RunSettings, study: Study, stores: Mapping[str, Any], out: Path) -> Made:
    """Make the base model of research data, whose stores are laid out."""
    study.base(settings).save_pretrained(out / "base")
    return started(with_known_noise(settings), stores, out / "base")


def with_known_noise(settings: RunSettings) -> RunSettings:
    """The settings with all noise given: that of the sums is the gradient's."""
    noise = {"noise_multiplier": KNOWN_NOISE["privacy.noise_multiplier"]}
    phases = [
        phase.model_dump() | (noise if phase.release == "statistics" else {})
        for phase in settings.phases
    ]
    return settings.with_changes({**KNOWN_NOISE, "phases": phases})


class _Journey:
    """Complete Journey as the package ships it, in another place and without a household."""

    def __init__(self, settings: RunSettings, *households: int) -> None:
        self.settings, self.households = settings, households

    def people(self, home: Path) -> list[int]:
        return list(self.households) or self.lonely()[:1]

    def lonely(self) -> list[int]:
        """Households of the settings' stores who alone bought something, sorted."""
        data = self.settings.data
        purchases = complete_journey.read_purchases()
        owners = purchases.group_by("item_id").agg(pl.col("user_id").unique())
        alone = owners.filter(pl.col("user_id").list.len() == 1)["user_id"].list.first()
        kept = complete_journey.assign(purchases, data.partition).limited(
            min_customers=data.min_customers,
            stores=data.stores,
            customers=data.customers,
            seed=self.settings.seed,
        )
        return sorted(set(kept.customers["user_id"]) & set(alone))

    def made(self, home: Path, out: Path, without: int | None) -> Made:
        spec = importlib.util.find_spec(complete_journey.PACKAGE)
        there = Path(str(spec and spec.origin)).parent / "data"
        package = home / complete_journey.PACKAGE
        shutil.rmtree(package, ignore_errors=True)
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").touch()
        for path in there.glob("*.parquet"):
            columns = pl.read_parquet_schema(path)
            if without is None or "household_id" not in columns:
                (package / "data" / path.name).symlink_to(path)
                continue
            rest = pl.read_parquet(path).filter(pl.col("household_id") != without)
            rest.write_parquet(package / "data" / path.name, compression="uncompressed")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(home)
            importlib.invalidate_caches()
            return self.make(out)

    def make(self, out: Path) -> Made:
        return of_shops(self.settings, out)


class _Campaigns(_Journey):
    """Its campaigns."""

    def make(self, out: Path) -> Made:
        stores = dict(campaigns.load(self.settings.data, seed=self.settings.seed).stores)
        return of_study(self.settings, conversion_study(stores), stores, out)


class _Synthetic:
    """Generated stores; a customer's rows are taken out of a store's own table."""

    settings = synthetic().with_changes({"data.stores": 3, "data.customers": 12})

    def people(self, home: Path) -> list[str]:
        return [
            f"synthetic-{store}-customer-{number:05d}" for store, number in (("01", 1), ("02", 7))
        ]

    def made(self, home: Path, out: Path, without: str | None) -> Made:
        settings = self.settings.with_changes({"model.encoder": str(home / "encoder")})
        for folder in make_stores(settings.data, seed=settings.seed, cache=out).folders:
            path = folder / "events.parquet"
            events = pl.read_parquet(path)
            events.filter(pl.col("user_id") != (without or "")).write_parquet(path)
        return of_shops(settings, out)


class _Brought:
    """Stores that somebody brought: two of three, which are not the two largest."""

    def people(self, home: Path) -> list[tuple[str, int]]:
        return [("west", 0), ("east", 4), ("north", 2)]

    def made(self, home: Path, out: Path, without: tuple[str, int] | None) -> Made:
        for name, customers in (("east", 14), ("north", 15), ("west", 15)):
            store = home / "shops" / name
            store.mkdir(parents=True, exist_ok=True)
            rows = [
                f"card{who},{item},2023-0{month}-02"
                for who in range(customers)
                if (name, who) != without
                for month in range(1, 10)
                for item in {1, who % 5, 5 + who}
            ]
            (store / "sales.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
            items = [f"{item},thing {item},SHELF/KIND-{item % 7}" for item in range(30)]
            (store / "items.csv").write_text("\n".join(["item_id,text,category", *items]))
            key = store / "customer.key"
            key.touch(mode=0o600)
            key.write_bytes(name.encode().ljust(32))
            (store / "store.toml").write_text(
                f"name = '{name}'\nobserved_from = 2023-01-01\n"
                "[events]\npath = 'sales.csv'\n[catalogue]\npath = 'items.csv'"
            )
        data = {
            "source": "stores",
            "path": home / "shops",
            "stores": 3,
            "split": SPLIT.model_dump(),
        }
        some = {"data": data, "model.encoder": str(home / "encoder")}
        three = of_shops(synthetic().with_changes(some), out / "3")
        two = {**some, "federation.minimum_cohort": 3, "data": {**data, "stores": 2}}
        chosen = make_stores(synthetic().with_changes(two).data, seed=7, cache=out).folders
        public = {**three.public, "two of them": json.dumps([path.name for path in chosen])}
        return replace(three, public=public)


class SequencesFile:
    """A file of items taken, with the list of items beside it; `described` by a catalogue."""

    def __init__(self, *, described: bool = False) -> None:
        self.described = described

    def people(self, home: Path) -> list[str]:
        return ["user-3", "user-17", "user-29"]

    def made(self, home: Path, out: Path, without: str | None) -> Made:
        settings, study = self.study(home, without)
        return of_study(settings, study, dealt(study, settings), out)

    def study(self, home: Path, without: str | None = None) -> tuple[RunSettings, Study]:
        """The settings, and the study of the file without somebody."""
        rng = np.random.default_rng(2)
        lines = [
            " ".join(
                [
                    f"user-{user}",
                    *map(
                        str,
                        rng.choice(60, 3 + user % 5),
                    ),
                    str(60 + user),
                ]
            )
            for user in range(40)
        ]
        path = home / "walks.txt"
        path.write_text("\n".join(line for line in lines if line.split()[0] != without))
        (home / "walks.items").write_text("\n".join(map(str, range(120))))
        recipe = sequences_by_texts() if self.described else sequences()
        settings = recipe.with_changes({"data.path": path, "data.stores": 4})
        rows = np.random.default_rng(5).normal(size=(120, 6)).astype(np.float32)
        vectors = public_vectors(None, rows, cache=home) if self.described else None
        return settings, sequences_study(read_sequences(path), vectors)


class ReviewsFile:
    """A file of reviews, with the list of labels beside it; `named` says whether by whom."""

    def __init__(self, *, named: bool) -> None:
        self.named = named

    def people(self, home: Path) -> list[int]:
        return [0, 11, 35]

    def made(self, home: Path, out: Path, without: int | None) -> Made:
        settings, study = self.study(home, without)
        return of_study(settings, study, dealt(study, settings), out)

    def study(self, home: Path, without: int | None = None) -> tuple[RunSettings, Study]:
        """The settings, and the study of the file without somebody."""
        rows = [
            (who, f"thing {who} is {('bad', 'good')[who % 2]}", 1 + who % 5) for who in range(40)
        ]
        rows = [(35, "the longest of all, by far, and the only one with seven", 7), *rows]
        kept = [row for row in rows if row[0] != without]
        path = home / ("reviews.csv" if self.named else "reviews.txt")
        if self.named:
            pl.DataFrame(kept, schema=["user_id", "text", "rating"], orient="row").write_csv(path)
        else:
            path.write_text("".join(f"{text}\t{label}\n" for _, text, label in kept))
        path.with_suffix(".labels").write_text("1\n2\n3\n4\n5\n6\n7\n")
        encoder = str(home / "encoder")
        settings = reviews().with_changes(
            {"data.path": path, "data.stores": 4, "model.encoder": encoder, "model.max_steps": 16}
        )
        texts = read_reviews(path)
        data = prepare_reviews(texts, encoder=encoder, tokens=16, seed=settings.seed)
        return settings, reviews_study(texts, data)


def category_stores(
    home: Path, out: Path, changes: Mapping[str, Any] = {}
) -> tuple[RunSettings, Prepared]:
    """Four synthetic stores, prepared for the recipe `grocery` and its phases.

    Args:
        home: Where an encoder lies.
        out: Where the stores are made.
        changes: Of the recipe's settings.
    """
    data = {"source": "synthetic", "stores": 4, "customers": 24}
    settings = grocery().with_changes(
        {"data": data, "model.encoder": str(home / "encoder"), **changes}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANSE_CACHE", str(out))
        _, fixed, prepared = prepare_run(out / "run", with_known_noise(settings))
    return fixed, prepared


def dealt(study: Study, settings: RunSettings) -> dict[str, Any]:
    """Stores by lot."""
    parts = deal_out(study.data, settings.data.stores or 1, seed=settings.seed)
    return {f"store {number}": part for number, part in enumerate(parts)}


def journey(home: Path, partition: str, *households: int, **changes: Any) -> _Journey:
    """Complete Journey with an encoder that is read in no time."""
    more = {"data.partition": partition, "model.encoder": str(home / "encoder")}
    return _Journey(grocery().with_changes(more | changes), *households)


def sources(home: Path) -> dict[str, list[Source]]:
    """Small ones of every source of data, by its name in `DataSettings`.

    Args:
        home: Where an encoder lies.
    """
    few = {"data.stores": 3, "data.customers": 30}
    return {
        "complete-journey": [
            *(journey(home, partition, **few) for partition in ("regions", "home", "visits")),
            _Campaigns(conversion().with_changes({"data.stores": 3})),
        ],
        "synthetic": [_Synthetic()],
        "stores": [_Brought()],
        "sequences": [SequencesFile(), SequencesFile(described=True)],
        "reviews": [ReviewsFile(named=True), ReviewsFile(named=False)],
        "own": [],  # a deployment's stores: nothing of their data is laid out here
    }
