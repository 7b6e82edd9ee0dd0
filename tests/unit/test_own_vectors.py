"""Vectors that a shop's catalogue brings itself: read, checked, and part of items and classes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hanse_client.features.histories import Histories
from hanse_client.features.own_vectors import own_vectors
from hanse_client.features.prepare import Preparation, prepare_store
from hanse_client.inference.load import Trained, open_store
from hanse_client.ingest.casts import as_vector
from hanse_client.ingest.pipeline import read_catalogue
from hanse_client.ingest.store_config import CatalogueSource, load_store
from hanse_client.tasks.interest.fresh_model import fresh_model, listed_classes
from hanse_common.config import RunSettings
from hanse_common.recipes import grocery, grocery_rules
from kits.encoder import tiny_encoder
from kits.errors import raises

ITEMS = {
    "m": ("DAIRY/MILK", "3 4"),
    "n": ("DAIRY/MILK", "[0, 2]"),
    "c": ("DAIRY/CHEESE", "5, 12"),
    "b": ("BAKERY/BREAD", ""),
}
SALES = (
    "user_id,item_id,timestamp,basket_id\na,m,2017-01-02,1\na,c,2017-01-02,1\nb,b,2017-01-05,2\n"
)
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def catalogue_of(folder: Path, vectors: dict[str, str] | None) -> pl.DataFrame:
    """Write the store's files and read its catalogue; None leaves the column out."""
    rows = [
        {"item_id": item, "category": path, "text": path.lower()}
        | ({} if vectors is None else {"vector": vectors.get(item, "")})
        for item, (path, _) in ITEMS.items()
    ]
    pl.DataFrame(rows).write_csv(folder / "items.csv")
    (folder / "sales.csv").write_text(SALES)
    (folder / "store.toml").write_text(
        'name = "corner"\nobserved_from = 2017-01-01\n'
        '[events]\npath = "sales.csv"\n[catalogue]\npath = "items.csv"\n'
    )
    return read_catalogue(load_store(folder / "store.toml").catalogue, 0.5)[0]


VECTORS = {item: vector for item, (_, vector) in ITEMS.items()}


@pytest.fixture
def settings(tmp_path: Path):
    split = {
        "train_until": "2017-03-01T00:00:00",
        "validate_until": "2017-04-01T00:00:00",
        "test_until": "2017-05-01T00:00:00",
    }

    def of(recipe: RunSettings) -> RunSettings:
        return recipe.with_changes(
            {
                "model.encoder": tiny_encoder(tmp_path / "encoder"),
                "data.min_items": 1,
                "data.split": split,
            }
        )

    return of


def test_vectors_are_read_however_a_shop_writes_them(tmp_path: Path):
    written = catalogue_of(tmp_path, VECTORS)
    expected = {"b": None, "c": [5.0, 12.0], "m": [3.0, 4.0], "n": [0.0, 2.0]}
    assert dict(written.select("item_id", "vector").iter_rows()) == expected
    arrays = pl.Series("v", [[3, 4], [5, 12]], dtype=pl.Array(pl.Int64, 2))
    assert as_vector(arrays, "v").to_list() == [[3.0, 4.0], [5.0, 12.0]]


def test_vectors_may_stand_without_texts(tmp_path: Path):
    catalogue_of(tmp_path, VECTORS)
    source = CatalogueSource(path=str(tmp_path / "items.csv"), columns={"text": ""})
    items, rejects, _ = read_catalogue(source, 0.0)
    assert (items["text"].to_list(), rejects) == (["BREAD", "CHEESE", "MILK", "MILK"], {})
    assert items["vector"].count() == 3


def test_bad_vectors_are_rejected_and_counted(tmp_path: Path):
    vectors = ["1 2", "2 3", "1 2 3", "1 x", "1e60 0", "nan 1", ""]
    rows = {"item_id": [str(n) for n in range(7)], "category": ["A"] * 7, "vector": vectors}
    pl.DataFrame(rows).with_columns(text=pl.lit("x")).write_csv(tmp_path / "items.csv")
    source = CatalogueSource(path=str(tmp_path / "items.csv"))
    items, rejects, _ = read_catalogue(source, 1.0)
    assert rejects == {"unreadable vector": 3, "vector of another length": 1}
    assert items["item_id"].to_list() == ["0", "1", "6"]
    assert all(f"`{reason}`" in DOCS.read_text(encoding="utf-8") for reason in rejects)


