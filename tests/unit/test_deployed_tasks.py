"""A store's own tables become what each task trains on; one `store.toml` serves them all."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from hanse_client.features.prepare import Preparation, deployed_task, prepare_store
from hanse_client.features.ragged import Entries
from hanse_client.ingest.check import StoreTables
from hanse_client.ingest.fingerprint import source_fingerprint
from hanse_client.ingest.store_config import load_store
from hanse_client.model.base_model import make_base_model
from hanse_client.tasks import task_of
from hanse_client.tasks.conversion.features import NAMES
from hanse_client.tasks.conversion.offers import Offers
from hanse_client.tasks.next_item.features import Sequences
from hanse_client.tasks.review.features import Reviews
from hanse_common.config import DataSettings, Split
from hanse_common.recipes import conversion, reviews, sequences, sequences_by_texts
from kits.encoder import tiny_encoder
from kits.errors import raises

STORE = """\
name = "corner"
observed_from = 2017-01-01
home_key = "home.key"
max_reject_share = 0.7
[events]
path = "sales.csv"
[catalogue]
path = "items.csv"
[reviews]
path = "reviews.csv"
columns = { user_id = "card", rating = "stars" }
[offers]
path = "offers.csv"
[campaigns]
path = "campaigns.csv"
"""
SALES = """\
user_id,item_id,timestamp,event_type,basket_id,price
ada,milk,2017-01-05 10:00,purchase,r1,1.5
ada,ale,2017-01-05 10:00,purchase,r1,2
ada,rye,2017-02-01 09:00,purchase,r2,3
bob,milk,2017-01-20 12:00,purchase,r3,1.5
bob,rye,2017-01-21 12:00,view,,
bob,tea,2017-01-22 12:00,purchase,r4,4
"""
ITEMS = """\
item_id,text,category
milk,fresh milk,FOOD/DAIRY
ale,pale ale,DRINKS/BEER
rye,rye bread,FOOD/BREAD
tea,green tea,DRINKS/TEA
"""
REVIEWS = """\
card,text,stars
ada,I love this shop,5
ada,the ale was stale,1.0
bob,it was fine,3
bob,it was fine,3
cid,a nice place,5
,nobody wrote this,1
"""
OFFERS = """\
user_id,campaign_id,redeemed_at,coupon_id
ada,spring,2017-03-05,c1
ada,spring,2017-03-06,c2
ada,summer,,
bob,spring,,
bob,never,,
cid,summer,2099-01-01,c3
"""
CAMPAIGNS = """\
campaign_id,start,end,kind,coupon_id,item_id
spring,2017-03-01,2017-03-20,a,c1,milk
spring,2017-03-01,2017-03-20,a,c2,ale
summer,2017-06-01,2017-06-20,,c3,tea
"""
SPLIT = Split(
    train_until=datetime(2017, 8, 1),
    validate_until=datetime(2017, 9, 1),
    test_until=datetime(2017, 10, 1),
)


def own(recipe, **changes):
    """A recipe's settings for a deployment."""
    return recipe().with_changes(
        {"data": DataSettings(source="own", split=SPLIT).model_dump(), **changes}
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    files = {"store.toml": STORE, "sales.csv": SALES, "items.csv": ITEMS, "reviews.csv": REVIEWS}
    files |= {"offers.csv": OFFERS, "campaigns.csv": CAMPAIGNS, "stars.labels": "1\n5\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "home.key").write_bytes(bytes(32))
    (tmp_path / "home.key").chmod(0o600)
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def prepared(shop: Path, settings, kind: type, public: str | None):
    """Make the initial model and prepare the store; returns the counts and the data."""
    model, target = shop / f"model-{settings.recipe}", shop / "histories.npz"
    source = None if public is None else shop / public
    make_base_model(source, settings, folder=model, cache=shop)
    store = load_store(shop / "store.toml")
    done = prepare_store(store, settings, model=model, target=target, cache=shop)
    assert done.outdated(model, store, settings) == ""
    data = kind.load(target)
    assert len(data.customers) and all(len(name) == 32 for name in data.customers)
    assert (data.homes >= 0).all(), "the store has a home_key"
    assert len(data.at_home(0, 1).active()) == len(data.active())
    return done, data


def test_reviews_become_tokens_and_labels_of_the_public_list(shop, encoder):
    settings = own(reviews, **{"model.encoder": encoder, "model.max_steps": 16})
    done, data = prepared(shop, settings, Reviews, "stars.labels")
    assert (done.rows, done.rejected, done.unranked) == (6, 2, 1), "bob's 3 stars are not listed"
    assert done.customers == len(data.customers) == 2
    assert sorted(data.labels.tolist()) == [0, 1, 1]
    assert data.tokens.shape == (3, 16)
    model = task_of("review").load_model(shop / "model-reviews")
    assert model.config.labels == ["1", "5"] and model.reader is not None


def test_purchases_become_sequences_of_the_catalogues_items(shop, encoder):
    done, data = prepared(shop, own(sequences), Sequences, "items.csv")
    assert (done.rows, done.unranked, data.items) == (6, 0, 4)
    # Items are numbered by id: ale, milk, rye, tea. A view is no purchase.
    assert sorted(data.of_customer(i).tolist() for i in range(2)) == [[0, 1, 2], [1, 3]]
    settings = own(sequences_by_texts, **{"model.encoder": encoder})
    _, again = prepared(shop, settings, Sequences, "items.csv")
    np.testing.assert_array_equal(again.taken, data.taken)
    config = json.loads((shop / "model-sequences-texts" / "config.json").read_text())
    assert config["item_ids"] == ["ale", "milk", "rye", "tea"]


def test_offers_become_features_and_outcomes(shop):
    done, data = prepared(shop, own(conversion), Offers, None)
    assert (done.rows, done.rejected) == (12, 2), "an unknown campaign, and one of the future"
    assert len(data.customers) == 2 and data.sizes.tolist() in ([2, 1], [1, 2])
    ada = int(np.argmax(data.sizes))
    rows = slice(data.offsets[ada], data.offsets[ada + 1])
    assert data.redeemed[rows].tolist() == [True, False]
    assert data.campaigns[rows].tolist() == [0, 1]
    epoch = date(1970, 1, 1)
    assert data.starts[rows].tolist() == [
        (date(2017, 3, 1) - epoch).days,
        (date(2017, 6, 1) - epoch).days,
    ]
    features = dict(zip(NAMES, data.features[rows].T, strict=True))
    assert features["coupon_items"][0] == pytest.approx(np.log1p(2) / 4 - 0.5)
    assert features["kind_A"].tolist() == [0.5, -0.5]
    assert features["has_redeemed"].tolist() == [0.0, 1.0]


def test_a_customer_has_one_pseudonym_in_all_tables(shop):
    tables = StoreTables.read(load_store(shop / "store.toml"))
    events, written = tables.events.events["user_id"], tables.reviews.rows["user_id"]
    sent = tables.offers.rows["user_id"]
    assert set(events) == set(sent) and set(events) < set(written)
    assert tables.reviews.homes.items() >= tables.events.homes.items()


def test_every_table_is_in_the_fingerprint_and_its_absence_says_which(shop, encoder):
    before = source_fingerprint(load_store(shop / "store.toml"))
    (shop / "reviews.csv").write_text(REVIEWS.replace("ada,the ale was stale,1.0\n", ""))
    assert source_fingerprint(load_store(shop / "store.toml")) != before
    settings = own(reviews, **{"model.encoder": encoder})
    make_base_model(shop / "stars.labels", settings, folder=shop / "model", cache=shop)
    text = STORE[: STORE.index("[reviews]")]
    (shop / "store.toml").write_text(text)
    with raises("config", match=r"no \[reviews\].*docs/data.md"):
        prepare_store(
            load_store(shop / "store.toml"),
            settings,
            model=shop / "model",
            target=shop / "histories.npz",
            cache=shop,
        )
    assert Preparation.load(shop / "histories.npz") is None


def test_tables_that_belong_together_come_together(shop):
    for section, other in (("[campaigns]", "offers"), ("[catalogue]", "events")):
        lines = STORE.replace(f"{section}\n", f"{section}\nIS_GONE = 1\n").splitlines()
        start = lines.index(section)
        (shop / "store.toml").write_text("\n".join([*lines[:start], *lines[start + 3 :]]))
        with raises("config", match=rf"there is \[{other}\] and no"):
            load_store(shop / "store.toml")


def test_a_store_of_reviews_needs_no_events(shop, encoder):
    section = STORE[STORE.index("[reviews]") : STORE.index("[offers]")]
    (shop / "store.toml").write_text(f'name = "c"\nmax_reject_share = 0.4\n{section}')
    tables = StoreTables.read(load_store(shop / "store.toml"))
    assert tables.events is None and (tables.rows_read, tables.rejected) == (6, 2)


def test_what_the_task_needs_of_the_public_is_asked_for(shop):
    for recipe, words in ((reviews, "list of labels"), (sequences, "CATALOGUE")):
        with raises("config", match=words):
            make_base_model(None, own(recipe), folder=shop / "model", cache=shop)
    with raises("config", match="needs no public file"):
        make_base_model(shop / "items.csv", own(conversion), folder=shop / "model", cache=shop)
    with raises("wrong-types", match="at most 16"):
        (shop / "ids.labels").write_text("\n".join(map(str, range(99))))
        make_base_model(shop / "ids.labels", own(reviews), folder=shop / "model", cache=shop)


class SimulatedAlone:
    """A task of another package without what a deployment needs."""

    name = "horoscope"


def test_a_task_that_cannot_be_deployed_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("hanse_client.tasks.task_of", lambda name: SimulatedAlone())
    with raises("task-not-deployed", match="'horoscope'.*initial_model and no prepare.*package"):
        deployed_task("horoscope")


@pytest.mark.parametrize(
    ("recipe", "kind", "public"),
    [
        (conversion, Offers, None),
        (sequences, Sequences, "items.csv"),
        (reviews, Reviews, "stars.labels"),
    ],
)
def test_an_erased_customer_changes_nobody_else(shop, encoder, recipe, kind, public):
    settings = own(recipe, **{"model.encoder": encoder})
    _, before = prepared(shop, settings, kind, public)
    for name, text in (("sales.csv", SALES), ("offers.csv", OFFERS), ("reviews.csv", REVIEWS)):
        kept = [line for line in text.splitlines() if not line.startswith("ada,")]
        (shop / name).write_text("\n".join(kept) + "\n")
    store, target = load_store(shop / "store.toml"), shop / "histories.npz"
    model = shop / f"model-{settings.recipe}"
    assert "changed" in Preparation.load(target).outdated(model, store, settings)
    prepare_store(store, settings, model=model, target=target, cache=shop)
    after: Entries = kind.load(target)
    (gone,) = set(before.customers) - set(after.customers)
    others = before.select(np.flatnonzero(before.customers != gone))
    for name in (*kind.BY_CUSTOMER, *kind.BY_ENTRY):
        np.testing.assert_array_equal(getattr(others, name), getattr(after, name), err_msg=name)


def test_days_of_campaigns_are_their_own(shop):
    """A redemption after its campaign's end is no outcome of it."""
    late = (date(2017, 3, 20) + timedelta(days=3)).isoformat()
    (shop / "offers.csv").write_text(f"user_id,campaign_id,redeemed_at\nada,spring,{late}\n")
    done, data = prepared(shop, own(conversion), Offers, None)
    assert done.unranked == 1 and data.redeemed.tolist() == [False]
