"""`store.toml`: what is accepted, what is refused, and that the documentation's sample holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hanse_client.ingest.store_config import CatalogueSource, EventsSource, StoreConfig, load_store
from kits.errors import raises

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
GOOD = 'name = "c"\n[events]\npath = "a.csv"\n[catalogue]\npath = "b.csv"\n'


def load(folder: Path, text: str) -> StoreConfig:
    path = folder / "store.toml"
    path.write_text(text)
    return load_store(path)


def test_sample_in_the_documentation_is_valid_and_shows_every_key(tmp_path: Path):
    _, sample = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    config = load(tmp_path, sample)
    assert config.catalogue.source_of("category") == ("department", "aisle")
    assert config.events.source_of("text") == ()
    assert config.events.defaults == {"quantity": 1.0, "shop_id": "corner-shop"}
    table = tomllib.loads(sample)
    assert set(table) == set(StoreConfig.model_fields)
    shown = set(table["events"]) | set(table["catalogue"])
    # Keys that exclude others of the sample are shown in comments.
    shown |= set(re.findall(r"^# (\w+) = ", sample, re.MULTILINE))
    assert shown == set(EventsSource.model_fields) | set(CatalogueSource.model_fields)


def test_paths_are_relative_to_the_file(tmp_path: Path):
    config = load(tmp_path, GOOD)
    assert config.events.path == str(tmp_path / "a.csv")
    assert config.pseudonym_key == tmp_path / "customer.key"
    absolute = load(tmp_path, GOOD.replace('"a.csv"', '"/data/a.csv"'))
    assert absolute.events.path == "/data/a.csv"


def test_a_folder_with_brackets_in_its_name_is_no_glob(tmp_path: Path):
    from hanse_client.ingest.sources import read_source

    folder = tmp_path / "shop[1]"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,item_id,timestamp\na,1,2017-01-01\n")
    assert read_source(load(folder, GOOD).events).height == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "c"', 'nmae = "c"', "name"),
        ('path = "a.csv"', 'path = "a.csv"\nurl = "x"', "unknown setting 'events.url'"),
        ('path = "a.csv"', 'sql = "SELECT 1"', "sql and url_env go together"),
        ('path = "a.csv"', 'path = "a.csv"\nurl_env = "DB"', "sql and url_env go together"),
        ('path = "a.csv"', "", "neither path nor sql"),
        ('path = "a.csv"', 'path = "a.docx"', "known suffixes: .parquet, .csv, .tsv"),
        ('path = "a.csv"', 'path = "a.csv"\ncolumns = { user = "x" }', "'user'"),
        ('path = "a.csv"', 'path = "a.csv"\ncolumns = { user_id = "" }', "is required"),
        ('path = "a.csv"', 'path = "a.csv"\ncolumns = { price = ["a", "b"] }', "joined"),
        ('path = "a.csv"', 'path = "a.csv"\ndefaults = { user_id = "x" }', "no default"),
        ('path = "a.csv"', 'path = "a.csv"\ndefaults = { quantity = 0 }', "out of range"),
        ('path = "a.csv"', 'path = "a.csv"\ndefaults = { quantity = inf }', "not a number"),
        ('path = "a.csv"', 'path = "a.csv"\ndefaults = { event_type = "buy" }', "known: view"),
        ('path = "a.csv"', 'path = "a.csv"\ntime_zone = "Mars/Olympus"', "Europe/Berlin"),
        ('path = "a.csv"', 'path = "a.csv"\nevent_types = { a = "b" }', "event_types"),
        ('path = "b.csv"', 'path = "b.csv"\ntime_zone = "UTC"', "catalogue.time_zone"),
        ('name = "c"', 'name = "c"\nmax_reject_share = 2', "max_reject_share=2"),
        ('name = "c"', 'name = "c', "is not TOML"),
    ],
)
def test_malformed_settings(tmp_path: Path, old: str, new: str, said: str):
    with raises("config") as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_path_and_sql_contradict_each_other(tmp_path: Path):
    both = 'path = "a.csv"\nsql = "SELECT 1"\nurl_env = "DB"'
    with raises("contradicting-options"):
        load(tmp_path, GOOD.replace('path = "a.csv"', both))


@pytest.mark.parametrize(
    "line",
    [
        'url_env = "postgresql://ada:hunter2@db/shop"\nsql = "SELECT 1"',
        'url_env = "hunter2-hunter2"\nsql = "SELECT 1"',
        'url_env = ["postgresql://ada:hunter2@db/shop"]\nsql = "SELECT 1"',
        'path = "postgresql://ada:hunter2@db/shop"',
        'url = "postgresql://ada:hunter2@db/shop"',
        'path = "a.csv"\nseparator = "postgresql://ada:hunter2@db/shop"',
    ],
)
def test_a_url_in_the_wrong_place_is_refused_and_not_repeated(tmp_path: Path, line: str):
    with raises("config") as caught:
        load(tmp_path, GOOD.replace('path = "a.csv"', line))
    assert "hunter2" not in str(caught.value)


def test_a_source_that_is_no_table(tmp_path: Path):
    text = 'name = "c"\nevents = "postgresql://ada:hunter2@db/s"\n[catalogue]\npath = "b.csv"\n'
    with raises("config", match="events") as caught:
        load(tmp_path, text)
    assert "hunter2" not in str(caught.value)


def test_unreadable_settings(tmp_path: Path):
    with raises("config"):
        load_store(tmp_path / "none.toml")
    (tmp_path / "store.toml").write_bytes(b"\xff\xfe")
    with raises("config", match="UTF-8"):
        load_store(tmp_path / "store.toml")
