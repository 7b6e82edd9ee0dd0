"""`hanse model predict | evaluate | audience | card`, as a store's operator runs them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet
import pytest
import torch

from hanse_client.features.histories import days
from hanse_client.node import Node
from hanse_client.tasks.interest import InterestModel
from hanse_client.tasks.interest.features import Anchors, collate
from hanse_client.tasks.interest.heads import has_interest
from hanse_client.tasks.interest.metrics import Figures, evaluate_histories
from hanse_common.paths import NODE_FILE
from kits.errors import raises
from kits.trained import ask, cli, is_private, node, run  # noqa: F401


@pytest.fixture
def store_toml(small_stores, store_cache) -> Path:
    from hanse_simulations.datasets import make_stores

    settings, _ = small_stores
    made = settings.with_changes({"data.split": None}).data
    return make_stores(made, seed=settings.seed, cache=store_cache).folders[0] / "store.toml"


def forward(model: InterestModel, node: Node, customer: int, day: float):
    """The model's own answer for one customer who is cut off at that day."""
    past = node.histories.until(day)
    anchors = Anchors(
        customers=np.array([customer]),
        moments=np.array([[day]]),
        basket=np.zeros((1, 1), dtype=bool),
        outlook=np.zeros((1, 1), dtype=bool),
    )
    batch = collate(past, anchors, model.config)
    with torch.inference_mode():
        return batch, model(batch)


def test_predictions_are_the_models_own_answers_in_their_order(run, node, small_node, tmp_path):
    file = tmp_path / "ranking.parquet"
    ask("predict", run, "--store", node.folder, "--split", "test", "--top", 5, "--output", file)
    table = pl.read_parquet(file)
    assert table.columns == ["user_id", "item_id", "category", "score", "rank"]
    model = InterestModel.from_pretrained(run / "model")
    start = days(small_node[1].data.split.validate_until)
    names = list(node.histories.customers)
    assert table["user_id"].n_unique() == len(node.histories.until(start).active())
    for user, rows in table.group_by("user_id"):
        _, output = forward(model, node, names.index(user[0]), start)
        scores = output.basket_scores[0, 0]
        best = np.argsort(-scores.numpy(), kind="stable")[:5]
        assert rows["rank"].to_list() == [1, 2, 3, 4, 5]
        assert rows["item_id"].to_list() == [model.config.classes[i] for i in best]
        shares = torch.softmax(scores, dim=-1).numpy()[best]
        assert np.allclose(rows["score"].to_numpy(), shares, rtol=1e-4)


def test_files_are_private_and_say_how_they_were_made(run, node, tmp_path):
    file = tmp_path / "ranking.parquet"
    # As a crash would have left it: open to all.
    file.with_name("ranking.parquet.partial").write_text("half")
    done = ask("predict", run, "--store", node.folder, "--outlook", "--output", file)
    made = ["ranking.parquet", "ranking.outlook.parquet", "ranking.shop.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted(
        made + [f"{name}.json" for name in made]
    )
    for name in made:
        assert is_private(tmp_path / name)
        assert is_private(tmp_path / f"{name}.json")
        inside = json.loads(pyarrow.parquet.read_schema(tmp_path / name).metadata[b"hanse"])
        assert inside == json.loads((tmp_path / f"{name}.json").read_text())
        assert inside["split"] == "latest"
        assert {"model_sha256", "predicted_from", "candidates", "classes"} <= inside.keys()
    assert not any(name in done.output for name in node.histories.customers)


def test_only_what_is_new_to_the_customer_is_named_if_asked(run, node, tmp_path):
    file = tmp_path / "new.csv"
    ask("predict", run, "--store", node.folder, "--candidates", "new", "--output", file)
    assert is_private(file)
    model = InterestModel.from_pretrained(run / "model")
    histories = node.histories
    table = pl.read_csv(file, schema_overrides={"user_id": pl.String})
    assert table.height
    for index, user in enumerate(histories.customers):
        visits = slice(histories.visit_offsets[index], histories.visit_offsets[index + 1])
        pairs = histories.pair_offsets[visits.start], histories.pair_offsets[visits.stop]
        bought = {model.config.classes[i] for i in histories.pair_classes[slice(*pairs)]}
        assert not bought & set(table.filter(pl.col("user_id") == user)["item_id"])


