"""Catalogues of items: what is read, and how a bad one is refused."""

import numpy as np
import pytest

from hanse_client.model.item_texts import encode_texts
from hanse_client.tasks.next_item.item_vectors import public_vectors
from hanse_simulations.datasets.item_catalogue import read_item_catalogue
from hanse_simulations.datasets.sequences import read_sequences
from kits.encoder import tiny_encoder
from kits.errors import raises


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "items.tsv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_texts_and_vectors_are_read_by_their_columns(written):
    found = read_item_catalogue(
        written(
            'item_id\tvector\tprice\ttext\n7\t1 2.5\t3\t"milk\n8\t\t\t\n007\t-1e2,0\t1\tcheese\n'
        )
    )
    assert found.items == ("7", "8", "007")
    assert found.texts == ('"milk', "", "cheese")
    np.testing.assert_array_equal(found.vectors, [[1, 2.5], [np.nan, np.nan], [-100, 0]])


def test_a_file_without_a_header_has_ids_and_texts(written):
    found = read_item_catalogue(written("1\tOPI | Nails\n2\tOPI | Nails\n"))
    assert (found.items, found.texts, found.vectors) == (("1", "2"), ("OPI | Nails",) * 2, None)


def test_another_list_of_items_finds_its_texts_and_vectors(written):
    found = read_item_catalogue(written("item_id\ttext\tvector\na\tmilk\t1 0\nb\tcheese\t0 1\n"))
    other = found.arranged(["b", "unknown", "a"])
    assert other.texts == ("cheese", "", "milk")
    np.testing.assert_array_equal(other.vectors, [[0, 1], [np.nan, np.nan], [1, 0]])


@pytest.mark.parametrize(
    ("text", "code", "quoted"),
    [
        ("", "data", ""),
        ("item_id\ttext\n", "data", "no items"),
        ("item_id\ttext\n1\tmilk\n1\tcheese\n", "data", "line 3: names item '1' twice"),
        ("item_id\ttext\n\tmilk\n", "data", "line 2: has no item_id"),
        ("item_id\ttext\n1\tmilk\tmore\tand more\n", "data", "no table of items"),
        (b"item_id\ttext\n1\t\xff\xfe\n", "data", "no table of items"),
        ("item_id\tprice\n1\t2\n", "missing-columns", "neither"),
        ("id\ttext\tprice\n1\tmilk\t2\n", "missing-columns", "item_id"),
        ("item_id\tvector\n1\t1 two\n", "wrong-types", "line 2"),
        ("item_id\tvector\n1\t1 2\n2\t1\n", "wrong-types", "line 3: a vector of 1"),
        ("item_id\tvector\n1\t1 nan\n", "wrong-types", "line 2"),
        ("item_id\tvector\n1\t1 1e300\n", "wrong-types", "line 2"),
    ],
)
def test_a_bad_catalogue_is_refused_by_its_line(written, text, code, quoted):
    with raises(code, match=quoted):
        read_item_catalogue(written(text))


def test_a_catalogue_that_is_not_there_is_named(tmp_path):
    with raises("data", match="items.tsv"):
        read_item_catalogue(tmp_path / "items.tsv")
    with raises("data"):
        read_item_catalogue(tmp_path)


def test_the_catalogue_is_the_list_of_items_unless_there_is_one(tmp_path):
    path = tmp_path / "shop.txt"
    path.write_text("ann 5 6 7\nbob 7 6 9 5\n")
    read = read_sequences(path, catalogue=["9", "7", "6", "5", "4"])
    assert (read.names, read.listed) == (["9", "7", "6", "5", "4"], True)
    assert read.sequences.of_customer(0).tolist() == [3, 2, 1]
    with raises("data", match="public list"):
        read_sequences(path, catalogue=["milk"])
    path.with_suffix(".items").write_text("7\n6\n5\n")
    assert read_sequences(path, catalogue=["9"]).names == ["7", "6", "5"]


def test_an_encoder_that_cannot_read_the_texts_is_refused(tmp_path):
    encoder = tiny_encoder(tmp_path / "encoder")
    with raises("unreadable-texts", match=r"model\.encoder"):
        encode_texts(["牛奶 全脂", "酸奶 原味"], encoder=encoder, cache=tmp_path)
    # One such text among ten does no harm.
    many = [f"milk number {i}" for i in range(9)]
    assert len(encode_texts([*many, "牛奶"], encoder=encoder, cache=tmp_path)) == 10
    assert not list(tmp_path.glob("*.tmp"))


def test_items_of_the_same_text_have_the_same_vector_and_others_not(tmp_path):
    texts = [f"{color} {thing}" for color in ("red", "blue", "green") for thing in ("hat", "shoe")]
    found = public_vectors(
        [*texts, texts[0], " "], encoder=tiny_encoder(tmp_path / "encoder"), cache=tmp_path
    )
    np.testing.assert_array_equal(found.vectors[0], found.vectors[6])
    assert not np.allclose(found.vectors[0], found.vectors[1])
    for rows in (found.vectors, found.components, found.coarse):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1] * 7 + [0], atol=1e-6)


def test_own_vectors_stand_alone_or_next_to_texts(tmp_path):
    rng = np.random.default_rng(1)
    own = rng.normal(size=(40, 6)).astype(np.float32)
    own[3] = np.nan
    alone = public_vectors(None, own, cache=tmp_path)
    assert not alone.vectors[3].any()
    assert np.linalg.norm(alone.vectors[4]) == pytest.approx(1)
    texts = [f"thing number {i % 20}" for i in range(40)]
    both = public_vectors(texts, own, encoder=tiny_encoder(tmp_path / "e"), cache=tmp_path)
    assert both.vectors.shape[1] > alone.vectors.shape[1]
    # The third has its text alone, and still a place.
    assert np.linalg.norm(both.vectors[3]) == pytest.approx(1)
    assert not np.allclose(both.vectors[0], both.vectors[20])


@pytest.mark.parametrize("texts", [["", " "], ["milk", "milk"]])
def test_a_catalogue_that_tells_no_items_apart_is_refused(texts, tmp_path):
    with raises("data", match="apart"):
        public_vectors(texts, encoder=tiny_encoder(tmp_path / "encoder"), cache=tmp_path)


def test_a_catalogue_is_read_through_its_mapping(tmp_path):
    (tmp_path / "goods.csv").write_text("sku,title,category,emb\nb,butter,D,1 2\na,milk,D,\n")
    (tmp_path / "items.toml").write_text(
        '[catalogue]\npath = "goods.csv"\n'
        'columns = { item_id = "sku", text = "title", vector = "emb" }\n'
    )
    found = read_item_catalogue(tmp_path / "items.toml")
    assert (found.items, found.texts) == (("a", "b"), ("milk", "butter"))
    assert np.isnan(found.vectors[0]).all() and found.vectors[1].tolist() == [1.0, 2.0]