def test_a_column_without_any_vector_is_wrongly_mapped():
    with raises("wrong-types", match="vectors of numbers"):
        as_vector(pl.Series("v", ["photo-7.png"]), "v")


@pytest.mark.parametrize("recipe", [grocery, grocery_rules])
def test_a_store_prepares_what_the_model_reads(settings, recipe, tmp_path: Path):
    run = settings(recipe())
    catalogue = catalogue_of(tmp_path, VECTORS)
    listed = listed_classes(catalogue, run)
    model = fresh_model(catalogue, listed, run, cache=tmp_path)
    assert (model.config.vector_size, model.config.own_vector_size) == (14, 2)
    model.save_pretrained(tmp_path / "model")
    prepare_store(
        load_store(tmp_path / "store.toml"),
        run,
        model=tmp_path / "model",
        target=tmp_path / "histories.npz",
        cache=tmp_path,
    )
    histories = Histories.load(tmp_path / "histories.npz")
    if model.config.kind == "categories":  # which reads vectors of classes alone
        assert histories.visit_vectors.shape == (2, 0)
    else:
        # Milk at (3, 4) / 5 and cheese at (5, 12) / 13 in one basket; bread has no vector.
        mean = (np.array([3, 4]) / 5 + np.array([5, 12]) / 13) / 2
        # In the order of pseudonyms, which the store's random key decides.
        own = np.sort(histories.visit_vectors[:, 12:], axis=0)
        np.testing.assert_allclose(own, [[0, 0], mean], atol=1e-3)
    trained = Trained(folder=tmp_path / "model", model=model.eval(), digest="")
    again = open_store(tmp_path / "store.toml", trained, run).histories
    np.testing.assert_array_equal(again.visit_vectors[:, 12:], histories.visit_vectors[:, 12:])


def test_classes_have_the_mean_of_their_items_vectors(settings, tmp_path: Path):
    run = settings(grocery())
    plain = catalogue_of(tmp_path, None)
    listed = listed_classes(plain, run)
    without = fresh_model(plain, listed, run, cache=tmp_path)
    same = fresh_model(catalogue_of(tmp_path, {}), listed, run, cache=tmp_path)
    assert same.class_vectors.equal(without.class_vectors)
    assert without.config.own_vector_size == 0
    catalogue = catalogue_of(tmp_path, VECTORS)
    with_own = fresh_model(catalogue, listed, run, cache=tmp_path)
    assert with_own.class_vectors.shape == without.class_vectors.shape
    assert not with_own.class_vectors.allclose(without.class_vectors)


def test_a_store_with_other_vectors_or_none_is_told_so(settings, tmp_path: Path):
    run = settings(grocery_rules())
    catalogue = catalogue_of(tmp_path, VECTORS)
    model = fresh_model(catalogue, listed_classes(catalogue, run), run, cache=tmp_path)
    model.save_pretrained(tmp_path / "model")

    def prepared() -> Preparation:
        return prepare_store(
            load_store(tmp_path / "store.toml"),
            run,
            model=tmp_path / "model",
            target=tmp_path / "histories.npz",
            cache=tmp_path,
        )

    catalogue_of(tmp_path, {"m": "1 2 3"})
    with raises("other-catalogue", match="vectors of 3 numbers"):
        prepared()
    catalogue_of(tmp_path, None)
    with raises("other-catalogue", match="no vectors"):
        prepared()


def test_a_model_of_categories_needs_no_vectors_at_the_store(settings, tmp_path: Path):
    run = settings(grocery())
    catalogue = catalogue_of(tmp_path, VECTORS)
    model = fresh_model(catalogue, listed_classes(catalogue, run), run, cache=tmp_path)
    model.save_pretrained(tmp_path / "model")
    catalogue_of(tmp_path, None)
    done = prepare_store(
        load_store(tmp_path / "store.toml"),
        run,
        model=tmp_path / "model",
        target=tmp_path / "histories.npz",
        cache=tmp_path,
    )
    assert done.customers == 2


def test_catalogues_of_two_encoders_do_not_go_together(tmp_path: Path):
    two = pl.DataFrame({"vector": [[1.0, 2.0], [1.0]]}, schema={"vector": pl.List(pl.Float32)})
    with raises("other-catalogue", match="1 and 2"):
        own_vectors(two, 2)