def test_the_outlook_is_the_models_own_of_every_interest(run, node, small_node, tmp_path):
    file = tmp_path / "r.parquet"
    ask("predict", run, "--store", node.folder, "--split", "test", "--outlook", "--output", file)
    table = pl.read_parquet(tmp_path / "r.outlook.parquet")
    model = InterestModel.from_pretrained(run / "model")
    start = days(small_node[1].data.split.validate_until)
    expected = 0
    for customer, user in enumerate(node.histories.customers):
        batch, output = forward(model, node, customer, start)
        counts = batch.past.counts[0, 0, :, model.config.reference_window]
        wanted = has_interest(counts, model.config.min_visits).nonzero()[:, 0]
        expected += len(wanted)
        rows = table.filter(pl.col("user_id") == user)
        assert rows["item_id"].to_list() == [model.config.classes[i] for i in wanted]
        chances = torch.softmax(output.outlook_logits[0, 0, wanted], dim=-1).numpy()
        found = rows.select("fall", "stay", "rise").to_numpy()
        assert np.allclose(found, chances, rtol=1e-3, atol=1e-6)
    assert table.height == expected > 0
    shop = pl.read_parquet(tmp_path / "r.shop.parquet")
    assert shop["customers"].sum() == expected
    first = shop.row(0, named=True)
    mean = table.filter(pl.col("item_id") == first["item_id"])["rise"].mean()
    assert first["rise"] == pytest.approx(mean, rel=1e-5)


