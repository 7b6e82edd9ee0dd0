"""One home a person: who is a customer of several stores is trained on at one of them."""

import numpy as np
import polars as pl

from hanse_client.features.histories import Histories
from hanse_client.ingest.pipeline import ingest
from hanse_client.ingest.pseudonyms import home_lots
from hanse_client.ingest.store_config import load_store
from kits.errors import raises

PEOPLE = [f"card-{number}" for number in range(300)]
KEY = bytes(range(32))


def store(folder, name, people, home_key=KEY):
    folder = folder / name
    folder.mkdir()
    rows = [f"{person},1,2024-01-0{day}" for person in people for day in (1, 2)]
    (folder / "sales.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    (folder / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK\n")
    lines = [f'name = "{name}"']
    if home_key is not None:
        (folder / "home.key").write_bytes(home_key)
        (folder / "home.key").chmod(0o600)
        lines.append('home_key = "home.key"')
    lines += ["[events]", 'path = "sales.csv"', "[catalogue]", 'path = "items.csv"']
    (folder / "store.toml").write_text("\n".join(lines) + "\n")
    return ingest(load_store(folder / "store.toml"))


def histories(data):
    from hanse_client.features.histories import prepare

    vectors = {"milk": np.ones(4, np.float32)}
    return prepare(data, classes=["DAIRY/MILK"], level="category", text_vectors=vectors)


def test_every_person_is_trained_on_at_exactly_one_of_the_stores(tmp_path):
    """Three stores see the same people under unlike pseudonyms and agree on each one's home."""
    data = [store(tmp_path, name, PEOPLE) for name in ("north", "south", "west")]
    assert not set(data[0].homes) & set(data[1].homes)  # pseudonyms do not match
    assert sorted(data[0].homes.values()) == sorted(data[1].homes.values())
    parts = [histories(d).at_home(i, 3) for i, d in enumerate(data)]
    trained = [part.homes[part.active()] for part in parts]
    assert sum(map(len, trained)) == len(PEOPLE)
    assert len(np.unique(np.concatenate(trained))) == len(PEOPLE)
    assert min(map(len, trained)) > 60


def test_nobody_else_is_drawn_and_nobody_is_dropped(tmp_path):
    whole = histories(store(tmp_path, "north", PEOPLE))
    part = whole.at_home(1, 3)
    assert list(part.customers) == list(whole.customers)
    away = np.flatnonzero(whole.homes % 3 != 1)
    assert not set(part.active()) & set(away)
    kept = part.active()
    assert all(
        np.array_equal(
            part.visit_days[part.visit_offsets[i] : part.visit_offsets[i + 1]],
            whole.visit_days[whole.visit_offsets[i] : whole.visit_offsets[i + 1]],
        )
        for i in kept
    )


def test_lots_say_nothing_without_the_key():
    ids = pl.Series(PEOPLE)
    one, other = home_lots(ids, KEY).to_numpy(), home_lots(ids, KEY[::-1]).to_numpy()
    assert (one >= 0).all()
    assert not set(one) & set(other)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2


def test_a_store_without_the_common_key_refuses_to_train(tmp_path):
    data = store(tmp_path, "north", PEOPLE[:20], home_key=None)
    assert data.homes == {}
    with raises("config", match="home_key"):
        histories(data).at_home(0, 3)


def test_a_missing_common_key_is_not_made_up(tmp_path):
    folder = tmp_path / "north"
    folder.mkdir()
    (folder / "store.toml").write_text(
        'name = "north"\nhome_key = "home.key"\n[events]\npath = "sales.csv"\n'
        '[catalogue]\npath = "items.csv"\n'
    )
    (folder / "sales.csv").write_text("user_id,item_id,timestamp\nada,1,2024-01-01\n")
    (folder / "items.csv").write_text("item_id,text,category\n1,milk,DAIRY/MILK\n")
    with raises("config"):
        ingest(load_store(folder / "store.toml"))
    assert not (folder / "home.key").exists()


def test_pooling_keeps_lots(tmp_path):
    parts = [histories(store(tmp_path, n, PEOPLE[:30])) for n in ("north", "south")]
    pooled = Histories.pooled(parts)
    assert len(pooled) == 60
    assert sorted(pooled.homes) == sorted(np.concatenate([p.homes for p in parts]))
    assert len(pooled.visit_days) == sum(len(p.visit_days) for p in parts)


def test_a_person_has_one_home_however_a_store_spells_the_id():
    spellings = ["0012-AB", "12ab", " 12 AB ", "１２ＡＢ", "12.a-b", "00012AB"]
    lots = home_lots(pl.Series(spellings), KEY).to_list()
    assert len(set(lots)) == 1
    assert home_lots(pl.Series(["13ab"]), KEY).to_list() != lots[:1]
