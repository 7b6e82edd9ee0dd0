"""Every task is deployed: the same three stores, with real processes, train all of them.

One coordinator, whose authority signs other terms for each task; the stores take them in and go
on with the same tables, keys and ledgers. One of the tasks is another package's, which all
processes find by its entry point.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from hanse_client.inference.export import export_model
from hanse_client.tasks import task_of
from hanse_common import recipes
from hanse_common.config import DataSettings, RunSettings
from hanse_common.paths import GLOBAL_FILE, INITIAL_FILE
from hanse_common.phase_settings import PhaseSettings
from hanse_server.stage_log import read_stages
from hanse_simulations.datasets import make_stores
from kits.apps.counting_task import PHASE
from kits.commands import QuickShops
from kits.encoder import tiny_encoder
from kits.packages import ROOT, install_task

pytestmark = pytest.mark.slow

STORES = 3
RATINGS = ("1", "5")
OPINIONS = {"1": "dreadful, never again", "5": "lovely, we will come back"}


@dataclass(frozen=True)
class Deployed:
    """The stores, and what the settings of all tasks have in common."""

    shops: QuickShops
    common: dict[str, Any]
    encoder: str
    catalogue: Path
    labels: Path

    def train(
        self, name: str, settings: RunSettings, public: Path | None = None
    ) -> dict[str, np.ndarray]:
        """Sign terms for a task, let the stores take them in, run it, and export its model.

        Returns:
            What the run changed in the arrays that are exchanged, by name.
        """
        shops, at = self.shops, self.shops.folder.path
        model, trained = at / f"model-{name}", at / f"trained-{name}"
        for node in shops.joined.values():
            node.stop()
        settings = settings.with_changes(self.common)
        shops.take_terms(settings, public, model=model, cache=at / "texts")
        for store in shops.stores:
            shops.join(store)
        shops.wait_until_online()
        rounds = settings.federation.rounds
        done = shops.server("run", "--name", name, "--format", "json", timeout=500).json
        assert (done["state"], done["round"]) == ("finished", rounds), done
        lines = [line for line in read_stages(shops.run_dir(name)) if line["stage"] == "train"]
        assert [line["replies"] for line in lines] == [STORES] * rounds
        exported = export_model(shops.run_dir(name), model, trained)
        assert exported.trained > 0 and (trained / "model.safetensors").exists()
        start = load_file(shops.run_dir(name) / INITIAL_FILE)
        end = load_file(shops.run_dir(name) / GLOBAL_FILE)
        return {key: end[key] - start[key] for key in start}

    def check_store(self, name: str, run: str, rounds: int) -> None:
        """A store has prepared the task's data, and charged each of its rounds once."""
        folder = self.shops.stores[name]
        found = self.shops.store(name, "doctor", "--format", "json").json
        assert [row for row in found if row["state"] in ("failed", "skipped")] == []
        (histories,) = [row for row in found if row["check"] == "histories"]
        assert histories["state"] == "ok" and histories["message"].endswith("customers")
        assert folder.settings().recipe == run
        # A second attempt would be charged again, so the set of rounds counts.
        terms = folder.membership().manifest.digest()
        charged = [entry.release for entry in self.shops.charges(name)]
        assert {r.round for r in charged if r.manifest_digest == terms} == set(range(1, rounds + 1))


def write_more_tables(data: Path, target: Path, ends: Any) -> None:
    """Reviews and offers of a made store's customers, and the campaigns that they are of."""
    events = pl.read_parquet(data / "events.parquet")
    users = events["user_id"].unique().sort().to_list()
    items = events["item_id"].unique().sort().to_list()
    day = ends - timedelta(days=40)
    ratings = [RATINGS[k % 2] for k in range(len(users))]
    pl.DataFrame(
        {"card": users, "text": [OPINIONS[rating] for rating in ratings], "stars": ratings}
    ).write_csv(target / "reviews.csv")
    campaigns = [(f"c{k}", day + timedelta(days=k), day + timedelta(days=k + 20)) for k in range(3)]
    pl.DataFrame(
        [
            (name, begin.date(), end.date(), "A", f"{name}-{item}", item)
            for name, begin, end in campaigns
            for item in items[:4]
        ],
        schema=["campaign_id", "start", "end", "kind", "coupon_id", "item_id"],
        orient="row",
    ).write_csv(target / "campaigns.csv")
    pl.DataFrame(
        [
            (user, name, (begin + timedelta(days=2)).isoformat() if (k + number) % 3 == 0 else None)
            for k, user in enumerate(users)
            for number, (name, begin, _) in enumerate(campaigns)
        ],
        schema=["user_id", "campaign_id", "redeemed_at"],
        orient="row",
    ).write_csv(target / "offers.csv")
    with (target / "store.toml").open("a") as file:
        file.write(
            '\n[reviews]\npath = "reviews.csv"\n'
            'columns = { user_id = "card", rating = "stars" }\n'
            '\n[offers]\npath = "offers.csv"\n\n[campaigns]\npath = "campaigns.csv"\n'
        )