def test_a_store_file_gives_what_the_prepared_node_gives(
    run, node, store_toml, store_cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("HANSE_CACHE", str(store_cache))
    for name, store in (("node", node.folder), ("toml", store_toml)):
        ask("predict", run, "--store", store, "--output", tmp_path / f"{name}.parquet")
    tables = [pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("node", "toml")]
    assert tables[0].drop("score").equals(tables[1].drop("score"))
    assert np.allclose(*(table["score"].to_numpy() for table in tables), rtol=1e-3)


def test_evaluation_prints_the_metrics_of_the_split(run, node, small_node, small_stores):
    settings, _ = small_stores
    other = Node(sorted(node.folder.parent.iterdir())[1])
    stores = ("--store", node.folder, "--store", other.folder)
    found = json.loads(ask("evaluate", run, *stores, "--format", "json").stdout)
    model = InterestModel.from_pretrained(run / "model")
    parts = [evaluate_histories(n.histories, model, settings, "test") for n in (node, other)]
    assert [row["store"] for row in found["stores"]] == [node.name, other.name, "all customers"]
    for row, figures in zip(found["stores"], [*parts, Figures.pooled(parts)], strict=True):
        assert row["metrics"] == pytest.approx(figures.metrics(), rel=1e-6)
        assert row["baskets"] == len(figures.hr)
    assert found["split"] == "test"
    table = ask("evaluate", run, *stores, "--split", "validate").stdout
    assert "ndcg@10" in table
    assert node.name in table


def test_an_audience_are_the_customers_with_the_largest_share(run, node, small_node, tmp_path):
    model = InterestModel.from_pretrained(run / "model")
    department = model.config.classes[0].split("/")[0]
    below = [i for i, n in enumerate(model.config.classes) if n.split("/")[0] == department]
    file = tmp_path / "audience.csv"
    start = days(small_node[1].data.split.validate_until)
    done = ask(
        *("audience", run, "--store", node.folder, "--split", "test"),
        *("--category", department.lower(), "--top", 7, "--output", file),
    )
    assert is_private(file)
    table = pl.read_csv(file, schema_overrides={"user_id": pl.String})
    shares = {}
    for customer in node.histories.until(start).active():
        _, output = forward(model, node, customer, start)
        row = torch.softmax(output.basket_scores[0, 0], dim=-1).numpy()
        shares[str(node.histories.customers[customer])] = float(row[below].sum())
    best = sorted(shares, key=shares.__getitem__, reverse=True)[:7]
    assert table["user_id"].to_list() == best
    assert table["rank"].to_list() == [1, 2, 3, 4, 5, 6, 7]
    assert np.allclose(table["score"].to_numpy(), [shares[name] for name in best], rtol=1e-4)
    assert not any(name in done.output for name in node.histories.customers)
    assert json.loads((tmp_path / "audience.csv.json").read_text())["ranked_classes"] == [
        model.config.classes[i] for i in below
    ]


def test_an_unknown_category_names_the_nearest(run, node, tmp_path):
    name = InterestModel.from_pretrained(run / "model").config.classes[0]
    with raises("unknown-category") as error:
        ask("audience", run, "--store", node.folder, "--category", name[:-1] + "X")
    assert repr(name) in str(error.value)
    last_step = name.split("/")[-1]
    with raises("unknown-category") as error:
        ask("audience", run, "--store", node.folder, "--category", last_step)
    assert repr(name) in str(error.value)
    with raises("unknown-category"):
        ask("audience", run, "--store", node.folder, "--category", "")


def test_what_does_not_fit_is_refused_and_named(run, node, store_toml, tmp_path):
    with raises("model-not-found"):
        ask("predict", tmp_path / "none", "--store", node.folder)
    with raises("model-not-found"):
        ask("predict", tmp_path, "--store", node.folder)
    with raises("config"):
        ask("predict", run, "--store", tmp_path)
    with raises("config", match=r"\.parquet, \.csv"):
        ask("predict", run, "--store", node.folder, "--output", tmp_path / "x.xlsx")
    with raises("config"):
        ask("predict", run, "--store", node.folder, "--output", tmp_path / "no" / "x.csv")

    lonely = tmp_path / "lonely"
    shutil.copytree(run / "model", lonely)
    with raises("config", match="--settings"):
        ask("evaluate", lonely, "--store", node.folder)
    with raises("config", match="--settings"):
        ask("predict", lonely, "--store", node.folder, "--split", "test")

    with raises("config", match="--settings"):
        ask("predict", lonely, "--store", store_toml)

    (lonely / "model.safetensors").write_bytes(b"half")
    with raises("model-not-found"):
        ask("predict", lonely, "--store", node.folder)


def test_weights_that_are_missing_are_not_made_up(run, node, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "part"
    shutil.copytree(run / "model", folder)
    arrays = load_file(folder / "model.safetensors")
    arrays.pop("basket.habit.weight")
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    with raises("model-not-found", match="weights"):
        ask("predict", folder, "--store", node.folder)


def test_a_model_of_another_catalogue_is_refused(run, node, store_toml, tmp_path):
    from hanse_client.tasks.interest import InterestConfig

    other = InterestModel(InterestConfig(classes=["SHOES/BOOTS", "SHOES/SANDALS"], n_embd=16))
    other.save_pretrained(tmp_path / "other")
    for store in (node.folder, store_toml):
        with raises("other-catalogue"):
            ask("predict", tmp_path / "other", "--store", store)


def test_a_store_without_history_before_the_split_is_refused(run, node, tmp_path):
    empty = node.histories.until(0.0)
    empty.save(tmp_path / "empty.npz")
    table = json.loads((node.folder / NODE_FILE).read_text())
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / NODE_FILE).write_text(json.dumps({**table, "histories": str(tmp_path / "empty.npz")}))
    with raises("empty-store"):
        ask("predict", run, "--store", folder)
    later = replace(node.histories, visit_days=node.histories.visit_days + 400)
    later.save(tmp_path / "empty.npz")
    with raises("empty-store", match="before"):
        ask("predict", run, "--store", folder, "--split", "test")
    with raises("empty-store", match="split"):
        ask("evaluate", run, "--store", folder)


def test_a_card_tells_what_the_ledgers_tell_and_nothing_of_a_customer(run, node, tmp_path):
    from huggingface_hub import ModelCard

    from hanse_common.privacy.accounting import SampledGaussianSteps
    from hanse_common.privacy.charge import Charge, Release
    from hanse_simulations.runs.folder import RunFolder
    from hanse_simulations.runs.results import EpsilonSpent, RunResult

    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    shutil.copytree(node.folder, folder.stores_dir / node.name)
    steps = SampledGaussianSteps(noise_multiplier=1.0, sample_rate=0.1, count=3)
    charge = Charge(steps=steps, target_delta=1e-6, release=Release(kind="train", round=1))
    entry = Node(folder.stores_dir / node.name).charge(charge)
    folder.write_result(
        RunResult(
            recipe="synthetic",
            run="run",
            stores=2,
            customers=48,
            data_note="Made up.",
            metrics={"ndcg@10": 0.35, "rise_auc": float("nan")},
            baselines={"untrained": {"ndcg@10": 0.36}, "markov": {"ndcg@10": 0.2}},
            epsilon=EpsilonSpent(max=0.5, delta=1e-6, steps=3, per_store={node.name: 0.5}),
        )
    )
    printed = ask("card", folder.path).stdout
    # The run says 0.5, the ledger more: the worse one counts.
    assert entry.epsilon_after > 0.51
    found = json.loads(ask("card", folder.path, "--format", "json").stdout)
    assert found["privacy"]["epsilon"] == pytest.approx(entry.epsilon_after)
    assert "seeded" in printed
    assert "No better than before training: NDCG@10" in printed
    for name in (*node.histories.customers, node.name):
        assert name not in printed

    ask("card", folder.path / "model", "--output", tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0"
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("ndcg@10", 0.35)]
    assert (tmp_path / "README.md").read_text() == printed[:-1]


def test_a_card_of_a_model_alone_promises_nothing(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "alone")
    printed = ask("card", tmp_path / "alone").stdout
    assert "Take it to have none" in printed
    with raises("model-not-found"):
        ask("card", tmp_path)


def test_what_to_expect_is_the_models_own_by_customer_and_shop(run, node, small_node, tmp_path):
    file = tmp_path / "r.parquet"
    more = ("--within", "--demand", "--split", "test", "--format", "json")
    said = ask("predict", run, "--store", node.folder, *more, "--output", file).stdout
    model = InterestModel.from_pretrained(run / "model")
    start = days(small_node[1].data.split.validate_until)
    table = pl.read_parquet(tmp_path / "r.within.parquet")
    for customer, user in enumerate(node.histories.customers[:3]):
        batch, output = forward(model, node, customer, start)
        bought = batch.past.counts[0, 0].amax(-1) > 0
        rows = table.filter(pl.col("user_id") == user)
        expected = output.expected_visits[0, 0][bought].numpy().ravel()
        assert np.allclose(rows["expected"].to_numpy(), expected, rtol=1e-3, atol=1e-6)
        assert np.allclose(rows["chance"].to_numpy(), 1 - np.exp(-expected), rtol=1e-3, atol=1e-5)
    shop = pl.read_parquet(tmp_path / "r.demand.parquet")
    assert json.loads(said)["demand"]["rows"] == shop.height == 3 * len(model.config.classes)
    assert (shop["low"] <= shop["expected"]).all()
    assert (shop["expected"] <= shop["high"]).all()
    for name in ("within", "demand"):
        assert is_private(tmp_path / f"r.{name}.parquet")
        note = json.loads((tmp_path / f"r.{name}.parquet.json").read_text())
        assert note["horizons_days"] == [7.0, 14.0, 28.0]
