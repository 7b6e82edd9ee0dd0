"""Texts that the encoder does not know are refused wherever texts are encoded, with the way out.

A Chinese catalogue is nothing but unknown tokens to the packaged encoder: milk and yogurt would
come out identical.
"""

import logging

import pytest

from hanse_client.ingest.store_config import load_store
from hanse_client.model.base_model import make_base_model
from hanse_client.model.item_texts import PACKAGED, encode_texts
from hanse_client.pretraining.public_data import read_public
from hanse_client.pretraining.run import pretrain
from hanse_client.tasks.interest.prepare import prepare_histories
from hanse_client.tasks.next_item.item_vectors import public_vectors
from hanse_client.tasks.review.features import Texts, prepare_reviews
from hanse_common.run_file import load_recipe
from hanse_simulations.experiment.next_item import read_study as read_sequences_study
from hanse_simulations.experiment.prepare import prepare_stores
from hanse_simulations.experiment.review import read_study as read_reviews_study
from kits.errors import raises

GOODS = [
    ("牛奶", "乳製品/牛奶"),
    ("酸奶", "乳製品/酸奶"),
    ("面包", "烘焙/面包"),
    ("啤酒", "酒/啤酒"),
]
PRODUCTS = GOODS + [(f"{name}{kind}", path) for name, path in GOODS for kind in ("饮", "鲜")]
OWN = """[data]
source = "own"
[data.split]
train_until = 2024-06-01T00:00:00
validate_until = 2024-07-01T00:00:00
test_until = 2024-08-01T00:00:00
"""
WAY_OUT = r"model\.encoder.*multilingual"


class Silent:
    """A display that shows nothing."""

    def note(self, text):
        """Ignore it."""


@pytest.fixture
def shop(tmp_path):
    """A Chinese shop with events, a catalogue and reviews."""
    items = [f"{number},{text},{path}" for number, (text, path) in enumerate(PRODUCTS)]
    (tmp_path / "items.csv").write_text("item_id,text,category\n" + "\n".join(items) + "\n")
    sales = [
        f"c{customer},{(customer + month) % len(PRODUCTS)},2024-{month:02}-03"
        for customer in range(24)
        for month in range(1, 8)
    ]
    (tmp_path / "sales.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(sales) + "\n")
    reviews = [f"c{customer},牛奶很好喝酸,{1 + customer % 2}" for customer in range(24)]
    (tmp_path / "reviews.csv").write_text("user_id,text,rating\n" + "\n".join(reviews) + "\n")
    (tmp_path / "store.toml").write_text(
        'name = "店"\n[events]\npath = "sales.csv"\n[catalogue]\npath = "items.csv"\n'
        '[reviews]\npath = "reviews.csv"\n'
    )
    (tmp_path / "run.toml").write_text(OWN)
    return tmp_path


def simulate_own(shop, kind):
    changes = {"recipe": "grocery-rules" if kind == "visits" else "grocery"}
    prepare_stores([shop], load_recipe(str(shop / "run.toml"), changes), shop / "cache")


def init(shop, text=""):
    (shop / "run.toml").write_text(text + OWN)
    settings = load_recipe(str(shop / "run.toml"))
    make_base_model(shop / "items.csv", settings, folder=shop / "model", cache=shop / "cache")


def deployed_store(shop):
    (shop / "model").mkdir()
    (shop / "model" / "config.json").write_text('{"classes": [], "level": "category"}')
    settings = load_recipe(str(shop / "run.toml"))
    prepare_histories(
        load_store(shop / "store.toml"), settings, model=shop / "model", cache=shop / "cache"
    )


def pretrained(shop):
    public = read_public(str(shop / "store.toml"), catalogue=None, licence="CC0")
    pretrain(
        public,
        load_recipe(str(shop / "run.toml")),
        folder=shop / "checkpoint",
        cache=shop / "cache",
        objective="causal",
        epochs=1,
    )


def sequences(shop):
    (shop / "items.tsv").write_text(
        "item_id\ttext\n" + "".join(f"{n}\t{text}\n" for n, (text, _) in enumerate(PRODUCTS))
    )
    changes = {"data.path": shop / "store.toml", "data.catalogue": shop / "items.tsv"}
    read_sequences_study(load_recipe("sequences-texts", changes), Silent())


def reviews(shop, name):
    read_reviews_study(load_recipe(name, {"data.path": shop / "reviews.csv"}), Silent())


PATHS = {
    "a simulation of own data, by categories": lambda shop: simulate_own(shop, "categories"),
    "a simulation of own data, by visits": lambda shop: simulate_own(shop, "visits"),
    "model init, interest": init,
    "model init, next item": lambda shop: init(shop, 'task = "next-item"\n'),
    "a deployed store": deployed_store,
    "model pretrain": pretrained,
    "simulate sequences": sequences,
    "simulate reviews": lambda shop: reviews(shop, "reviews"),
    "simulate reviews-gradient": lambda shop: reviews(shop, "reviews-gradient"),
}


@pytest.mark.parametrize("path", PATHS)
def test_unknown_texts_are_refused_with_the_way_out(shop, path, monkeypatch):
    monkeypatch.setenv("HANSE_CACHE", str(shop / "cache"))
    with raises("unreadable-texts", match=WAY_OUT):
        PATHS[path](shop)


def test_no_message_quotes_a_review(shop):
    texts = Texts(users=["a"], texts=["牛奶很好喝酸"], labels=[0], names=["1", "2"], rejected={})
    with raises("unreadable-texts") as raised:
        prepare_reviews(texts, encoder=PACKAGED, tokens=8, seed=1)
    assert "奶" not in str(raised.value)


def test_some_unknown_texts_among_others_are_told(tmp_path, caplog):
    texts = [f"{kind} {number}" for kind in ("milk", "rye bread", "beer") for number in range(4)]
    with caplog.at_level(logging.WARNING):
        encode_texts([*texts, "牛奶", "酸奶"], cache=tmp_path)
    assert "2 of 14 texts" in caplog.text and "model.encoder" in caplog.text
    caplog.clear()
    public_vectors(texts, cache=tmp_path)
    assert not caplog.records