@pytest.fixture(scope="module")
def deployed(store_cache, tmp_path_factory) -> Iterator[Deployed]:
    root = tmp_path_factory.mktemp("tasks")
    made = make_stores(
        DataSettings(source="synthetic", stores=STORES, customers=24), seed=7, cache=store_cache
    )
    common = {
        "data": DataSettings(source="own", split=made.split).model_dump(),
        "federation.minimum_cohort": STORES,
        "training.expected_batch_size": 24.0,
    }
    (root / "stars.labels").write_text("\n".join(RATINGS))
    with pytest.MonkeyPatch.context() as patch:
        package = install_task(root / "site", "counting", "kits.apps.counting_task:CountingTask")
        places = (package, ROOT / "tests", *filter(None, [os.environ.get("PYTHONPATH")]))
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
        patch.syspath_prepend(package)
        task_of.cache_clear()
        shops = QuickShops(
            root,
            made.folders,
            wait={"connect": 240, "train": 240, "stage": 120},
            policy={"minimum_cohort": STORES, "max_epsilon": 200.0},
        )
        for store, data in zip(shops.stores.values(), made.folders, strict=True):
            write_more_tables(data, store.path, made.split.train_until)
        try:
            shops.up()
            yield Deployed(
                shops=shops,
                common=common,
                encoder=tiny_encoder(root / "encoder"),
                catalogue=made.folders[0].parent / "catalogue.parquet",
                labels=root / "stars.labels",
            )
        finally:
            shops.close()
            task_of.cache_clear()


def changed(arrays: dict[str, np.ndarray], *names: str) -> bool:
    """Whether every array whose name has one of these words was moved by the run."""
    found = [array for key, array in arrays.items() if any(name in key for name in names)]
    assert found, sorted(arrays)
    return all(array.any() for array in found)


def test_interest_with_both_sums_and_a_gradient(deployed):
    settings = recipes.grocery().with_changes(
        {"data.min_items": 1, "federation.rounds": 3, "federation.evaluate_every": 3}
    )
    moved = deployed.train("grocery", settings, deployed.catalogue)
    assert changed(moved, "released.category-pairs", "released.class-residuals")
    assert changed(moved, "outlook.head")
    deployed.check_store("bremen", "grocery", 3)


def test_reviews_by_two_sums(deployed):
    settings = recipes.reviews().with_changes(
        {"model.encoder": deployed.encoder, "model.max_steps": 16}
    )
    moved = deployed.train("reviews", settings, deployed.labels)
    assert changed(moved, "released.label-means", "released.text-moments")
    deployed.check_store("danzig", "reviews", 2)


def test_the_next_item_from_texts(deployed):
    settings = recipes.sequences_by_texts().with_changes(
        {
            "model.encoder": deployed.encoder,
            "next_item.partners": 3,
            "federation.rounds": 3,
            "federation.evaluate_every": 3,
        }
    )
    moved = deployed.train("sequences-texts", settings, deployed.catalogue)
    assert changed(moved, "released.popularity", "released.pairs", "head.weight")
    deployed.check_store("luebeck", "sequences-texts", 3)


def test_which_offers_convert(deployed):
    settings = recipes.conversion().with_changes(
        {"federation.rounds": 2, "federation.evaluate_every": 2}
    )
    assert changed(deployed.train("conversion", settings), "head.weight", "head.bias")
    deployed.check_store("bremen", "conversion", 2)


def test_a_task_of_another_package(deployed):
    settings = recipes.grocery_rules().with_changes(
        {
            "recipe": "counting",
            "task": "counting",
            "federation.rounds": 2,
            "federation.evaluate_every": 2,
            "phases": [
                PhaseSettings(name=PHASE, release="statistics", share=0.5).model_dump(),
                PhaseSettings(share=0.5).model_dump(),
            ],
        }
    )
    moved = deployed.train("counting", settings, deployed.catalogue)
    assert changed(moved, f"released.{PHASE}")
    deployed.check_store("danzig", "counting", 2)


def test_an_audit_of_all_the_runs_finds_nothing(deployed):
    assert deployed.shops.audit()["ok"]
